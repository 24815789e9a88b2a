//! How a server ends.

use axum::http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, endpoint::Way, http::HttpClient, wait};

use crate::{
    node::{LIMIT, Node, assert_problem},
    raw,
};

on_every_way!(
    streams_are_told_to_come_back_before_the_server_ends,
    a_draining_server_is_not_ready_sends_new_streams_away_and_ends_at_a_second_signal,
    a_server_without_streams_ends_at_once_also_on_ctrl_c,
    a_held_request_is_answered_by_the_drain_and_its_cursor_is_good_afterwards,
);

async fn open_streams(node: &Node, count: usize) -> Vec<SseClient> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = node.stream("channel=open:a").await;
        stream.connected(LIMIT).await.unwrap();
        streams.push(stream);
    }
    streams
}

fn closing(stream: &str) -> Value {
    serde_json::from_str(stream).unwrap()
}

async fn streams_are_told_to_come_back_before_the_server_ends(way: Way) {
    let mut node =
        Node::start_on(way, "[server]\ndrain_window = \"300ms\"\n[stream]\nretry = [\"50ms\", \"60s\"]\n").await;
    let mut streams = open_streams(&node, 5).await;
    // Published just before, and on its way when the publisher is answered.
    node.publish(json!({"channel": "open:a", "data": "last"})).await;
    node.wait_for_metric("tidings_events_delivered_total{transport=\"sse\"}", 5.0).await;
    node.server.signal(Signal::TERM).unwrap();
    let mut retries = Vec::new();
    for stream in &mut streams {
        let events = stream.until_end(LIMIT).await.unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!((events[0].data.as_str(), events[1].event.as_str()), ("last", "closing"));
        let closing = closing(&events[1].data);
        assert_eq!(closing["reason"], "drain");
        retries.push(closing["retry"].as_u64().unwrap());
    }
    assert!(retries.iter().all(|retry_ms| (50..=60_000).contains(retry_ms)), "{retries:?}");
    retries.dedup();
    assert!(retries.len() > 1, "everybody was told to come back at the same time: {retries:?}");
    let status = node.server.wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    // What was acknowledged is there afterwards, and so is the way back.
    node.server.restart().await.unwrap();
    assert_eq!(node.get("/v1/channels/open:a/history").await.json().unwrap()["events"][0]["data"], "last");
    let mut back = node.stream(&format!("channel=open:a&last_event_id={}", streams[0].last_id())).await;
    back.connected(LIMIT).await.unwrap();
    node.publish(json!({"channel": "open:a", "data": "new"})).await;
    assert_eq!(crate::node::next(&mut back).await.data, "new");
}

async fn a_draining_server_is_not_ready_sends_new_streams_away_and_ends_at_a_second_signal(way: Way) {
    let mut node = Node::start_on(way, "[server]\ndrain_window = \"1h\"\n[stream]\nlong_poll = \"10m\"\n").await;
    let streams = open_streams(&node, 3).await;
    node.server.signal(Signal::TERM).unwrap();
    let refused = wait::until("/readyz to say no", LIMIT, async || {
        let answer = node.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    });
    assert!(refused.await.unwrap().text().contains("draining"));
    assert_eq!(node.get("/healthz").await.status, 200);
    // Backends may still publish.
    node.publish(json!({"channel": "open:a", "data": 1})).await;
    let mut late = node.stream("channel=open:a").await;
    let events = late.until_end(LIMIT).await.unwrap();
    assert_eq!((events.len(), events[0].event.as_str()), (1, "closing"));
    assert_eq!(closing(&events[0].data)["reason"], "drain");
    assert!(late.retry_ms().is_some());
    let accept = [("accept", "application/json")];
    let polled = node.call(Method::GET, "/v1/subscribe?channel=open:a", &accept, "").await;
    assert_problem(&polled, 503, "draining");
    // The window is an hour, so it is the second signal that ends it.
    assert!(node.server.ended().unwrap().is_none());
    let status = node.server.terminate(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    drop(streams);
}

async fn a_server_without_streams_ends_at_once_also_on_ctrl_c(way: Way) {
    let mut node = Node::start_on(way, "[server]\ndrain_window = \"1h\"\n").await;
    // An idle connection that is kept alive does not hold it up.
    let mut idle = HttpClient::new(node.endpoint());
    assert_eq!(idle.get("/healthz").await.unwrap().status, 200);
    // Nor do those that have said nothing, or not all of what they have to say.
    let silent = raw::send(node.addr(), b"").await;
    let half = raw::send(node.addr(), b"PRI * HTTP").await;
    node.wait_for_streams(0).await;
    node.server.signal(Signal::INT).unwrap();
    let status = node.server.wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    let log = node.server.log();
    assert!(!log.contains("still open"), "{log}");
    drop((idle, silent, half));
}

async fn a_held_request_is_answered_by_the_drain_and_its_cursor_is_good_afterwards(way: Way) {
    let mut node = Node::start_on(way, "[server]\ndrain_window = \"100ms\"\n[stream]\nlong_poll = \"10m\"\n").await;
    let endpoint = node.endpoint();
    let first = node.publish(json!({"channel": "open:a", "data": 1})).await;
    let path = format!("/v1/subscribe?channel=open:a&last_event_id={}", first.id);
    let held = tokio::spawn(async move {
        let accept = [("accept".to_owned(), "application/json".to_owned())];
        let mut client = HttpClient::new(endpoint);
        client.send(Method::GET, &path, &accept, "").await.unwrap()
    });
    node.wait_for_streams(1).await;
    let status = node.server.terminate(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let answer = wait::within("the held request", LIMIT, held).await.unwrap().unwrap().json().unwrap();
    assert_eq!((&answer["events"], &answer["gaps"]), (&json!([]), &json!([])));
    node.server.restart().await.unwrap();
    node.publish(json!({"channel": "open:a", "data": 2})).await;
    let again = node.poll(&format!("channel=open:a&last_event_id={}", answer["cursor"].as_str().unwrap())).await;
    assert_eq!((&again["events"][0]["data"], &again["gaps"]), (&json!(2), &json!([])));
}
