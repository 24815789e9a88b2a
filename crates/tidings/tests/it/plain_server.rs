//! A small server of plain event streams, which tells the truth or, on purpose, does not.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// Messages that wait for a stream to take them.
const QUEUE_MAX: usize = 10_000;

/// Answers of a connection, after which the server closes it: requests that follow have to come again.
const ANSWERS_MAX: usize = 7;

/// What the first stream of a channel is told instead of message 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Nothing.
    Lose,
    /// The message, twice.
    Double,
    /// The message, but after the next.
    Swap,
    /// That it is over.
    End,
}

/// The number of the message that is lied about.
const LIED_ABOUT: usize = 5;

/// How the server ends the bodies of its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    UntilClose,
}

struct Listener {
    sender: mpsc::Sender<String>,
    held: Option<String>,
    count: usize,
    lie: Lie,
}

impl Listener {
    /// Hands a message on; whether there will be more.
    fn tell(&mut self, event: String) -> bool {
        let is_lie = self.count == LIED_ABOUT;
        self.count += 1;
        let say = |event: String| self.sender.try_send(event).is_ok();
        match (is_lie, self.lie) {
            (true, Lie::Lose) => true,
            (true, Lie::Double) => say(event.clone() + &event),
            (true, Lie::Swap) => {
                self.held = Some(event);
                true
            }
            (true, Lie::End) => {
                say("event: closing\ndata: {\"reason\":\"kicked\"}\n\n".to_owned());
                false
            }
            _ => say(event + &self.held.take().unwrap_or_default()),
        }
    }
}

#[derive(Default)]
struct Channels(Mutex<HashMap<String, Vec<Listener>>>);

/// `GET /sub/{channel}` streams, `POST /pub/{channel}` publishes, and anything else is answered with JSON.
pub(crate) struct PlainServer {
    address: SocketAddr,
}

impl PlainServer {
    pub(crate) async fn start(framing: Framing, lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channels = Arc::new(Channels::default());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let channels = channels.clone();
                tokio::spawn(async move {
                    // A client may go away at any time.
                    let _gone = serve(stream, framing, lie, &channels).await;
                });
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        // By name, so that the client has to look it up.
        format!("http://localhost:{}{path}", self.address.port())
    }
}

async fn serve(stream: TcpStream, framing: Framing, lie: Lie, channels: &Channels) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    for answered in 1.. {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if let Some(channel) = path.strip_prefix("/sub/") {
            return listen(stream.into_inner(), channel, framing, lie, channels).await;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if let Some(channel) = path.strip_prefix("/pub/") {
            let event = format!("data: {}\n\n", String::from_utf8_lossy(&body));
            if let Some(listeners) = channels.0.lock().unwrap().get_mut(channel) {
                listeners.retain_mut(|listener| listener.tell(event.clone()));
            }
        }
        let connection = if answered == ANSWERS_MAX { "close" } else { "keep-alive" };
        let head = format!("HTTP/1.1 200 OK\r\nconnection: {connection}\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(head.as_bytes()).await?;
        if answered == ANSWERS_MAX {
            break;
        }
    }
    // With something unread a close would be a reset, which may destroy the answer on its way.
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

async fn listen(
    mut stream: TcpStream,
    channel: &str,
    framing: Framing,
    lie: Lie,
    channels: &Channels,
) -> std::io::Result<()> {
    let (sender, mut events) = mpsc::channel(QUEUE_MAX);
    {
        let mut channels = channels.0.lock().unwrap();
        let listeners = channels.entry(channel.to_owned()).or_default();
        let lie = if listeners.is_empty() { lie } else { Lie::None };
        listeners.push(Listener { sender, held: None, count: 0, lie });
    }
    let framing_header = if framing == Framing::Chunked { "transfer-encoding: chunked" } else { "connection: close" };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{framing_header}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut event = ":\n".to_owned();
    loop {
        let chunk = match framing {
            Framing::Chunked => format!("{:x}\r\n{event}\r\n", event.len()),
            Framing::UntilClose => event,
        };
        stream.write_all(chunk.as_bytes()).await?;
        match events.recv().await {
            Some(next) => event = next,
            None => break,
        }
    }
    if framing == Framing::Chunked { stream.write_all(b"0\r\n\r\n").await } else { Ok(()) }
}
