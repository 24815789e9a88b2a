//! Each reference speaks HTTP and event streams rightly: a reference that cheats, or loses, would be no measure.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bench_suite::{
    equality,
    servers::{API_KEY, Options, Programs, Running, Server},
};
use http::Method;
use tidings_testkit::{
    client::SseClient,
    http::HttpClient,
    node::{ReadEvent, Reader},
    process::{ServerOptions, TidingsServer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(20);

/// A reference of ours, killed on drop.
struct Reference {
    child: Child,
    address: SocketAddr,
}

impl Reference {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, address }
    }

    fn raw() -> Self {
        Self::start(env!("CARGO_BIN_EXE_reference-raw"), &[])
    }

    fn raw_batch() -> Self {
        Self::start(env!("CARGO_BIN_EXE_reference-raw"), &["--batch"])
    }

    fn axum() -> Self {
        Self::start(env!("CARGO_BIN_EXE_reference-axum"), &[])
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Two channels, three streams, and each gets what is its own, once and in order.
async fn speaks_sse(address: SocketAddr) {
    let mut streams = Vec::new();
    for channel in ["news%3A1", "news%3A1", "news%3A2"] {
        let stream = SseClient::connect(address, &format!("/sub/{channel}"), &[]).await.unwrap();
        assert_eq!(stream.status(), 200);
        assert!(stream.header("content-type").unwrap().starts_with("text/event-stream"));
        streams.push((channel, stream));
    }
    let mut publisher = HttpClient::new(address);
    let content_type = [("content-type".to_owned(), "text/plain".to_owned())];
    for number in 0..200 {
        for channel in ["news%3A1", "news%3A2"] {
            let path = format!("/pub/{channel}");
            let body = format!("{channel} {number} ☃");
            let answer = publisher.send(Method::POST, &path, &content_type, body).await.unwrap();
            assert!((200..300).contains(&answer.status), "{answer:?}");
        }
    }
    for (channel, stream) in &mut streams {
        for number in 0..200 {
            let event = stream.next_event(LIMIT).await.unwrap();
            assert_eq!((&*event.event, event.data), ("message", format!("{channel} {number} ☃")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_speaks_sse() {
    speaks_sse(Reference::raw().address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_batch_speaks_sse() {
    speaks_sse(Reference::raw_batch().address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_speaks_sse() {
    let reference = Reference::axum();
    speaks_sse(reference.address).await;
    let account = HttpClient::new(reference.address).get("/account/u17").await.unwrap();
    assert_eq!(account.json().unwrap()["user"], "u17");
    assert!((350..450).contains(&account.body.len()), "{}", account.body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nchan_speaks_sse() {
    let programs = Programs { tidings: "tidings".into(), references: Path::new(".").into() };
    // `make test` installs nginx with the module; elsewhere this says what to install.
    let nchan = Running::start(Server::Nchan, &programs, &Options::default()).unwrap();
    assert_eq!(nchan.pids().len(), 2, "a master and a worker");
    speaks_sse(nchan.address()).await;
}

/// A parser that is not ours reads what `raw` sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_client_reads_raw() {
    for reference in [Reference::raw(), Reference::raw_batch()] {
        let url = format!("http://{}/sub/a", reference.address);
        let reading = tokio::spawn(async move { Reader::EventSourceParser.read(&url, &[], 2, LIMIT).await });
        let mut publisher = HttpClient::new(reference.address);
        // Nothing is kept for a reader that is not there yet, so that is said until it has heard enough.
        let read = loop {
            publisher.send(Method::POST, "/pub/a", &[], "one\ntwo").await.unwrap();
            if reading.is_finished() {
                break reading.await.unwrap().unwrap();
            }
            tokio::task::yield_now().await;
        };
        for ReadEvent { event_type, data, last_event_id } in &read {
            assert_eq!((&**event_type, &**data), ("message", "one\ntwo"));
            assert!(!last_event_id.is_empty());
        }
    }
}

/// Requests that arrive together are answered together, each message once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_takes_requests_in_rows() {
    for reference in [Reference::raw(), Reference::raw_batch()] {
        let mut stream = SseClient::connect(reference.address, "/sub/a", &[]).await.unwrap();
        let mut socket = TcpStream::connect(reference.address).await.unwrap();
        let rows: String =
            (0..500).map(|number| format!("POST /pub/a HTTP/1.1\r\ncontent-length: 4\r\n\r\n{number:04}")).collect();
        socket.write_all(rows.as_bytes()).await.unwrap();
        for number in 0..500 {
            assert_eq!(stream.next_event(LIMIT).await.unwrap().data, format!("{number:04}"));
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let mut answers = vec![0; 500 * answer.len()];
        socket.read_exact(&mut answers).await.unwrap();
        assert_eq!(String::from_utf8(answers).unwrap(), answer.repeat(500));
    }
}

/// What the kernel has no room for waits in memory, and comes in order when it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_waits_for_who_does_not_read() {
    for reference in [Reference::raw(), Reference::raw_batch()] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(reference.address).await.unwrap();
        stream.write_all(b"GET /sub/a HTTP/1.1\r\n\r\n").await.unwrap();
        let mut head = vec![0; 15];
        stream.read_exact(&mut head).await.unwrap();
        let mut publisher = HttpClient::new(reference.address);
        // Less than is waited for, and more than the kernel takes for a client with such a buffer.
        for number in 0..60 {
            let body = format!("{number:02}{}", "#".repeat(60_000));
            publisher.send(Method::POST, "/pub/a", &[], body).await.unwrap();
        }
        let mut read = Vec::new();
        let mut bytes = vec![0; 1 << 16];
        let mut hashes = 0;
        while hashes < 60 * 60_000 {
            let length = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(length > 0, "the stream was closed");
            hashes += bytes[..length].iter().filter(|byte| **byte == b'#').count();
            read.extend_from_slice(&bytes[..length]);
        }
        let text = String::from_utf8(read).unwrap();
        let numbers: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| &data[..2]).collect();
        let expected: Vec<String> = (0..60).map(|number| format!("{number:02}")).collect();
        assert_eq!(numbers, expected);
    }
}

/// The comparison of the two is one of the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_sends_the_bytes_of_tidings() {
    let config = format!("[auth]\napi_keys = [\"{API_KEY}\"]\n[namespaces.volatile]\ndurable = false\n");
    let tidings = TidingsServer::start(ServerOptions::new(config)).await.unwrap();
    let raw = Reference::raw();
    let (ours, theirs) = (tidings.addr(), raw.address);
    tokio::task::spawn_blocking(move || equality::check(ours, theirs)).await.unwrap().unwrap();
}
