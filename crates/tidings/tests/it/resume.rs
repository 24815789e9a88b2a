//! Coming back with a cursor: everything that was missed, once, in order.

use serde_json::{Value, json};
use tidings_testkit::client::SseClient;

use crate::node::{LIMIT, Node, next_data, numbers, user_token};

/// The cursor that `connected` carries.
pub(crate) async fn connected_id(stream: &mut SseClient) -> String {
    stream.connected(LIMIT).await.unwrap();
    stream.last_id().to_owned()
}

#[tokio::test]
async fn retained_events_are_for_new_streams_only() {
    let node = Node::start("[namespaces.kept]\nretain = true\nsubscribe = [\"anyone\"]\n").await;
    let ids = node.publish_numbers("kept:a", 1..=3).await;
    let mut stream = node.stream(&format!("channel=kept:a&last_event_id={}", ids[2])).await;
    stream.connected(LIMIT).await.unwrap();
    node.publish_numbers("kept:a", 4..=4).await;
    assert_eq!(next_data(&mut stream, 1).await, ["4"]);
}

#[tokio::test]
async fn a_cursor_is_good_for_a_channel_that_was_not_there_before() {
    let node = Node::start("").await;
    let mut stream = node.stream("channel=open:a").await;
    let cursor = connected_id(&mut stream).await;
    node.publish_numbers("open:a", 1..=2).await;
    node.publish_numbers("open:b", 3..=4).await;
    let mut back = node.stream(&format!("channel=open:a&channel=open:b&last_event_id={cursor}")).await;
    back.connected(LIMIT).await.unwrap();
    assert_eq!(next_data(&mut back, 4).await, numbers(1..=4));
    node.publish_numbers("open:b", 5..=5).await;
    assert_eq!(next_data(&mut back, 1).await, ["5"]);
    // A channel that was left out is not made up for: the cursor has moved past it.
    let cursor = back.last_id().to_owned();
    node.publish_numbers("open:c", 6..=6).await;
    let mut fewer = node.stream(&format!("channel=open:c&last_event_id={cursor}")).await;
    fewer.connected(LIMIT).await.unwrap();
    assert_eq!(next_data(&mut fewer, 1).await, ["6"]);
}

#[tokio::test]
async fn the_answer_to_a_publish_is_a_cursor_also_over_a_crash() {
    let mut node = Node::start("").await;
    let user = user_token("42", &[]);
    // A backend takes a snapshot, remembers the id of its last publish, and gives both to a client.
    node.publish(json!({"channel": "user:42", "data": "in the snapshot"})).await;
    let snapshot = node.publish(json!({"channel": "open:a", "data": "in the snapshot"})).await.id;
    node.publish(json!({"channel": "user:42", "data": 1})).await;
    let mut stream = node.stream_as(&format!("channel=open:a&last_event_id={snapshot}"), &user).await;
    assert_eq!(connected_id(&mut stream).await, snapshot);
    assert_eq!(next_data(&mut stream, 1).await, ["1"]);
    node.publish(json!({"channel": "open:a", "data": 2})).await;
    assert_eq!(next_data(&mut stream, 1).await, ["2"]);
    let cursor = stream.last_id().to_owned();
    // It is published, acknowledged, and has reached nobody when the power fails.
    drop(stream);
    node.publish(json!({"channel": "open:a", "data": 3})).await;
    node.server.restart().await.unwrap();
    for (from, expected) in [(&snapshot, numbers(1..=3)), (&cursor, numbers(3..=3))] {
        let mut back = node.stream_as(&format!("channel=open:a&last_event_id={from}"), &user).await;
        assert_eq!(connected_id(&mut back).await, *from);
        assert_eq!(next_data(&mut back, expected.len()).await, expected);
    }
    // What comes after the crash has a later place, on the streams and in history.
    let mut back = node.stream_as(&format!("channel=open:a&last_event_id={cursor}"), &user).await;
    back.connected(LIMIT).await.unwrap();
    node.publish(json!({"channel": "open:a", "data": 4})).await;
    assert_eq!(next_data(&mut back, 2).await, ["3", "4"]);
    assert_eq!(node.metric("tidings_resume_total{outcome=\"gap\"}").await, 0.0);
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let node = Node::start("[limits]\nhistory_page_max = 3\n[namespaces.short]\nhistory_size = 2\n").await;
    let ids = node.publish_numbers("open:a", 1..=7).await;
    let mut seen = Vec::new();
    let mut after = String::new();
    for _ in 0..3 {
        let page = node.get(&format!("/v1/channels/open:a/history?limit=3{after}")).await.json().unwrap();
        assert_eq!(page["complete"], true);
        seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["data"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (1..=7).collect::<Vec<_>>());
    let rest = node.get(&format!("/v1/channels/open:a/history?after={}", ids[5])).await.json().unwrap();
    assert_eq!(
        (&rest["events"][0]["id"], &rest["next"], &rest["complete"]),
        (&json!(ids[6]), &Value::Null, &json!(true))
    );
    let old = node.publish_numbers("short:a", 1..=4).await;
    let rest = node.get(&format!("/v1/channels/short:a/history?after={}", old[0])).await.json().unwrap();
    assert_eq!((&rest["events"][0]["data"], &rest["complete"]), (&json!(3), &json!(false)));
    for query in ["limit=0", "limit=4", "limit=x", "after=garbage", "before=1"] {
        let answer = node.get(&format!("/v1/channels/open:a/history?{query}")).await;
        crate::node::assert_problem(&answer, 400, "invalid_query");
    }
    let bounds = node.get("/v1/channels/open:a").await.json().unwrap()["history"].clone();
    assert_eq!(bounds, json!({"events": 7, "oldest": ids[0], "newest": ids[6]}));
}
