//! A running server, and what tests ask of it.

use std::{net::SocketAddr, time::Duration};

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    client::{Received, SseClient},
    endpoint::{Endpoint, Way},
    http::{Answer, HttpClient},
    process::{ServerOptions, TidingsServer},
    publisher::{Acknowledgement, Publisher},
    wait,
};

/// How long a test waits for what must come. Only a failing test waits so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The key of the backends of every server here.
pub(crate) const API_KEY: &str = "tk_0123456789abcdef";

/// What tokens are signed with.
pub(crate) const JWT_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A server of the test's own. Anybody may use the channels of its namespace `open`.
pub(crate) struct Node {
    pub(crate) server: TidingsServer,
    endpoint: Endpoint,
}

/// A server with credentials, the namespace `open`, and these tables of configuration besides.
pub(crate) fn options(config: &str) -> ServerOptions {
    let config = format!(
        "[auth]\napi_keys = [\"{API_KEY}\"]\njwt_hs256_secret = \"{JWT_SECRET}\"\n\
         [namespaces.open]\nsubscribe = [\"anyone\"]\npublish = [\"anyone\"]\n{config}"
    );
    ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))
}

impl Node {
    /// Starts a server with these tables in its configuration.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with(options(config)).await
    }

    pub(crate) async fn start_with(options: ServerOptions) -> Self {
        let server = TidingsServer::start(options).await.unwrap();
        let endpoint = server.endpoint(Way::Http1);
        Self { server, endpoint }
    }

    /// The same for clients that come by this way, whose streams and calls all do.
    pub(crate) async fn start_on(way: Way, config: &str) -> Self {
        Self::start_on_with(way, options(config)).await
    }

    pub(crate) async fn start_on_with(way: Way, options: ServerOptions) -> Self {
        let options = if way.is_tls() { options.tls() } else { options };
        let server = TidingsServer::start(options).await.unwrap();
        let endpoint = server.endpoint(way);
        Self { server, endpoint }
    }

    /// How its clients come.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Sends a request over a connection of its own.
    pub(crate) async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut client = HttpClient::new(self.endpoint());
        let answer = client.send(method, path, &headers, body.to_owned());
        wait::within(path, LIMIT, answer).await.unwrap().unwrap()
    }

    /// `GET` as a backend.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[("authorization", &bearer(API_KEY))], "").await
    }

    /// Posts JSON with these credentials, or none.
    pub(crate) async fn post(&self, path: &str, credentials: Option<&str>, json: &str) -> Answer {
        let authorization = credentials.map(bearer).unwrap_or_default();
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(credentials.map(|_| ("authorization", authorization.as_str())));
        self.call(Method::POST, path, &headers, json).await
    }

    /// Publishes as a backend and expects to be acknowledged.
    pub(crate) async fn publish(&self, event: Value) -> Acknowledgement {
        Publisher::new(self.endpoint(), Some(API_KEY)).acknowledged(&event).await.unwrap()
    }

    /// Publishes numbers on a channel, in one batch, and gives their event ids.
    pub(crate) async fn publish_numbers(&self, channel: &str, numbers: impl Iterator<Item = u64>) -> Vec<String> {
        let events: Vec<_> = numbers.map(|n| json!({"channel": channel, "data": n})).collect();
        let answer = Publisher::new(self.endpoint(), Some(API_KEY)).publish_lines(&events).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = |line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        let ids: Vec<_> = answer.text().lines().map(id).collect();
        assert_eq!(ids.len(), events.len());
        ids
    }

    /// Opens a stream as nobody in particular. It has to be one.
    pub(crate) async fn stream(&self, query: &str) -> SseClient {
        self.stream_with(query, &[]).await
    }

    /// Opens a stream with a token or a key.
    pub(crate) async fn stream_as(&self, query: &str, credentials: &str) -> SseClient {
        self.stream_with(query, &[("authorization", &bearer(credentials))]).await
    }

    pub(crate) async fn stream_with(&self, query: &str, headers: &[(&str, &str)]) -> SseClient {
        let path = format!("/v1/subscribe?{query}");
        let mut stream = SseClient::connect(self.endpoint(), &path, headers).await.unwrap();
        if stream.status() != 200 {
            let body = stream.body(LIMIT).await.unwrap();
            panic!("{query}: status {}: {}", stream.status(), String::from_utf8_lossy(&body));
        }
        stream
    }

    /// A long-poll that has to be answered with 200.
    pub(crate) async fn poll(&self, query: &str) -> Value {
        let path = format!("/v1/subscribe?{query}");
        let answer = self.call(Method::GET, &path, &[("accept", "application/json")], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
        answer.json().unwrap()
    }

    /// The value of a metric, named with its labels as `/metrics` writes them; zero if it is not there.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let text = self.call(Method::GET, "/metrics", &[], "").await.text();
        value_of(&text, sample).unwrap_or(0.0)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn wait_for_metric(&self, sample: &str, value: f64) {
        let what = format!("{sample} {value}");
        let reached = wait::until(&what, LIMIT, async || (self.metric(sample).await == value).then_some(()));
        if let Err(error) = reached.await {
            panic!("{error}; it is {}", self.metric(sample).await);
        }
    }

    /// Waits until so many streams are open.
    pub(crate) async fn wait_for_streams(&self, count: usize) {
        let what = format!("{count} open streams");
        let reached = wait::until(&what, LIMIT, async || {
            (self.get("/v1/connections").await.json().ok()?["total"] == count).then_some(())
        });
        reached.await.unwrap();
    }

    /// The server still does its work.
    pub(crate) async fn assert_serves(&self) {
        let mut stream = self.stream("channel=open:alive").await;
        stream.connected(LIMIT).await.unwrap();
        self.publish(json!({"channel": "open:alive", "data": "yes"})).await;
        assert_eq!(next(&mut stream).await.data, "yes");
    }
}

/// The value of a sample in the text of `/metrics`.
pub(crate) fn value_of(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.split(' ').next()?.parse().unwrap())
}

/// The sum of all samples whose text begins so.
pub(crate) fn sum_of(metrics: &str, beginning: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(beginning));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The next event of a stream, whatever heartbeats come before it.
pub(crate) async fn next(stream: &mut SseClient) -> Received {
    wait::within("an event", LIMIT, stream.next_event(LIMIT)).await.unwrap().unwrap()
}

/// The data of the next events of a stream.
pub(crate) async fn next_data(stream: &mut SseClient, count: usize) -> Vec<String> {
    let mut data = Vec::with_capacity(count);
    while data.len() < count {
        data.push(next(stream).await.data);
    }
    data
}

/// Numbers as the data of events.
pub(crate) fn numbers(range: impl Iterator<Item = u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// The value of an `Authorization` header.
pub(crate) fn bearer(credentials: &str) -> String {
    format!("Bearer {credentials}")
}

/// Seconds since the epoch.
pub(crate) fn now_secs() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Signs a token with the server's secret. It ends in an hour unless the claims say when.
pub(crate) fn token(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now_secs() as u64 + 3600);
    }
    sign(&claims, JWT_SECRET)
}

/// Signs claims as they are with any secret.
pub(crate) fn sign(claims: &Value, secret: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// A user's token that lets them listen to channels.
pub(crate) fn user_token(user: &str, subscribe: &[&str]) -> String {
    token(json!({"sub": user, "tidings": {"subscribe": subscribe}}))
}

/// An answer is a problem as RFC 9457 writes it, with this status and code. Gives its detail.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) -> String {
    let text = answer.text();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "status {}: {text}", answer.status);
    let problem = answer.json().unwrap();
    assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{text}");
    assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!(format!("urn:tidings:problem:{code}"))));
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{text}");
    problem["detail"].as_str().unwrap().to_owned()
}
