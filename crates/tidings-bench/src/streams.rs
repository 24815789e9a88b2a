//! Many streams, each a socket, a parser and nothing more.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::Context as _;

use crate::{
    clock::now_nanos,
    connection::{ReceiveBuffer, connect, unless_blocked},
    epoll::{Epoll, Kind, Ready},
    events::{Event, Scanner},
    response::{Part, Response},
    target::{ServerKind, Target},
};

/// One buffer for all: what is in it is used before the next socket is read.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// How long nothing may come while streams are being opened.
pub(crate) const STALL_NANOS: u64 = 10_000_000_000;

/// Which streams of all are this client's, if several share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Shard {
    pub(crate) index: u64,
    pub(crate) of: u64,
}

impl Shard {
    /// How many of so many are this client's.
    pub(crate) fn share(self, total: u64) -> u64 {
        total / self.of + u64::from(self.index < total % self.of)
    }

    /// The number among all of one of this client's.
    pub(crate) fn number(self, own: u64) -> u64 {
        own * self.of + self.index
    }
}

/// Which channel a stream listens to.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) enum Channels {
    /// All the same one.
    Shared(String),
    /// Each its own: a user's, or the prefix and the stream's number.
    Own(String),
    /// So many, in turn, that begin with the prefix.
    Some(String, u64),
}

impl Channels {
    pub(crate) fn name(&self, target: &Target, number: u64) -> String {
        match self {
            Self::Shared(name) => name.clone(),
            Self::Own(prefix) => target.own_channel(prefix, number),
            Self::Some(prefix, count) => format!("{prefix}{}", number % count.max(&1)),
        }
    }
}

/// What was heard of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is open. The time since it began to connect, in nanoseconds.
    Opened(u64),
    /// It could not be opened.
    Failed,
    /// Something came on it.
    Said(Event),
    /// It was open and is no more.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Asked,
    Open,
    Over,
}

struct Slot {
    socket: Option<TcpStream>,
    phase: Phase,
    request: Vec<u8>,
    response: Response,
    scanner: Scanner,
    since: u64,
    number: u64,
}

/// The streams of one client.
pub(crate) struct Streams {
    target: Arc<Target>,
    kind: Kind,
    channels: Channels,
    cursor: Option<String>,
    slots: Vec<Slot>,
    /// Whether those that never read are read all the same, at the end.
    reads_slow: bool,
    pub(crate) opening: usize,
    pub(crate) open: usize,
    pub(crate) failed: usize,
    pub(crate) bytes_received: u64,
    /// Why the first one failed that did.
    pub(crate) first_failure: Option<String>,
}

impl Streams {
    pub(crate) fn new(target: Arc<Target>, kind: Kind, channels: Channels, cursor: Option<String>) -> Self {
        Self {
            target,
            kind,
            channels,
            cursor,
            slots: Vec::new(),
            reads_slow: false,
            opening: 0,
            open: 0,
            failed: 0,
            bytes_received: 0,
            first_failure: None,
        }
    }

    /// Begins to open a stream, in the place of one that is over or in a new one. Answers its index.
    pub(crate) fn begin(&mut self, epoll: &Epoll, index: Option<usize>, number: u64) -> anyhow::Result<usize> {
        let index = index.unwrap_or(self.slots.len());
        let slot = Slot {
            socket: None,
            phase: Phase::Over,
            request: Vec::new(),
            response: Response::default(),
            scanner: Scanner::default(),
            since: now_nanos(),
            number,
        };
        match self.slots.get_mut(index) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        let channel = self.channels.name(&self.target, number);
        let mut request = Vec::new();
        self.target.write_stream_request(&mut request, &channel, number, self.cursor.as_deref())?;
        let address = self.target.stream_address();
        let buffer = if self.kind == Kind::Slow { ReceiveBuffer::Smallest } else { ReceiveBuffer::Default };
        match connect(address, self.target.source(address, number), buffer) {
            Ok(socket) => {
                epoll.add(&socket, self.kind, index)?;
                let slot = &mut self.slots[index];
                slot.socket = Some(socket);
                slot.phase = Phase::Connecting;
                slot.request = request;
                self.opening += 1;
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("connecting to {address}: {error}"));
            }
        }
        Ok(index)
    }

    /// Opens so many of this client's share, some at a time, and waits until each is open or has
    /// failed. A server that stalls is not waited for.
    pub(crate) fn open_all(
        &mut self,
        epoll: &mut Epoll,
        shard: Shard,
        count: u64,
        concurrency: u64,
        buffer: &mut [u8],
        mut hear: impl FnMut(usize, Heard, u64),
    ) -> anyhow::Result<()> {
        let mut begun = 0;
        let mut last_progress = now_nanos();
        loop {
            while begun < count && (self.opening as u64) < concurrency.max(1) {
                self.begin(epoll, None, shard.number(begun))?;
                begun += 1;
            }
            if begun == count && self.opening == 0 {
                return Ok(());
            }
            let before = self.opening;
            let deadline = last_progress + STALL_NANOS;
            let count_ready = epoll.wait(Some(deadline))?;
            for at in 0..count_ready {
                let ready = epoll.ready(at);
                if ready.kind == self.kind {
                    self.ready(ready, buffer, &mut hear);
                }
            }
            let now = now_nanos();
            if self.opening != before {
                last_progress = now;
            } else if now >= deadline {
                self.give_up_opening();
            }
        }
    }

    fn give_up_opening(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot.phase, Phase::Connecting | Phase::Asked) {
                (slot.phase, slot.socket) = (Phase::Over, None);
                self.failed += 1;
            }
        }
        self.opening = 0;
        self.first_failure.get_or_insert_with(|| "no answer within 10 s".to_owned());
    }

    /// Does what the socket is ready for, and tells what was heard.
    pub(crate) fn ready(&mut self, ready: Ready, buffer: &mut [u8], mut hear: impl FnMut(usize, Heard, u64)) {
        let index = ready.index;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let is_left_alone = self.kind == Kind::Slow && slot.phase == Phase::Open && !self.reads_slow;
        if slot.phase == Phase::Over || is_left_alone {
            return;
        }
        if let Err(failure) = slot.work(ready, self.target.kind, buffer, &mut self.bytes_received, |heard, now| {
            if let Heard::Opened(_) = heard {
                self.opening -= 1;
                self.open += 1;
            }
            hear(index, heard, now);
        }) {
            let was_open = slot.phase == Phase::Open;
            (slot.phase, slot.socket) = (Phase::Over, None);
            let now = now_nanos();
            if was_open {
                self.open -= 1;
                hear(index, Heard::Ended, now);
            } else {
                self.opening -= 1;
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{failure:#}"));
                hear(index, Heard::Failed, now);
            }
        }
    }

    /// Leaves a stream, in one of the ways that clients do: by closing it, or by a reset. Answers
    /// whether it had been open.
    pub(crate) fn leave(&mut self, index: usize, by_reset: bool) -> bool {
        let slot = &mut self.slots[index];
        let was_open = slot.phase == Phase::Open;
        match std::mem::replace(&mut slot.phase, Phase::Over) {
            Phase::Over => return false,
            Phase::Open => self.open -= 1,
            _ => {
                self.opening -= 1;
                self.failed += 1;
            }
        }
        if let Some(socket) = slot.socket.take()
            && by_reset
        {
            // If it cannot be asked for, the stream is closed in the ordinary way.
            let _ordinary = socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
        }
        was_open
    }

    /// Reads what there is of a stream that was not read until now.
    pub(crate) fn look(&mut self, index: usize, buffer: &mut [u8], hear: impl FnMut(usize, Heard, u64)) {
        self.reads_slow = true;
        let ready = Ready { kind: self.kind, index, is_readable: true, is_writable: true, is_closed: true };
        self.ready(ready, buffer, hear);
    }

    /// How many there are, in any state.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number of a stream among those of all clients.
    pub(crate) fn number(&self, index: usize) -> u64 {
        self.slots[index].number
    }
}

impl Slot {
    fn work(
        &mut self,
        ready: Ready,
        server: ServerKind,
        buffer: &mut [u8],
        bytes_received: &mut u64,
        mut hear: impl FnMut(Heard, u64),
    ) -> anyhow::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.phase == Phase::Connecting {
            if !ready.is_writable && !ready.is_closed {
                return Ok(());
            }
            if let Some(error) = socket.take_error()? {
                return Err(error).context("connecting");
            }
            // Requests are shorter than any new socket's buffer.
            (&*socket).write_all(&self.request).context("sending the request")?;
            self.request = Vec::new();
            self.phase = Phase::Asked;
            if ready.kind == Kind::Slow {
                self.phase = Phase::Open;
                hear(Heard::Opened(0), self.since);
                return Ok(());
            }
        }
        if !ready.is_readable {
            return Ok(());
        }
        loop {
            let Some(read) = unless_blocked((&*socket).read(buffer)).context("reading the stream")? else {
                return Ok(());
            };
            anyhow::ensure!(read > 0, "the server ended the stream");
            let now = now_nanos();
            *bytes_received += read as u64;
            let (mut failure, mut refused, mut has_ended) = (None, None, false);
            let (phase, scanner, since) = (&mut self.phase, &mut self.scanner, self.since);
            let open = |phase: &mut Phase| {
                if *phase == Phase::Asked {
                    *phase = Phase::Open;
                    return Some(Heard::Opened(now.saturating_sub(since)));
                }
                None
            };
            self.response.feed(&buffer[..read], |part| match part {
                Part::Head(head) if head.status != 200 => refused = Some((head.status, &[][..])),
                Part::Head(_) => {
                    if server == ServerKind::Plain
                        && let Some(opened) = open(phase)
                    {
                        hear(opened, now);
                    }
                }
                Part::Data(data) => match &mut refused {
                    Some((_, said)) => *said = data,
                    None => {
                        let scanned = scanner.feed(data, |event| {
                            if event == Event::Connected
                                && let Some(opened) = open(phase)
                            {
                                hear(opened, now);
                            }
                            hear(Heard::Said(event), now);
                        });
                        failure = failure.take().or(scanned.err());
                    }
                },
                Part::End => has_ended = true,
            })?;
            if let Some((status, said)) = refused {
                anyhow::bail!(
                    "the server answered {status}: {}",
                    String::from_utf8_lossy(&said[..said.len().min(300)])
                );
            }
            if let Some(failure) = failure {
                return Err(failure.into());
            }
            anyhow::ensure!(!has_ended, "the server ended the stream");
            if read < buffer.len() && !ready.is_closed {
                return Ok(());
            }
        }
    }
}
