//! The stream clients, against answers written by hand.

use std::{net::SocketAddr, time::Duration};

use tidings_protocol::sse::Parsed;
use tidings_testkit::{
    client::{Received, SseClient},
    resuming::{ResumingClient, ResumingOptions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(30);

async fn request(socket: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "the request is cut off");
    }
    String::from_utf8(request).unwrap()
}

/// Answers each connection in turn with these bytes and closes it; gives the requests.
async fn answers(answers: Vec<&'static str>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            requests.push(request(&mut socket).await);
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (addr, serving)
}

fn received(event: &str, data: &str, id: &str) -> Received {
    Received { event: event.to_owned(), data: data.to_owned(), id: id.to_owned() }
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_with_or_without_chunks() {
    let (addr, serving) = answers(vec![
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         retry: 5\nid: 1\ndata: a\n\n:\nid: 2\nevent: x\ndata: b\n\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         6\r\nid: 1\n\r\n7\r\ndata: a\r\n2\r\n\n\n\r\n0\r\n\r\n",
    ])
    .await;
    let mut stream = SseClient::connect(addr, "/v1/subscribe?channel=a", &[("x-test", "제주")]).await.unwrap();
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(stream.next(LIMIT).await.unwrap(), Some(Parsed::Retry(5)));
    assert_eq!(stream.next_event(LIMIT).await.unwrap(), received("message", "a", "1"));
    assert_eq!(stream.last_id(), "1", "what is read but not taken yet does not move it");
    assert_eq!(stream.next(LIMIT).await.unwrap(), Some(Parsed::Comment(String::new())));
    assert_eq!(stream.next_event(LIMIT).await.unwrap(), received("x", "b", "2"));
    assert_eq!(stream.next(LIMIT).await.unwrap(), None);
    assert_eq!((stream.last_id(), stream.retry_ms()), ("2", Some(5)));
    assert!(stream.raw().starts_with(b"retry: 5\n"));

    let mut stream = SseClient::connect(addr, "/", &[("accept", "text/html")]).await.unwrap();
    assert_eq!(stream.until_end(LIMIT).await.unwrap(), [received("message", "a", "1")]);
    let requests = serving.await.unwrap();
    assert!(requests[0].starts_with("GET /v1/subscribe?channel=a HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("accept: text/event-stream\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("x-test: 제주\r\n"), "{}", requests[0]);
    assert!(requests[1].contains("accept: text/html\r\n") && !requests[1].contains("event-stream"), "{}", requests[1]);
}

#[tokio::test]
async fn a_resuming_client_comes_back_with_its_cursor() {
    let (addr, serving) = answers(vec![
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: 1\nevent: connected\ndata: {}\n\nid: 2\ndata: a\n\nid: 3\ndata: c",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: b\n\nevent: closing\ndata: {\"reason\":\"drain\"}\n\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: 9\nevent: gap\ndata: {}\n\nid: 10\ndata: d\n\n",
    ])
    .await;
    let client = ResumingClient::start(ResumingOptions::new(addr, "/v1/subscribe?channel=a"));
    client.wait_until("three events", LIMIT, |record| record.events.len() == 3).await.unwrap();
    let record = client.stop();
    let expected = [received("message", "a", "2"), received("message", "b", ""), received("message", "d", "10")];
    assert_eq!(record.events, expected);
    assert_eq!(record.gaps, [received("gap", "{}", "9")]);
    assert_eq!(record.closings, [r#"{"reason":"drain"}"#]);
    assert_eq!((record.connects, &*record.cursor), (3, "10"));
    let requests = serving.await.unwrap();
    let cursors: Vec<_> =
        requests.iter().map(|request| request.lines().find_map(|line| line.strip_prefix("last-event-id: "))).collect();
    assert_eq!(cursors, [None, Some("2"), Some("2"), Some("2")]);
}
