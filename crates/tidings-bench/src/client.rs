//! HTTP connections to the server under load.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

/// How long a connection may take to be made. A server that takes longer is reported, not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What publishes are authorized with, if needed.
    pub api_key: Option<String>,
}

impl Target {
    /// The server at a URL such as `http://127.0.0.1:7330`, without TLS and path.
    pub fn parse(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        let address = authority.parse().with_context(|| {
            format!(
                "{url:?} is not the address of a server; accepted is http://ADDRESS:PORT, as in http://127.0.0.1:7330"
            )
        })?;
        Ok(Self { address, api_key })
    }

    /// Connects, from one of many addresses when the target is on this machine's loopback: one
    /// address has about 28,000 ports, and each stays taken for a minute after its connection.
    pub(crate) async fn connect(&self, number: u64) -> anyhow::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let source = Ipv4Addr::new(127, 0, 1, (number % 32) as u8 + 1);
            socket.bind((source, 0).into())?;
        }
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(crate) fn publish_request(&self, media_type: &str, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::post("/v1/publish")
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, media_type);
        if let Some(key) = &self.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        Ok(request.body(Full::new(body))?)
    }
}

/// A connection that publishes, one request after the other.
pub(crate) struct Publisher {
    sender: http1::SendRequest<Full<Bytes>>,
    target: Target,
}

impl Publisher {
    pub(crate) async fn connect(target: &Target, number: u64) -> anyhow::Result<Self> {
        let stream = target.connect(number).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its end shows at the next request.
            let _ended = connection.await;
        });
        Ok(Self { sender, target: target.clone() })
    }

    /// Publishes and returns the answer's body.
    pub(crate) async fn publish(&mut self, media_type: &str, body: Bytes) -> anyhow::Result<Bytes> {
        self.sender.ready().await?;
        let response = self.sender.send_request(self.target.publish_request(media_type, body)?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status == StatusCode::OK, "publish answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
