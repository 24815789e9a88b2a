//! Streams that keep up with what their user follows.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, endpoint::Way};

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer, next, next_data, token, user_token};

on_every_way!(a_stream_keeps_up_with_what_is_followed);

const NAMESPACES: &str = "[namespaces.region]\nsubscribe = [\"user\"]\n";

async fn change(node: &Node, method: Method, channel: &str) {
    let path = format!("/v1/users/42/follows/{channel}");
    let answer = node.call(method, &path, &[("authorization", &bearer(API_KEY))], "").await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
}

async fn publish(node: &Node, channel: &str, data: &str) {
    node.publish(json!({"channel": channel, "data": data})).await;
}

fn me() -> String {
    token(json!({"sub": "42"}))
}

async fn listed(node: &Node) -> Vec<Value> {
    let answer = node.get("/v1/connections?user=42").await.json().unwrap();
    answer["connections"][0]["channels"].as_array().unwrap().clone()
}

async fn open(node: &Node, query: &str) -> (SseClient, Vec<String>) {
    let mut stream = node.stream_as(query, &me()).await;
    let connected = stream.connected(LIMIT).await.unwrap();
    (stream, connected.channels)
}

async fn a_stream_keeps_up_with_what_is_followed(way: Way) {
    let node = Node::start_on(way, NAMESPACES).await;
    change(&node, Method::PUT, "region:jeju").await;
    let (mut stream, channels) = open(&node, "channel=open:a&follows=1").await;
    assert_eq!(channels, ["open:a", "user:42", "region:jeju"]);
    publish(&node, "region:jeju", "from the beginning").await;
    change(&node, Method::PUT, "region:busan").await;
    assert_eq!(listed(&node).await, ["open:a", "user:42", "region:jeju", "region:busan"]);
    publish(&node, "region:busan", "added").await;
    assert_eq!(next_data(&mut stream, 2).await, ["from the beginning", "added"]);
    change(&node, Method::DELETE, "region:jeju").await;
    change(&node, Method::PUT, "open:a").await;
    change(&node, Method::DELETE, "open:a").await;
    publish(&node, "region:jeju", "left").await;
    publish(&node, "open:a", "named by itself").await;
    assert_eq!(next(&mut stream).await.data, "named by itself");
    assert_eq!(listed(&node).await, ["open:a", "user:42", "region:busan"]);

    // Coming back, it has what it missed of what is followed by then.
    let cursor = stream.last_id().to_owned();
    drop(stream);
    node.wait_for_streams(0).await;
    publish(&node, "region:jeju", "not followed").await;
    publish(&node, "region:busan", "missed").await;
    let (mut again, channels) = open(&node, &format!("channel=open:a&follows=1&last_event_id={cursor}")).await;
    assert_eq!(channels, ["open:a", "user:42", "region:busan"]);
    assert_eq!(next(&mut again).await.data, "missed");
}

#[tokio::test]
async fn a_stream_gets_what_its_token_permits_and_has_room_for() {
    let node = Node::start("[limits]\nmax_channels_per_stream = 4\n").await;
    for channel in ["chat:a", "chat:b", "closed:a"] {
        change(&node, Method::PUT, channel).await;
    }
    let stream = async |query: &str| {
        let mut stream = node.stream_as(query, &user_token("42", &["chat:*"])).await;
        let channels = stream.connected(LIMIT).await.unwrap().channels;
        (stream, channels)
    };
    let (stream_of_four, channels) = stream("channel=open:a&follows=1").await;
    assert_eq!(channels, ["open:a", "user:42", "chat:a", "chat:b"]);
    change(&node, Method::PUT, "chat:c").await;
    change(&node, Method::DELETE, "chat:a").await;
    change(&node, Method::PUT, "closed:b").await;
    assert_eq!(listed(&node).await, ["open:a", "user:42", "chat:b"]);
    change(&node, Method::PUT, "chat:d").await;
    assert_eq!(listed(&node).await, ["open:a", "user:42", "chat:b", "chat:d"]);
    drop(stream_of_four);
    let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a&follows=1", &[], "").await;
    assert!(assert_problem(&answer, 400, "invalid_query").starts_with("follows: "));
}
