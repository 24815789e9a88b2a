//! HTTP/1.1 over something else than a bare socket, which cannot be taken back from it.

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{settings::Settings, socket::SocketEnd};

/// Serves one connection to its end.
pub(super) async fn serve<I: AsyncRead + AsyncWrite + Unpin>(
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
