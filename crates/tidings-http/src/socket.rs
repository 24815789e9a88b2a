//! A client's TCP connection: how it is set up, and what is learnt from how it ends.

use std::{
    future::Future as _,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tidings_hub::shard::{LINGER_IDLE, LINGER_MAX, close_reason_of};
use tidings_protocol::CloseReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// Bytes that the kernel takes beyond those that are on their way (`TCP_NOTSENT_LOWAT`, tcp(7)). By itself it
/// takes up to four megabytes for a peer that does not read: memory that no limit of ours counts, and events
/// that no newer one can replace any more. With less, a fast connection might run dry between two writes.
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// How a connection ended, as far as its socket says. Requests carry it, so that a stream whose body
/// is dropped knows why.
#[derive(Debug, Clone, Default)]
pub struct SocketEnd {
    shared: Arc<Shared>,
    /// What carries the stream, where that carries others too and may end later.
    carrier: Option<Arc<dyn Carrier>>,
}

/// A connection that carries several streams.
pub(crate) trait Carrier: std::fmt::Debug + Send + Sync {
    /// Why it ended, or why its streams must, if there is a reason.
    fn reason(&self) -> Option<CloseReason>;
}

#[derive(Debug, Default)]
struct Shared {
    /// A reason's number plus one; zero is none.
    reason: AtomicU8,
    /// Whether bytes wait that the kernel has not taken.
    is_write_blocked: AtomicBool,
    /// Whether a stream may take the socket along.
    may_leave: AtomicBool,
}

impl SocketEnd {
    /// That of one stream among others on a connection.
    pub(crate) fn carried_by(carrier: Arc<dyn Carrier>) -> Self {
        Self { shared: Arc::default(), carrier: Some(carrier) }
    }

    /// The reason, once there is one.
    pub(crate) fn reason(&self) -> Option<CloseReason> {
        let own = usize::from(self.shared.reason.load(Relaxed)).checked_sub(1);
        let own = own.and_then(|at| CloseReason::ALL.get(at).copied());
        own.or_else(|| self.carrier.as_ref()?.reason())
    }

    /// The first that is seen stays: what follows is the consequence.
    pub(crate) fn set(&self, reason: CloseReason) {
        let _already_set = self.shared.reason.compare_exchange(0, reason as u8 + 1, Relaxed, Relaxed);
    }

    fn on_error(&self, error: &io::Error) {
        self.set(close_reason_of(error));
    }

    /// A stream may take the socket along.
    pub(crate) fn let_leave(&self) {
        self.shared.may_leave.store(true, Relaxed);
    }

    /// Whether a stream may take the socket along, so that what its peer acknowledges is known.
    pub(crate) fn may_leave(&self) -> bool {
        self.shared.may_leave.load(Relaxed)
    }

    /// Whether bytes wait that the kernel has not taken.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.shared.is_write_blocked.load(Relaxed)
    }
}

/// A socket that gives up when its peer takes nothing for too long.
pub(crate) struct Socket {
    stream: TcpStream,
    end: SocketEnd,
    write_timeout: Duration,
    /// Runs while bytes wait that the kernel does not take.
    deadline: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

/// The end of a connection whose peer may still be sending. Closing a socket that has unread input sends
/// a reset, which destroys what the peer has not read yet: the refusal of a body too large to be read,
/// or a stream's `closing` (RFC 9112 §9.6).
struct Lingering {
    idle: Pin<Box<Sleep>>,
    ends_at: Instant,
}

impl Socket {
    /// Takes an accepted connection.
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration, user_timeout: Duration) -> io::Result<Self> {
        // Frames are small and must not wait for each other.
        stream.set_nodelay(true)?;
        // Unacknowledged heartbeats then tell a dead peer from a silent one.
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(user_timeout))?;
        socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
        Ok(Self { stream, end: SocketEnd::default(), write_timeout, deadline: None, lingering: None })
    }

    /// What tells how it ended.
    pub(crate) fn end(&self) -> SocketEnd {
        self.end.clone()
    }

    /// The socket by itself. Nothing of the task's remains with it.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(self.stream.into_std()?.into())
    }

    fn on_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.end.shared.is_write_blocked.store(written.is_pending(), Relaxed);
        match written {
            Poll::Ready(result) => {
                self.deadline = None;
                if let Err(error) = &result {
                    self.end.on_error(error);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let timeout = self.write_timeout;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                ready!(deadline.as_mut().poll(cx));
                self.end.set(CloseReason::PeerTimeout);
                // What is still unsent is dropped with the socket rather than kept by the kernel.
                let _closing_anyway = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        match &result {
            Err(error) => self.end.on_error(error),
            Ok(()) if buf.filled().len() == before && buf.remaining() > 0 => self.end.set(CloseReason::ClientClosed),
            Ok(()) => {}
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.on_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.on_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends all that was written, and discards what the peer still sends until it has closed its side
    /// or has had its time.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let lingering = this.lingering.get_or_insert_with(|| Lingering {
            idle: Box::pin(tokio::time::sleep(LINGER_IDLE)),
            ends_at: Instant::now() + LINGER_MAX,
        });
        let mut discarded = [0; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut discarded);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    let idle_until = Instant::now() + LINGER_IDLE;
                    lingering.idle.as_mut().reset(idle_until.min(lingering.ends_at));
                }
                // It has closed its side, or is gone.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
        lingering.idle.as_mut().poll(cx).map(Ok)
    }
}
