//! HTTP/2: many streams on one connection, each with an end of its own.
//!
//! hyper drives each stream in a task, which [`Streams`] wraps: so a stream whose client takes nothing
//! can be ended alone, and it is known whether a connection has any.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tidings_protocol::CloseReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep},
};
use tower::ServiceExt as _;

use super::{CLOSE_TIMEOUT, Shared};
use crate::{
    settings::Settings,
    socket::{Carrier, SocketEnd},
};

/// Streams and requests at a time on one connection. A browser has a few; a proxy that carries many
/// clients opens another connection beyond it. RFC 9113 §6.5.2 recommends no fewer than 100.
const CONCURRENT_STREAMS_MAX: u32 = 256;

/// Bytes of one request's body that may come unasked: a usual publish in one go.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// And of all requests of a connection together, so that one connection cannot fill the memory with
/// bodies that are not read as fast as they come.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Longest frame that is taken: the least that RFC 9113 §4.2 allows, as nothing here gains from more.
const FRAME_MAX_BYTES: u32 = 16 * 1024;

/// Bytes of one stream that wait in HTTP/2's own buffer. Little, for what waits belongs into the
/// stream's queue, where a newer event can take its place.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that the client opened and reset before they were looked at; beyond it the connection is
/// closed. This is what stops a "rapid reset" (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;

/// Streams that were reset here because of the client's mistakes; beyond it the connection is closed,
/// as they may be mistakes on purpose (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 256;

/// Table of header fields that the client's are compressed with: the protocol's own default
/// (RFC 9113 §6.5.2), held for each connection.
const HEADER_TABLE_BYTES: u32 = 4096;

/// How long what was answered last may take to be sent on a connection that does not answer itself, when the
/// server ends.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one connection to its end. A connection without a stream is closed after the time that a
/// request's head may take, as one of HTTP/1.1 is.
pub(super) async fn serve<I>(shared: Shared, io: I, socket_end: SocketEnd, peer: SocketAddr)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = shared.app.settings();
    let heard = Heard::default();
    let connection =
        Arc::new(Connection { socket_end, heard: heard.clone(), ping_timeout: settings.stream.live.write_timeout });
    let (open, open_streams) = watch::channel(0);
    let streams = Streams { write_timeout: settings.stream.live.write_timeout, open: Arc::new(open) };
    let router = shared.router;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let end = SocketEnd::carried_by(connection.clone());
        let router = router.clone();
        async move {
            let progress = PROGRESS.with(Arc::clone);
            let response = router.oneshot(prepared(request, peer, end.clone())).await?;
            progress.begins(end);
            Ok::<_, Infallible>(response.map(|body| Taken { body, progress }))
        }
    });
    let connection = builder(&settings, streams).serve_connection(TokioIo::new(Listening { io, heard }), service);
    let mut connection = pin!(connection);
    // What is opened while the server drains is a connection to be told to come back by. The others are
    // asked to open no more streams from the beginning of the drain: new ones then find another node.
    let closing = shared.closing;
    let going_away = if shared.draining.is_cancelled() { closing.clone() } else { shared.draining };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = going_away.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let abandoned = async {
                closing.cancelled().await;
                idle(open_streams, LAST_WORDS_TIMEOUT).await;
            };
            tokio::select! {
                ended = connection => ended,
                // Not even its handshake is over, or it does not say that it has understood.
                () = abandoned => Ok(()),
            }
        }
        () = idle(open_streams.clone(), settings.header_timeout) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                // It does not go. A stream that began meanwhile is not cut off.
                () = idle(open_streams, CLOSE_TIMEOUT) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "an HTTP/2 connection ended");
    }
}

fn builder(settings: &Settings, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_MAX_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .header_table_size(HEADER_TABLE_BYTES)
        // As on HTTP/1.1.
        .max_header_list_size(u32::try_from(settings.limits.head_max_bytes).unwrap_or(u32::MAX))
        // A peer whose kernel still acknowledges what its program does not read is found by this alone.
        .keep_alive_interval(settings.stream.live.heartbeat)
        .keep_alive_timeout(settings.stream.live.write_timeout);
    builder
}

/// A request as handlers know it from HTTP/1.1.
fn prepared(request: Request<Incoming>, peer: SocketAddr, end: SocketEnd) -> Request<Body> {
    let mut request = request.map(Body::new);
    // RFC 9113 §8.3.1: `:authority` is what `Host` was, and comes before it where both are there.
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(authority) = authority {
        request.headers_mut().insert(header::HOST, authority);
    }
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(end);
    request
}

/// Returns when no stream has been open for so long.
async fn idle(mut open: watch::Receiver<usize>, limit: Duration) {
    loop {
        // An error says that the connection is gone, and nobody waits for this any more.
        if open.wait_for(|open| *open == 0).await.is_err() {
            return std::future::pending().await;
        }
        if tokio::time::timeout(limit, open.changed()).await.is_err() {
            return;
        }
    }
}

/// When something was last read from a peer.
#[derive(Debug, Clone)]
struct Heard {
    began_at: Instant,
    /// Milliseconds from then.
    last: Arc<AtomicU64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self { began_at: Instant::now(), last: Arc::default() }
    }
}

impl Heard {
    fn now(&self) {
        self.last.store(self.began_at.elapsed().as_millis() as u64, Relaxed);
    }

    fn silence(&self) -> Duration {
        self.began_at.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}

/// The connection as its streams see it.
#[derive(Debug)]
struct Connection {
    socket_end: SocketEnd,
    heard: Heard,
    ping_timeout: Duration,
}

impl Carrier for Connection {
    /// A stream that ends while its connection does not was reset by the client, which has just been heard
    /// then. If it has been silent for as long as it had to answer a ping, that is what ended the stream.
    /// hyper tells the streams before it tells us.
    fn reason(&self) -> Option<CloseReason> {
        let is_unheard = self.heard.silence() >= self.ping_timeout;
        self.socket_end.reason().or(is_unheard.then_some(CloseReason::PeerTimeout))
    }
}

/// A connection that notes when it is heard.
struct Listening<I> {
    io: I,
    heard: Heard,
}

impl<I: AsyncRead + Unpin> AsyncRead for Listening<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.heard.now();
        }
        Poll::Ready(result)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Listening<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

tokio::task_local! {
    /// That of the stream whose task this is.
    static PROGRESS: Arc<Progress>;
}

/// What a stream's body tells its task.
#[derive(Debug, Default)]
struct Progress {
    /// How often the body was asked for more.
    asked: AtomicU64,
    /// Whether it gave something that has not been taken yet: hyper asks for more when it has been.
    is_waiting: AtomicBool,
    end: std::sync::OnceLock<SocketEnd>,
}

impl Progress {
    fn begins(&self, end: SocketEnd) {
        let _once_for_each_stream = self.end.set(end);
    }
}

pin_project! {
    /// A body that notes whether it is taken.
    struct Taken {
        #[pin]
        body: Body,
        progress: Arc<Progress>,
    }
}

impl http_body::Body for Taken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        this.progress.asked.fetch_add(1, Relaxed);
        let polled = this.body.poll_frame(cx);
        this.progress.is_waiting.store(matches!(polled, Poll::Ready(Some(Ok(_)))), Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Starts the tasks of a connection's streams.
#[derive(Clone)]
struct Streams {
    write_timeout: Duration,
    open: Arc<watch::Sender<usize>>,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = Arc::new(Progress::default());
        let is_open = IsOpen::new(self.open.clone());
        let watched = Watched {
            stream: Some(PROGRESS.scope(progress.clone(), stream)),
            progress,
            write_timeout: self.write_timeout,
            deadline: None,
            asked_before: 0,
        };
        tokio::spawn(async move {
            let _is_open = is_open;
            watched.await;
        });
    }
}

/// Counts a stream for as long as it lives.
struct IsOpen(Arc<watch::Sender<usize>>);

impl IsOpen {
    fn new(open: Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open)
    }
}

impl Drop for IsOpen {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

pin_project! {
    /// A stream that ends when its client takes nothing for too long. Dropping hyper's future resets the
    /// stream (`RST_STREAM`) and leaves the others of its connection alone.
    struct Watched<F> {
        #[pin]
        stream: Option<F>,
        progress: Arc<Progress>,
        write_timeout: Duration,
        // Runs while bytes wait for the client to open its window.
        deadline: Option<Pin<Box<Sleep>>>,
        asked_before: u64,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let asked = this.progress.asked.load(Relaxed);
        if std::mem::replace(this.asked_before, asked) != asked {
            // Something was taken since the last time.
            *this.deadline = None;
        }
        if !this.progress.is_waiting.load(Relaxed) {
            return Poll::Pending;
        }
        let timeout = *this.write_timeout;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        if let Some(end) = this.progress.end.get() {
            end.set(CloseReason::PeerTimeout);
        }
        this.stream.set(None);
        Poll::Ready(())
    }
}
