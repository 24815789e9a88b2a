//! One event stream, over HTTP and our own parser.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Method, body::Incoming};
use tidings_protocol::{
    envelope::Connected,
    sse::{Parsed, Parser},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    endpoint::Endpoint,
    http::{Connection, request},
};

/// Longest block that is taken: far above what the server sends by default.
const BLOCK_MAX_BYTES: usize = 8 << 20;

/// How many bytes of the stream are kept for a test to look at.
const RAW_MAX_BYTES: usize = 1 << 20;

/// An event as an EventSource would dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its type.
    pub event: String,
    /// Its data.
    pub data: String,
    /// The last event id then: on a stream of the server, its cursor.
    pub id: String,
}

/// An open stream. Dropping it closes the connection, unless another stream is on that.
#[derive(Debug)]
pub struct SseClient {
    status: u16,
    headers: HeaderMap,
    body: Incoming,
    parser: Parser,
    waiting: VecDeque<Parsed>,
    last_id: String,
    retry_ms: Option<u64>,
    raw: Vec<u8>,
    endpoint: Endpoint,
    connection: Arc<Mutex<Connection>>,
}

/// A connection whose stream the client has given up. On HTTP/1.1 that was its end; on HTTP/2 it is open
/// until this is dropped.
#[derive(Debug)]
pub struct Abandoned(#[expect(dead_code, reason = "it is held")] Arc<Mutex<Connection>>);

impl SseClient {
    /// Sends the request and reads the head of the answer, whatever its status.
    ///
    /// `path` may have a query. `accept: text/event-stream` is sent unless `headers` has an `accept`.
    pub async fn connect(endpoint: impl Into<Endpoint>, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Self> {
        let endpoint = endpoint.into();
        let connection = Arc::new(Mutex::new(Connection::open(&endpoint).await?));
        Self::open(endpoint, connection, path, headers).await
    }

    /// The same on the connection of this stream, which has to be HTTP/2.
    pub async fn beside(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Self> {
        ensure!(self.endpoint.way().is_http2(), "HTTP/1.1 carries one stream at a time");
        Self::open(self.endpoint.clone(), self.connection.clone(), path, headers).await
    }

    async fn open(
        endpoint: Endpoint,
        connection: Arc<Mutex<Connection>>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut owned: Vec<(String, String)> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        if !owned.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
            owned.push(("accept".to_owned(), "text/event-stream".to_owned()));
        }
        let request = request(&endpoint, Method::GET, path, &owned, Bytes::new())?;
        let (head, body) = connection.lock().await.send(request).await?.into_parts();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            parser: Parser::new(BLOCK_MAX_BYTES),
            waiting: VecDeque::new(),
            last_id: String::new(),
            retry_ms: None,
            raw: Vec::new(),
            endpoint,
            connection,
        })
    }

    /// Gives the stream up without ending its connection where that can be, which is on HTTP/2
    /// (`RST_STREAM`).
    pub fn abandon(self) -> Abandoned {
        drop(self.body);
        Abandoned(self.connection)
    }

    /// The status of the answer.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header of the answer, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What to come back with: the id of the last event, empty before the first.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The reconnection time that the server last set, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The bytes of the body so far, the first MiB of them.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The next event, comment or retry; `None` when the server has ended the stream in order.
    /// It is an error when nothing comes within `limit` or the connection breaks.
    pub async fn next(&mut self, limit: Duration) -> anyhow::Result<Option<Parsed>> {
        loop {
            if let Some(parsed) = self.waiting.pop_front() {
                match &parsed {
                    Parsed::Event { id, .. } => self.last_id.clone_from(id),
                    Parsed::Retry(retry_ms) => self.retry_ms = Some(*retry_ms),
                    Parsed::Comment(_) => {}
                }
                return Ok(Some(parsed));
            }
            let Some(bytes) = self.next_bytes(limit).await? else { return Ok(None) };
            self.parser.push(&bytes, |parsed| self.waiting.push_back(parsed))?;
        }
    }

    /// The next event; that the stream ends is an error too.
    pub async fn next_event(&mut self, limit: Duration) -> anyhow::Result<Received> {
        loop {
            match self.next(limit).await? {
                Some(Parsed::Event { event, data, id }) => return Ok(Received { event, data, id }),
                Some(Parsed::Retry(_) | Parsed::Comment(_)) => {}
                None => bail!("the stream ended where an event was expected; {}", self.seen()),
            }
        }
    }

    /// The `connected` event that a stream of the server begins with.
    pub async fn connected(&mut self, limit: Duration) -> anyhow::Result<Connected> {
        let first = self.next_event(limit).await?;
        if first.event != "connected" {
            bail!("the stream began with {first:?} instead of `connected`");
        }
        serde_json::from_str(&first.data).with_context(|| format!("the data of `connected`: {}", first.data))
    }

    /// Reads on until the server ends the stream, and gives the events that came before.
    pub async fn until_end(&mut self, limit: Duration) -> anyhow::Result<Vec<Received>> {
        let mut events = Vec::new();
        while let Some(parsed) = self.next(limit).await? {
            if let Parsed::Event { event, data, id } = parsed {
                events.push(Received { event, data, id });
            }
        }
        Ok(events)
    }

    /// The rest of the body as it is: for an answer that is no stream.
    pub async fn body(&mut self, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next_bytes(limit).await? {
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    async fn next_bytes(&mut self, limit: Duration) -> anyhow::Result<Option<Bytes>> {
        loop {
            let Ok(frame) = timeout(limit, self.body.frame()).await else {
                bail!("nothing came for {limit:?}; {}", self.seen());
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(error).with_context(|| format!("the stream broke; {}", self.seen())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        let room = RAW_MAX_BYTES - self.raw.len();
                        self.raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    fn seen(&self) -> String {
        let tail = &self.raw[self.raw.len().saturating_sub(300)..];
        format!("status {}, {} bytes, the last: {:?}", self.status, self.raw.len(), String::from_utf8_lossy(tail))
    }
}
