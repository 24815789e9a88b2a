//! A small HTTP/1.1 client: one connection, kept while it is good.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

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

/// A connection and the task that drives it. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // The one who waits for the answer is told of the same error.
            let _told_elsewhere = connection.await;
        });
        Ok(Self { sender, driver })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Builds a request for an origin server.
pub(crate) fn request(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().with_context(|| format!("the path {path:?}"))?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(&addr.to_string())?);
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
    addr: SocketAddr,
    connection: Option<Connection>,
}

impl HttpClient {
    /// A client of this address. It connects when it is used.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let request = request(self.addr, method, path, headers, body.into())?;
        // Taken out, so that a request that is cancelled or fails takes its connection with it.
        let mut connection = match self.connection.take().filter(Connection::is_usable) {
            Some(connection) => connection,
            None => Connection::open(self.addr).await?,
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
