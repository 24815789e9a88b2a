//! What is known of one channel.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque, sync::Arc};

use tidings_core::Namespace;
use tidings_protocol::{Channel, GapReason, LoggedEvent, Millis, Position};

use super::{Change, Gone, StoredChannel};

/// One channel's history. It outlives the events.
#[derive(Debug)]
pub(super) struct Record {
    /// By position, all above `gone.through` or else past their own `expires_in`.
    pub(super) events: VecDeque<Arc<LoggedEvent>>,
    pub(super) gone: Gone,
    /// The last released event, whether it is still held or not.
    pub(super) last_position: Position,
    /// Whether events of it are, or were, on disk.
    pub(super) is_stored: bool,
    /// Whether it stands in the heap of expiries.
    pub(super) is_scheduled: bool,
}

/// What all records add up to, and what the disk is yet to be told of.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) evicted: u64,
    pub(super) expired: u64,
    pub(super) changes: Vec<Change>,
}

impl Tally {
    pub(super) fn on_held(&mut self, logged: &LoggedEvent) {
        self.events += 1;
        self.bytes += logged.event.cost_bytes();
    }

    fn on_dropped(&mut self, logged: &LoggedEvent, reason: GapReason) {
        self.events -= 1;
        self.bytes -= logged.event.cost_bytes();
        match reason {
            GapReason::Expired => self.expired += 1,
            _ => self.evicted += 1,
        }
    }
}

impl Record {
    /// A channel of which no more is known than how far it is unknown.
    pub(super) fn new(gone: Gone) -> Self {
        Self { events: VecDeque::new(), gone, last_position: gone.through, is_stored: false, is_scheduled: false }
    }

    /// Drops what its namespace no longer keeps.
    pub(super) fn trim(&mut self, channel: &Channel, namespace: &Namespace, now: Millis, tally: &mut Tally) {
        while self.oldest_expires_at(namespace).is_some_and(|at| at <= now) {
            self.drop_front(channel, GapReason::Expired, now, tally);
        }
        while self.events.len() > namespace.history_size {
            self.drop_front(channel, GapReason::Evicted, now, tally);
        }
    }

    pub(super) fn drop_front(&mut self, channel: &Channel, reason: GapReason, now: Millis, tally: &mut Tally) {
        let Some(logged) = self.events.pop_front() else { return };
        // That an event is past its own time is not news to anybody.
        if !logged.is_past(now) {
            self.gone.raise(Gone { through: logged.position, reason });
        }
        tally.on_dropped(&logged, reason);
        if self.events.is_empty() {
            // Give back what a burst needed.
            self.events = VecDeque::new();
        }
        if self.is_stored {
            if self.events.is_empty() {
                tally.changes.push(Change::Emptied(self.stored(channel)));
            }
            tally.changes.push(Change::Dropped(logged.position));
        }
    }

    /// Drops all events for good, and says which they were.
    pub(super) fn drop_all(&mut self, now: Millis, tally: &mut Tally) -> Vec<Position> {
        let dropped = std::mem::take(&mut self.events);
        for logged in &dropped {
            if !logged.is_past(now) {
                self.gone.raise(Gone { through: logged.position, reason: GapReason::Evicted });
            }
            tally.on_dropped(logged, GapReason::Evicted);
        }
        dropped.iter().map(|logged| logged.position).collect()
    }

    pub(super) fn purge(&mut self, channel: &Channel, now: Millis, tally: &mut Tally) -> usize {
        let dropped = self.drop_all(now, tally);
        let count = dropped.len();
        if self.is_stored && count > 0 {
            tally.changes.push(Change::Emptied(self.stored(channel)));
            tally.changes.extend(dropped.into_iter().map(Change::Dropped));
        }
        count
    }

    /// Has itself looked at when its oldest event expires.
    pub(super) fn schedule(
        &mut self,
        channel: &Channel,
        namespace: &Namespace,
        expiries: &mut BinaryHeap<Reverse<(Millis, Channel)>>,
    ) {
        if let Some(at) = self.oldest_expires_at(namespace)
            && !self.is_scheduled
        {
            self.is_scheduled = true;
            expiries.push(Reverse((at, channel.clone())));
        }
    }

    fn oldest_expires_at(&self, namespace: &Namespace) -> Option<Millis> {
        let ttl = Millis::try_from(namespace.history_ttl.as_millis()).unwrap_or(Millis::MAX);
        self.events.front().map(|front| front.accepted_at.saturating_add(ttl))
    }

    fn stored(&self, channel: &Channel) -> StoredChannel {
        StoredChannel { channel: channel.clone(), gone: self.gone, last_position: self.last_position }
    }
}
