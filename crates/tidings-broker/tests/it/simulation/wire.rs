//! The bytes between a server and a client, and a shard's socket that is as bad as a socket may be.
//!
//! What can be said of the bytes alone is checked where they are written: frames are whole when the
//! next thing begins, a heartbeat stands between them, nothing comes after `closing`, and a socket is shut
//! down after `closing` and not before.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use rand::{Rng as _, rngs::StdRng};
use tidings_hub::{
    Adoption, LiveSettings, QueueLimits, ShardSocket, Tick, Time as _,
    shard::{Readiness, SimulatedSocket},
};
use tidings_protocol::{
    CloseReason,
    sse::{HEARTBEAT, Parsed, Parser},
};

use super::{
    clock::SimClock,
    sights::{ShardSights, count},
};

/// How finely a shard tells times apart.
const GRANULE: Tick = Tick::from_millis(16);

/// How long a socket may stay after the last byte.
const LINGER_MAX: Tick = Tick::from_secs(5);

/// What a client may send.
const INPUT_MAX_BYTES: usize = 64 * 1024;

pub(crate) type SharedWire = Arc<Mutex<Wire>>;

/// Where in a stream of blocks one is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Blocks {
    in_line: bool,
    in_comment: bool,
    in_block: bool,
}

impl Blocks {
    pub(crate) fn push(&mut self, byte: u8) {
        match byte {
            b'\n' if !self.in_line => {
                assert!(self.in_block, "an empty line that ends nothing");
                self.in_block = false;
            }
            b'\n' => (self.in_line, self.in_comment) = (false, false),
            b':' if !self.in_line => {
                assert!(!self.in_block, "a heartbeat within a frame");
                (self.in_line, self.in_comment) = (true, true);
            }
            _ => {
                assert!(!self.in_comment, "a heartbeat says nothing");
                (self.in_line, self.in_block) = (true, true);
            }
        }
    }

    /// Whether all that was begun has ended.
    pub(crate) fn is_whole(&self) -> bool {
        !self.in_line && !self.in_block
    }
}

/// What the client's side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Reads,
    HalfClosed,
    Fails(ErrorKind),
    /// It takes nothing and says nothing, and nothing tells the server of it.
    Silent {
        is_known: bool,
    },
}

/// One connection's bytes.
pub(crate) struct Wire {
    clock: Arc<SimClock>,
    settings: Arc<LiveSettings>,
    pub(crate) sights: Arc<Mutex<ShardSights>>,
    rng: StdRng,
    capacity: usize,
    unread: VecDeque<u8>,
    written: u64,
    read: u64,
    /// After how many bytes come live events.
    live_from: Option<u64>,
    /// Of all that was written.
    blocks: Blocks,
    parser: Parser,
    closing: Option<CloseReason>,
    /// The task that waits for room.
    waker: Option<Waker>,
    /// The server gives up waiting for the next items, and asks again.
    pub(crate) interrupt: bool,
    /// The stream is to go to a shard when it can.
    pub(crate) offer: Option<Adoption>,
    pub(crate) ends_at: Option<Tick>,
    pub(crate) is_on_shard: bool,
    /// Whether the world knows of that.
    pub(crate) is_known: bool,
    pub(crate) peer: Peer,
    is_blocked: bool,
    /// The server waits for a word that bytes are taken again.
    awaits_edge: bool,
    /// So does the server for a word that there is something to receive.
    has_readable_edge: bool,
    input_bytes: usize,
    received_bytes: usize,
    /// Why the server may end the stream: what it was told of the peer, and what it was asked.
    told: Option<CloseReason>,
    pub(crate) asked: Vec<CloseReason>,
    was_lost: std::cell::Cell<bool>,
    /// When its shard was first seen to have it. What was due before is due then.
    pub(crate) adopted_at: Tick,
    written_at: Tick,
    tried_at: Tick,
    stalled_at: Option<Tick>,
    has_stalled: bool,
    /// Whether the server was told, rightly or not, that bytes were taken again.
    was_writable: bool,
    /// Whether something was received since somebody looked.
    pub(crate) was_probed: bool,
    shut_down_at: Option<Tick>,
    is_dropped: bool,
}

impl Wire {
    pub(crate) fn new(
        clock: Arc<SimClock>,
        settings: Arc<LiveSettings>,
        sights: Arc<Mutex<ShardSights>>,
        rng: StdRng,
        capacity: usize,
    ) -> Self {
        let now = clock.tick();
        Self {
            clock,
            settings,
            sights,
            rng,
            capacity,
            unread: VecDeque::new(),
            written: 0,
            read: 0,
            live_from: None,
            blocks: Blocks::default(),
            parser: Parser::new(1 << 20),
            closing: None,
            waker: None,
            interrupt: false,
            offer: None,
            ends_at: None,
            is_on_shard: false,
            is_known: false,
            peer: Peer::Reads,
            is_blocked: false,
            awaits_edge: false,
            has_readable_edge: false,
            input_bytes: 0,
            received_bytes: 0,
            told: None,
            asked: Vec::new(),
            was_lost: std::cell::Cell::new(false),
            adopted_at: now,
            written_at: now,
            tried_at: now,
            stalled_at: None,
            has_stalled: false,
            was_writable: false,
            was_probed: false,
            shut_down_at: None,
            is_dropped: false,
        }
    }

    /// Makes the stream an offer to be served by a shard.
    pub(crate) fn offer(wire: &SharedWire, ends_at: Option<Tick>) {
        let socket = ShardSocket::Simulated(Box::new(SimSocket(wire.clone())));
        let mut wire = wire.lock();
        let ends_at = ends_at.map(|at| (at, CloseReason::MaxAge));
        let settings = wire.settings.clone();
        wire.offer = Some(Adoption { socket, settings, ends_at, silent_since: Tick::ZERO, input_bytes: 0 });
    }

    /// Takes the offer, if there is one.
    pub(crate) fn take_offer(&mut self) -> Option<Adoption> {
        let mut adoption = self.offer.take()?;
        adoption.silent_since = self.written_at;
        self.ends_at = adoption.ends_at.map(|(at, _)| at);
        self.is_on_shard = true;
        Some(adoption)
    }

    pub(crate) fn limits(&self) -> QueueLimits {
        self.settings.limits
    }

    /// The stream stays with its task.
    pub(crate) fn not_taken(&mut self) {
        self.sights.lock().not_taken += 1;
        (self.is_on_shard, self.is_dropped) = (false, false);
    }

    pub(crate) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.unread.len() < self.capacity {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Live events come from here on.
    pub(crate) fn begin_live(&mut self) {
        self.live_from.get_or_insert(self.written);
    }

    /// The bytes go to the client, whoever writes them.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.closing, None, "{:?} comes after `closing`", *byte as char);
            self.blocks.push(*byte);
            let mut parsed = Vec::new();
            self.parser.push(&[*byte], |event| parsed.push(event)).expect("a short frame");
            for event in parsed {
                if let Parsed::Event { event, data, .. } = event
                    && event == "closing"
                {
                    let data: serde_json::Value = serde_json::from_str(&data).expect("JSON");
                    let reason = data["reason"].as_str().expect("a reason");
                    let is_it = |known: &CloseReason| known.as_str() == reason;
                    self.closing = CloseReason::ALL.into_iter().find(is_it);
                    assert!(self.closing.is_some(), "the reason {reason}");
                }
            }
        }
        self.written += bytes.len() as u64;
        self.written_at = self.clock.tick();
        self.unread.extend(bytes);
    }

    /// What the client reads next, and whether it is of the time after the catch-up. The two never come together.
    pub(crate) fn read(&mut self, max_bytes: usize) -> (Vec<u8>, bool) {
        let left = self.live_from.and_then(|from| from.checked_sub(self.read)).filter(|left| *left > 0);
        let max_bytes = left.map_or(max_bytes, |left| max_bytes.min(left as usize));
        let is_live = self.live_from.is_some_and(|from| from <= self.read);
        let bytes: Vec<u8> = self.unread.drain(..max_bytes.min(self.unread.len())).collect();
        self.read += bytes.len() as u64;
        if self.unread.len() < self.capacity
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
        (bytes, is_live)
    }

    pub(crate) fn unread_bytes(&self) -> usize {
        self.unread.len()
    }

    /// Whether the shard sends nothing more.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_dropped || self.shut_down_at.is_some()
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// What the client's side does from now on.
    pub(crate) fn set_peer(&mut self, peer: Peer) {
        (self.peer, self.has_readable_edge) = (peer, true);
        match peer {
            Peer::Reads => {}
            Peer::HalfClosed => self.capacity = usize::MAX,
            Peer::Fails(_) => self.awaits_edge = true,
            Peer::Silent { .. } => (self.is_blocked, self.has_readable_edge) = (true, false),
        }
    }

    pub(crate) fn send_to_server(&mut self, bytes: usize) {
        (self.input_bytes, self.has_readable_edge) = (self.input_bytes + bytes, true);
    }

    /// What an epoll would tell of it now, once.
    pub(crate) fn take_readiness(&mut self) -> Readiness {
        let takes_bytes = match self.peer {
            Peer::Reads | Peer::HalfClosed => self.unread.len() < self.capacity,
            Peer::Fails(_) => true,
            Peer::Silent { .. } => false,
        };
        let writable = takes_bytes && std::mem::take(&mut self.awaits_edge);
        if takes_bytes {
            self.is_blocked = false;
        }
        self.was_writable |= writable;
        Readiness { readable: std::mem::take(&mut self.has_readable_edge), writable }
    }

    pub(crate) fn on_spurious(&mut self, readiness: Readiness) {
        self.was_writable |= readiness.writable;
    }

    /// Why the shard may have ended it, now that it has.
    pub(crate) fn reasons(&self) -> Vec<CloseReason> {
        if self.shut_down_at.is_some() {
            return self.closing.into_iter().collect();
        }
        let now = self.clock.tick();
        let is_timeout = self.stalled_at.is_some_and(|at| at + self.settings.write_timeout <= now);
        let mut reasons: Vec<_> = self.told.into_iter().collect();
        reasons.extend(is_timeout.then_some(CloseReason::PeerTimeout));
        assert_ne!(reasons, [], "the socket was dropped, and nothing was wrong with it");
        self.sights.lock().write_timeouts += u64::from(is_timeout && self.told.is_none());
        // Those that the server was about to tell come before.
        reasons.extend(self.own_reasons(now));
        reasons
    }

    fn own_reasons(&self, now: Tick) -> Vec<CloseReason> {
        let mut reasons = self.asked.clone();
        reasons.extend(self.ends_at.filter(|at| *at <= now).map(|_| CloseReason::MaxAge));
        // Who takes all that there is does not overflow.
        reasons.extend(self.has_stalled.then_some(CloseReason::SlowConsumer));
        reasons.extend(self.was_lost.get().then_some(CloseReason::PeerTimeout));
        reasons
    }

    /// The shard has had its turn, and what was due is done.
    pub(crate) fn assert_in_time(&self) {
        let now = self.clock.tick();
        if let Some(at) = self.shut_down_at {
            assert!(at + LINGER_MAX + GRANULE > now, "the socket lingers since {at:?}, and it is {now:?}");
            return;
        }
        match self.stalled_at {
            Some(_) if self.was_writable => {}
            Some(at) => {
                let due = at + self.settings.write_timeout + GRANULE;
                assert!(due > now, "nothing was taken since {at:?}, and it is {now:?}");
            }
            None => {
                let due = (self.tried_at.max(self.written_at) + self.settings.heartbeat).max(self.adopted_at);
                assert!(due + GRANULE > now, "nothing was written since {:?}, and it is {now:?}", self.written_at);
            }
        }
        if let Some(at) = self.ends_at.filter(|_| self.stalled_at.is_none()) {
            assert!(at.max(self.adopted_at) + GRANULE > now, "the stream's time was over at {at:?}, and it is {now:?}");
        }
    }

    fn stall(&mut self) {
        (self.awaits_edge, self.has_stalled) = (true, true);
        if self.stalled_at.is_none() {
            self.sights.lock().stalls += 1;
            (self.stalled_at, self.was_writable) = (Some(self.clock.tick()), false);
        }
    }

    fn fail(&mut self, kind: ErrorKind) -> io::Error {
        let error = io::Error::from(kind);
        self.told.get_or_insert(tidings_hub::shard::close_reason_of(&error));
        error
    }
}

/// A shard's end of a wire.
struct SimSocket(SharedWire);

impl SimulatedSocket for SimSocket {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut guard = self.0.lock();
        let wire = &mut *guard;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(!bytes.is_empty(), "a call to send nothing");
        assert!(wire.shut_down_at.is_none(), "a call to send what comes after the end");
        let now = wire.clock.tick();
        let is_beat = bytes == HEARTBEAT;
        assert!(
            !is_beat || wire.written_at + wire.settings.heartbeat <= now,
            "a heartbeat without silence: {:?}, {now:?}",
            wire.written_at
        );
        wire.tried_at = now;
        if wire.rng.random_ratio(1, 50) {
            return Err(ErrorKind::Interrupted.into());
        }
        if let Peer::Fails(kind) = wire.peer {
            return Err(wire.fail(kind));
        }
        let room = wire.capacity.saturating_sub(wire.unread.len());
        if wire.is_blocked || room == 0 {
            wire.stall();
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut taken = bytes.len().min(room);
        if wire.rng.random_ratio(1, 4) {
            taken = wire.rng.random_range(1..=taken);
        }
        wire.write(&bytes[..taken]);
        wire.stalled_at = None;
        if taken < bytes.len() {
            wire.is_blocked = true;
            wire.stall();
        }
        let mut sights = wire.sights.lock();
        sights.heartbeats += u64::from(is_beat);
        sights.half_heartbeats += u64::from(wire.blocks.in_comment);
        if taken < bytes.len() && wire.blocks.in_block {
            sights.short_inside_frame += 1;
            let is_closing = bytes[..taken].windows(14).any(|bytes| bytes == b"event: closing");
            sights.short_inside_closing += u64::from(is_closing);
        }
        Ok(taken)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut guard = self.0.lock();
        let wire = &mut *guard;
        wire.was_probed = true;
        if wire.rng.random_ratio(1, 50) {
            return Err(ErrorKind::Interrupted.into());
        }
        if wire.input_bytes > 0 {
            let bytes = wire.input_bytes.min(buffer.len());
            let bytes = wire.rng.random_range(1..=bytes);
            wire.input_bytes -= bytes;
            wire.received_bytes += bytes;
            if wire.received_bytes > INPUT_MAX_BYTES && wire.shut_down_at.is_none() {
                wire.sights.lock().too_much_input += u64::from(wire.told.is_none());
                wire.told.get_or_insert(CloseReason::Error);
            }
            return Ok(bytes);
        }
        match wire.peer {
            Peer::HalfClosed => {
                wire.told.get_or_insert(CloseReason::ClientClosed);
                Ok(0)
            }
            Peer::Fails(kind) => Err(wire.fail(kind)),
            Peer::Reads | Peer::Silent { .. } => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn shut_down(&mut self) {
        let mut wire = self.0.lock();
        assert!(wire.closing.is_some() && wire.blocks.is_whole(), "the socket is shut down before all is said");
        let now = wire.clock.tick();
        assert_eq!(wire.shut_down_at.replace(now), None, "the socket is shut down twice");
        let reason = wire.closing.expect("it has just been looked at");
        let own = wire.own_reasons(now);
        assert!(own.contains(&reason), "`closing` says {reason}, where there was {own:?}");
        count(&mut wire.sights.lock().closed, reason);
    }

    fn is_peer_lost(&self) -> bool {
        let wire = self.0.lock();
        let is_lost = matches!(wire.peer, Peer::Silent { is_known: true });
        wire.was_lost.set(wire.was_lost.get() || is_lost);
        is_lost
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut wire = self.0.lock();
        wire.is_dropped = true;
        let is_in_vain = wire.told.is_none() && wire.shut_down_at.is_some();
        wire.sights.lock().lingered_in_vain += u64::from(is_in_vain);
    }
}
