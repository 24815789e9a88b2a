//! From a task to a shard: an SSE stream on cleartext HTTP/1.1 takes its socket back from the HTTP
//! connection, is served here until it is live, and then needs no task any more.
//!
//! The response is delimited by the end of the connection (RFC 9112 §6.3), for a shard writes frames and
//! nothing else.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{header, response};
use parking_lot::Mutex;
use tidings_hub::shard::INPUT_MAX_BYTES;
use tidings_protocol::CloseReason;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};

use super::sse::{Session, Step};
use crate::socket::Socket;

/// Bytes, about, that are gathered for one write.
const WRITE_MAX_BYTES: usize = 64 * 1024;

/// A stream that could leave its HTTP connection. Responses carry it to the connection that they belong
/// to; where nobody takes it, the response's body does.
#[derive(Clone)]
pub(crate) struct Handoff(Arc<Mutex<Option<Session>>>);

impl Handoff {
    pub(crate) fn new(session: Session) -> Self {
        Self(Arc::new(Mutex::new(Some(session))))
    }

    pub(crate) fn take(&self) -> Option<Session> {
        self.0.lock().take()
    }

    fn put_back(&self, session: Session) {
        *self.0.lock() = Some(session);
    }
}

/// A response that waits to leave.
pub(crate) struct Offer {
    head: response::Parts,
    session: Session,
    handoff: Handoff,
    declined: oneshot::Sender<response::Parts>,
}

/// Where a request's service leaves an offer for the connection that polls it.
#[derive(Clone, Default)]
pub(crate) struct OfferSlot(Arc<Mutex<Option<Offer>>>);

impl OfferSlot {
    pub(crate) fn take(&self) -> Option<Offer> {
        self.0.lock().take()
    }

    /// Offers the response, and waits. Answers it, for HTTP to send, if it is no stream, or if the
    /// connection declines; otherwise the connection goes, and this future with it.
    pub(crate) async fn offer<B>(&self, response: http::Response<B>) -> http::Response<B> {
        let (mut head, body) = response.into_parts();
        let Some(handoff) = head.extensions.remove::<Handoff>() else { return http::Response::from_parts(head, body) };
        let Some(session) = handoff.take() else { return http::Response::from_parts(head, body) };
        let (declined, answer) = oneshot::channel();
        *self.0.lock() = Some(Offer { head, session, handoff, declined });
        match answer.await {
            Ok(head) => http::Response::from_parts(head, body),
            Err(_connection_is_gone) => std::future::pending().await,
        }
    }
}

impl Offer {
    /// HTTP shall send it: something else is still to be sent before.
    pub(crate) fn decline(self) {
        self.handoff.put_back(self.session);
        // If nobody waits, the connection is gone, and the session with its response.
        let _gone = self.declined.send(self.head);
    }

    /// Serves it on the socket until a shard does. `received` is what the client has sent after its request.
    pub(crate) async fn serve(self, mut socket: Socket, received: Bytes) {
        let Self { head, mut session, .. } = self;
        let mut bytes = write_head(&head);
        let mut input_bytes = received.len() as u32;
        loop {
            // What there is without waiting goes out in one write.
            let mut step = None;
            while step.is_none() && bytes.len() < WRITE_MAX_BYTES {
                match session.step(true).now_or_never() {
                    Some(Step::Bytes(more)) => bytes.extend_from_slice(&more),
                    Some(other) => step = Some(other),
                    None => break,
                }
            }
            if socket.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            let step = match step {
                Some(step) => step,
                None => tokio::select! {
                    step = session.step(true) => step,
                    () = discard(&mut socket, &mut input_bytes) => return,
                },
            };
            match step {
                Step::Bytes(more) => bytes.extend_from_slice(&more),
                Step::Live => return session.hand_over(socket, input_bytes),
                Step::End => {
                    drop(session);
                    // Whether the peer waits for the end or is gone, there is no more to be done.
                    let _ended = socket.shutdown().await;
                    return;
                }
            }
        }
    }
}

/// Reads what the client sends, and throws it away, until it has closed its side, is gone, or has sent
/// too much.
async fn discard(socket: &mut Socket, input_bytes: &mut u32) {
    let mut buffer = [0; 4096];
    while let Ok(bytes) = socket.read(&mut buffer).await {
        *input_bytes = input_bytes.saturating_add(bytes as u32);
        if bytes == 0 {
            return;
        }
        if *input_bytes > INPUT_MAX_BYTES {
            return socket.end().set(CloseReason::Error);
        }
    }
}

/// The response's head as HTTP/1.1 writes it, without a length: the body ends with the connection.
fn write_head(head: &response::Parts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    let mut field = |name: &[u8], value: &[u8]| {
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    };
    for (name, value) in &head.headers {
        field(name.as_str().as_bytes(), value.as_bytes());
    }
    field(header::CONNECTION.as_str().as_bytes(), b"close");
    field(header::DATE.as_str().as_bytes(), httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}
