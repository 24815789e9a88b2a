//! Long-poll: the same stream, a request at a time.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{endpoint::Way, http::HttpClient, wait};

use crate::node::{LIMIT, Node, next_data, user_token};

on_every_way!(
    what_history_has_is_answered_at_once,
    a_held_request_is_answered_by_a_publish,
    a_request_whose_time_is_over_is_answered_with_a_cursor_to_come_back_with,
    gaps_are_listed_and_answer_at_once,
    a_long_history_comes_in_answers_of_a_bounded_size,
    a_poll_has_its_users_channel_too_and_can_be_ended,
);

/// A request that is held longer than any test lasts has been answered by something.
const HELD: &str = "[stream]\nlong_poll = \"10m\"\n";

fn data(answer: &Value) -> Vec<Value> {
    answer["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect()
}

/// Sends a request and does not wait for its answer.
fn hold(node: &Node, query: &str) -> tokio::task::JoinHandle<Value> {
    let (endpoint, path) = (node.endpoint(), format!("/v1/subscribe?{query}"));
    tokio::spawn(async move {
        let accept = [("accept".to_owned(), "application/json".to_owned())];
        HttpClient::new(endpoint).send(Method::GET, &path, &accept, "").await.unwrap().json().unwrap()
    })
}

/// Such a request was held for its whole time although there was something to answer.
async fn what_history_has_is_answered_at_once(way: Way) {
    let node = Node::start_on(way, HELD).await;
    let ids = node.publish_numbers("open:a", 1..=3).await;
    let answer = node.poll(&format!("channel=open:a&last_event_id={}", ids[0])).await;
    assert_eq!(answer["gaps"], json!([]));
    assert_eq!(answer["cursor"], json!(ids[2]));
    let first = answer["events"][0].clone();
    let sent_at = first["sent_at"].as_u64().unwrap();
    assert_eq!(first, json!({"id": ids[1], "channel": "open:a", "event": "message", "data": 2, "sent_at": sent_at}));
    assert_eq!(data(&answer), [2, 3]);
    assert_eq!(data(&node.poll("channel=open:a&replay=2").await), [2, 3]);
    assert_eq!(data(&node.poll("channel=open:a&replay=all&envelope=1").await), [1, 2, 3]);
    assert_eq!(node.metric("tidings_events_delivered_total{transport=\"long_poll\"}").await, 7.0);
    // The same cursor is good for a stream, and a stream's for the next request.
    let mut stream = node.stream(&format!("channel=open:a&last_event_id={}", ids[1])).await;
    stream.connected(LIMIT).await.unwrap();
    assert_eq!(next_data(&mut stream, 1).await, ["3"]);
    let cursor = stream.last_id().to_owned();
    node.publish_numbers("open:a", 4..=4).await;
    assert_eq!(data(&node.poll(&format!("channel=open:a&last_event_id={cursor}")).await), [4]);
}

async fn a_held_request_is_answered_by_a_publish(way: Way) {
    let node = Node::start_on(way, HELD).await;
    let mut cursor = String::new();
    for _ in 0..3 {
        let held = hold(&node, &format!("channel=open:a&channel=open:b&last_event_id={cursor}"));
        node.wait_for_streams(1).await;
        let listed = node.get("/v1/connections?transport=long_poll").await.json().unwrap();
        assert_eq!(listed["total"], 1);
        let id = node.publish(json!({"channel": "open:b", "data": {"x": 1.50}, "event": "tick"})).await.id;
        let answer = wait::within("the answer", LIMIT, held).await.unwrap().unwrap();
        assert_eq!((&answer["events"][0]["id"], &answer["cursor"]), (&json!(id), &json!(id)));
        assert_eq!((&answer["events"][0]["event"], data(&answer).len()), (&json!("tick"), 1));
        cursor = id;
        node.wait_for_streams(0).await;
    }
}

async fn a_request_whose_time_is_over_is_answered_with_a_cursor_to_come_back_with(way: Way) {
    let node = Node::start_on(way, "[stream]\nlong_poll = \"100ms\"\n").await;
    let path = "/v1/subscribe?channel=open:a";
    let answer = node.call(Method::GET, path, &[("accept", "application/json, text/plain, */*")], "").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer = answer.json().unwrap();
    assert_eq!((&answer["events"], &answer["gaps"]), (&json!([]), &json!([])));
    let cursor = answer["cursor"].as_str().unwrap().to_owned();
    assert!(!cursor.is_empty());
    // Others move on, and so does the cursor or not; it stays good.
    node.publish_numbers("open:b", 1..=3).await;
    let again = node.poll(&format!("channel=open:a&last_event_id={cursor}")).await;
    assert_eq!(again["events"], json!([]));
    node.publish_numbers("open:a", 4..=4).await;
    for cursor in [cursor.as_str(), again["cursor"].as_str().unwrap()] {
        assert_eq!(data(&node.poll(&format!("channel=open:a&last_event_id={cursor}")).await), [4]);
    }
}

async fn gaps_are_listed_and_answer_at_once(way: Way) {
    let node =
        Node::start_on(way, &format!("{HELD}[namespaces.short]\nhistory_size = 1\nsubscribe = [\"anyone\"]\n")).await;
    let ids = node.publish_numbers("short:a", 1..=4).await;
    let answer = node.poll(&format!("channel=short:a&last_event_id={}", ids[0])).await;
    assert_eq!((data(&answer), &answer["cursor"]), (vec![json!(4)], &json!(ids[3])));
    assert_eq!(answer["gaps"], json!([{"channels": ["short:a"], "reason": "evicted"}]));

    let answer = node.poll("channel=short:a&channel=open:a&last_event_id=garbage").await;
    assert_eq!(answer["events"], json!([]));
    assert_eq!(answer["gaps"], json!([{"channels": ["short:a", "open:a"], "reason": "unusable"}]));
    node.publish_numbers("open:a", 5..=5).await;
    let cursor = answer["cursor"].as_str().unwrap();
    let answer = node.poll(&format!("channel=short:a&channel=open:a&last_event_id={cursor}")).await;
    assert_eq!((data(&answer), &answer["gaps"]), (vec![json!(5)], &json!([])));
    assert_eq!(node.metric("tidings_resume_total{outcome=\"gap\"}").await, 2.0);
    assert_eq!(node.metric("tidings_resume_total{outcome=\"complete\"}").await, 1.0);
}

async fn a_long_history_comes_in_answers_of_a_bounded_size(way: Way) {
    let node =
        Node::start_on(way, &format!("{HELD}[namespaces.long]\nhistory_size = 5000\nsubscribe = [\"anyone\"]\n")).await;
    let start = node.publish_numbers("long:a", 0..=0).await.remove(0);
    node.publish_numbers("long:a", 1..=3000).await;
    let (mut seen, mut cursor, mut requests) = (Vec::new(), start, 0);
    while seen.len() < 3000 {
        let answer = node.poll(&format!("channel=long:a&last_event_id={cursor}")).await;
        seen.extend(data(&answer).into_iter().map(|n| n.as_u64().unwrap()));
        cursor = answer["cursor"].as_str().unwrap().to_owned();
        requests += 1;
    }
    assert_eq!(seen, (1..=3000).collect::<Vec<_>>());
    assert!((2..=3).contains(&requests), "{requests} requests");
}

async fn a_poll_has_its_users_channel_too_and_can_be_ended(way: Way) {
    let node = Node::start_on(way, HELD).await;
    let authorization = crate::node::bearer(&user_token("42", &[]));
    let endpoint = node.endpoint();
    let held = tokio::spawn(async move {
        let headers = [("accept", "application/json"), ("authorization", &authorization)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_string()));
        HttpClient::new(endpoint).send(Method::GET, "/v1/subscribe", &headers, "").await.unwrap().json().unwrap()
    });
    node.wait_for_streams(1).await;
    let listed = node.get("/v1/connections").await.json().unwrap()["connections"][0].clone();
    assert_eq!((&listed["channels"], &listed["transport"]), (&json!(["user:42"]), &json!("long_poll")));
    let key = crate::node::bearer(crate::node::API_KEY);
    let path = format!("/v1/connections/{}", listed["id"].as_str().unwrap());
    node.call(Method::DELETE, &path, &[("authorization", &key)], "").await;
    let answer: Value = wait::within("the answer", LIMIT, held).await.unwrap().unwrap();
    assert_eq!(answer["events"], json!([]));
    let sample = "tidings_connections_closed_total{transport=\"long_poll\",reason=\"kicked\"}";
    node.wait_for_metric(sample, 1.0).await;
}
