//! Nobody is faster than they may be, and nobody pays for another.

use axum::http::Method;
use tidings_testkit::http::Answer;

use crate::node::{API_KEY, Node, assert_problem, bearer};

const PATH: &str = "/v1/channels/open:a";

fn assert_limited(answer: &Answer) {
    assert_problem(answer, 429, "rate_limited");
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1, "{retry_after}");
}

#[tokio::test]
async fn a_key_has_a_limit_of_its_own() {
    // A rate so low that no slow machine earns a request back while the test runs.
    let node = Node::start("[limits]\nkey_requests_per_second = 1\nkey_burst = 50\n").await;
    let mut limited = None;
    for _ in 0..3000 {
        let answer = node.get(PATH).await;
        if answer.status != 200 {
            limited = Some(answer);
            break;
        }
    }
    assert_limited(&limited.expect("a key that is refused at last"));
    let unknown = node.call(Method::GET, PATH, &[("authorization", &bearer("tk_another_0123456789"))], "").await;
    assert_problem(&unknown, 401, "api_key_unknown");
    assert_eq!(node.call(Method::GET, PATH, &[], "").await.status, 200, "who comes without the key");
}

#[tokio::test]
async fn an_address_behind_a_proxy_has_a_limit_of_its_own() {
    let config = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[limits]\nip_requests_per_second = 1\nip_burst = 50\n";
    let node = Node::start(config).await;
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
