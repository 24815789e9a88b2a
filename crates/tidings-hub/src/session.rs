//! A subscriber that a task serves: every stream until it is live, and for good those whose transport
//! is not a plain socket.

use std::{
    sync::{Arc, atomic::AtomicBool},
    task::Waker,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidings_protocol::{Channel, CloseReason, Cursor};

use crate::{
    Tick,
    connection::ConnectionInfo,
    counters::Counters,
    frame::{Format, SharedFrame},
    registry::Since,
    waiting::{Pushed, QueueLimits, Waiting},
};

pub(crate) struct Session {
    pub(crate) info: ConnectionInfo,
    /// Its place in the hub's registry.
    pub(crate) number: u32,
    /// Its channels, by their numbers in the hub's index.
    pub(crate) channels: SmallVec<[u32; 2]>,
    pub(crate) queue: Mutex<Queue>,
    /// Whether it began without a cursor, so that it lacks what was before.
    pub(crate) is_new: bool,
    /// From where on it has its user's events.
    pub(crate) since: Mutex<Since>,
    /// Whether it has left a channel.
    pub(crate) has_left: AtomicBool,
    /// How many markers must come before its fence can be chosen.
    pub(crate) awaited: Mutex<usize>,
}

/// Where a stream stands between history and the feed.
#[derive(Debug)]
enum Phase {
    /// Its interest is not yet known to the broker, so the feed may lack events: history will have them.
    Opening,
    /// It reads history up to the fence. Live events beyond it wait here; when there are too many they
    /// are dropped, and a later fence has to be chosen.
    CatchingUp { fence: Cursor, overrun: bool },
    /// It has everything up to its queue.
    Live,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    format: Format,
    phase: Phase,
    waiting: Waiting,
    close: Option<CloseReason>,
    waker: Option<Waker>,
}

/// What a queue has for its transport.
pub(crate) enum Ready {
    Frames,
    Closed(CloseReason),
    /// Nothing yet; at the tick there will be, if one is given.
    Nothing(Option<Tick>),
}

impl Session {
    pub(crate) fn close(&self, reason: CloseReason) {
        let waker = self.queue.lock().close(reason);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits, format: Format) -> Self {
        Self { limits, format, phase: Phase::Opening, waiting: Waiting::default(), close: None, waker: None }
    }

    /// The fence has been chosen: history up to it, the feed from there on.
    pub(crate) fn begin_catch_up(&mut self, fence: Cursor) -> Option<Waker> {
        self.phase = Phase::CatchingUp { fence, overrun: false };
        self.waker.take()
    }

    pub(crate) fn fence(&self) -> Option<&Cursor> {
        match &self.phase {
            Phase::CatchingUp { fence, .. } => Some(fence),
            Phase::Opening | Phase::Live => None,
        }
    }

    /// History has been sent up to the fence. `false` if live events were dropped meanwhile.
    pub(crate) fn go_live(&mut self) -> bool {
        let overrun = matches!(self.phase, Phase::CatchingUp { overrun: true, .. });
        if !overrun {
            self.phase = Phase::Live;
        }
        !overrun
    }

    /// What a shard goes on with, once the stream is live.
    pub(crate) fn hand_over(&mut self) -> Option<(Waiting, Format, Option<CloseReason>)> {
        matches!(self.phase, Phase::Live).then(|| (std::mem::take(&mut self.waiting), self.format, self.close))
    }

    /// Appends a live frame and returns whom to wake.
    pub(crate) fn push(&mut self, frame: &Arc<SharedFrame>, now: Tick, counters: &Counters) -> Option<Waker> {
        if self.close.is_some() {
            return None;
        }
        match &self.phase {
            Phase::Opening | Phase::CatchingUp { overrun: true, .. } => return None,
            Phase::CatchingUp { fence, .. } => {
                let at = frame.logged.id();
                if fence.get(at.partition).is_some_and(|fence| at.at.position <= fence.position) {
                    return None;
                }
            }
            Phase::Live => {}
        }
        match self.waiting.push(frame, self.format, self.limits, now, counters) {
            Pushed::Waits { is_news: true } => self.waker.take(),
            Pushed::Waits { is_news: false } => None,
            Pushed::NoRoom => self.on_overflow(counters),
        }
    }

    fn on_overflow(&mut self, counters: &Counters) -> Option<Waker> {
        let dropped = self.waiting.clear(self.format) + 1;
        if let Phase::CatchingUp { overrun, .. } = &mut self.phase {
            // History has them; nothing is lost.
            *overrun = true;
            return None;
        }
        counters.overflowed.add(dropped);
        self.close(CloseReason::SlowConsumer)
    }

    /// Moves frames of up to about `max_bytes` (and at least one) to the transport.
    pub(crate) fn take(&mut self, now: Tick, max_bytes: usize, frames: &mut Vec<Arc<SharedFrame>>) -> Ready {
        if matches!(self.phase, Phase::Live) && !self.waiting.is_empty() {
            if let Some(at) = self.waiting.flush_at().filter(|at| now < *at && self.close.is_none()) {
                return Ready::Nothing(Some(at));
            }
            self.waiting.take(self.format, max_bytes, frames);
            return Ready::Frames;
        }
        match self.close {
            Some(reason) => Ready::Closed(reason),
            None => Ready::Nothing(None),
        }
    }

    /// It does not listen to the channel any more.
    pub(crate) fn forget(&mut self, channel: &Channel) {
        self.waiting.forget(channel, self.format);
    }

    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Ends the stream after what is queued. The first reason stays.
    pub(crate) fn close(&mut self, reason: CloseReason) -> Option<Waker> {
        self.close.get_or_insert(reason);
        self.waker.take()
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close
    }

    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting.bytes(self.format))
    }
}
