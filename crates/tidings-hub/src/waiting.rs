//! The frames that wait for one subscriber: bounded in bytes and events, conflating.
//!
//! The rule of this file: the frames are in the order of the log, whatever happens. A newer
//! conflating event therefore joins the tail and never takes the place of the one it replaces: its
//! cursor would claim events that stand between the two and have not been sent.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use smallvec::{Array, SmallVec};

use crate::{
    Tick,
    counters::Counters,
    frame::{Format, SharedFrame},
};

/// How much may wait for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// In encoded bytes. One frame is always taken, however large.
    pub max_bytes: usize,
    /// In frames.
    pub max_events: usize,
}

/// Frames in order. Two words, for nearly all of a node's streams have nothing that waits.
#[derive(Debug, Default)]
pub(crate) enum Waiting {
    #[default]
    Nothing,
    /// One that need not wait any longer: what there is when streams keep up.
    One(Arc<SharedFrame>),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
pub(crate) struct Many {
    frames: VecDeque<Arc<SharedFrame>>,
    /// Of all frames, including what has been written of the first.
    bytes: usize,
    /// How much of the first frame its transport has taken. Such a frame cannot be replaced.
    written_bytes: usize,
    /// When the frames may be taken although all of them may still be replaced. `None` while one of
    /// them is ordinary, which flushes the queue in order.
    flush_at: Option<Tick>,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits. If it is not news, who waits for the window's end need not be told of more of the same.
    Waits { is_news: bool },
    /// There was no room for it. It does not wait, and the queue should be dropped.
    NoRoom,
}

impl Waiting {
    /// Appends a frame.
    pub(crate) fn push(
        &mut self,
        frame: &Arc<SharedFrame>,
        format: Format,
        limits: QueueLimits,
        now: Tick,
        counters: &Counters,
    ) -> Pushed {
        if matches!(self, Self::Nothing) && frame.conflate_window.is_zero() {
            *self = Self::One(frame.clone());
            return Pushed::Waits { is_news: true };
        }
        self.many(format).push(frame, format, limits, now, counters)
    }

    fn many(&mut self, format: Format) -> &mut Many {
        if !matches!(self, Self::Many(_)) {
            let mut many = Many::default();
            if let Self::One(frame) = std::mem::take(self) {
                many.bytes = frame.bytes(format).len();
                many.frames.push_back(frame);
            }
            *self = Self::Many(Box::new(many));
        }
        match self {
            Self::Many(many) => many,
            Self::Nothing | Self::One(_) => unreachable!("it has just been made"),
        }
    }

    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.frames.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self, format: Format) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(frame) => frame.bytes(format).len(),
            Self::Many(many) => many.bytes - many.written_bytes,
        }
    }

    /// Until when all that waits may still be replaced, if it may.
    pub(crate) fn flush_at(&self) -> Option<Tick> {
        match self {
            Self::Nothing | Self::One(_) => None,
            Self::Many(many) => many.flush_at.filter(|_| many.written_bytes == 0),
        }
    }

    /// What waits need wait no longer.
    pub(crate) fn flush(&mut self) {
        if let Self::Many(many) = self {
            many.flush_at = None;
        }
    }

    /// Drops all frames but one that has been written in part. Answers how many were dropped.
    pub(crate) fn clear(&mut self, format: Format) -> usize {
        let before = self.len();
        match self {
            Self::Many(many) if many.written_bytes > 0 => {
                many.frames.truncate(1);
                many.bytes = many.frames.iter().map(|frame| frame.bytes(format).len()).sum();
            }
            _ => *self = Self::Nothing,
        }
        before - self.len()
    }

    /// Moves frames of up to about `max_bytes` (and at least one) to `frames`.
    pub(crate) fn take(&mut self, format: Format, max_bytes: usize, frames: &mut Vec<Arc<SharedFrame>>) {
        let before = frames.len();
        match self {
            Self::Nothing => return,
            Self::One(frame) => frames.push(frame.clone()),
            Self::Many(many) => {
                let mut taken = 0;
                while let Some(frame) = many.frames.front() {
                    let bytes = frame.bytes(format).len();
                    if frames.len() > before && taken + bytes > max_bytes {
                        break;
                    }
                    taken += bytes;
                    frames.extend(many.frames.pop_front());
                }
                many.bytes -= taken;
                if !many.frames.is_empty() {
                    return;
                }
            }
        }
        // Give back what a burst needed.
        *self = Self::Nothing;
    }

    /// Appends the bytes that wait to `slices`, in order, until they are full or have `max_bytes`.
    /// Answers whether those are all.
    pub(crate) fn gather<'a, A>(&'a self, format: Format, max_bytes: usize, slices: &mut SmallVec<A>) -> bool
    where
        A: Array<Item = IoSlice<'a>>,
    {
        match self {
            Self::Nothing => true,
            Self::One(frame) => {
                slices.push(IoSlice::new(frame.bytes(format)));
                true
            }
            Self::Many(many) => {
                let mut bytes = 0;
                let mut skip = many.written_bytes;
                for frame in &many.frames {
                    // One place is left for what may follow the frames.
                    if slices.len() + 1 >= slices.inline_size() || bytes >= max_bytes {
                        return false;
                    }
                    let slice = &frame.bytes(format)[std::mem::take(&mut skip)..];
                    bytes += slice.len();
                    slices.push(IoSlice::new(slice));
                }
                true
            }
        }
    }

    /// The transport has taken so many more of the bytes that wait. Each frame of which it has now all
    /// is told to `done`.
    pub(crate) fn advance(&mut self, format: Format, written_bytes: usize, mut done: impl FnMut(&SharedFrame)) {
        match self {
            Self::Nothing => return,
            Self::One(frame) if written_bytes >= frame.bytes(format).len() => done(frame),
            Self::One(_) | Self::Many(_) => {
                let many = self.many(format);
                many.written_bytes += written_bytes;
                while let Some(frame) = many.frames.front() {
                    let bytes = frame.bytes(format).len();
                    if many.written_bytes < bytes {
                        return;
                    }
                    done(frame);
                    many.written_bytes -= bytes;
                    many.bytes -= bytes;
                    many.frames.pop_front();
                }
            }
        }
        *self = Self::Nothing;
    }
}

impl Many {
    fn push(
        &mut self,
        frame: &Arc<SharedFrame>,
        format: Format,
        limits: QueueLimits,
        now: Tick,
        counters: &Counters,
    ) -> Pushed {
        // Before one is replaced: that a newer one takes over must not postpone the window's end.
        let was_empty = self.frames.is_empty();
        self.drop_replaced_by(frame, format, counters);
        let bytes = frame.bytes(format).len();
        let fits = self.frames.len() < limits.max_events && self.bytes + bytes <= limits.max_bytes;
        if !fits && !self.frames.is_empty() {
            return Pushed::NoRoom;
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
        Pushed::Waits { is_news: was_empty || self.flush_at.is_none() }
    }

    fn drop_replaced_by(&mut self, newer: &SharedFrame, format: Format, counters: &Counters) {
        if newer.logged.event.conflate.is_none() {
            return;
        }
        let first_whole = usize::from(self.written_bytes > 0);
        // There is at most one, as each that joined removed its elder; likely near the tail.
        if let Some(at) = self.frames.iter().rposition(|older| newer.replaces(older))
            && at >= first_whole
            && let Some(older) = self.frames.remove(at)
        {
            self.bytes -= older.bytes(format).len();
            counters.conflated.add(1);
        }
    }
}
