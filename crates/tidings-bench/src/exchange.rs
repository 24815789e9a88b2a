//! A connection that is kept, for requests and their answers: pipelined, and in order.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    clock::now_nanos,
    connection::{ReceiveBuffer, connect, unless_blocked},
    epoll::{Epoll, Kind, Ready},
    response::{Head, Part, Response},
};

/// Most of an answer's body that is kept.
const BODY_MAX_BYTES: usize = 1 << 20;

/// Answered requests are dropped from the buffer when they take so much of it.
const ANSWERED_MAX_BYTES: usize = 1 << 16;

/// An answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// When its last byte had come.
    pub(crate) at: u64,
}

impl Answer<'_> {
    /// An answer other than a success ends the run: what would be measured is not what was asked for.
    pub(crate) fn ensure_success(&self) -> anyhow::Result<()> {
        let said = || String::from_utf8_lossy(&self.body[..self.body.len().min(400)]).into_owned();
        ensure!((200..300).contains(&self.status), "the server answered {}: {}", self.status, said());
        Ok(())
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    kind: Kind,
    index: usize,
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    socket: Option<TcpStream>,
    is_connecting: bool,
    /// Requests: answered up to `answered`, written up to `written`. Those that are not answered are
    /// kept, as a server may say with any answer that it was the connection's last, and they are then sent
    /// again.
    requests: Vec<u8>,
    answered: usize,
    written: usize,
    lengths: VecDeque<usize>,
    response: Response,
    head: Option<Head>,
    body: Vec<u8>,
    is_used: bool,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

impl Exchange {
    pub(crate) fn new(kind: Kind, index: usize, address: SocketAddr, source: Option<Ipv4Addr>) -> Self {
        Self {
            kind,
            index,
            address,
            source,
            socket: None,
            is_connecting: false,
            requests: Vec::new(),
            answered: 0,
            written: 0,
            lengths: VecDeque::new(),
            response: Response::default(),
            head: None,
            body: Vec::new(),
            is_used: false,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Requests that are not answered.
    pub(crate) fn under_way(&self) -> usize {
        self.lengths.len()
    }

    /// Sends a request, behind those under way. Connects if needed.
    pub(crate) fn send(&mut self, epoll: &Epoll, write: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<()> {
        self.enqueue(write);
        self.flush(epoll)
    }

    /// Puts a request behind those under way; `flush` sends it.
    pub(crate) fn enqueue(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.requests.len();
        write(&mut self.requests);
        self.lengths.push_back(self.requests.len() - start);
    }

    /// Sends what is enqueued.
    pub(crate) fn flush(&mut self, epoll: &Epoll) -> anyhow::Result<()> {
        if self.socket.is_none() {
            return self.connect(epoll);
        }
        if self.is_connecting {
            return Ok(());
        }
        while self.written < self.requests.len() {
            let Some(socket) = &self.socket else { break };
            match unless_blocked((&*socket).write(&self.requests[self.written..])) {
                Ok(Some(length)) => {
                    self.written += length;
                    self.bytes_sent += length as u64;
                }
                Ok(None) => break,
                // The answers that came before the end are still to be read; the end is seen there.
                Err(_closed) => break,
            }
        }
        Ok(())
    }

    fn connect(&mut self, epoll: &Epoll) -> anyhow::Result<()> {
        let socket = connect(self.address, self.source, ReceiveBuffer::Default)
            .with_context(|| format!("connecting to {}", self.address))?;
        epoll.add(&socket, self.kind, self.index)?;
        self.socket = Some(socket);
        self.is_connecting = true;
        self.is_used = false;
        self.written = self.answered;
        self.response.restart();
        self.head = None;
        self.body.clear();
        Ok(())
    }

    /// Does what the socket is ready for, and hands over the answers.
    pub(crate) fn ready(
        &mut self,
        epoll: &Epoll,
        ready: Ready,
        buffer: &mut [u8],
        mut take: impl FnMut(Answer<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.is_connecting {
            if !ready.is_writable && !ready.is_closed {
                return Ok(());
            }
            if let Some(error) = socket.take_error()? {
                return Err(error).with_context(|| format!("connecting to {}", self.address));
            }
            self.is_connecting = false;
        }
        if ready.is_writable {
            self.flush(epoll)?;
        }
        if !ready.is_readable {
            return Ok(());
        }
        loop {
            let Some(socket) = &self.socket else { return Ok(()) };
            let read = match unless_blocked((&*socket).read(buffer)) {
                Ok(None) => return Ok(()),
                Ok(Some(0)) | Err(_) => return self.closed(epoll, take),
                Ok(Some(read)) => read,
            };
            self.bytes_received += read as u64;
            let keeps_alive = self.feed(&buffer[..read], &mut take)?;
            if !keeps_alive {
                self.socket = None;
                return if self.lengths.is_empty() { Ok(()) } else { self.connect(epoll) };
            }
            if read < buffer.len() && !ready.is_closed {
                return Ok(());
            }
        }
    }

    /// Reads answers; whether the connection may go on.
    fn feed(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(Answer<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        while !bytes.is_empty() {
            ensure!(!self.lengths.is_empty(), "{} said something that it was not asked for", self.address);
            let mut has_ended = false;
            let (head, body) = (&mut self.head, &mut self.body);
            let used = self.response.feed(bytes, |part| match part {
                Part::Head(read) => *head = Some(read),
                Part::Data(data) => body.extend_from_slice(&data[..data.len().min(BODY_MAX_BYTES - body.len())]),
                Part::End => has_ended = true,
            })?;
            bytes = &bytes[used..];
            if has_ended && !self.answer(take)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answer(&mut self, take: &mut impl FnMut(Answer<'_>) -> anyhow::Result<()>) -> anyhow::Result<bool> {
        let Some(head) = self.head.take() else { return Ok(true) };
        self.answered += self.lengths.pop_front().unwrap_or(0);
        self.is_used = true;
        take(Answer { status: head.status, body: &self.body, at: now_nanos() })?;
        self.response.restart();
        self.body.clear();
        if self.answered == self.requests.len() || self.answered > ANSWERED_MAX_BYTES {
            self.requests.drain(..self.answered);
            self.written = self.written.saturating_sub(self.answered);
            self.answered = 0;
        }
        Ok(head.keeps_alive)
    }

    fn closed(&mut self, epoll: &Epoll, mut take: impl FnMut(Answer<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.socket = None;
        if self.head.is_some() && self.response.may_end() {
            self.answer(&mut take)?;
        }
        if self.lengths.is_empty() {
            return Ok(());
        }
        // A server may close a connection that it has let rest while a request is on its way, and to ask
        // again does no harm. But a message could be published twice, and the server would be blamed; it
        // has to say `connection: close` with its last answer (RFC 9112 §9.6).
        let may_repeat = self.kind == Kind::Poller && self.is_used && self.response.is_fresh();
        if !may_repeat {
            bail!("{} closed the connection instead of answering", self.address);
        }
        self.connect(epoll)
    }
}
