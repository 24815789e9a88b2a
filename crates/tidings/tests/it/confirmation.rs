//! What counts as delivered, on connections that are not what they seem.

use std::process::Stdio;

use axum::http::Method;
use serde_json::json;
use tidings_testkit::{client::SseClient, endpoint::Way, host::Host};

use crate::node::{API_KEY, LIMIT, Node, bearer, options, token};

const PUSH: &str = "[push]\nafter = \"200ms\"\n";

const CONFIRMED: &str = "tidings_notifications_total{outcome=\"confirmed\"}";

/// It would have been pushed, had the user a device.
const NOT_CONFIRMED: &str = "tidings_notifications_total{outcome=\"no_device\"}";

async fn notify(node: &Node) {
    let body = json!({"to": {"user": "42"}, "title": "Did you get this?"});
    let answer = node.post("/v1/notifications", Some(API_KEY), &body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn me() -> String {
    token(json!({"sub": "42"}))
}

async fn open(node: &Node, headers: &[(&str, &str)]) -> SseClient {
    let authorization = bearer(&me());
    let mut all = vec![("authorization", authorization.as_str())];
    all.extend(headers);
    let mut stream = node.stream_with("", &all).await;
    stream.connected(LIMIT).await.unwrap();
    stream
}

#[tokio::test]
async fn what_the_clients_tcp_has_acknowledged_is_delivered() {
    let node = Node::start(PUSH).await;
    let _stream = open(&node, &[]).await;
    notify(&node).await;
    node.wait_for_metric(CONFIRMED, 1.0).await;
    assert_eq!(node.metric(NOT_CONFIRMED).await, 0.0);
}

/// Presence still believes in it.
#[tokio::test]
async fn a_half_open_connection_swallows_nothing() {
    let options = options(PUSH).on_all_interfaces();
    let node = Node::start_with(options).await;
    let host = Host::new().unwrap();
    let url = format!("http://{}:{}/v1/subscribe", host.near(), node.addr().port());
    let authorization = format!("authorization: {}", bearer(&me()));
    let mut client =
        host.command("curl").args(["-sN", "-H", &authorization, &url]).stdout(Stdio::null()).spawn().unwrap();
    node.wait_for_streams(1).await;
    notify(&node).await;
    node.wait_for_metric(CONFIRMED, 1.0).await;

    host.cut_off().unwrap();
    notify(&node).await;
    node.wait_for_metric(NOT_CONFIRMED, 1.0).await;
    assert_eq!(node.metric(CONFIRMED).await, 1.0);
    let presence = node.get("/v1/users/42/presence").await.json().unwrap();
    assert_eq!(presence["online"], true, "nothing has told that it is gone: {presence}");
    client.kill().unwrap();
    client.wait().unwrap();
}

#[tokio::test]
async fn a_proxys_acknowledgement_is_not_its_clients() {
    let trusting = format!("{PUSH}[server]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    for (config, headers) in [
        (trusting.as_str(), vec![]),
        // One that nobody has configured.
        (PUSH, vec![("x-forwarded-for", "192.0.2.7")]),
        (PUSH, vec![("via", "1.1 somewhere")]),
    ] {
        let node = Node::start(config).await;
        let _stream = open(&node, &headers).await;
        notify(&node).await;
        node.wait_for_metric(NOT_CONFIRMED, 1.0).await;
        assert_eq!(node.metric(CONFIRMED).await, 0.0, "{config} {headers:?}");
    }
}

/// A stream that begins after it was told has it if it asks for what is unread, and not otherwise.
#[tokio::test]
async fn a_stream_that_begins_later_has_what_it_asks_for() {
    for (query, outcome) in [("replay=unread", CONFIRMED), ("", NOT_CONFIRMED)] {
        let node = Node::start("[push]\nafter = \"3s\"\n").await;
        notify(&node).await;
        node.wait_for_metric("tidings_inbox_told_total", 1.0).await;
        let mut stream = node.stream_as(query, &me()).await;
        stream.connected(LIMIT).await.unwrap();
        node.wait_for_metric(outcome, 1.0).await;
    }
}

#[tokio::test]
async fn an_operator_says_whose_word_counts() {
    for (confirm, headers, outcome) in
        [("client", vec![], NOT_CONFIRMED), ("tcp", vec![("x-forwarded-for", "192.0.2.7")], CONFIRMED)]
    {
        let node = Node::start(&format!("{PUSH}confirm = \"{confirm}\"\n")).await;
        let _stream = open(&node, &headers).await;
        notify(&node).await;
        node.wait_for_metric(outcome, 1.0).await;
    }
}

/// What TLS and HTTP/2 still hold nobody knows, so their clients say what they have.
#[tokio::test]
async fn elsewhere_the_client_says_it() {
    for way in [Way::Http1Tls, Way::Http2] {
        let node = Node::start_on(way, PUSH).await;
        let mut stream = open(&node, &[]).await;
        notify(&node).await;
        let told = stream.next_event(LIMIT).await.unwrap();
        assert_eq!(told.event, "notification");
        let ack = json!({"cursor": told.id}).to_string();
        let headers = [("authorization", bearer(&me())), ("content-type", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = node.call(Method::POST, "/v1/me/ack", &headers, &ack).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        node.wait_for_metric(CONFIRMED, 1.0).await;
        assert_eq!(node.metric(NOT_CONFIRMED).await, 0.0);
    }
}
