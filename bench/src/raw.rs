//! The kernel's send path and nothing else: one thread, one epoll set, a table of sockets.
//!
//! What a push server costs beyond this is its own. Two ways of sending:
//!
//! - plain: one `write` for each message and stream;
//! - batch: all publishes that can be read are read first, then one `writev` for each socket that something waits for.
//!
//! `GET /sub/{channel}` opens a stream, `POST /pub/{channel}` sends its body to all of them and is answered when
//! that is written. Nothing is remembered, nobody is asked who he is.

use std::{
    collections::HashMap,
    io::{ErrorKind, IoSlice, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    rc::Rc,
};

use anyhow::Context as _;
use rustix::{
    event::epoll,
    net::{SocketFlags, accept_with, sockopt},
};
use socket2::{Domain, Socket, Type};

mod frames;
mod request;

use frames::Frames;
use request::Request;

/// Streams that may wait to be accepted: a storm of ten thousand should not meet a full queue.
const BACKLOG: i32 = 4096;

/// What is read from a socket at once. A request that does not fit waits in its caller's own buffer.
const READ_BYTES: usize = 64 << 10;

/// Most bytes of requests that are not complete. The load generator's are a few hundred bytes.
const INPUT_MAX_BYTES: usize = 256 << 10;

/// Most bytes that wait for a stream which does not read; beyond it the stream is closed.
const UNSENT_MAX_BYTES: usize = 4 << 20;

/// Most pieces that Linux takes in one `writev` (`IOV_MAX`).
const PIECES_MAX: usize = 1024;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;

/// Marks the listener among the sockets, which are known by their descriptor.
const LISTENER: u64 = u64::MAX;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Listens with room for a storm of connections.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(|| format!("listening on {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until the process is ended.
pub fn run(listener: TcpListener, is_batching: bool) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut server = Server {
        epoll,
        listener,
        connections: Vec::new(),
        channels: HashMap::new(),
        streams: Vec::new(),
        frames: Frames::new()?,
        is_batching,
        dirty: Vec::new(),
        broken: Vec::new(),
    };
    let mut scratch = vec![0; READ_BYTES];
    let mut events =
        vec![epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS_MAX];
    let mut answering = Vec::new();
    loop {
        let ready = match epoll::wait(&server.epoll, &mut *events, None) {
            Err(rustix::io::Errno::INTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            match event.data.u64() {
                LISTENER => server.accept()?,
                at => server.handle(at as usize, event.flags, &mut scratch, &mut answering)?,
            }
        }
        server.flush_dirty();
        // Answers go out when everything they speak of is with the kernel.
        for at in answering.drain(..) {
            server.answer(at);
        }
        server.close_broken();
    }
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    channels: HashMap<Box<[u8]>, u32>,
    /// The descriptors of each channel's streams.
    streams: Vec<Vec<u32>>,
    frames: Frames,
    is_batching: bool,
    /// Streams that something waits for.
    dirty: Vec<u32>,
    /// Streams whose socket failed or whose client does not read.
    broken: Vec<u32>,
}

enum Connection {
    /// Boxed, as most connections are streams.
    Caller(Box<Caller>),
    Stream(Stream),
}

/// A connection that sends requests.
struct Caller {
    socket: TcpStream,
    /// The beginning of a request whose rest has not come.
    input: Vec<u8>,
    answers: Vec<u8>,
}

/// An open stream.
struct Stream {
    socket: TcpStream,
    channel: u32,
    /// Boxed, as nothing waits for an idle stream.
    waiting: Option<Box<Waiting>>,
}

/// What waits for a stream.
#[derive(Default)]
struct Waiting {
    /// Frames for the next `writev`.
    queue: Vec<Rc<[u8]>>,
    /// What the kernel had no room for.
    unsent: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => TcpStream::from(socket),
                Err(error) if error == rustix::io::Errno::AGAIN => return Ok(()),
                Err(error) if error == rustix::io::Errno::CONNABORTED => continue,
                Err(error) => return Err(error).context("accepting a connection"),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let at = socket.as_raw_fd() as usize;
            epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
            if self.connections.len() <= at {
                self.connections.resize_with(at + 1, || None);
            }
            let caller = Caller { socket, input: Vec::new(), answers: Vec::new() };
            self.connections[at] = Some(Connection::Caller(Box::new(caller)));
        }
    }

    fn handle(
        &mut self,
        at: usize,
        flags: epoll::EventFlags,
        scratch: &mut [u8],
        answering: &mut Vec<usize>,
    ) -> anyhow::Result<()> {
        // Taken out of the table while it is worked on, since a publish may write to any other.
        match self.connections.get_mut(at).and_then(Option::take) {
            // Closed by an earlier event of the same round.
            None => Ok(()),
            Some(Connection::Stream(mut stream)) => {
                let is_open = (!flags.contains(epoll::EventFlags::OUT) || stream.send_unsent(&self.epoll))
                    && (flags == epoll::EventFlags::OUT || reads_on(&mut stream.socket, scratch));
                self.connections[at] = Some(Connection::Stream(stream));
                if !is_open {
                    self.close(at);
                }
                Ok(())
            }
            Some(Connection::Caller(caller)) => {
                self.connections[at] = self.serve(caller, scratch)?;
                if let Some(Connection::Caller(caller)) = &self.connections[at]
                    && !caller.answers.is_empty()
                {
                    answering.push(at);
                }
                Ok(())
            }
        }
    }

    /// Reads requests and does what they say. Gives what has become of the connection, if it is still there.
    fn serve(&mut self, mut caller: Box<Caller>, scratch: &mut [u8]) -> anyhow::Result<Option<Connection>> {
        let read = match caller.socket.read(scratch) {
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(Connection::Caller(caller))),
            Err(_) => return Ok(None),
        };
        let mut input = std::mem::take(&mut caller.input);
        let mut rest = if input.is_empty() {
            &scratch[..read]
        } else {
            input.extend_from_slice(&scratch[..read]);
            &input[..]
        };
        loop {
            match request::parse(rest) {
                Ok(Some((Request::Publish { channel, body }, after))) => {
                    self.publish(channel, body);
                    caller.answers.extend_from_slice(OK);
                    rest = &rest[after..];
                }
                Ok(Some((Request::Subscribe { channel }, _))) => return Ok(self.subscribe(caller.socket, channel)),
                Ok(None) if rest.len() <= INPUT_MAX_BYTES => break,
                // This is no server for strangers: who does not speak as the load generator does is hung up on.
                Ok(None) | Err(request::Malformed) => return Ok(None),
            }
        }
        caller.input = rest.to_vec();
        Ok(Some(Connection::Caller(caller)))
    }

    fn subscribe(&mut self, mut socket: TcpStream, channel: &[u8]) -> Option<Connection> {
        socket.write_all(&frames::head()).ok()?;
        let number = match self.channels.get(channel) {
            Some(number) => *number,
            None => {
                let number = self.streams.len() as u32;
                self.channels.insert(channel.into(), number);
                self.streams.push(Vec::new());
                number
            }
        };
        self.streams[number as usize].push(socket.as_raw_fd() as u32);
        Some(Connection::Stream(Stream { socket, channel: number, waiting: None }))
    }

    fn publish(&mut self, channel: &[u8], body: &[u8]) {
        let frame = self.frames.encode(body);
        let Some(number) = self.channels.get(channel) else { return };
        if self.is_batching {
            let frame: Rc<[u8]> = frame.into();
            for at in &self.streams[*number as usize] {
                let Some(Some(Connection::Stream(stream))) = self.connections.get_mut(*at as usize) else { continue };
                let waiting = stream.waiting.get_or_insert_default();
                if waiting.queue.is_empty() {
                    self.dirty.push(*at);
                }
                waiting.queue.push(frame.clone());
            }
        } else {
            for at in &self.streams[*number as usize] {
                let Some(Some(Connection::Stream(stream))) = self.connections.get_mut(*at as usize) else { continue };
                if !stream.send(frame, &self.epoll) {
                    self.broken.push(*at);
                }
            }
        }
    }

    fn flush_dirty(&mut self) {
        for at in self.dirty.drain(..) {
            let Some(Some(Connection::Stream(stream))) = self.connections.get_mut(at as usize) else { continue };
            if !stream.flush(&self.epoll) {
                self.broken.push(at);
            }
        }
    }

    fn answer(&mut self, at: usize) {
        let Some(Some(Connection::Caller(caller))) = self.connections.get_mut(at) else { return };
        let answers = std::mem::take(&mut caller.answers);
        // An answer is 38 bytes: a publisher for whom the kernel has no room has stopped reading long ago.
        if caller.socket.write_all(&answers).is_err() {
            self.connections[at] = None;
        } else {
            caller.answers = answers;
            caller.answers.clear();
        }
    }

    fn close_broken(&mut self) {
        for at in std::mem::take(&mut self.broken) {
            self.close(at as usize);
        }
    }

    /// Closes the socket, which takes it out of the epoll set too.
    fn close(&mut self, at: usize) {
        if let Some(Connection::Stream(stream)) = self.connections[at].take() {
            let streams = &mut self.streams[stream.channel as usize];
            if let Some(place) = streams.iter().position(|other| *other as usize == at) {
                streams.swap_remove(place);
            }
        }
    }
}

/// Whether the client is still there. What it says on a stream is of no interest.
fn reads_on(socket: &mut TcpStream, scratch: &mut [u8]) -> bool {
    match socket.read(scratch) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

impl Stream {
    /// One `write`. `false` when the stream is broken.
    fn send(&mut self, frame: &[u8], epoll: &OwnedFd) -> bool {
        if self.has_unsent() {
            return self.keep(frame, epoll);
        }
        match self.socket.write(frame) {
            Ok(written) if written == frame.len() => true,
            Ok(written) => self.keep(&frame[written..], epoll),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.keep(frame, epoll),
            Err(_) => false,
        }
    }

    /// One `writev` for all that is queued. `false` when the stream is broken.
    fn flush(&mut self, epoll: &OwnedFd) -> bool {
        let Some(waiting) = &mut self.waiting else { return true };
        let mut queue = std::mem::take(&mut waiting.queue);
        let is_open = match &queue[..] {
            [frame] => self.send(frame, epoll),
            frames => frames.chunks(PIECES_MAX).all(|frames| self.send_all(frames, epoll)),
        };
        queue.clear();
        if let Some(waiting) = &mut self.waiting {
            waiting.queue = queue;
        }
        is_open
    }

    fn send_all(&mut self, frames: &[Rc<[u8]>], epoll: &OwnedFd) -> bool {
        let mut written = 0;
        if !self.has_unsent() {
            let pieces: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
            written = match self.socket.write_vectored(&pieces) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
        }
        frames.iter().all(|frame| {
            let gone = written.min(frame.len());
            written -= gone;
            gone == frame.len() || self.keep(&frame[gone..], epoll)
        })
    }

    fn has_unsent(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| !waiting.unsent.is_empty())
    }

    /// Keeps what the kernel has no room for, and has it say when it has.
    fn keep(&mut self, bytes: &[u8], epoll: &OwnedFd) -> bool {
        if !self.has_unsent() && !self.watch(epoll, epoll::EventFlags::IN | epoll::EventFlags::OUT) {
            return false;
        }
        let unsent = &mut self.waiting.get_or_insert_default().unsent;
        unsent.extend_from_slice(bytes);
        unsent.len() <= UNSENT_MAX_BYTES
    }

    /// Sends what was kept. `false` when the stream is broken.
    fn send_unsent(&mut self, epoll: &OwnedFd) -> bool {
        let Some(waiting) = &mut self.waiting else { return true };
        match self.socket.write(&waiting.unsent) {
            Ok(written) => waiting.unsent.drain(..written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        };
        self.has_unsent() || self.watch(epoll, epoll::EventFlags::IN)
    }

    fn watch(&self, epoll: &OwnedFd, flags: epoll::EventFlags) -> bool {
        let data = epoll::EventData::new_u64(self.socket.as_raw_fd() as u64);
        epoll::modify(epoll, &self.socket, data, flags).is_ok()
    }
}
