//! What the kernel knows of a TCP connection: the one place with unsafe code.
//!
//! `getsockopt` is not wrapped for `TCP_INFO` by the crates that wrap the rest. The kernel's structure
//! grows at its end from version to version, and the call copies as much as both sides know of.

#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// The part of `struct tcp_info` (linux/tcp.h) that is of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// How often in a row the oldest unacknowledged segment was sent again.
    pub(crate) retransmits: u8,
}

/// Asks the kernel.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed. `info` is valid for writes of `length`
    // bytes, which is its size, and the kernel writes no more than that and says in `length` how much.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all its fields are integers, for which zeros are values, and the kernel wrote over some of them.
    let info = unsafe { info.assume_init() };
    Ok(TcpInfo { retransmits: info.tcpi_retransmits })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::AsFd as _,
    };

    use super::*;

    #[test]
    fn a_healthy_connection_retransmits_nothing_and_other_sockets_have_no_such_thing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(tcp_info(stream.as_fd()).unwrap(), TcpInfo { retransmits: 0 });
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_info(other.as_fd()).is_err());
    }
}
