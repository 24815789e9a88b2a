//! Nobody is faster than they may be, and nobody pays for another.

use axum::http::Method;
use tidings_testkit::http::Answer;

use crate::node::{Node, assert_problem, bearer};

pub(crate) const PATH: &str = "/v1/channels/open:a";

pub(crate) fn assert_limited(answer: &Answer) {
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
