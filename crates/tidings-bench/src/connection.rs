//! Sockets that connect without waiting.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// How much a socket takes that its client does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveBuffer {
    /// What the system gives.
    Default,
    /// The least that the system allows.
    Smallest,
}

/// Begins to connect. The socket becomes writable when it is connected, or when that has failed.
pub(crate) fn connect(address: SocketAddr, source: Option<Ipv4Addr>, buffer: ReceiveBuffer) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if buffer == ReceiveBuffer::Smallest {
        // The kernel raises it to its own minimum.
        socket.set_recv_buffer_size(1)?;
    }
    if let Some(source) = source {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// What came of something that does not wait.
pub(crate) fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
