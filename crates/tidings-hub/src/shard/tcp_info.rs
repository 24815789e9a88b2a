//! What the kernel knows of a TCP connection: the one place with unsafe code.
//!
//! `getsockopt` is not wrapped for `TCP_INFO` by the crates that wrap the rest, and their structure ends before
//! what is wanted here. The kernel's grows at its end from version to version, and the call copies as much as both
//! sides know of.

#![allow(unsafe_code)]

use std::{
    io,
    mem::{MaybeUninit, offset_of},
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` (net/tcp_states.h): what was sent before is still acknowledged or not.
const OPEN_STATES: [u8; 2] = [1, 8];

/// The part of `struct tcp_info` (linux/tcp.h) that is of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Whether the connection is open, or at most closed by its peer.
    pub(crate) is_open: bool,
    /// How often in a row the oldest unacknowledged segment was sent again.
    pub(crate) retransmits: u8,
    /// How many bytes the peer has acknowledged since the beginning. Linux 4.1 and later know it.
    pub(crate) acknowledged_bytes: Option<u64>,
}

/// The beginning of `struct tcp_info` (linux/tcp.h), as far as Linux 4.1 has it.
#[repr(C)]
struct KernelTcpInfo {
    state: u8,
    _congestion_state: u8,
    retransmits: u8,
    _flags: [u8; 5],
    _until_total_retransmits: [u32; 24],
    _pacing_rates: [u64; 2],
    bytes_acked: u64,
}

/// Asks the kernel.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<KernelTcpInfo>::zeroed();
    let mut length = size_of::<KernelTcpInfo>() as libc::socklen_t;
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
    let has_acknowledged = length as usize >= offset_of!(KernelTcpInfo, bytes_acked) + size_of::<u64>();
    Ok(TcpInfo {
        is_open: OPEN_STATES.contains(&info.state),
        retransmits: info.retransmits,
        acknowledged_bytes: has_acknowledged.then_some(info.bytes_acked),
    })
}

/// How many bytes the socket was given that its peer has not acknowledged, sent or not (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and this request writes one `int`, for which
    // `bytes` has room.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::AsFd as _,
        time::{Duration, Instant},
    };

    use super::*;

    /// What lies before `bytes_acked` in the kernel's structure.
    const _: () = assert!(offset_of!(KernelTcpInfo, bytes_acked) == 120);

    #[test]
    fn a_healthy_connection_retransmits_nothing_and_other_sockets_have_no_such_thing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = tcp_info(stream.as_fd()).unwrap();
        assert!(info.is_open && info.retransmits == 0, "{info:?}");
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_info(other.as_fd()).is_err());
    }

    #[test]
    fn what_was_sent_is_unacknowledged_and_then_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let before = tcp_info(stream.as_fd()).unwrap().acknowledged_bytes.unwrap();
        stream.write_all(&[0; 1000]).unwrap();
        peer.read_exact(&mut [0; 1000]).unwrap();
        let begun = Instant::now();
        while unacknowledged_bytes(stream.as_fd()).unwrap() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "never acknowledged");
            std::thread::yield_now();
        }
        assert_eq!(tcp_info(stream.as_fd()).unwrap().acknowledged_bytes, Some(before + 1000));
    }
}
