//! From an accepted connection to the router.
//!
//! The accept loop and the HTTP/1.1 connection are ours rather than axum's, for the socket has to be
//! set up, watched and (where a stream engine wants it) taken back.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    app::App,
    settings::Settings,
    socket::{Socket, SocketEnd},
    tls::{self, Handshake, Tls},
};

mod http2;
mod preface;

/// Sockets beyond the streams: requests of backends, and streams that are being told to come back.
const SPARE_SOCKETS: usize = 1024;

/// How long answered connections may take to close after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
        if connections.len() >= app.settings().limits.connections.saturating_add(SPARE_SOCKETS) {
            app.metrics.refused("too_many_sockets");
            continue;
        }
        connections.spawn(serve_accepted(shared.clone(), stream, peer));
    }
    drop(listener);
    closing.cancel();
    connections.close();
    if tokio::time::timeout(CLOSE_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were still open when the drain ended");
    }
}

/// Finds out what the client speaks. Other protocols than cleartext HTTP/1.1 are boxed, so that the
/// task of that has no room for them.
async fn serve_accepted(shared: Shared, stream: TcpStream, peer: SocketAddr) {
    if shared.tls.is_some() {
        return Box::pin(serve_tls(shared, stream, peer)).await;
    }
    let beginning = tokio::time::timeout(shared.app.settings().header_timeout, preface::peek(&stream)).await;
    match beginning {
        // It has said nothing for as long as a request's head may take.
        Err(_elapsed) => {}
        Ok(Ok(preface::Beginning::Http1)) => {
            serve_connection(&shared.app, shared.router, stream, peer, shared.closing).await;
        }
        Ok(Ok(beginning)) => Box::pin(serve_preface(shared, stream, peer, beginning)).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a connection ended before it began"),
    }
}

async fn serve_connection(app: &App, router: Router, stream: TcpStream, peer: SocketAddr, closing: CancellationToken) {
    let settings = app.settings();
    let socket = match Socket::new(stream, settings.stream.write_timeout, settings.stream.tcp_user_timeout) {
        Ok(socket) => socket,
        // The peer has gone already.
        Err(error) => return tracing::debug!(%error, "a connection could not be set up"),
    };
    let end = socket.end();
    serve_http1(&settings, router, socket, end, peer, closing).await;
}

/// HTTP/1.1 on whatever carries its bytes.
async fn serve_http1<I: AsyncRead + AsyncWrite + Unpin>(
    settings: &Settings,
    router: Router,
    io: I,
    end: SocketEnd,
    peer: SocketAddr,
    closing: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(end.clone());
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(settings.limits.head_max_bytes)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Resets, half-sent requests, garbage instead of HTTP: the peer's doing, and counted by the streams.
        tracing::debug!(%error, %peer, "a connection ended");
    }
}

/// A cleartext connection that begins with the preface of HTTP/2, or a part of it.
async fn serve_preface(shared: Shared, stream: TcpStream, peer: SocketAddr, beginning: preface::Beginning) {
    let settings = shared.app.settings();
    let socket = match Socket::new(stream, settings.stream.write_timeout, settings.stream.tcp_user_timeout) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a connection could not be set up"),
    };
    let end = socket.end();
    if beginning == preface::Beginning::Http2 {
        return http2::serve(shared, socket, end, peer).await;
    }
    match tokio::time::timeout(settings.header_timeout, preface::read(socket)).await {
        Err(_elapsed) => {}
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a connection ended before it began"),
        Ok(Ok((preface::Beginning::Http2, io))) => http2::serve(shared, io, end, peer).await,
        Ok(Ok((_, io))) => serve_http1(&settings, shared.router, io, end, peer, shared.closing).await,
    }
}

async fn serve_tls(shared: Shared, stream: TcpStream, peer: SocketAddr) {
    let Some(tls) = &shared.tls else { return };
    let settings = shared.app.settings();
    let socket = match Socket::new(stream, settings.stream.write_timeout, settings.stream.tcp_user_timeout) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a connection could not be set up"),
    };
    let end = socket.end();
    let io = match tls.accept(socket, settings.header_timeout).await {
        Ok(io) => io,
        Err((outcome, error)) => {
            shared.app.metrics.handshake(outcome);
            return tracing::debug!(%error, %peer, "a TLS handshake failed");
        }
    };
    shared.app.metrics.handshake(Handshake::Complete);
    if tls::is_http2(&io) {
        http2::serve(shared, io, end, peer).await;
    } else {
        serve_http1(&settings, shared.router, io, end, peer, shared.closing).await;
    }
}
