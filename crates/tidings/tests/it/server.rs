//! A server that says what a test tells it to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    /// The request line and the headers, in lower case.
    pub(crate) head: String,
    pub(crate) target: String,
    pub(crate) body: String,
}

/// Gives each request the next of a list of answers, byte for byte, and closes the connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: mpsc::Receiver<Request>,
}

impl Server {
    pub(crate) fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::sync_channel(answers.len());
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((stream, _)) = listener.accept() else { return };
                let request = read_request(&stream);
                // The client may go away first, and a test may not care for what it asked.
                let _ignored = (&stream).write_all(answer.as_bytes());
                let _ignored = sender.send(request);
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn request(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }
}

fn read_request(stream: &TcpStream) -> Request {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "half a request: {head}");
    }
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Request { head, target, body: String::from_utf8(body).unwrap() }
}

/// An answer of one piece.
pub(crate) fn answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// An event stream that ends when the connection is closed.
pub(crate) fn stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
}
