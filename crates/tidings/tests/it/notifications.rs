//! Notifications through the real server, on each of the databases that it may keep them in.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    client::{Received, SseClient},
    databases::{DatabaseServer, Engine},
    http::Answer,
};

use crate::node::{API_KEY, LIMIT, Node, bearer, next, token};

/// Makes a test of each of these functions for each database. A test's name is that of its function and the
/// database's.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            use crate::notifications::Store;

            #[tokio::test]
            async fn sqlite() {
                super::$test(Store::Sqlite).await;
            }

            #[tokio::test]
            async fn postgres() {
                super::$test(Store::Server(tidings_testkit::databases::Engine::Postgres)).await;
            }

            #[tokio::test]
            async fn mariadb() {
                super::$test(Store::Server(tidings_testkit::databases::Engine::MariaDb)).await;
            }
        }
    )*};
}

mod api;
mod api_live;
mod api_refused;
mod api_wishes;
mod crash;
mod escalation;
mod outage;
mod stories;

/// Where a server keeps notifications.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    /// In a file of its own.
    Sqlite,
    /// In a new database of a server that all tests share.
    Server(Engine),
}

impl Store {
    /// What the configuration says of it.
    pub(crate) async fn config(self) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Server(engine) => {
                let server = DatabaseServer::shared(engine).await.unwrap();
                format!("[store]\nurl = {:?}\n", server.database().await.unwrap())
            }
        }
    }

    /// A server with that and these tables of configuration.
    pub(crate) async fn node(self, config: &str) -> Node {
        Node::start(&format!("{}{config}", self.config().await)).await
    }
}

/// Makes a request with these credentials; without a body if it is null.
pub(crate) async fn call(node: &Node, method: Method, path: &str, credentials: &str, body: &Value) -> Answer {
    let authorization = bearer(credentials);
    let mut headers = vec![("authorization", authorization.as_str())];
    if body.is_null() {
        return node.call(method, path, &headers, "").await;
    }
    headers.push(("content-type", "application/json"));
    node.call(method, path, &headers, &body.to_string()).await
}

/// The same, and it has to be answered with this status. Gives the answer.
#[track_caller]
pub(crate) fn accepted(answer: Answer, status: u16) -> Value {
    assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/json")), "{}", answer.text());
    answer.json().unwrap()
}

/// Sends a notification as a backend. Gives its id.
pub(crate) async fn notify(node: &Node, notification: Value) -> String {
    let answer = accepted(call(node, Method::POST, "/v1/notifications", API_KEY, &notification).await, 202);
    assert_eq!(answer["duplicate"], false, "{notification}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Reads as somebody.
pub(crate) async fn get(node: &Node, path: &str, credentials: &str) -> Value {
    accepted(call(node, Method::GET, path, credentials, &Value::Null).await, 200)
}

/// Posts as somebody.
pub(crate) async fn post(node: &Node, path: &str, credentials: &str, body: Value) -> Value {
    accepted(call(node, Method::POST, path, credentials, &body).await, 200)
}

/// A token of a user who may do nothing in particular.
pub(crate) fn of(user: &str) -> String {
    token(json!({"sub": user}))
}

/// What an inbox or a part of it says of one field of each notification.
pub(crate) fn column<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["notifications"].as_array().unwrap().iter().map(|entry| entry[field].as_str().unwrap()).collect()
}

/// A user's own stream, open.
pub(crate) async fn alarms(node: &Node, query: &str, user: &str) -> SseClient {
    let mut stream = node.stream_as(query, &of(user)).await;
    stream.connected(LIMIT).await.unwrap();
    stream
}

/// The next event of this type, and its data as JSON.
pub(crate) async fn next_of(stream: &mut SseClient, event: &str) -> (Received, Value) {
    let received = next(stream).await;
    assert_eq!(received.event, event, "{received:?}");
    let data = serde_json::from_str(&received.data).unwrap();
    (received, data)
}

/// The titles of the next notifications of a stream, up to that one.
pub(crate) async fn titles_through(stream: &mut SseClient, last: &str) -> Vec<String> {
    let mut titles = Vec::new();
    loop {
        let (_, data) = next_of(stream, "notification").await;
        let title = data["notification"]["title"].as_str().unwrap().to_owned();
        titles.push(title.clone());
        if title == last {
            return titles;
        }
    }
}

/// The titles of whatever a stream is told of before one more, which is sent to its user.
pub(crate) async fn end(node: &Node, stream: &mut SseClient, user: &str) -> Vec<String> {
    notify(node, json!({"to": {"user": user}, "title": "end"})).await;
    let mut titles = titles_through(stream, "end").await;
    titles.pop();
    titles
}
