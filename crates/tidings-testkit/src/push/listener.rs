//! An HTTP server on loopback, HTTP/1.1 and HTTP/2 on one port.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Method, Response, StatusCode, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// Longest body that is taken.
const BODY_MAX_BYTES: usize = 1 << 20;

/// Streams at a time on one connection of HTTP/2: as many as FCM takes.
const STREAMS_MAX: u32 = 100;

/// A whole request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    /// A header, if it is there and text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// The server. Dropping it closes its connections.
#[derive(Debug)]
pub(super) struct Listener {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Listener {
    /// Listens on a free port. With a configuration, it speaks TLS.
    pub(super) async fn bind() -> anyhow::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    }

    /// Answers every request by `handle`.
    pub(super) fn serve<F, R>(
        listener: TcpListener,
        addr: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        handle: F,
    ) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let (handle, tls) = (Arc::new(handle), tls.map(TlsAcceptor::from));
        let accepting = tokio::spawn(async move {
            // They end with this task.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Relaxed);
                while open.try_join_next().is_some() {}
                open.spawn(connection(stream, tls.clone(), handle.clone()));
            }
        });
        Self { addr, connections, accepting: accepting.abort_handle() }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections there have been.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves a connection until it ends. Whoever waits for an answer is told of the same errors.
async fn connection<F, R>(stream: TcpStream, tls: Option<TlsAcceptor>, handle: Arc<F>)
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let _at_once_or_later = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, handle.clone()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let _ended = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
            Err(error) => Err(error.into()),
        },
    };
}

async fn answer<F, R>(request: hyper::Request<Incoming>, handle: Arc<F>) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Request) -> R,
    R: Future<Output = Reply>,
{
    let (head, body) = request.into_parts();
    let reply = match Limited::new(body, BODY_MAX_BYTES).collect().await {
        Ok(body) => {
            let path = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
            let (method, version, headers) = (head.method, head.version, head.headers);
            handle(Request { method, path, version, headers, body: body.to_bytes() }).await
        }
        Err(_) => Reply { status: 413, ..Reply::default() },
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<hyper::header::HeaderName>(), value.parse()) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}
