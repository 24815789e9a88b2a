//! One connection of a shard: what waits for it, what its socket takes of it, and what is due.
//!
//! It goes from live to ending (what is queued and `closing` are still to be written) to lingering (all is
//! written, and the peer has a moment to close its side: closing a socket that has unread input sends a
//! reset, which destroys what the peer has not read yet). It may be lost at any time.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use smallvec::SmallVec;
use tidings_protocol::{Channel, CloseReason, EventId, envelope::Closing, sse};

use super::{Handover, INPUT_MAX_BYTES, LINGER_IDLE, LINGER_MAX, LiveSettings, ShardSocket, close_reason_of};
use crate::{
    confirm::Sight,
    connection::Transport,
    counters::Counters,
    frame::{Format, SharedFrame},
    hub::Tick,
    waiting::{Pushed, Waiting},
};

/// Frames that go into one call.
const SLICES_MAX: usize = 64;

/// Bytes, about, that go into one call: a socket's send buffer takes them.
const WRITE_MAX_BYTES: usize = 256 * 1024;

/// In this order, and aligned so, all that an event needs of it lies in one line of the processor's cache:
/// with ten thousand listeners, each further line is a wait for memory.
#[repr(C, align(64))]
pub(super) struct Connection {
    socket: ShardSocket,
    waiting: Waiting,
    ending: Option<Box<Ending>>,
    /// When something was written last, or since when the socket takes nothing, in nanoseconds.
    since_nanos: u64,
    format: Format,
    pub(super) transport: Transport,
    flow: Flow,
    /// Whether half a heartbeat was written.
    owes_newline: bool,
    /// Whether the shard knows that there is something to write.
    pub(super) is_dirty: bool,
    input_bytes: u32,
    /// Its place in the hub's registry.
    pub(super) number: u32,
    settings: Arc<LiveSettings>,
    /// Its channels by their numbers, each with its place among the channel's listeners on this shard.
    pub(super) channels: SmallVec<[(u32, u32); 2]>,
    ends_at: Option<(Tick, CloseReason)>,
}

const _: () = assert!(size_of::<Option<Connection>>() == 128, "two lines");

/// Whether the socket takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// It takes nothing until it says that it does.
    Stalled,
    /// It has said so, and has not taken any yet: should it have lied, it has been stalled all the time.
    Reopened,
}

struct Ending {
    reason: CloseReason,
    /// The `closing` event, and how much of it is written.
    tail: Vec<u8>,
    written_bytes: usize,
    lingering: Option<Lingering>,
}

struct Lingering {
    idle_until: Tick,
    ends_at: Tick,
}

/// What is to be done with a connection after something has happened to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Keep,
    /// It has something to write.
    Write,
    /// Its timer should be set anew.
    Timer,
    /// All is written and the socket is shut down: the stream has ended, the socket lingers.
    Ended(CloseReason),
    /// The stream has ended, and the socket is of no more use.
    Lost { reason: CloseReason, abort: bool },
    /// The socket, whose stream has ended before, is of no more use.
    Gone,
}

impl Connection {
    pub(super) fn new(handover: Handover) -> Self {
        let Handover { number, transport, channels, waiting, format, adoption, .. } = handover;
        Self {
            socket: adoption.socket,
            settings: adoption.settings,
            number,
            channels: channels.into_iter().map(|channel| (channel, 0)).collect(),
            waiting,
            since_nanos: nanos(adoption.silent_since),
            ends_at: adoption.ends_at,
            ending: None,
            input_bytes: adoption.input_bytes,
            format,
            transport,
            flow: Flow::Open,
            owes_newline: false,
            is_dirty: false,
        }
    }

    pub(super) fn socket(&self) -> &ShardSocket {
        &self.socket
    }

    pub(super) fn into_socket(self) -> ShardSocket {
        self.socket
    }

    /// Frames and bytes that wait.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting.bytes(self.format))
    }

    /// It does not listen to the channel any more.
    pub(super) fn forget(&mut self, channel: &Channel) {
        self.waiting.forget(channel, self.format);
    }

    /// Whether the peer has acknowledged all up to the event. All that came before it in the feed has been pushed.
    pub(super) fn look(&self, event: EventId, mark: Option<u64>) -> Sight {
        // One that ends may have dropped what waited.
        if self.ending.is_some() {
            return Sight::Gone;
        }
        if self.waiting.has_any_up_to(event) {
            return Sight::Unwritten;
        }
        Sight::of(self.socket.progress(), mark)
    }

    fn is_stalled(&self) -> bool {
        self.flow == Flow::Stalled
    }

    /// Whether the stream has ended and only the socket is left.
    pub(super) fn is_lingering(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.lingering.is_some())
    }

    /// Whether there is nothing that an event would have to wait for.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.waiting, Waiting::Nothing)
            && self.flow == Flow::Open
            && self.ending.is_none()
            && !self.owes_newline
    }

    fn since(&self) -> Tick {
        Tick::from_nanos(self.since_nanos)
    }

    /// Writes an event at once instead of queueing it, to a connection that is idle.
    pub(super) fn write_at_once(
        &mut self,
        frame: &Arc<SharedFrame>,
        now_nanos: u64,
        done: impl FnOnce(&SharedFrame),
    ) -> Next {
        let bytes = frame.bytes(self.format);
        let written = match self.socket.send(&[IoSlice::new(bytes)]) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return self.lose(close_reason_of(&error)),
        };
        self.since_nanos = now_nanos;
        if written >= bytes.len() {
            done(frame);
            return Next::Keep;
        }
        self.waiting = Waiting::One(frame.clone());
        self.waiting.advance(self.format, written, |_| {});
        // The next attempt shows whether it was interrupted or takes nothing.
        self.flow = Flow::Reopened;
        Next::Write
    }

    /// An event of one of its channels. `done` is told each frame that the socket takes whole.
    pub(super) fn push(
        &mut self,
        frame: &Arc<SharedFrame>,
        now: Tick,
        counters: &Counters,
        done: impl FnMut(&SharedFrame),
    ) -> Next {
        if self.ending.is_some() {
            return Next::Keep;
        }
        let (format, limits) = (self.format, self.settings.limits);
        let mut pushed = self.waiting.push(frame, format, limits, now, counters);
        let mut next = Next::Keep;
        if pushed == Pushed::NoRoom && !self.is_stalled() {
            // It may be the shard that is behind, and not the peer: what waits goes out first.
            self.waiting.flush();
            next = self.write(now, done);
            if matches!(next, Next::Lost { .. }) {
                return next;
            }
            pushed = self.waiting.push(frame, format, limits, now, counters);
        }
        match pushed {
            Pushed::Waits { .. } if self.is_stalled() => next,
            Pushed::Waits { is_news: false } => next,
            Pushed::Waits { is_news: true } if self.waiting.flush_at().is_some() => Next::Timer,
            Pushed::Waits { is_news: true } => Next::Write,
            Pushed::NoRoom => {
                let dropped = self.waiting.clear(format) + 1;
                counters.overflowed.add(dropped);
                let reason =
                    if self.socket.is_peer_lost() { CloseReason::PeerTimeout } else { CloseReason::SlowConsumer };
                match self.end(reason) {
                    Next::Keep => next,
                    end => end,
                }
            }
        }
    }

    /// Ends the stream after what is queued. The first reason stays.
    pub(super) fn end(&mut self, reason: CloseReason) -> Next {
        if self.ending.is_some() {
            return Next::Keep;
        }
        let (low, high) = self.settings.retry_millis;
        let retry = Some(rand::random_range(low..=high.max(low)));
        let mut tail = Vec::new();
        sse::write_closing(&mut tail, &Closing { reason: reason.as_str().to_owned(), retry });
        self.ending = Some(Box::new(Ending { reason, tail, written_bytes: 0, lingering: None }));
        if self.is_stalled() { Next::Keep } else { Next::Write }
    }

    /// Writes what waits, as much as the socket takes. `done` is told each frame that it has taken whole.
    pub(super) fn write(&mut self, now: Tick, mut done: impl FnMut(&SharedFrame)) -> Next {
        if self.is_stalled() || self.is_lingering() {
            return Next::Keep;
        }
        loop {
            let ending = self.ending.as_deref();
            let is_due = ending.is_some() || self.waiting.flush_at().is_none_or(|at| at <= now);
            let mut slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> = SmallVec::new();
            if self.owes_newline {
                slices.push(IoSlice::new(&sse::HEARTBEAT[1..]));
            }
            let is_all = is_due && self.waiting.gather(self.format, WRITE_MAX_BYTES, &mut slices);
            if let Some(ending) = ending.filter(|_| is_all) {
                slices.push(IoSlice::new(&ending.tail[ending.written_bytes..]));
            }
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            if bytes == 0 {
                self.flow = Flow::Open;
                break;
            }
            let sent = self.socket.send(&slices);
            drop(slices);
            match sent {
                Ok(written) => {
                    self.since_nanos = nanos(now);
                    self.on_written(written, &mut done);
                    if written < bytes {
                        self.flow = Flow::Stalled;
                        return Next::Timer;
                    }
                    self.flow = Flow::Open;
                    if is_all && self.ending.is_none() {
                        return Next::Keep;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if std::mem::replace(&mut self.flow, Flow::Stalled) == Flow::Open {
                        self.since_nanos = nanos(now);
                    }
                    return Next::Timer;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(close_reason_of(&error)),
            }
        }
        let Some(ending) = self.ending.as_mut() else {
            return if self.waiting.is_empty() { Next::Keep } else { Next::Timer };
        };
        self.socket.shut_down();
        ending.lingering = Some(Lingering { idle_until: now + LINGER_IDLE, ends_at: now + LINGER_MAX });
        Next::Ended(ending.reason)
    }

    fn on_written(&mut self, mut written: usize, done: impl FnMut(&SharedFrame)) {
        if written > 0 && std::mem::take(&mut self.owes_newline) {
            written -= 1;
        }
        let of_frames = written.min(self.waiting.bytes(self.format));
        if of_frames > 0 {
            self.waiting.advance(self.format, of_frames, done);
        }
        if let Some(ending) = &mut self.ending {
            ending.written_bytes += written - of_frames;
        }
    }

    /// The socket takes bytes again.
    pub(super) fn on_writable(&mut self) -> Next {
        if self.flow != Flow::Stalled {
            return Next::Keep;
        }
        self.flow = Flow::Reopened;
        Next::Write
    }

    /// The socket has input, or its end, or an error.
    pub(super) fn on_readable(&mut self, now: Tick, buffer: &mut [u8]) -> Next {
        loop {
            match self.socket.receive(buffer) {
                Ok(0) => return self.lose(CloseReason::ClientClosed),
                Ok(bytes) => {
                    // Of a lingering peer too: one that sends as fast as it is read must not hold up the others.
                    self.input_bytes = self.input_bytes.saturating_add(bytes as u32);
                    if self.input_bytes > INPUT_MAX_BYTES {
                        return self.lose(CloseReason::Error);
                    }
                    if let Some(lingering) = self.ending.as_mut().and_then(|ending| ending.lingering.as_mut()) {
                        if now >= lingering.ends_at {
                            return Next::Gone;
                        }
                        lingering.idle_until = (now + LINGER_IDLE).min(lingering.ends_at);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(close_reason_of(&error)),
            }
        }
    }

    /// The connection is of no more use. Where the server has ended the stream, that is the reason.
    fn lose(&self, reason: CloseReason) -> Next {
        if self.is_lingering() {
            return Next::Gone;
        }
        let reason = self.ending.as_ref().map_or(reason, |ending| ending.reason);
        Next::Lost { reason, abort: false }
    }

    /// When the connection should be looked at again, if nothing happens before.
    pub(super) fn deadline(&self) -> Tick {
        if let Some(lingering) = self.ending.as_ref().and_then(|ending| ending.lingering.as_ref()) {
            return lingering.idle_until;
        }
        let mut deadline = match self.is_stalled() {
            true => self.since() + self.settings.write_timeout,
            false => self.since() + self.settings.heartbeat,
        };
        if let Some(flush_at) = self.waiting.flush_at().filter(|_| !self.is_stalled()) {
            deadline = deadline.min(flush_at);
        }
        match &self.ends_at {
            Some((ends_at, _)) if self.ending.is_none() => deadline.min(*ends_at),
            _ => deadline,
        }
    }

    /// Time has passed: does what is due.
    pub(super) fn on_timer(&mut self, now: Tick) -> Next {
        if let Some(lingering) = self.ending.as_ref().and_then(|ending| ending.lingering.as_ref()) {
            return if lingering.idle_until <= now { Next::Gone } else { Next::Timer };
        }
        if self.is_stalled() && self.since() + self.settings.write_timeout <= now {
            let reason = self.ending.as_ref().map_or(CloseReason::PeerTimeout, |ending| ending.reason);
            return Next::Lost { reason, abort: true };
        }
        if let Some((_, reason)) = self.ends_at.filter(|(at, _)| self.ending.is_none() && *at <= now) {
            return match self.end(reason) {
                Next::Keep => Next::Timer,
                next => next,
            };
        }
        if self.is_stalled() {
            return Next::Timer;
        }
        if self.waiting.flush_at().is_some_and(|at| at <= now) {
            return Next::Write;
        }
        // Whatever waits is silence too: it waits for a window's end, which is far shorter than a heartbeat.
        if self.since() + self.settings.heartbeat <= now && self.ending.is_none() {
            return self.beat(now);
        }
        Next::Timer
    }

    fn beat(&mut self, now: Tick) -> Next {
        self.since_nanos = nanos(now);
        match self.socket.send(&[IoSlice::new(sse::HEARTBEAT)]) {
            Ok(written) if written == sse::HEARTBEAT.len() => {}
            Ok(written) => {
                self.owes_newline = written == 1;
                self.flow = Flow::Stalled;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.flow = Flow::Stalled,
            // At the next beat.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return self.lose(close_reason_of(&error)),
        }
        Next::Timer
    }
}

/// A tick as a number of eight bytes: five hundred years.
pub(super) fn nanos(tick: Tick) -> u64 {
    tick.as_nanos() as u64
}
