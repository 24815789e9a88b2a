//! How streams end, and that each end is counted once, under its reason.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, endpoint::Way, http::HttpClient, wait};

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer, now_secs, sum_of, token, user_token};

on_every_way!(
    the_head_of_a_stream_can_be_asked_for,
    a_user_who_is_sent_away_for_a_while_is_told_not_to_come_back,
    a_stream_of_its_maximum_age_ends_and_goes_on_from_its_cursor,
    a_stream_ends_with_its_token,
    a_held_request_ends_with_its_token,
    a_client_that_goes_is_told_from_one_that_breaks_off,
    every_stream_that_was_opened_is_counted_closed_once,
    load_is_shed_by_a_stream_that_ends_at_once,
    one_user_or_address_does_not_get_all_streams,
);

pub(super) fn closed(transport: &str, reason: &str) -> String {
    format!("tidings_connections_closed_total{{transport=\"{transport}\",reason=\"{reason}\"}}")
}

/// Reads to the stream's end, which has to be announced. Gives the reason and the time to come back.
pub(super) async fn closing(stream: &mut SseClient) -> (String, u64) {
    let events = stream.until_end(LIMIT).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.event, "closing", "{events:?}");
    let data: Value = serde_json::from_str(&last.data).unwrap();
    (data["reason"].as_str().unwrap().to_owned(), data["retry"].as_u64().unwrap())
}

async fn a_stream_of_its_maximum_age_ends_and_goes_on_from_its_cursor(way: Way) {
    let node =
        Node::start_on(way, "[stream]\nmax_age = \"1s\"\nmax_age_jitter = 0.5\nretry = [\"7ms\", \"9ms\"]\n").await;
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

async fn a_stream_ends_with_its_token(way: Way) {
    let node = Node::start_on(way, "").await;
    let short = token(json!({"sub": "42", "exp": now_secs() + 1.0}));
    let mut stream = node.stream_as("channel=open:a", &short).await;
    let (reason, _) = closing(&mut stream).await;
    assert_eq!(reason, "token_expired");
    node.wait_for_metric(&closed("sse", "token_expired"), 1.0).await;
    assert_eq!(sum_of(&node.get("/metrics").await.text(), "tidings_connections_closed_total{transport=\"sse\""), 1.0);
}

/// A request that was held outlived its token by up to `stream.long_poll`.
async fn a_held_request_ends_with_its_token(way: Way) {
    let node = Node::start_on(way, "[stream]\nlong_poll = \"10m\"\n").await;
    let short = bearer(&token(json!({"sub": "42", "exp": now_secs() + 1.0})));
    let headers = [("authorization", short.as_str()), ("accept", "application/json")];
    let answer = node.call(Method::GET, "/v1/subscribe", &headers, "").await;
    assert_eq!((answer.status, &answer.json().unwrap()["events"]), (200, &json!([])));
    node.wait_for_metric(&closed("long_poll", "token_expired"), 1.0).await;
}

async fn a_client_that_goes_is_told_from_one_that_breaks_off(way: Way) {
    // No heartbeat, so that it is the client's going that is noticed.
    let node = Node::start_on(way, "[stream]\nheartbeat = \"1h\"\nlong_poll = \"10m\"\n").await;
    let mut gives_up = node.stream("channel=open:a").await;
    gives_up.connected(LIMIT).await.unwrap();
    let rest = gives_up.abandon();
    node.wait_for_metric(&closed("sse", "client_closed"), 1.0).await;
    drop(rest);

    let mut goes = node.stream("channel=open:a").await;
    goes.connected(LIMIT).await.unwrap();
    drop(goes);
    node.wait_for_metric(&closed("sse", "client_closed"), 2.0).await;

    let mut breaks =
        SseClient::connect(node.endpoint().resetting(), "/v1/subscribe?channel=open:a", &[]).await.unwrap();
    breaks.connected(LIMIT).await.unwrap();
    drop(breaks);
    node.wait_for_metric(&closed("sse", "client_reset"), 1.0).await;

    let endpoint = node.endpoint();
    let held = tokio::spawn(async move {
        let accept = [("accept".to_owned(), "application/json".to_owned())];
        HttpClient::new(endpoint).send(Method::GET, "/v1/subscribe?channel=open:a", &accept, "").await
    });
    node.wait_for_streams(1).await;
    held.abort();
    node.wait_for_metric(&closed("long_poll", "client_closed"), 1.0).await;
    assert_eq!(node.metric(&closed("sse", "client_closed")).await, 2.0);
}

/// A request for the head of a stream gets that, and is no stream.
async fn the_head_of_a_stream_can_be_asked_for(way: Way) {
    let node = Node::start_on(way, "").await;
    let head = node.call(Method::HEAD, "/v1/subscribe?channel=open:a", &[], "").await;
    assert_eq!((head.status, head.header("content-type"), head.body.len()), (200, Some("text/event-stream"), 0));
    node.wait_for_streams(0).await;
    let metrics = node.get("/metrics").await.text();
    let sum = |metric: &str| sum_of(&metrics, &format!("tidings_connections_{metric}"));
    assert_eq!(sum("opened_total"), sum("closed_total"), "{metrics}");
    node.assert_serves().await;
}

async fn every_stream_that_was_opened_is_counted_closed_once(way: Way) {
    let node = Node::start_on(way, "[stream]\nlong_poll = \"100ms\"\n").await;
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
async fn load_is_shed_by_a_stream_that_ends_at_once(way: Way) {
    let node = Node::start_on(way, "[limits]\nmax_connections = 1\n[stream]\nretry = [\"100ms\", \"200ms\"]\n").await;
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

async fn one_user_or_address_does_not_get_all_streams(way: Way) {
    let node = Node::start_on(way, "[limits]\nmax_connections_per_user = 1\n").await;
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
        let stream = SseClient::connect(node.endpoint(), path, &headers).await.unwrap();
        (stream.status() == 200).then_some(())
    });
    again.await.unwrap();

    let node = Node::start_on(way, "[limits]\nmax_streams_per_ip = 1\n").await;
    let mut first = node.stream("channel=open:a").await;
    first.connected(LIMIT).await.unwrap();
    let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a", &[], "").await;
    assert_problem(&answer, 429, "too_many_connections");
}

async fn a_user_who_is_sent_away_for_a_while_is_told_not_to_come_back(way: Way) {
    let node = Node::start_on(way, "").await;
    let user = user_token("42", &[]);
    let mut stream = node.stream_as("", &user).await;
    stream.connected(LIMIT).await.unwrap();
    let key = crate::node::bearer(API_KEY);
    let path = "/v1/users/42/connections?block=60";
    let closed = node.call(Method::DELETE, path, &[("authorization", &key)], "").await;
    assert_eq!(closed.json().unwrap(), json!({"closed": 1}));
    let last = stream.until_end(LIMIT).await.unwrap().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&last.data).unwrap()["reason"], "kicked");
    let bearer = crate::node::bearer(&user);
    let answer = node.call(Method::GET, "/v1/subscribe", &[("authorization", &bearer)], "").await;
    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    node.stream_as("", &user_token("7", &[])).await.connected(LIMIT).await.unwrap();
    for block in ["0", "86401", "x", "-1"] {
        let path = format!("/v1/users/42/connections?block={block}");
        let answer = node.call(Method::DELETE, &path, &[("authorization", &key)], "").await;
        assert_problem(&answer, 400, "invalid_query");
    }
}
