//! What HTTP/2 alone has: many streams on one connection, windows, pings, and a preface.

use std::time::Duration;

use axum::http::Method;
use rustix::process::Signal;
use serde_json::json;
use tidings_testkit::{
    client::SseClient,
    endpoint::{Way, Wire},
    http::HttpClient,
    wait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{endings::closed, slow::publish_all};
use crate::node::{LIMIT, Node, next, next_data};

on_http2!(
    streams_of_one_connection_end_alone,
    a_stream_whose_client_takes_nothing_leaves_the_others_alone,
    a_peer_that_answers_no_ping_is_gone,
    the_preface_may_come_in_pieces,
    no_header_of_a_connection_is_sent,
    a_head_without_measure_is_refused,
    what_is_no_http2_is_cut_off,
    a_client_that_opens_and_resets_without_end_is_cut_off,
    a_connection_that_is_not_used_is_closed,
    a_connection_that_has_not_begun_does_not_hold_up_the_end,
    a_connection_is_asked_to_open_no_more_streams_when_the_server_drains,
);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty `SETTINGS` frame (RFC 9113 §6.5).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Flags of a frame (RFC 9113 §6).
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A `HEADERS` frame that asks for a stream and ends the request (RFC 9113 §6.2), its fields as RFC 7541
/// has them: indexed where the static table has them, else literal.
fn subscribe_frame(stream: u32, flags: u8) -> Vec<u8> {
    let path = b"/v1/subscribe?channel=open:a";
    // `:method: GET`, `:scheme: http`, `:path` and `:authority` with values of their own.
    let fields = [&[0x82, 0x86, 0x04, path.len() as u8], path.as_slice(), &[0x01, 1, b'x']].concat();
    let head = [0, 0, fields.len() as u8, 1, flags];
    [head.as_slice(), &stream.to_be_bytes(), &fields].concat()
}

async fn read_until(wire: &mut Box<dyn Wire>, wanted: &str) {
    let reading = async {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            assert_ne!(wire.read_buf(&mut read).await.unwrap(), 0, "{:?}", String::from_utf8_lossy(&read));
        }
    };
    wait::within(wanted, LIMIT, reading).await.unwrap();
}

async fn read_to_end(mut wire: Box<dyn Wire>) {
    let mut read = Vec::new();
    let reading = async { while wire.read_buf(&mut read).await.is_ok_and(|length| length > 0) {} };
    wait::within("the server to close the connection", LIMIT, reading).await.unwrap();
}

async fn streams_of_one_connection_end_alone(way: Way) {
    let node = Node::start_on(way, "[stream]\nheartbeat = \"1h\"\n").await;
    let mut first = node.stream("channel=open:a").await;
    let first_id = first.connected(LIMIT).await.unwrap().connection;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(first.beside("/v1/subscribe?channel=open:a", &[]).await.unwrap());
    }
    for other in &mut others {
        assert_ne!(other.connected(LIMIT).await.unwrap().connection, first_id);
    }
    drop(others.pop());
    node.wait_for_metric(&closed("sse", "client_closed"), 1.0).await;
    node.wait_for_streams(3).await;
    let authorization = crate::node::bearer(crate::node::API_KEY);
    let path = format!("/v1/connections/{first_id}");
    node.call(Method::DELETE, &path, &[("authorization", &authorization)], "").await;
    assert_eq!(first.until_end(LIMIT).await.unwrap().last().unwrap().event, "closing");
    node.publish(json!({"channel": "open:a", "data": "to two"})).await;
    for other in &mut others {
        assert_eq!(next(other).await.data, "to two");
    }
    // The connection's end is that of all that is left.
    drop((first, others));
    node.wait_for_metric(&closed("sse", "client_closed"), 3.0).await;
    assert_eq!(node.metric(&closed("sse", "kicked")).await, 1.0);
}

async fn a_stream_whose_client_takes_nothing_leaves_the_others_alone(way: Way) {
    let config = "[stream]\nwrite_timeout = \"300ms\"\nqueue_max_bytes = 100000000\nqueue_max_events = 100000\n\
                  [namespaces.bulk]\nhistory_size = 10\ndurable = false\nsubscribe = [\"anyone\"]\n";
    let node = Node::start_on(way, config).await;
    let mut reads = node.stream("channel=open:a").await;
    reads.connected(LIMIT).await.unwrap();
    let mut deaf = reads.beside("/v1/subscribe?channel=bulk:a", &[]).await.unwrap();
    deaf.connected(LIMIT).await.unwrap();
    // More than the window that its client has given it.
    publish_all(&node, &vec![json!({"channel": "bulk:a", "data": "x".repeat(60_000)}); 16]).await;
    node.wait_for_metric(&closed("sse", "peer_timeout"), 1.0).await;
    assert!(deaf.until_end(LIMIT).await.is_err(), "it was reset, not ended in order");
    node.publish(json!({"channel": "open:a", "data": "here"})).await;
    assert_eq!(next_data(&mut reads, 1).await, ["here"]);
    node.wait_for_streams(1).await;
    // And so does a new one on the same connection.
    let mut again = reads.beside("/v1/subscribe?channel=bulk:a", &[]).await.unwrap();
    again.connected(LIMIT).await.unwrap();
}

async fn a_peer_that_answers_no_ping_is_gone(way: Way) {
    let config = "[stream]\nheartbeat = \"200ms\"\nwrite_timeout = \"300ms\"\n";
    let node = Node::start_on(way, config).await;
    let mut wire = node.endpoint().open().await.unwrap();
    wire.write_all(&[PREFACE, &SETTINGS, &subscribe_frame(1, END_STREAM | END_HEADERS)].concat()).await.unwrap();
    // Its kernel takes and acknowledges everything, heartbeats and pings.
    read_until(&mut wire, "event: connected").await;
    node.wait_for_metric(&closed("sse", "peer_timeout"), 1.0).await;
    read_to_end(wire).await;
}

async fn the_preface_may_come_in_pieces(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut wire = node.endpoint().open().await.unwrap();
    let bytes = [PREFACE, &SETTINGS, &subscribe_frame(1, END_STREAM | END_HEADERS)].concat();
    for piece in bytes.chunks(5) {
        wire.write_all(piece).await.unwrap();
        wire.flush().await.unwrap();
        // Lets the server see the piece for itself, most of the time.
        node.metric("tidings_broker_up").await;
    }
    read_until(&mut wire, "event: connected").await;
    node.wait_for_streams(1).await;
}

async fn no_header_of_a_connection_is_sent(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"] {
        assert_eq!(stream.header(name), None, "RFC 9113 §8.2.2");
    }
    let answer = node.call(Method::GET, "/healthz", &[], "").await;
    assert_eq!((answer.header("connection"), answer.header("content-length")), (None, Some("3")));
}

async fn a_head_without_measure_is_refused(way: Way) {
    let node = Node::start_on(way, "[limits]\nmax_url_bytes = 8192\n").await;
    let huge = "x".repeat(60_000);
    let answer = node.call(Method::GET, "/healthz", &[("x-padding", &huge)], "").await;
    assert_eq!(answer.status, 431);
    node.assert_serves().await;
}

async fn what_is_no_http2_is_cut_off(way: Way) {
    let node = Node::start_on(way, "[server]\nheader_timeout = \"300ms\"\n").await;
    let garbage: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // A head that is gone on with and never ended: `CONTINUATION` frames of one header field each.
    let field = [0, 0, 4, 9, 0, 0, 0, 0, 1, 0x00, 1, b'x', 0];
    let endless = [&subscribe_frame(1, 0), field.repeat(100_000).as_slice()].concat();
    for rest in [garbage, b"GET / HTTP/1.1\r\n\r\n".to_vec(), endless] {
        let mut wire = node.endpoint().open().await.unwrap();
        // A server that has already had enough is free to close while more is being sent.
        let _cut_off = wire.write_all(&[PREFACE, &SETTINGS, &rest].concat()).await;
        read_to_end(wire).await;
    }
    node.assert_serves().await;
}

/// Each reset stream costs the server a request, and the client next to nothing (CVE-2023-44487).
async fn a_client_that_opens_and_resets_without_end_is_cut_off(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut wire = node.endpoint().open().await.unwrap();
    let pair = |n: u32| {
        let stream = 2 * n + 1;
        let reset = [&[0, 0, 4, 3, 0], stream.to_be_bytes().as_slice(), &[0, 0, 0, 8]].concat();
        [subscribe_frame(stream, END_STREAM | END_HEADERS), reset].concat()
    };
    let flood: Vec<u8> = (0..50_000).flat_map(pair).collect();
    let _cut_off = wire.write_all(&[PREFACE, &SETTINGS, &flood].concat()).await;
    read_to_end(wire).await;
    node.wait_for_streams(0).await;
    node.assert_serves().await;
}

async fn a_connection_that_is_not_used_is_closed(way: Way) {
    let node = Node::start_on(way, "[server]\nheader_timeout = \"300ms\"\n").await;
    // It has a stream, which is a use.
    let mut used = node.stream("channel=open:a").await;
    used.connected(LIMIT).await.unwrap();
    for sent in [Vec::new(), PREFACE[..10].to_vec(), PREFACE.to_vec(), [PREFACE, &SETTINGS].concat()] {
        let mut wire = node.endpoint().open().await.unwrap();
        wire.write_all(&sent).await.unwrap();
        wire.flush().await.unwrap();
        read_to_end(wire).await;
    }
    node.publish(json!({"channel": "open:a", "data": "still here"})).await;
    assert_eq!(next(&mut used).await.data, "still here");
}

async fn a_connection_that_has_not_begun_does_not_hold_up_the_end(way: Way) {
    let mut node = Node::start_on(way, "").await;
    let mut wires = Vec::new();
    for sent in [&b""[..], PREFACE] {
        let mut wire = node.endpoint().open().await.unwrap();
        wire.write_all(sent).await.unwrap();
        wire.flush().await.unwrap();
        wires.push(wire);
    }
    node.wait_for_streams(0).await;
    let status = node.server.terminate(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!node.server.log().contains("still open"), "{}", node.server.log());
}

async fn a_connection_is_asked_to_open_no_more_streams_when_the_server_drains(way: Way) {
    let node = Node::start_on(way, "[server]\ndrain_window = \"1h\"\n").await;
    let mut streams = vec![node.stream("channel=open:a").await];
    streams[0].connected(LIMIT).await.unwrap();
    for _ in 0..2 {
        let mut other = streams[0].beside("/v1/subscribe?channel=open:a", &[]).await.unwrap();
        other.connected(LIMIT).await.unwrap();
        streams.push(other);
    }
    node.server.signal(Signal::TERM).unwrap();
    let refused = wait::until("the connection to refuse a stream", LIMIT, async || {
        let opened = wait::within("an answer", Duration::from_secs(5), streams[0].beside("/healthz", &[]));
        matches!(opened.await, Ok(Err(_))).then_some(())
    });
    refused.await.unwrap();
    // What is open goes on until its turn comes.
    node.publish(json!({"channel": "open:a", "data": "still here"})).await;
    let mut got = 0;
    for stream in &mut streams {
        got += usize::from(next(stream).await.data == "still here");
    }
    assert!(got >= 2, "the drain ends the first at once and the others over an hour");
    // A new connection is told what there is to say.
    let mut late = SseClient::connect(node.endpoint(), "/v1/subscribe?channel=open:a", &[]).await.unwrap();
    assert_eq!(late.until_end(LIMIT).await.unwrap()[0].event, "closing");
    assert_eq!(HttpClient::new(node.endpoint()).get("/healthz").await.unwrap().status, 200);
}
