//! The event stream: how it begins, and what it carries.

use serde_json::json;

use crate::node::{LIMIT, Node, assert_problem, next, user_token};

#[tokio::test]
async fn replay_takes_numbers_and_all() {
    let node = Node::start("").await;
    for replay in ["-1", "1.5", "some", "", "unread"] {
        let answer = node.get(&format!("/v1/subscribe?channel=open:a&replay={replay}")).await;
        assert!(assert_problem(&answer, 400, "invalid_query").starts_with("replay: "));
    }
}

#[tokio::test]
async fn a_users_own_channel_is_always_among_theirs() {
    let node = Node::start("").await;
    let mut stream = node.stream_as("", &user_token("42", &[])).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().channels, ["user:42"]);
    let mut named = node.stream_as("channel=user:42&channel=open:a", &user_token("42", &[])).await;
    assert_eq!(named.connected(LIMIT).await.unwrap().channels, ["user:42", "open:a"]);
    node.publish(json!({"channel": "user:42", "event": "requery", "data": null})).await;
    for stream in [&mut stream, &mut named] {
        let received = next(stream).await;
        assert_eq!((received.event.as_str(), received.data.as_str()), ("requery", "null"));
    }
    let answer = node.get("/v1/subscribe").await;
    assert_problem(&answer, 400, "channel_missing");
}
