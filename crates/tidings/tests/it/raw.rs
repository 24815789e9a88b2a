//! Clients that do not do what clients should: bytes over a socket.

use std::net::SocketAddr;

use tidings_testkit::wait;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::node::LIMIT;

/// Connects with a receive buffer that is soon full, and sends these bytes.
pub(crate) async fn send(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    // A server that has already had enough is free to close while more is being sent.
    let _cut_off = wait::within("the bytes to be sent", LIMIT, stream.write_all(bytes)).await.unwrap();
    stream
}

/// Asks for a stream and reads nothing of the answer.
pub(crate) async fn subscribe(addr: SocketAddr, query: &str) -> TcpStream {
    send(addr, format!("GET /v1/subscribe?{query} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await
}

/// Reads until this text has come, and gives all that was read.
pub(crate) async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let reading = async {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{:?}", String::from_utf8_lossy(&read));
        }
        String::from_utf8_lossy(&read).into_owned()
    };
    wait::within(wanted, LIMIT, reading).await.unwrap()
}

/// What the server says until it closes the connection, in order or by a reset.
pub(crate) async fn read_to_end(mut stream: TcpStream) -> String {
    let mut read = Vec::new();
    let reading = async { while stream.read_buf(&mut read).await.is_ok_and(|length| length > 0) {} };
    wait::within("the server to close the connection", LIMIT, reading).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}
