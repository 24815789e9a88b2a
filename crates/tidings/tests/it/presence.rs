//! Who is there: asked for, told of, and sent to a backend.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method},
    routing::post,
};
use serde_json::{Value, json};
use tidings_testkit::wait;

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer, next, user_token};

const NAMESPACES: &str =
    "[namespaces.room]\npresence = true\nsubscribe = [\"anyone\"]\n[presence]\ngrace = \"300ms\"\n";

async fn get(node: &Node, path: &str, credentials: &str) -> Value {
    let answer = node.call(Method::GET, path, &[("authorization", &bearer(credentials))], "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()
}

#[tokio::test]
async fn an_operator_sees_where_a_user_is() {
    let node = Node::start("").await;
    let offline = json!({"user": "42", "online": false, "connections": []});
    assert_eq!(get(&node, "/v1/users/42/presence", API_KEY).await, offline);
    let mut stream = node.stream_as("channel=open:a", &user_token("42", &[])).await;
    let connected = stream.connected(LIMIT).await.unwrap();
    let seen = get(&node, "/v1/users/42/presence", API_KEY).await;
    let connection = &seen["connections"][0];
    assert!(connection["since"].as_u64().is_some(), "{seen}");
    let expected = json!({
        "user": "42", "online": true,
        "connections": [{
            "id": connected.connection, "node": connected.node, "transport": "sse", "since": connection["since"],
        }],
    });
    assert_eq!(seen, expected);
    let refused = node
        .call(Method::GET, "/v1/users/42/presence", &[("authorization", &bearer(&user_token("42", &[])))], "")
        .await;
    assert_problem(&refused, 403, "forbidden");
}

#[tokio::test]
async fn who_may_listen_sees_and_hears_who_else_does() {
    let node = Node::start(NAMESPACES).await;
    let mut watcher = node.stream("channel=room:1").await;
    watcher.connected(LIMIT).await.unwrap();
    let mut first = node.stream_as("channel=room:1", &user_token("42", &[])).await;
    first.connected(LIMIT).await.unwrap();
    let told = next(&mut watcher).await;
    assert_eq!((told.event.as_str(), told.data.as_str()), ("tidings.join", r#"{"user":"42"}"#));
    // A second device is no news.
    let second = node.stream_as("channel=room:1", &user_token("42", &[])).await;
    let _other = node.stream_as("channel=room:1", &user_token("7", &[])).await;
    assert_eq!(next(&mut watcher).await.data, r#"{"user":"7"}"#);
    let here = get(&node, "/v1/channels/room:1/presence?limit=1", &user_token("9", &[])).await;
    let expected = json!({
        "channel": "room:1", "users": [{"user": "42", "connections": 2}], "user_count": 2, "anonymous": 1, "next": "42",
    });
    assert_eq!(here, expected);
    let rest = get(&node, "/v1/channels/room:1/presence?after=42", API_KEY).await;
    assert_eq!((&rest["users"], &rest["next"]), (&json!([{"user": "7", "connections": 1}]), &Value::Null));
    // Who comes back within the time has not left: the next that is heard is somebody else.
    drop((first, second));
    node.wait_for_streams(2).await;
    let _back = node.stream_as("channel=room:1", &user_token("42", &[])).await;
    node.wait_for_streams(3).await;
    let gone = node.stream_as("channel=room:1", &user_token("8", &[])).await;
    assert_eq!(next(&mut watcher).await.data, r#"{"user":"8"}"#);
    drop(gone);
    let told = next(&mut watcher).await;
    assert_eq!((told.event.as_str(), told.data.as_str()), ("tidings.leave", r#"{"user":"8"}"#));
    assert_eq!(node.metric("tidings_presence_events_total{kind=\"leave\"}").await, 1.0);
    // It passes by: history has none of it.
    let history = get(&node, "/v1/channels/room:1/history", API_KEY).await;
    assert_eq!(history["events"], json!([]));
}

#[tokio::test]
async fn no_account_is_kept_where_nobody_asked_for_it() {
    let node = Node::start(NAMESPACES).await;
    let answer = node.get("/v1/channels/open:1/presence").await;
    assert_problem(&answer, 404, "not_found");
    let personal = node.get("/v1/channels/user:42/presence").await;
    assert_problem(&personal, 404, "not_found");
    let closed = node.call(Method::GET, "/v1/channels/secret:1/presence", &[], "").await;
    assert_problem(&closed, 401, "unauthorized");
}

type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// A backend. Gives its address, and what it is sent: the signature, and the message.
async fn backend() -> (String, Messages) {
    let messages = Messages::default();
    let receive = async |State(messages): State<Messages>, headers: HeaderMap, body: String| {
        let signature = headers["webhook-signature"].to_str().unwrap().to_owned();
        messages.lock().unwrap().push((signature, serde_json::from_str(&body).unwrap()));
    };
    let router = Router::new().route("/hook", post(receive)).with_state(messages.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, messages)
}

async fn messages(seen: &Messages, count: usize) -> Vec<(String, Value)> {
    let enough = wait::until("messages", LIMIT, async || {
        let seen = seen.lock().unwrap();
        (seen.len() >= count).then(|| seen.clone())
    });
    enough.await.unwrap()
}

#[tokio::test]
async fn a_backend_is_told_of_users_who_come_and_go() {
    let (url, seen) = backend().await;
    let config = format!(
        "[presence]\ngrace = \"200ms\"\nwebhook_url = \"{url}\"\nwebhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n"
    );
    let node = Node::start(&config).await;
    let mut stream = node.stream_as("channel=open:a", &user_token("42", &[])).await;
    let connected = stream.connected(LIMIT).await.unwrap();
    let nobody = node.stream("channel=open:a").await;
    let told = messages(&seen, 1).await;
    assert!(told[0].0.starts_with("v1,"), "{told:?}");
    let message = &told[0].1;
    assert!(message["at"].as_u64().is_some(), "{message}");
    let expected = json!({"type": "user.connected", "user": "42", "node": connected.node, "at": message["at"]});
    assert_eq!(*message, expected);
    drop((stream, nobody));
    let told = messages(&seen, 2).await;
    assert_eq!((&told[1].1["type"], &told[1].1["user"]), (&json!("user.disconnected"), &json!("42")));
    node.wait_for_metric("tidings_presence_webhook_total{outcome=\"sent\"}", 2.0).await;
}

/// Its clients come back elsewhere: nobody has left.
#[tokio::test]
async fn a_node_that_goes_away_takes_nobody_along() {
    let (url, seen) = backend().await;
    let config = format!(
        "[server]\ndrain_window = \"1s\"\n[presence]\ngrace = \"1ms\"\nwebhook_url = \"{url}\"\n\
         webhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n"
    );
    let mut node = Node::start(&config).await;
    // One of them goes at the beginning of the drain, the other half a second later.
    let _one = node.stream_as("channel=open:a", &user_token("42", &[])).await;
    let _other = node.stream_as("channel=open:a", &user_token("43", &[])).await;
    messages(&seen, 2).await;
    node.server.terminate(LIMIT).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
}
