//! What waits for one subscriber: bounded in bytes and events, conflating, closed for one reason.
//!
//! The rule of this file: a queue's frames are in the order of the log, whatever happens. A newer
//! conflating event therefore joins the tail and never takes the place of the one it replaces: its
//! cursor would claim events that stand between the two and have not been sent.

use std::{collections::VecDeque, sync::Arc, task::Waker};

use tidings_protocol::{CloseReason, Cursor};

use crate::{
    Tick,
    counters::Counters,
    frame::{Format, SharedFrame},
};

/// How much may wait for one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// In encoded bytes. One frame is always taken, however large.
    pub max_bytes: usize,
    /// In frames.
    pub max_events: usize,
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
    frames: VecDeque<Arc<SharedFrame>>,
    bytes: usize,
    /// When the frames may be taken although all of them may still be replaced. `None` while one of
    /// them is ordinary, which flushes the queue in order.
    flush_at: Option<Tick>,
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

impl Queue {
    pub(crate) fn new(limits: QueueLimits, format: Format) -> Self {
        Self {
            limits,
            format,
            phase: Phase::Opening,
            frames: VecDeque::new(),
            bytes: 0,
            flush_at: None,
            close: None,
            waker: None,
        }
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
        // Before one is replaced: that a newer one takes over must not postpone the window's end.
        let was_empty = self.frames.is_empty();
        self.drop_replaced_by(frame, counters);
        let bytes = frame.bytes(self.format).len();
        let fits = self.frames.len() < self.limits.max_events && self.bytes + bytes <= self.limits.max_bytes;
        if !fits && !self.frames.is_empty() {
            return self.on_overflow(counters);
        }
        let window_ends = (!frame.conflate_window.is_zero()).then(|| now + frame.conflate_window);
        self.flush_at = match window_ends {
            None => None,
            Some(ends) if was_empty => Some(ends),
            // The first of them set the time; later ones must not postpone it.
            Some(_) => self.flush_at,
        };
        self.frames.push_back(frame.clone());
        self.bytes += bytes;
        // A transport that already waits for the window's end need not be told of more of the same.
        if was_empty || self.flush_at.is_none() { self.waker.take() } else { None }
    }

    fn drop_replaced_by(&mut self, newer: &SharedFrame, counters: &Counters) {
        if newer.logged.event.conflate.is_none() {
            return;
        }
        // There is at most one, as each that joined removed its elder; likely near the tail.
        if let Some(at) = self.frames.iter().rposition(|older| newer.replaces(older))
            && let Some(older) = self.frames.remove(at)
        {
            self.bytes -= older.bytes(self.format).len();
            counters.conflated.add(1);
        }
    }

    fn on_overflow(&mut self, counters: &Counters) -> Option<Waker> {
        let dropped = self.frames.len() + 1;
        self.frames = VecDeque::new();
        self.bytes = 0;
        self.flush_at = None;
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
        let is_live = matches!(self.phase, Phase::Live);
        if is_live && !self.frames.is_empty() {
            match self.flush_at {
                Some(at) if now < at && self.close.is_none() => return Ready::Nothing(Some(at)),
                _ => {}
            }
            let mut taken = 0;
            while let Some(frame) = self.frames.front() {
                let bytes = frame.bytes(self.format).len();
                if taken > 0 && taken + bytes > max_bytes {
                    break;
                }
                taken += bytes;
                frames.extend(self.frames.pop_front());
            }
            self.bytes -= taken;
            if self.frames.is_empty() {
                self.flush_at = None;
                // Give back what a burst needed.
                self.frames.shrink_to(16);
            }
            return Ready::Frames;
        }
        match self.close {
            Some(reason) => Ready::Closed(reason),
            None => Ready::Nothing(None),
        }
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
        (self.frames.len(), self.bytes)
    }
}
