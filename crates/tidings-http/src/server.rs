//! From an accepted connection to the router.
//!
//! The accept loop and the HTTP/1.1 connection are ours rather than axum's, for the socket has to be
//! set up, watched and (where a stream engine wants it) taken back.

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use futures_util::FutureExt as _;
use http::{Method, Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{app::App, socket::Socket, tls::Tls, transport::handoff::OfferSlot};

mod http1_over;
mod http2;
mod preface;
mod protocol;

/// Sockets beyond the streams: requests of backends, and streams that are being told to come back.
const SPARE_SOCKETS: usize = 1024;

/// How long answered connections may take to close after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is seen whether they have.
const CLOSE_POLL: Duration = Duration::from_millis(10);

/// How long to wait when the process has no descriptor left: until some connection has ended.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every connection is served with.
#[derive(Clone)]
struct Shared {
    app: Arc<App>,
    router: Router,
    tls: Option<Arc<Tls>>,
    /// Streams are being told to come back.
    draining: CancellationToken,
    /// They have been told; what is answered still may take its time.
    closing: CancellationToken,
}

/// Serves until `shutdown`, drains, and returns when every connection has ended. With `tls`, the
/// listener speaks nothing else.
pub async fn serve(
    app: Arc<App>,
    router: Router,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let shared = Shared { app: app.clone(), router, tls, draining: shutdown.clone(), closing: closing.clone() };
    let drained = async {
        shutdown.cancelled().await;
        app.drain().await;
    };
    tokio::pin!(drained);
    loop {
        // Connections are still taken while streams are being closed: a load balancer needs its time
        // to see that this node is not ready.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drained => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The limit as it is now: a reload may have changed it.
        let sockets = connections.len() + app.streams.hub.shard_sockets();
        if sockets >= app.settings().limits.connections.saturating_add(SPARE_SOCKETS) {
            app.metrics.refused("too_many_sockets");
            continue;
        }
        connections.spawn(protocol::serve(shared.clone(), stream, peer));
    }
    drop(listener);
    closing.cancel();
    connections.close();
    let closed = async {
        connections.wait().await;
        // A shard waits for nobody longer than a few seconds.
        while app.streams.hub.shard_sockets() > 0 {
            tokio::time::sleep(CLOSE_POLL).await;
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        let left = connections.len() + app.streams.hub.shard_sockets();
        tracing::warn!(connections = left, "connections were still open when the drain ended");
    }
}

async fn serve_connection(app: &App, router: Router, stream: TcpStream, peer: SocketAddr, closing: CancellationToken) {
    let settings = app.settings();
    let socket = match Socket::new(stream, settings.stream.live.write_timeout, settings.stream.tcp_user_timeout) {
        Ok(socket) => socket,
        // The peer has gone already.
        Err(error) => return tracing::debug!(%error, "a connection could not be set up"),
    };
    let end = socket.end();
    end.let_leave();
    let offers = OfferSlot::default();
    let service = {
        let (end, offers) = (end.clone(), offers.clone());
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(end.clone());
            // The answer to a HEAD has no body, so there is no stream.
            let offers = (request.method() == Method::GET).then(|| offers.clone());
            let router = router.clone();
            async move {
                let Ok(response) = router.oneshot(request.map(Body::new)).await;
                Ok::<_, Infallible>(match offers {
                    Some(offers) => offers.offer(response).await,
                    None => response,
                })
            }
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(settings.limits.head_max_bytes)
        // Answers are short: one buffer is cheaper to send than two.
        .writev(false)
        .serve_connection(TokioIo::new(socket), service);
    let mut closed = pin!(closing.cancelled().fuse());
    let offer = poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() {
            Pin::new(&mut connection).graceful_shutdown();
        }
        loop {
            let ended = Pin::new(&mut connection).poll(cx);
            // The service ran within this poll, and leaves what it offers.
            match (offers.take(), ended) {
                (_, Poll::Ready(ended)) => return Poll::Ready(Err(ended)),
                (None, Poll::Pending) => return Poll::Pending,
                (Some(offer), Poll::Pending) if app.streams.hub.has_shards() && !end.is_write_blocked() => {
                    return Poll::Ready(Ok(offer));
                }
                // An earlier response is not all sent, or there is nobody to give the stream to.
                (Some(offer), Poll::Pending) => offer.decline(),
            }
        }
    });
    match offer.await {
        Ok(offer) => {
            let parts = connection.into_parts();
            offer.serve(parts.io.into_inner(), parts.read_buf).await;
        }
        // Resets, half-sent requests, garbage instead of HTTP: the peer's doing, and counted by the streams.
        Err(Err(error)) => tracing::debug!(%error, %peer, "a connection ended"),
        Err(Ok(())) => {}
    }
}
