//! What a connection speaks, and who serves that.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Shared, http1_over, http2, preface, serve_connection};
use crate::{
    settings::Settings,
    socket::Socket,
    tls::{self, Handshake},
};

/// Finds out what the client speaks. Other protocols than cleartext HTTP/1.1 are boxed, so that the
/// task of that has no room for them.
pub(super) async fn serve(shared: Shared, stream: TcpStream, peer: SocketAddr) {
    if shared.tls.is_some() {
        return Box::pin(serve_tls(shared, stream, peer)).await;
    }
    let header_timeout = shared.app.settings().header_timeout;
    let beginning = match in_time(&shared.closing, header_timeout, preface::peek(&stream)).await {
        Ok(beginning) => beginning,
        Err(error) => return tracing::debug!(%error, %peer, "a connection ended before it began"),
    };
    if beginning == preface::Beginning::Http1 {
        serve_connection(&shared.app, shared.router, stream, peer, shared.closing).await;
    } else {
        Box::pin(serve_preface(shared, stream, peer, beginning)).await;
    }
}

/// Waits for what comes before the first request for as long as the head of one may take. Whoever is
/// still at that when the server closes has nothing to wait for.
async fn in_time<T>(
    closing: &CancellationToken,
    limit: Duration,
    awaited: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        () = closing.cancelled() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server is closing")),
        awaited = tokio::time::timeout(limit, awaited) => awaited.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
    }
}

/// A cleartext connection that begins with the preface of HTTP/2, or a part of it.
async fn serve_preface(shared: Shared, stream: TcpStream, peer: SocketAddr, beginning: preface::Beginning) {
    let settings = shared.app.settings();
    let Some(socket) = socket(&settings, stream) else { return };
    let end = socket.end();
    if beginning == preface::Beginning::Http2 {
        return http2::serve(shared, socket, end, peer).await;
    }
    match in_time(&shared.closing, settings.header_timeout, preface::read(socket)).await {
        Err(error) => tracing::debug!(%error, %peer, "a connection ended before it began"),
        Ok((preface::Beginning::Http2, io)) => http2::serve(shared, io, end, peer).await,
        Ok((_, io)) => http1_over::serve(&settings, shared.router, io, end, peer, shared.closing).await,
    }
}

async fn serve_tls(shared: Shared, stream: TcpStream, peer: SocketAddr) {
    let Some(tls) = &shared.tls else { return };
    let settings = shared.app.settings();
    let Some(socket) = socket(&settings, stream) else { return };
    let end = socket.end();
    let handshake_timeout = tls::HANDSHAKE_TIMEOUT.min(settings.header_timeout);
    let io = match in_time(&shared.closing, handshake_timeout, tls.accept(socket)).await {
        Ok(io) => io,
        Err(error) => {
            let is_late = error.kind() == io::ErrorKind::TimedOut;
            shared.app.metrics.handshake(if is_late { Handshake::TimedOut } else { Handshake::Failed });
            return tracing::debug!(%error, %peer, "a TLS handshake failed");
        }
    };
    shared.app.metrics.handshake(Handshake::Complete);
    if tls::is_http2(&io) {
        http2::serve(shared, io, end, peer).await;
    } else {
        http1_over::serve(&settings, shared.router, io, end, peer, shared.closing).await;
    }
}

/// `None` if the peer has gone already.
fn socket(settings: &Settings, stream: TcpStream) -> Option<Socket> {
    Socket::new(stream, settings.stream.live.write_timeout, settings.stream.tcp_user_timeout)
        .inspect_err(|error| tracing::debug!(%error, "a connection could not be set up"))
        .ok()
}
