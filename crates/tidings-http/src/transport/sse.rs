//! Server-sent events: a stream as the body of an HTTP response.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use tidings_core::{
    ports::Clock,
    stream::{Item, Stream},
};
use tidings_hub::Format;
use tidings_protocol::{
    CloseReason, Cursor,
    envelope::{Closing, Connected, Gap},
    sse,
};
use tokio::time::{Instant, sleep_until};

use crate::{
    metrics::{Metrics, ResumeOutcome},
    socket::SocketEnd,
};

/// What a stream is served with.
pub struct SseStream {
    /// The stream.
    pub stream: Stream,
    /// How it is written.
    pub format: Format,
    /// How it behaves.
    pub settings: Arc<crate::settings::Settings>,
    /// The node's id.
    pub node: Arc<str>,
    /// Whether the client came with a cursor.
    pub is_resume: bool,
    /// When the token behind it ends.
    pub expires_in: Option<Duration>,
    /// How the socket ended.
    pub socket_end: Option<SocketEnd>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// The time, for how long an event took.
    pub clock: Arc<dyn Clock>,
}

/// Headers that keep caches, transforming proxies and nginx's buffering away from a stream.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, no-transform")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// Answers with the stream.
pub fn respond(stream: SseStream) -> Response {
    let now = Instant::now();
    let max_age = stream.settings.stream.random_max_age();
    let session = Session {
        silent_since: now,
        end: earliest(
            stream.expires_in.map(|left| (now + left, CloseReason::TokenExpired)),
            max_age.map(|age| (now + age, CloseReason::MaxAge)),
        ),
        is_over: false,
        had_gap: false,
        is_resume_counted: !stream.is_resume,
        items: Vec::new(),
        inner: stream,
    };
    let body = stream::unfold(session, |mut session| async move {
        let bytes = session.next_bytes().await?;
        Some((Ok::<_, Infallible>(bytes), session))
    });
    (HEADERS, Body::from_stream(body)).into_response()
}

/// Answers with a stream that ends at once: a native EventSource never comes back from a 503, but it
/// does from that.
pub fn respond_ended(reason: CloseReason, retry_ms: u64) -> Response {
    let mut bytes = Vec::new();
    sse::write_closing(&mut bytes, &Closing { reason: reason.as_str().to_owned(), retry: Some(retry_ms) });
    (HEADERS, bytes).into_response()
}

fn earliest<T>(a: Option<(Instant, T)>, b: Option<(Instant, T)>) -> Option<(Instant, T)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

struct Session {
    inner: SseStream,
    silent_since: Instant,
    /// When the stream ends by itself, and why.
    end: Option<(Instant, CloseReason)>,
    is_over: bool,
    had_gap: bool,
    is_resume_counted: bool,
    items: Vec<Item>,
}

impl Session {
    /// The next bytes of the body; `None` at its end.
    async fn next_bytes(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over {
                return None;
            }
            let heartbeat = self.silent_since + self.inner.settings.stream.heartbeat;
            // Looked at before the stream, which on a busy channel always has something.
            if let Some((_, reason)) = self.end.take_if(|(at, _)| *at <= Instant::now()) {
                // What is queued goes out first; then the stream says why it ends.
                self.inner.stream.subscription().close(reason);
            }
            let end = self.end.map(|(at, _)| at);
            tokio::select! {
                biased;
                next = self.inner.stream.next(&mut self.items) => {
                    self.observe();
                    match next {
                        // It has become live, and there is nothing to send.
                        Ok(()) if self.items.is_empty() => continue,
                        Ok(()) => {
                            self.silent_since = Instant::now();
                            return Some(self.encode());
                        }
                        Err(reason) => return Some(self.closing(reason)),
                    }
                }
                () = sleep_until(end.unwrap_or(heartbeat)), if end.is_some() => {}
                () = sleep_until(heartbeat) => {
                    self.silent_since = Instant::now();
                    return Some(Bytes::from_static(sse::HEARTBEAT));
                }
            }
        }
    }

    fn encode(&mut self) -> Bytes {
        // The usual case costs a reference count: the frame that all subscribers share.
        if let [Item::Live(frame)] = self.items.as_slice() {
            let bytes = frame.bytes(self.inner.format).clone();
            self.items.clear();
            return bytes;
        }
        let mut bytes = Vec::with_capacity(256 * self.items.len());
        for item in std::mem::take(&mut self.items) {
            match item {
                Item::Connected { cursor } => self.connected(&mut bytes, cursor.as_ref()),
                Item::Replayed { logged, cursor } => {
                    bytes.extend_from_slice(&self.inner.format.encode(&cursor, &logged));
                }
                Item::Gap { channels, reason, cursor } => {
                    let channels = channels.iter().map(ToString::to_string).collect();
                    sse::write_gap(&mut bytes, &cursor, &Gap { channels, reason: reason.as_str().to_owned() });
                }
                Item::Live(frame) => bytes.extend_from_slice(frame.bytes(self.inner.format)),
            }
        }
        bytes.into()
    }

    fn connected(&self, bytes: &mut Vec<u8>, cursor: Option<&Cursor>) {
        let info = self.inner.stream.info();
        let connected = Connected {
            connection: info.id.to_string(),
            node: self.inner.node.to_string(),
            user: info.user.as_ref().map(ToString::to_string),
            channels: info.channels.iter().map(ToString::to_string).collect(),
        };
        sse::write_retry(bytes, self.inner.settings.stream.random_retry_ms());
        sse::write_connected(bytes, cursor, &connected);
    }

    fn closing(&mut self, reason: CloseReason) -> Bytes {
        self.is_over = true;
        let retry = Some(self.inner.settings.stream.random_retry_ms());
        let mut bytes = Vec::new();
        sse::write_closing(&mut bytes, &Closing { reason: reason.as_str().to_owned(), retry });
        bytes.into()
    }

    fn observe(&mut self) {
        let now = self.inner.clock.now();
        for item in &self.items {
            match item {
                Item::Live(frame) => {
                    self.inner.metrics.delivery_seconds(now.saturating_sub(frame.logged.event.sent_at));
                }
                Item::Gap { .. } => self.had_gap = true,
                Item::Connected { .. } | Item::Replayed { .. } => {}
            }
        }
        self.count_resume();
    }

    /// Counts what came of the client's return once it has all that history had for it. That shows when
    /// something else is written, or at the end.
    fn count_resume(&mut self) {
        if !self.is_resume_counted && self.inner.stream.is_live() {
            self.is_resume_counted = true;
            self.inner.metrics.resumed(if self.had_gap { ResumeOutcome::Gap } else { ResumeOutcome::Complete });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.count_resume();
        if !self.is_resume_counted {
            self.inner.metrics.resumed(if self.had_gap { ResumeOutcome::Gap } else { ResumeOutcome::Interrupted });
        }
        let socket_end = self.inner.socket_end.as_ref().and_then(SocketEnd::reason);
        let subscription = self.inner.stream.subscription();
        // A reason of the server's own came first, and the socket's end is its consequence.
        if let Some(reason) = subscription.close_reason().or(socket_end) {
            subscription.ended(reason);
        }
    }
}
