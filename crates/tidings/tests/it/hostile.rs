//! Clients that mean no good, or speak no HTTP: they are cut off, and nobody else notices.

use tidings_testkit::wait;
use tokio::io::AsyncWriteExt as _;

use crate::{
    node::{API_KEY, LIMIT, Node},
    raw,
};

const TIMEOUTS: &str = "[server]\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n";

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let node = Node::start(TIMEOUTS).await;
    for half in ["", "G", "GET /v1/subscribe?channel=open:a HTTP/1.1\r\nhost: x\r\n", "GET / HTTP/1.1\r\nx: "] {
        let stream = raw::send(node.addr(), half.as_bytes()).await;
        let said = raw::read_to_end(stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{half:?}: {said}");
    }
    // A byte now and then does not make it longer.
    let mut drip = raw::send(node.addr(), b"GET /healthz HTTP/1.1\r\n").await;
    let cut = wait::until("a dripping client to be cut off", LIMIT, async || {
        drip.write_all(b"x: y\r\n").await.is_err().then_some(())
    });
    cut.await.unwrap();
    node.assert_serves().await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_and_cut_off() {
    let node = Node::start(TIMEOUTS).await;
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n"
    );
    for rest in [
        "content-length: 100\r\n\r\n",
        "content-length: 100\r\n\r\n{\"channel\":",
        "transfer-encoding: chunked\r\n\r\n5\r\n{\"cha",
    ] {
        let stream = raw::send(node.addr(), format!("{head}{rest}").as_bytes()).await;
        let said = raw::read_to_end(stream).await;
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("\"code\":\"request_timeout\""), "{rest:?}: {said}");
        assert!(said.contains("content-type: application/problem+json"), "{said}");
    }
    // One that ends too early is no event.
    let mut stream =
        raw::send(node.addr(), format!("{head}content-length: 100\r\n\r\n{{\"channel\":").as_bytes()).await;
    stream.shutdown().await.unwrap();
    let said = raw::read_to_end(stream).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
    node.assert_serves().await;
}

#[tokio::test]
async fn what_is_no_http_is_cut_off() {
    let node = Node::start(TIMEOUTS).await;
    let garbage: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let requests: [&[u8]; 9] = [
        &garbage,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nno preface\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    ];
    for request in requests {
        let said = raw::read_to_end(raw::send(node.addr(), request).await).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{:?}: {said}", String::from_utf8_lossy(request));
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn a_head_without_measure_is_cut_off() {
    let node = Node::start(TIMEOUTS).await;
    let channels: String = (0..10_000).map(|n| format!("&channel=open:channel-{n}")).collect();
    let headers: String = (0..2000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    for head in [
        format!("GET /v1/subscribe?{channels} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{headers}\r\n"),
        format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20)),
        format!("{} /healthz HTTP/1.1\r\n\r\n", "Y".repeat(1 << 20)),
    ] {
        let said = raw::read_to_end(raw::send(node.addr(), head.as_bytes()).await).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{}: {said}", &head[..40]);
    }
    node.assert_serves().await;
}

/// What a client sends while it is being streamed to is not wanted, and not gathered either.
#[tokio::test]
async fn a_client_that_talks_during_its_stream_is_not_listened_to() {
    let node = Node::start("").await;
    let mut stream = raw::subscribe(node.addr(), "channel=open:a").await;
    raw::read_until(&mut stream, "connected").await;
    // As much as is taken: the server may end the stream instead.
    let talk = vec![b'x'; 1 << 20];
    let mut taken_bytes = 0;
    while let Ok(bytes) = stream.try_write(&talk) {
        taken_bytes += bytes;
        assert!(taken_bytes < 1 << 30, "the server gathers what nobody asked for");
    }
    node.publish(serde_json::json!({"channel": "open:a", "data": 1})).await;
    drop(stream);
    node.wait_for_streams(0).await;
    node.assert_serves().await;
}

/// A request that comes before the answer to the one before is answered in its turn.
#[tokio::test]
async fn requests_may_come_in_one_piece() {
    let node = Node::start("").await;
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let said = raw::read_to_end(raw::send(node.addr(), format!("{request}{request}{last}").as_bytes()).await).await;
    assert_eq!((said.matches("HTTP/1.1 200").count(), said.matches("ok\n").count()), (3, 2), "{said}");
    assert!(said.ends_with("ready\n"), "{said}");
}

#[tokio::test]
async fn many_half_open_connections_do_not_keep_others_out() {
    let node = Node::start("[limits]\nmax_connections = 50\n[server]\nheader_timeout = \"300ms\"\n").await;
    let mut half = Vec::new();
    for _ in 0..200 {
        half.push(raw::send(node.addr(), b"GET /v1/sub").await);
    }
    node.assert_serves().await;
    for stream in half {
        raw::read_to_end(stream).await;
    }
    node.assert_serves().await;
}
