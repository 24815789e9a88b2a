//! The ways to a server: cleartext or TLS, HTTP/1.1 or HTTP/2.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

/// What is spoken to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// HTTP/1.1 in cleartext.
    Http1,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 in cleartext, by prior knowledge.
    Http2,
    /// HTTP/2 over TLS.
    Http2Tls,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::Http2, Self::Http2Tls];

    /// Whether it is over TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    /// Whether it carries many streams.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

/// A server, how to reach it, and what kind of client to be.
#[derive(Debug, Clone)]
pub struct Endpoint {
    addr: SocketAddr,
    way: Way,
    trust: Option<Arc<ClientConfig>>,
    receive_buffer_bytes: Option<u32>,
    resets: bool,
}

/// Plain HTTP/1.1.
impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, way: Way::Http1, trust: None, receive_buffer_bytes: None, resets: false }
    }
}

/// Bytes to and from a server, below TLS where there is TLS.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Endpoint {
    /// A way to a server. `trust` is what a client over TLS believes; its ALPN is set here.
    pub fn new(addr: SocketAddr, way: Way, trust: Option<Arc<ClientConfig>>) -> Self {
        let trust = trust.map(|trust| {
            let mut trust = ClientConfig::clone(&trust);
            trust.alpn_protocols = vec![if way.is_http2() { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
            Arc::new(trust)
        });
        Self { way, trust, ..Self::from(addr) }
    }

    /// A client that says nothing of what it speaks.
    pub fn without_alpn(mut self) -> Self {
        self.trust = self.trust.map(|mut trust| {
            Arc::make_mut(&mut trust).alpn_protocols.clear();
            trust
        });
        self
    }

    /// A client whose kernel takes little ahead of it, so that what it does not read is soon felt.
    pub fn taking_little(mut self) -> Self {
        self.receive_buffer_bytes = Some(4096);
        self
    }

    /// A client that resets its connection instead of closing it.
    pub fn resetting(mut self) -> Self {
        self.resets = true;
        self
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is spoken.
    pub fn way(&self) -> Way {
        self.way
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.way.is_tls() { "https" } else { "http" }
    }

    /// Connects, with a handshake where there is TLS. What is sent from here on is the caller's.
    pub async fn open(&self) -> anyhow::Result<Box<dyn Wire>> {
        let stream = self.connect().await.with_context(|| format!("connecting to {}", self.addr))?;
        if !self.way.is_tls() {
            return Ok(Box::new(stream));
        }
        Ok(Box::new(self.handshake(stream).await?))
    }

    /// The certificate that the server shows, in DER.
    pub async fn peer_certificate(&self) -> anyhow::Result<Vec<u8>> {
        let stream = self.handshake(self.connect().await?).await?;
        let chain = stream.get_ref().1.peer_certificates().context("the server showed no certificate")?;
        Ok(chain.first().context("the server showed an empty chain")?.to_vec())
    }

    async fn handshake(&self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let trust = self.trust.clone().context("a way over TLS needs something to trust")?;
        let expected = trust.alpn_protocols.first().cloned();
        let stream = TlsConnector::from(trust).connect(ServerName::from(self.addr.ip()), stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        ensure!(chosen == expected, "the server chose {chosen:?}, offered was {expected:?}");
        Ok(stream)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = if self.addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(self.addr).await?;
        stream.set_nodelay(true)?;
        if self.resets {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(stream)
    }
}
