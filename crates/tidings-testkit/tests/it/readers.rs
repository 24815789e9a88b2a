//! What our encoder writes, the public clients read.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidings_protocol::{
    Channel, Cursor, Data, Epoch, Event, EventType, LoggedEvent, Partition, Position, envelope::Connected, sse,
};
use tidings_testkit::node::{ReadEvent, Reader};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Starting a browser on a busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(120);

/// Pieces of text that some reader might take for something else.
const TRICKY: [&str; 30] = [
    "\n",
    "\r",
    "\r\n",
    "\n\r",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "data: x",
    "id: 7",
    "event: gap",
    "retry: 1",
    ": comment",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{b}",
    "제주",
    "\u{1f34a}",
    "e\u{301}",
    "\u{fffd}",
    "\u{7f}",
    "\"",
    "\\",
    "</script>",
    "[DONE]",
    "undefined",
];

/// Types that mean something to EventSource, to JavaScript, or to a careless parser.
const TYPES: [&str; 22] = [
    "message",
    "error",
    "open",
    "close",
    "order.filled",
    "a b",
    " leading",
    "trailing ",
    "a:b",
    ":",
    "data",
    "id",
    "__proto__",
    "constructor",
    "toString",
    "제주",
    "\u{1f34a}",
    "\u{2028}",
    "0",
    "null",
    "*",
    "\"quoted\"",
];

/// A few hundred events and the `?envelope=0` frames of them.
struct Stream {
    bytes: Vec<u8>,
    expected: Vec<ReadEvent>,
}

fn tricky_text(rng: &mut StdRng) -> String {
    let mut text = String::new();
    for _ in 0..rng.random_range(0..7) {
        if rng.random_bool(0.7) {
            text.push_str(TRICKY.choose(rng).unwrap());
        } else {
            text.extend((0..rng.random_range(1..10)).map(|_| rng.random::<char>()));
        }
    }
    text
}

fn tricky_value(rng: &mut StdRng) -> serde_json::Value {
    match rng.random_range(0..10) {
        0 => serde_json::json!({ tricky_text(rng): tricky_text(rng), "nested": [tricky_text(rng), 1.5, null, {}] }),
        1 => serde_json::json!([1, true, null]),
        2 => rng.random::<i64>().into(),
        3 => serde_json::Value::Null,
        4 => tricky_text(rng).repeat(200).into(),
        _ => tricky_text(rng).into(),
    }
}

fn stream(seed: u64) -> Stream {
    let mut rng = StdRng::seed_from_u64(seed);
    // The ones that a generator may miss come first.
    let mut values: Vec<serde_json::Value> = TRICKY.map(Into::into).into();
    values.extend(["", " ", "\n\n", "a\rb\nc\r\nd", "\r\n\r\n", "x\n", "\nx"].map(Into::into));
    values.push("y".repeat(100_000).into());
    values.resize_with(400, || tricky_value(&mut rng));

    let connected =
        Connected { connection: "c".to_owned(), node: "n".to_owned(), user: None, channels: vec!["a".to_owned()] };
    let cursor_at = |position| {
        let mut cursor = Cursor::default();
        let at = tidings_protocol::PartitionCursor { epoch: Epoch(7), position: Position(position) };
        cursor.set(Partition::ZERO, at);
        cursor
    };
    let mut bytes = Vec::new();
    sse::write_retry(&mut bytes, 1873);
    sse::write_connected(&mut bytes, Some(&cursor_at(0)), &connected);
    let mut expected = vec![ReadEvent {
        event_type: "connected".to_owned(),
        data: serde_json::to_string(&connected).unwrap(),
        last_event_id: cursor_at(0).to_string(),
    }];
    for (position, value) in (1..).zip(values) {
        let event_type = TYPES.choose(&mut rng).unwrap();
        let logged = LoggedEvent {
            partition: Partition::ZERO,
            epoch: Epoch(7),
            position: Position(position),
            previous: Position(position - 1),
            accepted_at: 1,
            event: Event {
                channel: Channel::parse("a").unwrap(),
                event_type: EventType::parse(event_type).unwrap(),
                data: Data::parse(&value.to_string()).unwrap(),
                sent_at: 1,
                key: None,
                conflate: None,
                expires_in_secs: None,
                is_ephemeral: false,
            },
        };
        let cursor = cursor_at(position);
        sse::write_event(&mut bytes, &cursor, &logged);
        if rng.random_bool(0.2) {
            bytes.extend_from_slice(sse::HEARTBEAT);
        }
        expected.push(ReadEvent {
            event_type: (*event_type).to_owned(),
            data: match value {
                serde_json::Value::String(text) => text.replace("\r\n", "\n").replace('\r', "\n"),
                other => other.to_string(),
            },
            last_event_id: cursor.to_string(),
        });
    }
    Stream { bytes, expected }
}

/// What `@microsoft/fetch-event-source` 2.0.1 makes of an event that the standard reads as `event`.
/// It is known to differ in two ways, and the server can do nothing about either:
/// it joins lines with LF only once it has text, so empty lines at the beginning are lost; and it
/// decodes each value by itself, so that a BOM at the beginning of one is taken for a file's.
fn as_fetch_event_source_reads(event: &ReadEvent) -> ReadEvent {
    let mut data = String::new();
    for line in event.data.split('\n') {
        if !data.is_empty() {
            data.push('\n');
        }
        data.push_str(line.strip_prefix('\u{feff}').unwrap_or(line));
    }
    ReadEvent { data, ..event.clone() }
}

/// Serves the bytes to everybody, in pieces of odd sizes, and keeps the connection open after them:
/// an EventSource would come back at its end.
async fn serve(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bytes: Arc<[u8]> = bytes.into();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(socket, Arc::clone(&bytes)));
        }
    });
    addr
}

async fn answer(mut socket: TcpStream, bytes: Arc<[u8]>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    if !request.starts_with(b"GET /stream ") {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    }
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n")
        .await?;
    let mut rest = &bytes[..];
    for size in [1, 2, 3, 5, 7, 11, 1, 4096, 13, 1].iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*size));
        socket.write_all(piece).await?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    while socket.read_buf(&mut request).await? > 0 {}
    Ok(())
}

async fn reads_what_was_written(reader: Reader) {
    let seed = 0x7164;
    let stream = stream(seed);
    let addr = serve(stream.bytes).await;
    let mut types: Vec<String> = TYPES.map(str::to_owned).into();
    types.push("connected".to_owned());
    let url = format!("http://{addr}/stream");
    let read = reader.read(&url, &types, stream.expected.len(), LIMIT).await.unwrap();
    for (at, (read, written)) in read.iter().zip(&stream.expected).enumerate() {
        let expected = match reader {
            Reader::FetchEventSource => as_fetch_event_source_reads(written),
            _ => written.clone(),
        };
        assert_eq!(read, &expected, "event {at} of the stream of seed {seed:#x}, read by {}", reader.as_str());
    }
    assert_eq!(read.len(), stream.expected.len());
}

#[tokio::test]
async fn the_npm_package_eventsource_reads_what_was_written() {
    reads_what_was_written(Reader::EventSource).await;
}

#[tokio::test]
async fn the_npm_package_eventsource_parser_reads_what_was_written() {
    reads_what_was_written(Reader::EventSourceParser).await;
}

#[tokio::test]
async fn the_npm_package_fetch_event_source_reads_what_was_written() {
    reads_what_was_written(Reader::FetchEventSource).await;
}

#[tokio::test]
async fn chromium_reads_what_was_written() {
    reads_what_was_written(Reader::Chromium).await;
}
