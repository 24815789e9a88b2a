//! Which protocol a cleartext connection begins with.
//!
//! A client that knows the server speaks HTTP/2 begins with a preface that is no request of HTTP/1.1
//! (RFC 9113 §3.3, §3.4). The first bytes are looked at and left where they are, so that the socket of
//! an HTTP/1.1 connection is still what was accepted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// RFC 9113 §3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Not HTTP/2; HTTP/1.1, or something that its parser has to refuse.
    Http1,
    /// HTTP/2.
    Http2,
    /// A part of the preface: the client sends it in pieces, or its method begins with the same letters.
    Unclear,
}

impl Beginning {
    fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(PREFACE) {
            Self::Http2
        } else if !bytes.is_empty() && PREFACE.starts_with(bytes) {
            Self::Unclear
        } else {
            // Nothing at all is the end of a connection that said nothing.
            Self::Http1
        }
    }
}

/// Waits for the first bytes and leaves them unread.
pub(super) async fn peek(stream: &TcpStream) -> io::Result<Beginning> {
    let mut bytes = [0; PREFACE.len()];
    let length = stream.peek(&mut bytes).await?;
    Ok(Beginning::of(&bytes[..length]))
}

/// Reads until it is clear, and gives the connection with what was read put back in front.
pub(super) async fn read<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Beginning, PutBack<I>)> {
    let mut bytes = Vec::with_capacity(PREFACE.len());
    loop {
        // As much as is missing, so that nothing behind the preface is read.
        let mut missing = (&mut io).take((PREFACE.len() - bytes.len()) as u64);
        let is_over = missing.read_buf(&mut bytes).await? == 0;
        let beginning = Beginning::of(&bytes);
        if is_over || beginning != Beginning::Unclear {
            return Ok((beginning, PutBack { bytes, at: 0, io }));
        }
    }
}

/// A connection of which some bytes were read already.
pub(super) struct PutBack<I> {
    bytes: Vec<u8>,
    at: usize,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for PutBack<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at == this.bytes.len() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let length = buf.remaining().min(this.bytes.len() - this.at);
        buf.put_slice(&this.bytes[this.at..this.at + length]);
        this.at += length;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for PutBack<I> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn in_whatever_pieces_it_comes_nothing_is_lost() {
        let preface = [PREFACE.as_slice(), b"\0\0\0\x04\0\0\0\0\0"].concat();
        let cases: [(&[u8], Beginning); 5] = [
            (&preface, Beginning::Http2),
            (b"POST /v1/publish HTTP/1.1\r\n\r\n", Beginning::Http1),
            (b"PRI * HTTP/1.1\r\n\r\n", Beginning::Http1),
            (b"GET / HTTP/1.1\r\n\r\n", Beginning::Http1),
            (b"", Beginning::Http1),
        ];
        for (sent, expected) in cases {
            for piece in 1..=sent.len().max(1) {
                // One piece fits at a time, so that the reader sees each for itself.
                let (mut client, server) = tokio::io::duplex(piece);
                let all = sent.to_vec();
                let sending = tokio::spawn(async move {
                    client.write_all(&all).await.unwrap();
                });
                let (beginning, mut io) = read(server).await.unwrap();
                let mut read = Vec::new();
                io.read_to_end(&mut read).await.unwrap();
                sending.await.unwrap();
                assert_eq!((beginning, read.as_slice()), (expected, sent), "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_part_of_the_preface_is_not_yet_clear() {
        for length in 1..PREFACE.len() {
            assert_eq!(Beginning::of(&PREFACE[..length]), Beginning::Unclear);
        }
    }
}
