//! What history no longer holds is announced, never skipped silently.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_protocol::{Cursor, Epoch};
use tidings_testkit::{
    client::{Received, SseClient},
    wait,
};

use crate::node::{API_KEY, LIMIT, Node, bearer, next, next_data};

/// The next event is a gap of these channels for this reason.
pub(crate) async fn assert_gap(stream: &mut SseClient, channels: &[&str], reason: &str) -> Received {
    let received = next(stream).await;
    assert_eq!(received.event, "gap", "{received:?}");
    let mut gap: Value = serde_json::from_str(&received.data).unwrap();
    gap["channels"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(gap, json!({"channels": channels, "reason": reason}));
    received
}

/// Comes back with a cursor that `connected` has to carry.
pub(crate) async fn resume(node: &Node, channels: &str, cursor: &str) -> SseClient {
    let mut stream = node.stream(&format!("{channels}&last_event_id={cursor}")).await;
    stream.connected(LIMIT).await.unwrap();
    assert_eq!(stream.last_id(), cursor, "connected carries the client's own cursor");
    stream
}

/// From the gap's own cursor the same hole is not told again, and nothing after it is missed.
async fn assert_past_the_hole(node: &Node, channels: &str, gap: &Received, expected: &[&str]) {
    let mut stream = resume(node, channels, &gap.id).await;
    assert_eq!(next_data(&mut stream, expected.len()).await, expected);
}

#[tokio::test]
async fn what_was_purged_is_a_gap() {
    let node = Node::start("").await;
    let first = node.publish_numbers("open:a", 1..=3).await.remove(0);
    let path = "/v1/channels/open:a/history";
    let authorization = bearer(API_KEY);
    let purged = node.call(Method::DELETE, path, &[("authorization", &authorization)], "").await;
    assert_eq!(purged.json().unwrap(), json!({"purged": 3}));
    node.publish_numbers("open:a", 4..=4).await;
    let mut stream = resume(&node, "channel=open:a", &first).await;
    let gap = assert_gap(&mut stream, &["open:a"], "evicted").await;
    assert_eq!(next_data(&mut stream, 1).await, ["4"]);
    assert_past_the_hole(&node, "channel=open:a", &gap, &["4"]).await;
}

#[tokio::test]
async fn what_has_grown_too_old_is_a_gap() {
    let node = Node::start("[namespaces.brief]\nhistory_ttl = \"1s\"\nsubscribe = [\"anyone\"]\n").await;
    let first = node.publish_numbers("brief:a", 1..=2).await.remove(0);
    let expired = wait::until("the events to expire", LIMIT, async || {
        let history = node.get("/v1/channels/brief:a/history").await.json().ok()?;
        history["events"].as_array()?.is_empty().then_some(())
    });
    expired.await.unwrap();
    let mut stream = resume(&node, "channel=brief:a", &first).await;
    let gap = assert_gap(&mut stream, &["brief:a"], "expired").await;
    node.publish_numbers("brief:a", 3..=3).await;
    assert_eq!(next_data(&mut stream, 1).await, ["3"]);
    assert_past_the_hole(&node, "channel=brief:a", &gap, &["3"]).await;
}

#[tokio::test]
async fn a_restart_is_a_gap_of_volatile_channels_only() {
    let mut node = Node::start("[namespaces.volatile]\ndurable = false\nsubscribe = [\"anyone\"]\n").await;
    let channels = "channel=volatile:a&channel=open:a&channel=volatile:b";
    let mut stream = node.stream(channels).await;
    stream.connected(LIMIT).await.unwrap();
    node.publish_numbers("volatile:a", 1..=1).await;
    node.publish_numbers("open:a", 2..=2).await;
    assert_eq!(next_data(&mut stream, 2).await, ["1", "2"]);
    let cursor = stream.last_id().to_owned();
    node.publish_numbers("volatile:a", 3..=3).await;
    node.publish_numbers("open:a", 4..=4).await;
    node.server.restart().await.unwrap();
    node.publish_numbers("volatile:a", 5..=5).await;

    let mut back = resume(&node, channels, &cursor).await;
    let (mut data, mut gap) = (Vec::new(), None);
    while data.len() < 2 || gap.is_none() {
        let event = next(&mut back).await;
        match event.event.as_str() {
            "gap" => gap = Some(event),
            _ => data.push(event.data),
        }
    }
    assert_eq!(data, ["4", "5"]);
    // Whether there was more on `volatile:b` nobody knows any more.
    let gap = gap.unwrap();
    let told: Value = serde_json::from_str(&gap.data).unwrap();
    let mut told_channels: Vec<_> = told["channels"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    told_channels.sort();
    assert_eq!((told_channels.as_slice(), &told["reason"]), (&["volatile:a", "volatile:b"][..], &json!("restart")));
    let mut again = resume(&node, channels, back.last_id()).await;
    node.publish_numbers("volatile:b", 6..=6).await;
    assert_eq!(next_data(&mut again, 1).await, ["6"]);
    // Durable channels alone have no gap.
    let mut durable = resume(&node, "channel=open:a", &cursor).await;
    assert_eq!(next_data(&mut durable, 1).await, ["4"]);
}

#[tokio::test]
async fn a_cursor_of_another_log_is_a_gap() {
    let mut node = Node::start("").await;
    let cursor = node.publish_numbers("open:a", 1..=3).await.remove(2);
    // The disk was lost.
    node.server.kill9().await.unwrap();
    std::fs::remove_dir_all(node.server.data_dir()).unwrap();
    node.server.restart().await.unwrap();
    node.publish_numbers("open:a", 11..=11).await;
    let mut stream = resume(&node, "channel=open:a&channel=open:b", &cursor).await;
    let gap = assert_gap(&mut stream, &["open:a", "open:b"], "epoch").await;
    node.publish_numbers("open:b", 12..=12).await;
    // What the new log holds may or may not come; what happens does, and from the gap on nothing is lost.
    let mut data = Vec::new();
    while data.last().is_none_or(|last| last != "12") {
        data.push(next(&mut stream).await.data);
    }
    assert!(data == ["12"] || data == ["11", "12"], "{data:?}");
    assert_past_the_hole(
        &node,
        "channel=open:a&channel=open:b",
        &gap,
        &data.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;

    let mut forged: Cursor = gap.id.parse().unwrap();
    for (partition, mut at) in forged.clone().entries() {
        at.epoch = Epoch(at.epoch.0.wrapping_add(1));
        forged.set(partition, at);
    }
    let mut stream = resume(&node, "channel=open:a", &forged.to_string()).await;
    assert_gap(&mut stream, &["open:a"], "epoch").await;
}

#[tokio::test]
async fn a_cursor_that_cannot_be_read_is_a_gap_and_the_stream_goes_on() {
    let node = Node::start("").await;
    node.publish_numbers("open:a", 1..=3).await;
    let long = "A".repeat(300);
    for cursor in ["garbage", "1764000000-0", "%00%0a", "%ff", "AQ", &long, "0", " "] {
        let cursor = cursor.replace(' ', "%20");
        let mut stream = node.stream(&format!("channel=open:a&channel=open:b&last_event_id={cursor}")).await;
        stream.connected(LIMIT).await.unwrap();
        assert_eq!(stream.last_id(), "", "{cursor}: there is no cursor to carry");
        assert!(!String::from_utf8_lossy(stream.raw()).contains("id: \n"));
        let gap = assert_gap(&mut stream, &["open:a", "open:b"], "unusable").await;
        node.publish_numbers("open:b", 4..=4).await;
        assert_eq!(next_data(&mut stream, 1).await, ["4"], "{cursor}");
        assert_past_the_hole(&node, "channel=open:a&channel=open:b", &gap, &["4"]).await;
    }
    // In the header it may be bytes that are no text at all.
    let mut stream = node.stream_with("channel=open:a", &[("last-event-id", "\u{e9}")]).await;
    stream.connected(LIMIT).await.unwrap();
    assert_gap(&mut stream, &["open:a"], "unusable").await;
}

/// Positions of another life of the log may be higher than any of this one.
#[tokio::test]
async fn a_cursor_from_the_future_does_not_hang() {
    let node = Node::start("").await;
    let id = node.publish_numbers("open:a", 1..=1).await.remove(0);
    let mut future: Cursor = id.parse().unwrap();
    for (partition, mut at) in future.clone().entries() {
        at.position.0 += 1_000_000;
        future.set(partition, at);
    }
    let mut stream = resume(&node, "channel=open:a", &future.to_string()).await;
    node.publish_numbers("open:a", 2..=2).await;
    // It cannot be of this log, so what there is may be new to the client.
    assert_gap(&mut stream, &["open:a"], "epoch").await;
    assert_eq!(next_data(&mut stream, 2).await, ["1", "2"]);
}
