//! How streams end, and that each end is counted once, under its reason.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, wait};

use crate::{
    node::{API_KEY, LIMIT, Node, assert_problem, bearer, now_secs, sum_of, token, user_token},
    raw,
};

fn closed(transport: &str, reason: &str) -> String {
    format!("tidings_connections_closed_total{{transport=\"{transport}\",reason=\"{reason}\"}}")
}

/// Reads to the stream's end, which has to be announced. Gives the reason and the time to come back.
async fn closing(stream: &mut SseClient) -> (String, u64) {
    let events = stream.until_end(LIMIT).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.event, "closing", "{events:?}");
    let data: Value = serde_json::from_str(&last.data).unwrap();
    (data["reason"].as_str().unwrap().to_owned(), data["retry"].as_u64().unwrap())
}

#[tokio::test]
async fn a_stream_of_its_maximum_age_ends_and_goes_on_from_its_cursor() {
    let node = Node::start("[stream]\nmax_age = \"1s\"\nmax_age_jitter = 0.5\nretry = [\"7ms\", \"9ms\"]\n").await;
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    node.publish_numbers("open:a", 1..=1).await;
    let (reason, retry_ms) = closing(&mut stream).await;
    assert_eq!((reason.as_str(), (7..=9).contains(&retry_ms)), ("max_age", true), "{retry_ms}");
    node.wait_for_metric(&closed("sse", "max_age"), 1.0).await;
    // `closing` changed nothing about where the client is.
    node.publish_numbers("open:a", 2..=2).await;
    let mut back = node.stream(&format!("channel=open:a&last_event_id={}", stream.last_id())).await;
    back.connected(LIMIT).await.unwrap();
    assert_eq!(crate::node::next(&mut back).await.data, "2");
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let node = Node::start("").await;
    let short = token(json!({"sub": "42", "exp": now_secs() + 1.0}));
    let mut stream = node.stream_as("channel=open:a", &short).await;
    let (reason, _) = closing(&mut stream).await;
    assert_eq!(reason, "token_expired");
    node.wait_for_metric(&closed("sse", "token_expired"), 1.0).await;
    assert_eq!(sum_of(&node.get("/metrics").await.text(), "tidings_connections_closed_total{transport=\"sse\""), 1.0);
}

/// A request that was held outlived its token by up to `stream.long_poll`.
#[tokio::test]
async fn a_held_request_ends_with_its_token() {
    let node = Node::start("[stream]\nlong_poll = \"10m\"\n").await;
    let short = bearer(&token(json!({"sub": "42", "exp": now_secs() + 1.0})));
    let headers = [("authorization", short.as_str()), ("accept", "application/json")];
    let answer = node.call(Method::GET, "/v1/subscribe", &headers, "").await;
    assert_eq!((answer.status, &answer.json().unwrap()["events"]), (200, &json!([])));
    node.wait_for_metric(&closed("long_poll", "token_expired"), 1.0).await;
}

#[tokio::test]
async fn a_client_that_goes_is_told_from_one_that_breaks_off() {
    // No heartbeat, so that it is the client's going that is noticed.
    let node = Node::start("[stream]\nheartbeat = \"1h\"\n").await;
    let mut goes = raw::subscribe(node.addr(), "channel=open:a").await;
    raw::read_until(&mut goes, "connected").await;
    drop(goes);
    node.wait_for_metric(&closed("sse", "client_closed"), 1.0).await;

    let mut breaks = raw::subscribe(node.addr(), "channel=open:a").await;
    raw::read_until(&mut breaks, "connected").await;
    breaks.set_zero_linger().unwrap();
    drop(breaks);
    node.wait_for_metric(&closed("sse", "client_reset"), 1.0).await;

    let held = raw::send(node.addr(), b"GET /v1/subscribe?channel=open:a HTTP/1.1\r\naccept: application/json\r\n\r\n");
    let held = held.await;
    node.wait_for_streams(1).await;
    drop(held);
    node.wait_for_metric(&closed("long_poll", "client_closed"), 1.0).await;
    assert_eq!(node.metric(&closed("sse", "client_closed")).await, 1.0);
}

#[tokio::test]
async fn every_stream_that_was_opened_is_counted_closed_once() {
    let node = Node::start("[stream]\nlong_poll = \"100ms\"\n").await;
    let user = user_token("42", &[]);
    let short = token(json!({"sub": "7", "exp": now_secs() + 2.0}));
    let mut expires = node.stream_as("channel=open:a", &short).await;
    let mut kicked = node.stream_as("channel=open:a", &user).await;
    let (mut left, mut read_and_left) = (node.stream("channel=open:a").await, node.stream("channel=open:a").await);
    node.publish_numbers("open:a", 1..=3).await;
    for stream in [&mut expires, &mut kicked, &mut left, &mut read_and_left] {
        stream.connected(LIMIT).await.unwrap();
    }
    drop(left);
    assert_eq!(crate::node::next_data(&mut read_and_left, 3).await, ["1", "2", "3"]);
    drop(read_and_left);
    let authorization = bearer(API_KEY);
    let path = "/v1/users/42/connections";
    node.call(Method::DELETE, path, &[("authorization", &authorization)], "").await;
    // Twice, so that a stream that is ending is closed again.
    node.call(Method::DELETE, path, &[("authorization", &authorization)], "").await;
    assert_eq!(closing(&mut kicked).await.0, "kicked");
    assert_eq!(closing(&mut expires).await.0, "token_expired");
    assert_eq!(node.poll("channel=open:a").await["events"], json!([]));
    node.wait_for_streams(0).await;
    let metrics = node.get("/metrics").await.text();
    for (transport, opened) in [("sse", 4.0), ("long_poll", 1.0)] {
        let of = |metric: &str| sum_of(&metrics, &format!("tidings_connections_{metric}{{transport=\"{transport}\""));
        assert_eq!((of("opened_total"), of("closed_total")), (opened, opened), "{transport}: {metrics}");
        assert_eq!(sum_of(&metrics, &format!("tidings_connections{{transport=\"{transport}\"}}")), 0.0);
    }
    assert_eq!(sum_of(&metrics, &closed("sse", "kicked")), 1.0);
    assert_eq!(sum_of(&metrics, &closed("sse", "token_expired")), 1.0);
    assert_eq!(sum_of(&metrics, "tidings_connections_closed_total{transport=\"sse\",reason=\"client_"), 2.0);
    assert_eq!(sum_of(&metrics, &closed("long_poll", "client_closed")), 1.0);
}

/// A native EventSource never comes back from a 503. Clients that poll got an event stream instead of JSON.
#[tokio::test]
async fn load_is_shed_by_a_stream_that_ends_at_once() {
    let node = Node::start("[limits]\nmax_connections = 1\n[stream]\nretry = [\"100ms\", \"200ms\"]\n").await;
    let mut first = node.stream("channel=open:a").await;
    first.connected(LIMIT).await.unwrap();
    let mut second = node.stream("channel=open:a").await;
    assert_eq!(second.header("content-type"), Some("text/event-stream"));
    let events = second.until_end(LIMIT).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].event.as_str(), events[0].id.as_str()), ("closing", ""));
    assert_eq!(serde_json::from_str::<Value>(&events[0].data).unwrap()["reason"], "overload");
    assert!(second.retry_ms().is_some_and(|retry_ms| retry_ms >= 100));
    let accept = [("accept", "application/json")];
    let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a", &accept, "").await;
    assert_problem(&answer, 503, "overload");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(node.metric(&closed("sse", "overload")).await, 1.0);
    assert_eq!(node.metric(&closed("long_poll", "overload")).await, 1.0);
    drop(first);
    node.wait_for_streams(0).await;
    node.assert_serves().await;
    node.wait_for_streams(0).await;
    let metrics = node.get("/metrics").await.text();
    let sum = |metric: &str| sum_of(&metrics, &format!("tidings_connections_{metric}"));
    assert_eq!(sum("opened_total"), sum("closed_total"), "{metrics}");
}

#[tokio::test]
async fn one_user_or_address_does_not_get_all_streams() {
    let node = Node::start("[limits]\nmax_connections_per_user = 1\n").await;
    let mut first = node.stream_as("", &user_token("42", &[])).await;
    first.connected(LIMIT).await.unwrap();
    let authorization = bearer(&user_token("42", &[]));
    let answer = node.call(Method::GET, "/v1/subscribe", &[("authorization", &authorization)], "").await;
    assert_problem(&answer, 429, "too_many_connections");
    assert!(answer.header("retry-after").is_some());
    node.stream_as("", &user_token("7", &[])).await.connected(LIMIT).await.unwrap();
    drop(first);
    let again = wait::until("the user's stream to be gone", LIMIT, async || {
        let path = "/v1/subscribe";
        let headers = [("authorization", authorization.as_str())];
        let stream = SseClient::connect(node.addr(), path, &headers).await.unwrap();
        (stream.status() == 200).then_some(())
    });
    again.await.unwrap();

    let node = Node::start("[limits]\nmax_streams_per_ip = 1\n").await;
    let mut first = node.stream("channel=open:a").await;
    first.connected(LIMIT).await.unwrap();
    let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a", &[], "").await;
    assert_problem(&answer, 429, "too_many_connections");
}
