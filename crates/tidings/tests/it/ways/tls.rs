//! What TLS alone has: certificates and handshakes.

use axum::http::Method;
use tidings_testkit::endpoint::Way;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    command,
    node::{API_KEY, LIMIT, Node},
    raw,
};

fn handshakes(outcome: &str) -> String {
    format!("tidings_tls_handshakes_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_by_a_reload_and_a_bad_one_is_not() {
    let node = Node::start_on(Way::Http2Tls, "").await;
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    let first = node.endpoint().peer_certificate().await.unwrap();
    assert_eq!(node.endpoint().peer_certificate().await.unwrap(), first);

    node.server.renew_certificate().unwrap();
    node.server.hang_up().unwrap();
    node.server.wait_for_log("configuration reloaded", LIMIT).await.unwrap();
    let second = node.endpoint().peer_certificate().await.unwrap();
    assert_ne!(first, second);
    // The connection that there was goes on.
    node.publish(serde_json::json!({"channel": "open:a", "data": 1})).await;
    assert_eq!(crate::node::next(&mut stream).await.data, "1");

    let (cert, key) = node.server.certificate_paths();
    std::fs::copy(&cert, &key).unwrap();
    node.server.hang_up().unwrap();
    node.server.wait_for_log("configuration not reloaded; the old one stays", LIMIT).await.unwrap();
    assert_eq!(node.endpoint().peer_certificate().await.unwrap(), second);
}

#[tokio::test]
async fn handshakes_are_counted_and_do_not_last_for_ever() {
    let node = Node::start_on(Way::Http1Tls, "[server]\nheader_timeout = \"300ms\"\n").await;
    // The test equipment has asked whether the server is ready.
    assert!(node.metric(&handshakes("complete")).await >= 1.0);
    let (failed, timeout) = (node.metric(&handshakes("failed")).await, node.metric(&handshakes("timeout")).await);
    let said = raw::read_to_end(raw::send(node.addr(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(!said.contains("HTTP"), "cleartext on a port of TLS: {said}");
    node.wait_for_metric(&handshakes("failed"), failed + 1.0).await;
    // A client that has nothing to say, and one that stops in the middle of it.
    for sent in [&b""[..], &[22, 3, 1, 2, 0, 1, 0]] {
        raw::read_to_end(raw::send(node.addr(), sent).await).await;
    }
    node.wait_for_metric(&handshakes("timeout"), timeout + 2.0).await;
    node.assert_serves().await;
}

#[tokio::test]
async fn a_client_without_alpn_gets_http1() {
    let node = Node::start_on(Way::Http1Tls, "").await;
    let mut wire = node.endpoint().without_alpn().open().await.unwrap();
    wire.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    wire.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("ok\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_speak_tls() {
    let node = Node::start_on(Way::Http1Tls, "").await;
    let url = node.server.url("");
    let authority = node.server.authority_path();
    let authority = authority.to_str().unwrap();
    let with = |arguments: &[&str]| command::run(&[arguments, &["--url", &url, "--api-key", API_KEY]].concat());

    let done = with(&["publish", "open:a", "over TLS", "--ca", authority]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let done = with(&["subscribe", "open:a", "--replay", "1", "--count", "1", "--ca", authority]);
    assert!(done.code == Some(0) && done.stdout.contains("over TLS"), "{} {}", done.stdout, done.stderr);
    // Nobody else vouches for the certificate.
    let done = with(&["publish", "open:a", "unseen"]);
    assert_eq!(done.code, Some(3), "{}", done.stderr);
    assert!(done.stderr.contains("certificate"), "{}", done.stderr);
    let events = node.get("/v1/channels/open:a/history").await.json().unwrap();
    assert_eq!(events["events"].as_array().unwrap().len(), 1);

    for (ca, said) in [("/no/such/file", "No such file"), (file!(), "")] {
        let done = with(&["publish", "open:a", "unseen", "--ca", ca]);
        assert!(done.code == Some(2) && done.stderr.contains("--ca") && done.stderr.contains(said), "{}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_says_where_it_is_and_the_doctor_finds_it() {
    let node = Node::start_on(Way::Http1Tls, "").await;
    let url = node.server.url("");
    assert!(node.server.log().contains(&format!("is listening on {url}\n")), "{}", node.server.log());
    let config = node.server.config_path();
    let done = command::run(&["doctor", "--config", config.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    let line = |subject: &str| done.stdout.lines().find(|line| line.contains(subject)).unwrap_or_default().to_owned();
    assert!(line("server").contains(&format!("running and ready at {url}")), "{}", done.stdout);
    assert!(line("TLS").starts_with("ok"), "{}", done.stdout);
    assert_eq!(node.call(Method::GET, "/healthz", &[], "").await.status, 200);
}
