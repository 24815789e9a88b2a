//! A small HTTP client: one connection, kept while it is good.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
    header::{HOST, HeaderName, HeaderValue},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::endpoint::Endpoint;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text, with what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {:?}", self.text()))
    }

    /// A header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Window of one stream that a client does not read: HTTP/2's own default (RFC 9113 §6.9.2). That of the
/// connection is larger, so that such a stream does not hold up its neighbours.
const STREAM_WINDOW_BYTES: u32 = 65_535;

/// Window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * STREAM_WINDOW_BYTES;

/// A connection and the tasks that drive it. Dropping it closes the socket, without a word more on the
/// connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    tasks: Tasks,
}

/// Tasks that end together. hyper drives an HTTP/2 connection in one of its own, which would say goodbye.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task).abort_handle());
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let io = TokioIo::new(endpoint.open().await?);
        let tasks = Tasks::default();
        // Whoever waits for an answer is told of the same errors as the drivers.
        if endpoint.way().is_http2() {
            let mut builder = http2::Builder::new(tasks.clone());
            builder
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
            let (sender, connection) = builder.handshake(io).await?;
            tasks.execute(connection);
            return Ok(Self { sender: Sender::Http2(sender), tasks });
        }
        let (sender, connection) = http1::handshake(io).await?;
        tasks.execute(connection);
        Ok(Self { sender: Sender::Http1(sender), tasks })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    fn is_usable(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in self.tasks.0.lock().drain(..) {
            task.abort();
        }
    }
}

/// Builds a request for an origin server.
pub(crate) fn request(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    let addr = endpoint.addr();
    // HTTP/2 makes its pseudo-header fields of a whole URL.
    let target = if endpoint.way().is_http2() {
        format!("{}://{addr}{path}", endpoint.scheme())
    } else {
        request.headers_mut().insert(HOST, HeaderValue::from_str(&addr.to_string())?);
        path.to_owned()
    };
    *request.uri_mut() = target.parse().with_context(|| format!("the path {path:?}"))?;
    for (name, value) in headers {
        // Bytes, because a test may well want to send what is not ASCII.
        let value = HeaderValue::from_bytes(value.as_bytes()).with_context(|| format!("the header {name}"))?;
        request.headers_mut().append(HeaderName::try_from(name.as_str())?, value);
    }
    Ok(request)
}

/// Sends requests one after the other, over one connection as long as it lasts.
///
/// It never repeats a request by itself: whether that is safe is the caller's to know.
#[derive(Debug)]
pub struct HttpClient {
    endpoint: Endpoint,
    connection: Option<Connection>,
}

impl HttpClient {
    /// A client of this server. It connects when it is used.
    pub fn new(endpoint: impl Into<Endpoint>) -> Self {
        Self { endpoint: endpoint.into(), connection: None }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let request = request(&self.endpoint, method, path, headers, body.into())?;
        // Taken out, so that a request that is cancelled or fails takes its connection with it.
        let mut connection = match self.connection.take().filter(Connection::is_usable) {
            Some(connection) => connection,
            None => Connection::open(&self.endpoint).await?,
        };
        let (head, body) = connection.send(request).await?.into_parts();
        let body = body.collect().await.context("the answer was cut off")?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// `GET path`.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }
}
