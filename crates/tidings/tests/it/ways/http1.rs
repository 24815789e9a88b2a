//! What HTTP/1.1 alone has: a connection that is one stream, and can be half closed.

use serde_json::json;
use tidings_testkit::{
    endpoint::{Way, Wire},
    wait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::endings::closed;
use crate::node::{LIMIT, Node};

on_http1!(a_client_that_closes_its_side_is_one_that_goes, what_a_client_sends_during_its_stream_is_put_up_with,);

/// How much a client may send while it is streamed to.
const INPUT_MAX_BYTES: usize = 64 * 1024;

/// Asks for a stream and reads as far as `connected`.
async fn subscribe(node: &Node) -> Box<dyn Wire> {
    let mut wire = node.endpoint().open().await.unwrap();
    wire.write_all(b"GET /v1/subscribe?channel=open:a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut wire, "\n\n").await;
    wire
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

async fn a_client_that_closes_its_side_is_one_that_goes(way: Way) {
    let node = Node::start_on(way, "[stream]\nheartbeat = \"1h\"\n").await;
    let mut wire = subscribe(&node).await;
    wire.shutdown().await.unwrap();
    node.wait_for_metric(&closed("sse", "client_closed"), 1.0).await;
    node.wait_for_streams(0).await;
}

async fn what_a_client_sends_during_its_stream_is_put_up_with(way: Way) {
    let node = Node::start_on(way, "[stream]\nheartbeat = \"1h\"\n").await;
    let mut wire = subscribe(&node).await;
    let sending = wire.write_all(&[b'x'; INPUT_MAX_BYTES]);
    wait::within("the input to be taken", LIMIT, sending).await.unwrap().unwrap();
    wire.flush().await.unwrap();
    node.publish(json!({"channel": "open:a", "data": "still here"})).await;
    read_until(&mut wire, "still here").await;
}

/// Up to the limit it is discarded; whoever sends more is no event stream's client. Cleartext only: over TLS
/// hyper has the connection, which does not read during an answer, so that the client's own send buffer is the limit.
#[tokio::test]
async fn a_client_that_sends_without_end_during_its_stream_is_closed() {
    let node = Node::start_on(Way::Http1, "[stream]\nheartbeat = \"1h\"\n").await;
    let mut wire = subscribe(&node).await;
    // It ends by an error where the server has closed.
    let _cut_off = wait::within("the server to close", LIMIT, wire.write_all(&vec![b'x'; 64 << 20])).await.unwrap();
    node.wait_for_streams(0).await;
    let ended = node.metric(&closed("sse", "client_closed")).await + node.metric(&closed("sse", "error")).await;
    assert_eq!(ended, 1.0, "{}", node.get("/metrics").await.text());
}
