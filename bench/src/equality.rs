//! Whether `raw` sends what Tidings sends. Without that, the comparison of the two would be one of byte counts.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::servers::API_KEY;

/// How long a server may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Longer than a cursor's position stays a byte long, so that it is seen to grow on both sides.
const MESSAGES: usize = 150;

/// Publishes the same messages to both and compares the frames: each has to have the same length, and be the same
/// text after its first line, which has the cursor. Gives the length of the last one.
pub fn check(tidings: SocketAddr, raw: SocketAddr) -> anyhow::Result<usize> {
    let mut ours = Stream::open(tidings, "/v1/subscribe?channel=volatile:equality")?;
    let mut theirs = Stream::open(raw, "/sub/volatile%3Aequality")?;
    ours.skip_connected()?;
    let mut frame_bytes = 0;
    for number in 0..MESSAGES {
        let data = format!("{number:0>128}");
        let event = json!({ "channel": "volatile:equality", "data": data }).to_string();
        post(tidings, "/v1/publish", "application/json", &event)?;
        post(raw, "/pub/volatile%3Aequality", "text/plain", &data)?;
        let (our, their) = (ours.frame()?, theirs.frame()?);
        let after_id = |frame: &str| frame.split_once('\n').map(|(_, rest)| rest.to_owned());
        ensure!(
            our.len() == their.len() && after_id(&our) == after_id(&their),
            "message {number}: Tidings sends {our:?} and raw {their:?}"
        );
        frame_bytes = our.len();
    }
    Ok(frame_bytes)
}

/// A stream of either kind: chunked or up to the end of the connection.
struct Stream {
    reader: BufReader<TcpStream>,
    is_chunked: bool,
    body: Vec<u8>,
}

impl Stream {
    fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut socket = connect(address)?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\nauthorization: Bearer {API_KEY}\r\n\r\n"
        )?;
        let mut reader = BufReader::new(socket);
        let head = read_head(&mut reader)?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{address}{path} answers {head}");
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok(Self { reader, is_chunked, body: Vec::new() })
    }

    fn skip_connected(&mut self) -> anyhow::Result<()> {
        let frame = self.frame()?;
        ensure!(frame.contains("event: connected\n"), "the stream begins with {frame:?}");
        Ok(())
    }

    /// The next block up to its blank line.
    fn frame(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(at) = self.body.windows(2).position(|bytes| bytes == b"\n\n") {
                let rest = self.body.split_off(at + 2);
                let frame = std::mem::replace(&mut self.body, rest);
                return Ok(String::from_utf8(frame)?);
            }
            self.read_some()?;
        }
    }

    fn read_some(&mut self) -> anyhow::Result<()> {
        if !self.is_chunked {
            let bytes = self.reader.fill_buf().context("reading a stream")?;
            ensure!(!bytes.is_empty(), "the stream has ended");
            self.body.extend_from_slice(bytes);
            let read = bytes.len();
            self.reader.consume(read);
            return Ok(());
        }
        let mut length = String::new();
        self.reader.read_line(&mut length)?;
        let length = usize::from_str_radix(length.trim(), 16).context("the length of a chunk")?;
        ensure!((1..1 << 20).contains(&length), "the stream has ended");
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk)?;
        self.body.extend_from_slice(&chunk[..length]);
        Ok(())
    }
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    Ok(socket)
}

fn read_head(reader: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = reader.read_line(&mut head).context("reading an answer")?;
        ensure!(read > 0 && head.len() < 1 << 16, "an unexpected answer: {head:?}");
    }
    Ok(head)
}

fn post(address: SocketAddr, path: &str, media_type: &str, body: &str) -> anyhow::Result<()> {
    let mut socket = connect(address)?;
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {API_KEY}\r\ncontent-type: {media_type}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let head = read_head(&mut BufReader::new(socket))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{address}{path} answers {head}");
    Ok(())
}
