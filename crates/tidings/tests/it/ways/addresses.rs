//! Whose request it is, on every way.

use axum::http::Method;
use serde_json::json;
use tidings_testkit::endpoint::Way;

use crate::{
    node::{API_KEY, LIMIT, Node, options, user_token},
    rates::{PATH, assert_limited},
};

on_every_way!(
    a_page_of_the_servers_own_may_use_its_visitors_cookie,
    the_address_is_that_of_the_peer_or_what_a_trusted_proxy_says,
    an_address_behind_a_proxy_has_a_limit_of_its_own,
);

async fn an_address_behind_a_proxy_has_a_limit_of_its_own(way: Way) {
    let config = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[limits]\nip_requests_per_second = 1\nip_burst = 50\n";
    let node = Node::start_on(way, config).await;
    let from = async |address: &str| node.call(Method::GET, PATH, &[("x-forwarded-for", address)], "").await;
    let mut limited = None;
    for _ in 0..1000 {
        let answer = from("203.0.113.7").await;
        if answer.status != 200 {
            limited = Some(answer);
            break;
        }
    }
    assert_limited(&limited.expect("an address that is refused at last"));
    assert_eq!(from("203.0.113.8").await.status, 200, "a neighbour");
    assert_eq!(node.get(PATH).await.status, 200, "a backend with its key, wherever it is: {API_KEY}");
    let metrics = node.metric("tidings_requests_refused_total{code=\"rate_limited\"}").await;
    assert!(metrics >= 1.0, "{metrics}");
}

async fn the_address_is_that_of_the_peer_or_what_a_trusted_proxy_says(way: Way) {
    let said = [("x-forwarded-for", "203.0.113.7")];
    for (proxies, expected) in [("", "127.0.0.1"), ("\"127.0.0.1\"", "203.0.113.7")] {
        let node = Node::start_on(way, &format!("[server]\ntrusted_proxies = [{proxies}]\n")).await;
        let mut stream = node.stream_with("channel=open:a", &said).await;
        stream.connected(LIMIT).await.unwrap();
        let listed = node.get("/v1/connections").await.json().unwrap();
        assert_eq!(listed["connections"][0]["remote"], json!(expected));
    }
}

/// Where a browser does not say what kind of page it is (`Sec-Fetch-Site`), the server's own name decides,
/// which HTTP/2 gives in `:authority` instead of `Host`.
async fn a_page_of_the_servers_own_may_use_its_visitors_cookie(way: Way) {
    let config = "[server]\ncors_origins = [\"https://app.example\"]\n[stream]\nlong_poll = \"100ms\"\n\
                  [namespaces.mine]\nsubscribe = [\"user\"]\n";
    let node = Node::start_on_with(way, options(config).env("TIDINGS_AUTH__COOKIE", "session")).await;
    let cookie = format!("session={}", user_token("42", &[]));
    let origin = node.server.url("");
    for (origin, status) in [(origin.as_str(), 200), ("https://app.example", 200), ("https://evil.example", 403)] {
        let headers = [("cookie", cookie.as_str()), ("origin", origin), ("accept", "application/json")];
        let path = "/v1/subscribe?channel=mine:a";
        let answer = node.call(Method::GET, path, &headers, "").await;
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
    }
}
