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
use tidings_hub::{Adoption, Format, Hub, ShardSocket};
use tidings_protocol::{
    CloseReason, Cursor,
    envelope::{Closing, Connected, Gap},
    sse,
};
use tokio::time::{Instant, sleep_until};

use super::handoff::Handoff;
use crate::{
    metrics::{Metrics, ResumeOutcome},
    settings::Settings,
    socket::{Socket, SocketEnd},
};

/// What a stream is served with.
pub struct SseStream {
    /// The stream.
    pub stream: Stream,
    /// How it is written.
    pub format: Format,
    /// How it behaves.
    pub settings: Arc<Settings>,
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
    /// Where live events are counted, and where the stream goes when it can.
    pub hub: Arc<Hub>,
    /// The time, for how long an event took.
    pub clock: Arc<dyn Clock>,
}

/// Headers that keep caches, transforming proxies and nginx's buffering away from a stream.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, no-transform")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// Answers with the stream. On a connection that it can leave, it does (`handoff`); on others the
/// response's body is the stream.
pub fn respond(parts: SseStream) -> Response {
    let handoff = Handoff::new(Session::new(parts));
    let body = stream::unfold((handoff.clone(), None), |(handoff, session)| async move {
        let mut session = match session {
            Some(session) => session,
            None => handoff.take()?,
        };
        match session.step(false).await {
            Step::Bytes(bytes) => Some((Ok::<_, Infallible>(bytes), (handoff, Some(session)))),
            Step::Live | Step::End => None,
        }
    });
    let mut response = (HEADERS, Body::from_stream(body)).into_response();
    response.extensions_mut().insert(handoff);
    response
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

/// A stream and how far it is.
pub(crate) struct Session {
    /// `None` when a shard has it.
    stream: Option<Stream>,
    parts: Parts,
    silent_since: Instant,
    /// When the stream ends by itself, and why.
    end: Option<(Instant, CloseReason)>,
    is_over: bool,
    had_gap: bool,
    is_resume_counted: bool,
    items: Vec<Item>,
}

/// What a stream needs besides itself.
struct Parts {
    format: Format,
    settings: Arc<Settings>,
    node: Arc<str>,
    socket_end: Option<SocketEnd>,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
}

/// What is next on a stream.
pub(crate) enum Step {
    /// To be written.
    Bytes(Bytes),
    /// All of history is written, and a shard can take it from here.
    Live,
    /// `closing` has been written.
    End,
}

impl Session {
    fn new(sse: SseStream) -> Self {
        let SseStream { stream, format, settings, node, is_resume, expires_in, socket_end, metrics, hub, clock } = sse;
        let now = Instant::now();
        let max_age = settings.stream.random_max_age();
        Self {
            stream: Some(stream),
            silent_since: now,
            end: earliest(
                expires_in.map(|left| (now + left, CloseReason::TokenExpired)),
                max_age.map(|age| (now + age, CloseReason::MaxAge)),
            ),
            is_over: false,
            had_gap: false,
            is_resume_counted: !is_resume,
            items: Vec::new(),
            parts: Parts { format, settings, node, socket_end, metrics, hub, clock },
        }
    }

    /// Waits for what is next. `until_live` says whether the stream is to leave when it is live.
    pub(crate) async fn step(&mut self, until_live: bool) -> Step {
        loop {
            let Some(stream) = self.stream.as_mut().filter(|_| !self.is_over) else { return Step::End };
            let heartbeat = self.silent_since + self.parts.settings.stream.live.heartbeat;
            // Looked at before the stream, which on a busy channel always has something.
            if let Some((_, reason)) = self.end.take_if(|(at, _)| *at <= Instant::now()) {
                // What is queued goes out first; then the stream says why it ends.
                stream.subscription().close(reason);
            }
            let end = self.end.map(|(at, _)| at);
            tokio::select! {
                biased;
                next = stream.next(&mut self.items) => {
                    self.observe();
                    match next {
                        // It has become live, and there is nothing to send.
                        Ok(()) if self.items.is_empty() => {
                            if until_live {
                                return Step::Live;
                            }
                        }
                        Ok(()) => {
                            self.silent_since = Instant::now();
                            return Step::Bytes(self.encode());
                        }
                        Err(reason) => return Step::Bytes(self.closing(reason)),
                    }
                }
                () = sleep_until(end.unwrap_or(heartbeat)), if end.is_some() => {}
                () = sleep_until(heartbeat) => {
                    self.silent_since = Instant::now();
                    return Step::Bytes(Bytes::from_static(sse::HEARTBEAT));
                }
            }
        }
    }

    /// Gives the live stream with its socket to a shard.
    pub(crate) fn hand_over(mut self, socket: Socket, input_bytes: u32) {
        let Some(stream) = self.stream.take() else { return };
        let fd = match socket.into_fd() {
            Ok(fd) => fd,
            Err(error) => return tracing::error!(%error, "a stream's socket could not be taken from its task"),
        };
        let (now, tick) = (Instant::now(), self.parts.clock.tick());
        let adoption = Adoption {
            socket: ShardSocket::Tcp(fd),
            settings: self.parts.settings.stream.live.clone(),
            ends_at: self.end.map(|(end, reason)| (tick + end.saturating_duration_since(now), reason)),
            silent_since: tick,
            input_bytes,
        };
        if stream.hand_over(adoption).is_err() {
            tracing::error!("no shard took a live stream; its client comes back");
        }
    }

    fn encode(&mut self) -> Bytes {
        // The usual case costs a reference count: the frame that all subscribers share.
        if let [Item::Live(frame)] = self.items.as_slice() {
            let bytes = frame.bytes(self.parts.format).clone();
            self.items.clear();
            return bytes;
        }
        let mut bytes = Vec::with_capacity(256 * self.items.len());
        for item in std::mem::take(&mut self.items) {
            match item {
                Item::Connected { cursor } => self.connected(&mut bytes, cursor.as_ref()),
                Item::Replayed { logged, cursor } => {
                    bytes.extend_from_slice(&self.parts.format.encode(cursor.as_ref(), &logged));
                }
                Item::Gap { channels, reason, cursor } => {
                    let channels = channels.iter().map(ToString::to_string).collect();
                    sse::write_gap(&mut bytes, cursor.as_ref(), &Gap { channels, reason: reason.as_str().to_owned() });
                }
                Item::Live(frame) => bytes.extend_from_slice(frame.bytes(self.parts.format)),
            }
        }
        bytes.into()
    }

    fn connected(&self, bytes: &mut Vec<u8>, cursor: Option<&Cursor>) {
        let Some(info) = self.stream.as_ref().map(Stream::info) else { return };
        let connected = Connected {
            connection: info.id.to_string(),
            node: self.parts.node.to_string(),
            user: info.user.as_ref().map(ToString::to_string),
            channels: info.channels.iter().map(ToString::to_string).collect(),
        };
        sse::write_retry(bytes, self.parts.settings.stream.random_retry_ms());
        sse::write_connected(bytes, cursor, &connected);
    }

    fn closing(&mut self, reason: CloseReason) -> Bytes {
        self.is_over = true;
        let retry = Some(self.parts.settings.stream.random_retry_ms());
        let mut bytes = Vec::new();
        sse::write_closing(&mut bytes, &Closing { reason: reason.as_str().to_owned(), retry });
        bytes.into()
    }

    fn observe(&mut self) {
        let now = self.parts.clock.now();
        for item in &self.items {
            match item {
                Item::Live(frame) => {
                    self.parts.hub.counters().delivery.observe(now.saturating_sub(frame.logged.event.sent_at));
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
        if !self.is_resume_counted && self.stream.as_ref().is_none_or(Stream::is_live) {
            self.is_resume_counted = true;
            self.parts.metrics.resumed(if self.had_gap { ResumeOutcome::Gap } else { ResumeOutcome::Complete });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.count_resume();
        if !self.is_resume_counted {
            self.parts.metrics.resumed(if self.had_gap { ResumeOutcome::Gap } else { ResumeOutcome::Interrupted });
        }
        let socket_end = self.parts.socket_end.as_ref().and_then(SocketEnd::reason);
        let Some(subscription) = self.stream.as_mut().map(Stream::subscription) else { return };
        // A reason of the server's own came first, and the socket's end is its consequence.
        if let Some(reason) = subscription.close_reason().or(socket_end) {
            subscription.ended(reason);
        }
    }
}
