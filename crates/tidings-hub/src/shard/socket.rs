//! A connection's socket, as a shard uses it.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown, sockopt};
use tidings_protocol::CloseReason;

use super::tcp_info::{tcp_info, unacknowledged_bytes};

/// Retransmissions without an answer after which a peer that takes nothing is gone rather than slow: with
/// the shortest round trip they take three seconds (RFC 6298 §5).
const LOST_RETRANSMITS: u8 = 4;

/// What a shard writes to.
pub enum ShardSocket {
    /// A connected TCP socket.
    Tcp(OwnedFd),
    /// What a test makes of it.
    Simulated(Box<dyn SimulatedSocket>),
}

/// A socket that behaves as badly as its maker likes. As a real one it never blocks.
pub trait SimulatedSocket: Send {
    /// Takes some of the bytes, or says `WouldBlock`, or how the connection ended.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Fills some of the buffer; 0 is the end.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Nothing more will be sent.
    fn shut_down(&mut self);
    /// The peer has not answered for long, as `TCP_INFO` would say.
    fn is_peer_lost(&self) -> bool;
    /// What the peer has acknowledged, and what it has not. Nothing is known unless this says so.
    fn progress(&self) -> Option<Progress> {
        None
    }
}

/// How much of what a socket was given has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the peer has acknowledged since the beginning; `None` if the kernel does not say.
    pub acknowledged_bytes: Option<u64>,
    /// Bytes that it has not, sent or not.
    pub unacknowledged_bytes: u64,
}

impl Progress {
    /// Asks the kernel. `None` if the connection has ended, so that nothing more will be acknowledged.
    pub fn of(socket: BorrowedFd<'_>) -> Option<Self> {
        // In this order: what is acknowledged in between counts twice then. So what they add up to is never less
        // than was written, and a connection that is open at the second look was so at the first.
        let unacknowledged_bytes = unacknowledged_bytes(socket).ok()?;
        let info = tcp_info(socket).ok().filter(|info| info.is_open)?;
        Some(Self { acknowledged_bytes: info.acknowledged_bytes, unacknowledged_bytes })
    }
}

impl ShardSocket {
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(fd) => Some(fd.as_fd()),
            Self::Simulated(_) => None,
        }
    }

    pub(super) fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(fd) => {
                // Not the process's business, should it be embedded in one that has SIGPIPE.
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(match slices {
                    [slice] => send(fd, slice, flags)?,
                    slices => sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags)?,
                })
            }
            Self::Simulated(socket) => socket.send(slices),
        }
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(fd) => Ok(recv(fd, buffer, RecvFlags::DONTWAIT)?.0),
            Self::Simulated(socket) => socket.receive(buffer),
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn shut_down(&mut self) {
        match self {
            Self::Tcp(fd) => {
                // A peer that is gone already need not be told.
                let _gone = shutdown(fd, Shutdown::Write);
            }
            Self::Simulated(socket) => socket.shut_down(),
        }
    }

    /// What is still unsent is dropped with the socket rather than kept by the kernel.
    pub(super) fn abort(self) {
        if let Self::Tcp(fd) = &self {
            let _closing_anyway = sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
        }
    }

    /// How much of what was written has arrived.
    pub(super) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Tcp(fd) => Progress::of(fd.as_fd()),
            Self::Simulated(socket) => socket.progress(),
        }
    }

    /// Whether the peer seems to be gone: what was sent goes unacknowledged, time after time.
    pub(super) fn is_peer_lost(&self) -> bool {
        match self {
            Self::Tcp(fd) => tcp_info(fd.as_fd()).is_ok_and(|info| info.retransmits >= LOST_RETRANSMITS),
            Self::Simulated(socket) => socket.is_peer_lost(),
        }
    }
}

/// What an error of a socket says of its peer.
pub fn close_reason_of(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            CloseReason::ClientReset
        }
        // After the last retransmission the kernel reports what a router or ARP said meanwhile, if anything did.
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            CloseReason::PeerTimeout
        }
        _ => CloseReason::Error,
    }
}
