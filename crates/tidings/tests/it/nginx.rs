//! `deploy/nginx/tidings.conf`, as it is, in a real nginx.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings_testkit::{
    client::SseClient,
    http::{Answer, HttpClient},
    port::Port,
    process::{ServerOptions, TidingsServer},
    wait,
};

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

const KEY: &str = "tk_0123456789abcdef0123456789";

/// nginx in a directory of its own, ended on drop.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    child: Child,
    _port: Port,
    dir: TempDir,
}

impl Nginx {
    /// Starts it in front of a server.
    async fn start(server: &TidingsServer) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, server).await
    }

    /// The same on another address: all of them for clients in network namespaces. It is asked on loopback.
    pub(crate) async fn start_on(listen: Ipv4Addr, server: &TidingsServer) -> Self {
        let port = Port::reserve().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nginx/tidings.conf");
        let mut config = std::fs::read_to_string(file).unwrap();
        for (theirs, ours) in [
            ("server 127.0.0.1:7330;", format!("server {};", server.addr())),
            ("listen 80;", format!("listen {listen}:{};", port.number())),
        ] {
            assert_eq!(config.matches(theirs).count(), 1, "{theirs}");
            config = config.replace(theirs, &ours);
        }
        let dir = tempfile::Builder::new().prefix("tidings-test-nginx-").tempdir().unwrap();
        std::fs::write(dir.path().join("tidings.conf"), config).unwrap();
        // One process, which is the one that is ended.
        let main = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log warn;\n\
                    events { worker_connections 256; }\n\
                    http {\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  \
                    fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
                    gzip on;\n  gzip_types *;\n  include tidings.conf;\n}\n";
        std::fs::write(dir.path().join("nginx.conf"), main).unwrap();
        let child = Command::new(binary())
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(dir.path().join("nginx.conf"))
            .args(["-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.number()).into();
        let nginx = Self { address, child, _port: port, dir };
        wait::until("nginx answers", PATIENCE, async || nginx.get("/healthz", &[]).await.ok()).await.unwrap();
        nginx
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> anyhow::Result<Answer> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        HttpClient::new(self.address).send(method, path, &headers, body).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, headers, String::new()).await
    }

    async fn publish(&self, data: &Value) {
        let headers = [("content-type", "application/json"), ("authorization", &format!("Bearer {KEY}"))];
        let event = json!({ "channel": "open:a", "data": data }).to_string();
        let answer = self.send(Method::POST, "/v1/publish", &headers, event).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
            eprintln!("--- nginx's log ---\n{log}---");
        }
        // Both fail only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Debian keeps it where only root's `PATH` looks.
fn binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join("nginx"))
        .find(|file| file.is_file());
    found.expect("nginx is not installed (Debian: apt-get install nginx)")
}

async fn server(more: &str) -> TidingsServer {
    let config = format!(
        "[auth]\napi_keys = [\"{KEY}\"]\n[server]\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [stream]\nheartbeat = \"200ms\"\n[namespaces.open]\nsubscribe = [\"anyone\"]\n{more}"
    );
    TidingsServer::start(ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))).await.unwrap()
}

async fn subscribe(nginx: &Nginx, headers: &[(&str, &str)]) -> SseClient {
    let stream = SseClient::connect(nginx.address, "/v1/subscribe?channel=open:a", headers).await.unwrap();
    assert_eq!(stream.status(), 200);
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_one_by_one_and_a_restart_is_bridged() {
    let mut server = server("").await;
    let nginx = Nginx::start(&server).await;
    // A browser's headers: nothing may be compressed, and so held back.
    let mut stream = subscribe(&nginx, &[("accept-encoding", "gzip, br")]).await;
    assert_eq!(stream.header("content-encoding"), None);
    assert_eq!(stream.header("cache-control"), Some("no-cache, no-store, no-transform"));
    stream.connected(PATIENCE).await.unwrap();
    for number in 0..5 {
        // Published after the one before was received: none waits for another to push it through.
        nginx.publish(&json!(number)).await;
        assert_eq!(stream.next_event(PATIENCE).await.unwrap().data, number.to_string());
    }
    // A heartbeat goes through as well: a line, no event.
    while !matches!(stream.next(PATIENCE).await.unwrap(), Some(tidings_protocol::sse::Parsed::Comment(_))) {}
    let cursor = stream.last_id().to_owned();

    server.kill9().await.unwrap();
    let mut away = subscribe(&nginx, &[]).await;
    assert_eq!(away.header("content-type"), Some("text/event-stream"));
    let events = away.until_end(PATIENCE).await.unwrap();
    assert!(events.is_empty(), "{events:?}");
    assert!((2000..=5000).contains(&away.retry_ms().unwrap()));
    let long_poll = [("accept", "application/json")];
    assert_eq!(nginx.get("/v1/subscribe?channel=open:a", &long_poll).await.unwrap().status, 503);

    server.restart().await.unwrap();
    nginx.publish(&json!("meanwhile")).await;
    let mut stream = subscribe(&nginx, &[("last-event-id", &cursor)]).await;
    stream.connected(PATIENCE).await.unwrap();
    assert_eq!(stream.next_event(PATIENCE).await.unwrap().data, "meanwhile");
    let answer = nginx.get(&format!("/v1/subscribe?channel=open:a&last_event_id={cursor}"), &long_poll).await.unwrap();
    assert_eq!(answer.json().unwrap()["events"][0]["data"], "meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_a_client_is_the_one_that_nginx_saw() {
    let server = server("").await;
    let nginx = Nginx::start(&server).await;
    let key = format!("Bearer {KEY}");
    let remotes = async || -> Vec<Value> {
        let answer = nginx.get("/v1/connections", &[("authorization", &key)]).await.unwrap().json().unwrap();
        answer["connections"].as_array().unwrap().iter().map(|connection| connection["remote"].clone()).collect()
    };
    // What a client writes into the header stands left of what nginx writes. As the test's client is on
    // this machine, and this machine is trusted, the next hop to the left counts, and no further one.
    let claims = [("x-forwarded-for", "192.0.2.66, 203.0.113.7")];
    let mut stream = subscribe(&nginx, &claims).await;
    stream.connected(PATIENCE).await.unwrap();
    assert_eq!(remotes().await, [json!("203.0.113.7")]);
    drop(stream);
    wait::until("the stream is gone", PATIENCE, async || remotes().await.is_empty().then_some(())).await.unwrap();
    // A header that nginx does not write and would pass on.
    let mut stream = subscribe(&nginx, &[claims[0], ("forwarded", "for=198.51.100.1")]).await;
    stream.connected(PATIENCE).await.unwrap();
    assert_eq!(remotes().await, [json!("203.0.113.7")]);
    assert_eq!(nginx.get("/metrics", &[]).await.unwrap().status, 404);
}

/// Requests from loopback are not counted. A client could pass for one by an address that cannot be
/// read: what was left of the chain was the proxy, and the proxy is on loopback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hides_behind_the_proxy_is_limited_all_the_same() {
    let server = server("[limits]\nip_requests_per_second = 1\nip_burst = 5\n").await;
    let nginx = Nginx::start(&server).await;
    let history = "/v1/channels/open:a/history";
    let hidden = [("x-forwarded-for", "unknown")];
    let mut statuses = Vec::new();
    while statuses.len() < 10 && !statuses.contains(&429) {
        statuses.push(nginx.get(history, &hidden).await.unwrap().status);
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    // Whoever is on this machine and does not come through the proxy is not.
    for _ in 0..20 {
        assert_eq!(HttpClient::new(server.addr()).get(history).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_and_a_long_url_pass() {
    let server = server("").await;
    let nginx = Nginx::start(&server).await;
    let line = json!({ "channel": "open:a", "data": "x".repeat(60_000) }).to_string() + "\n";
    let headers = [("content-type", "application/x-ndjson"), ("authorization", &format!("Bearer {KEY}"))];
    let answer = nginx.send(Method::POST, "/v1/publish", &headers, line.repeat(250)).await.unwrap();
    assert_eq!((answer.status, answer.text().lines().count()), (200, 250));
    let channels: Vec<_> = (0..200).map(|number| format!("channel=open:{number}{}", "a".repeat(180))).collect();
    let long = format!("/v1/subscribe?{}", channels.join("&"));
    let mut stream = SseClient::connect(nginx.address, &long, &[]).await.unwrap();
    assert_eq!(stream.connected(PATIENCE).await.unwrap().channels.len(), 200);
}
