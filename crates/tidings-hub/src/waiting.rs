//! The frames that wait for one subscriber: bounded in bytes and events, conflating.
//!
//! The rule of this file: the frames are in the order of the log, whatever happens. A newer
//! conflating event therefore joins the tail and never takes the place of the one it replaces: its
//! cursor would claim events that stand between the two and have not been sent.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use smallvec::{Array, SmallVec};
use tidings_protocol::{Channel, EventId};

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

    /// Whether a frame waits that is not beyond the event's place, be it that a part of it is written.
    pub(crate) fn has_any_up_to(&self, event: EventId) -> bool {
        let is_up_to = |frame: &SharedFrame| {
            let at = frame.logged.id();
            at.partition == event.partition && at.at.position <= event.at.position
        };
        match self {
            Self::Nothing => false,
            Self::One(frame) => is_up_to(frame),
            Self::Many(many) => many.frames.iter().any(|frame| is_up_to(frame)),
        }
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

    /// Drops the frames of a channel, but one that has been written in part.
    pub(crate) fn forget(&mut self, channel: &Channel, format: Format) {
        let is_of = |frame: &SharedFrame| frame.logged.event.channel == *channel;
        match self {
            Self::One(frame) if is_of(frame) => *self = Self::Nothing,
            Self::Nothing | Self::One(_) => {}
            Self::Many(many) => {
                let mut is_whole = many.written_bytes == 0;
                many.frames.retain(|frame| !std::mem::replace(&mut is_whole, true) || !is_of(frame));
                many.bytes = many.frames.iter().map(|frame| frame.bytes(format).len()).sum();
                if many.frames.is_empty() {
                    *self = Self::Nothing;
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_protocol::{Channel, Cursor, Data, Epoch, Event, EventType, LoggedEvent, Partition, Position};

    use super::*;

    const FORMAT: Format = Format::Sse;

    const LIMITS: QueueLimits = QueueLimits { max_bytes: 1500, max_events: 10 };

    /// The data of each frame is its number, so that its bytes tell it from all others.
    fn frame(number: usize, size: usize, conflate: Option<u8>, window_millis: u64) -> Arc<SharedFrame> {
        let event = Event {
            channel: Channel::parse("a").unwrap(),
            event_type: EventType::default(),
            data: Data::trusted(format!("\"{number}{}\"", "x".repeat(size))),
            sent_at: 0,
            key: None,
            conflate: conflate.map(|value| value.to_string().into()),
            expires_in_secs: None,
            is_ephemeral: false,
        };
        let partition = Partition::new(0).unwrap();
        let position = Position(number as u64 + 1);
        let logged =
            LoggedEvent { partition, epoch: Epoch(1), position, previous: Position::ZERO, accepted_at: 0, event };
        let cursor: Cursor = logged.id().into();
        let window = if conflate.is_some() { Tick::from_millis(window_millis) } else { Tick::ZERO };
        Arc::new(SharedFrame::new(Arc::new(logged), cursor, window))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { size: usize, conflate: Option<u8>, window_millis: u64 },
        Write { most: usize },
        Take { max_bytes: usize },
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..200_usize, prop::option::of(0..3_u8), prop::sample::select(vec![0, 0, 100_u64]))
                .prop_map(|(size, conflate, window_millis)| Step::Push { size, conflate, window_millis }),
            4 => (0..600_usize).prop_map(|most| Step::Write { most }),
            1 => (0..600_usize).prop_map(|max_bytes| Step::Take { max_bytes }),
            1 => Just(Step::Clear),
        ]
    }

    /// What a queue is, simply: frames, and how much of the first is written.
    #[derive(Default)]
    struct Model {
        frames: Vec<Arc<SharedFrame>>,
        written: usize,
    }

    impl Model {
        fn bytes(&self) -> Vec<u8> {
            let all: Vec<u8> = self.frames.iter().flat_map(|frame| frame.bytes(FORMAT).to_vec()).collect();
            all[self.written..].to_vec()
        }

        fn push(&mut self, frame: &Arc<SharedFrame>) -> bool {
            let whole = usize::from(self.written > 0);
            if let Some(at) = (whole..self.frames.len()).find(|at| frame.replaces(&self.frames[*at])) {
                self.frames.remove(at);
            }
            let bytes: usize = self.frames.iter().chain([frame]).map(|frame| frame.bytes(FORMAT).len()).sum();
            let fits = self.frames.len() < LIMITS.max_events && bytes <= LIMITS.max_bytes;
            if fits || self.frames.is_empty() {
                self.frames.push(frame.clone());
            }
            fits || self.frames.len() == 1
        }
    }

    fn gathered(waiting: &Waiting) -> Vec<u8> {
        let mut slices: SmallVec<[IoSlice<'_>; 16]> = SmallVec::new();
        assert!(waiting.gather(FORMAT, usize::MAX, &mut slices), "ten frames fit");
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    proptest! {
        /// However the bytes go out, they are those of the frames in their order, each frame is told once
        /// when it is whole, and a newer event never touches one that is written in part.
        #[test]
        fn what_goes_out_is_what_the_model_has(steps in prop::collection::vec(step(), 0..80)) {
            let (mut waiting, mut model) = (Waiting::default(), Model::default());
            let counters = Counters::default();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push { size, conflate, window_millis } => {
                        let frame = frame(number, size, conflate, window_millis);
                        let has_room = model.push(&frame);
                        let pushed = waiting.push(&frame, FORMAT, LIMITS, Tick::ZERO, &counters);
                        prop_assert_eq!(pushed != Pushed::NoRoom, has_room);
                    }
                    Step::Write { most } => {
                        let written = most.min(model.bytes().len());
                        let mut done = Vec::new();
                        waiting.advance(FORMAT, written, |frame| done.push(frame.logged.position));
                        model.written += written;
                        let mut should_be = Vec::new();
                        while let Some(first) = model.frames.first().filter(|f| f.bytes(FORMAT).len() <= model.written) {
                            model.written -= first.bytes(FORMAT).len();
                            should_be.push(model.frames.remove(0).logged.position);
                        }
                        prop_assert_eq!(done, should_be);
                    }
                    // Whoever takes whole frames does not write parts.
                    Step::Take { max_bytes } if model.written == 0 => {
                        let mut frames = Vec::new();
                        waiting.take(FORMAT, max_bytes, &mut frames);
                        let bytes: usize = frames.iter().map(|frame| frame.bytes(FORMAT).len()).sum();
                        prop_assert!(bytes <= max_bytes || frames.len() == 1);
                        prop_assert_eq!(frames.is_empty(), model.frames.is_empty());
                        for (taken, first) in frames.iter().zip(model.frames.drain(..frames.len())) {
                            prop_assert!(Arc::ptr_eq(taken, &first));
                        }
                    }
                    Step::Take { .. } => {}
                    Step::Clear => {
                        let kept = usize::from(model.written > 0);
                        let dropped = model.frames.len().saturating_sub(kept);
                        model.frames.truncate(kept);
                        prop_assert_eq!(waiting.clear(FORMAT), dropped);
                    }
                }
                prop_assert_eq!(waiting.len(), model.frames.len());
                prop_assert_eq!(waiting.is_empty(), model.frames.is_empty());
                prop_assert_eq!(waiting.bytes(FORMAT), model.bytes().len());
                prop_assert_eq!(gathered(&waiting), model.bytes());
                let all_may_be_replaced = model.frames.iter().all(|frame| !frame.conflate_window.is_zero());
                if model.written > 0 || !all_may_be_replaced {
                    prop_assert_eq!(waiting.flush_at(), None, "an ordinary event waits for nothing");
                }
            }
        }

        /// What one call takes is bounded in bytes and in slices, and is the beginning of what waits.
        #[test]
        fn one_call_takes_the_beginning(sizes in prop::collection::vec(0..300_usize, 1..30), max_bytes in 1..3000_usize) {
            let roomy = QueueLimits { max_bytes: usize::MAX, max_events: usize::MAX };
            let (mut waiting, mut model) = (Waiting::default(), Model::default());
            for (number, size) in sizes.into_iter().enumerate() {
                let frame = frame(number, size, None, 0);
                waiting.push(&frame, FORMAT, roomy, Tick::ZERO, &Counters::default());
                model.frames.push(frame);
            }
            let mut slices: SmallVec<[IoSlice<'_>; 16]> = SmallVec::new();
            let is_all = waiting.gather(FORMAT, max_bytes, &mut slices);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert!(slices.len() < 16);
            prop_assert!(slices.len() == 1 || bytes.len() - slices[slices.len() - 1].len() < max_bytes);
            prop_assert!(model.bytes().starts_with(&bytes));
            prop_assert_eq!(is_all, bytes.len() == model.bytes().len());
        }
    }
}
