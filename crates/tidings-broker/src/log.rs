//! One partition of a log, in memory: what history holds, what it no longer holds, and which keys
//! were used. No I/O and no clock; whoever owns it says what time it is.
//!
//! An event passes through it twice: [`PartitionLog::admit`] gives it a position (or finds that its
//! key was used), and [`PartitionLog::release`] makes it visible, once it is as durable as its
//! namespace promises. Releases are in the order of positions; a position whose event never became
//! durable is passed over.
//!
//! The rule of this file: **what is forgotten leaves a mark.** An event that history drops raises its
//! channel's [`Gone`]; a channel whose record is dropped raises the floor of its namespace. A cursor
//! below such a mark gets a `gap`, perhaps needlessly where only a floor is left, never missing.

mod keys;
mod reading;
mod record;
mod restore;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use hashlink::{LinkedHashMap, linked_hash_map::Entry};
use tidings_core::{Namespaces, ports::ChannelState};
use tidings_protocol::{
    Channel, Epoch, Event, EventId, GapReason, LoggedEvent, Millis, Partition, PartitionCursor, Position,
};

pub use keys::{KeyLimits, KeyRecord};
use keys::{Keys, Verdict};
use record::{Record, Tally};
pub use restore::{Floors, StoredChannel, StoredLabel};

/// How much one partition may hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// All events of history together, by [`Event::cost_bytes`]. The oldest go first, whatever their
    /// channel: memory is one thing, however many channels share it.
    pub history_max_bytes: usize,
    /// Channels of which something is known. Records outlive their events, so that a cursor older
    /// than all of them is not told of a gap for nothing; names come from publishers, hence a limit.
    pub channels_max: usize,
    /// Used idempotency keys.
    pub keys: KeyLimits,
}

/// How far history no longer reaches, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The highest position that is no longer held; zero if nothing ever went.
    pub through: Position,
    /// Why that one went.
    pub reason: GapReason,
}

impl Gone {
    /// Nothing ever went.
    pub const NOTHING: Self = Self { through: Position::ZERO, reason: GapReason::Evicted };

    fn raise(&mut self, to: Self) {
        if to.through > self.through {
            *self = to;
        }
    }
}

/// What becomes of an event that asks for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has this position, to be released or withdrawn.
    New {
        /// Its position.
        position: Position,
        /// What is remembered of its key, for whoever keeps that on disk.
        key: Option<KeyRecord>,
    },
    /// The same event has this position already.
    Duplicate(Position),
    /// Its key was used for another event.
    Conflict,
}

/// What a log that is also on disk has to take off it, in this order. Applying a prefix is safe: what
/// says that something went comes before that which takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The event at this position is no longer held.
    Dropped(Position),
    /// The channel has no events left; its record stays.
    Emptied(StoredChannel),
    /// The channel's record is gone too, and the floor of its namespace is at least this.
    Forgotten {
        /// The channel.
        channel: Channel,
        /// The label of its namespace.
        label: Box<str>,
        /// The floor of that label.
        floor: Gone,
    },
    /// From now on not all events of this label's channels are stored.
    Volatile(Box<str>),
}

/// Sizes and counts of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Events in history.
    pub history_events: usize,
    /// Their cost.
    pub history_bytes: usize,
    /// Channels with a record.
    pub channels: usize,
    /// Idempotency keys.
    pub keys: usize,
    /// Events that made room for others, ever.
    pub evicted: u64,
    /// Events that grew older than their namespace's `history_ttl`, ever.
    pub expired: u64,
    /// Keys that were forgotten before their window ended, because there were too many, ever.
    pub keys_forgotten: u64,
}

/// The state of one partition.
#[derive(Debug)]
pub struct PartitionLog {
    partition: Partition,
    epoch: Epoch,
    /// The last position that was released or passed over.
    head: Position,
    /// The next position to be given.
    next: Position,
    limits: LogLimits,
    /// Least recently appended to first.
    channels: LinkedHashMap<Channel, Record>,
    floors: Floors,
    /// Every event held, oldest first, among others that went already and are skipped.
    order: VecDeque<(Position, Channel)>,
    /// When channels' oldest events expire: at most one entry per record, besides those of records
    /// that were forgotten meanwhile.
    expiries: BinaryHeap<Reverse<(Millis, Channel)>>,
    keys: Keys,
    tally: Tally,
}

impl PartitionLog {
    /// An empty log whose first position is `start`, so that no cursor of an earlier process reaches
    /// the position before it. `key_seed` must be the same whenever stored keys are restored.
    pub fn new(
        partition: Partition,
        epoch: Epoch,
        start: Position,
        floors: Floors,
        limits: LogLimits,
        key_seed: u64,
    ) -> Self {
        Self {
            partition,
            epoch,
            head: start.previous(),
            next: start,
            limits,
            channels: LinkedHashMap::new(),
            floors,
            order: VecDeque::new(),
            expiries: BinaryHeap::new(),
            keys: Keys::new(limits.keys, key_seed),
            tally: Tally::default(),
        }
    }

    /// How far it can be read.
    pub fn head(&self) -> PartitionCursor {
        PartitionCursor { epoch: self.epoch, position: self.head }
    }

    /// The position that the next admitted event gets.
    pub fn next_position(&self) -> Position {
        self.next
    }

    /// The identity of the event at a position.
    pub fn id(&self, position: Position) -> EventId {
        EventId { partition: self.partition, at: PartitionCursor { epoch: self.epoch, position } }
    }

    /// Gives an event its place, unless its key was used. The key counts as used from here on.
    pub fn admit(&mut self, event: &Event, now: Millis) -> Admission {
        let key = self.keys.describe(event);
        if let Some(key) = key {
            match self.keys.look_up(key, now) {
                Verdict::Unknown => {}
                Verdict::Same(position) => return Admission::Duplicate(position),
                Verdict::Other => return Admission::Conflict,
            }
        }
        let position = self.next;
        self.next = position.next();
        if let Some(key) = key {
            self.keys.insert(key, position, now);
        }
        Admission::New { position, key }
    }

    /// The event that was admitted at this position will not be in the log. Its key is free again.
    pub fn withdraw(&mut self, position: Position, key: Option<KeyRecord>) {
        if let Some(key) = key {
            self.keys.remove(key, position);
        }
    }

    /// The event of an admission, in its place. `previous` is set when it is released.
    pub fn place(&self, event: Event, position: Position, now: Millis) -> LoggedEvent {
        let (partition, epoch) = (self.partition, self.epoch);
        LoggedEvent { partition, epoch, position, previous: Position::ZERO, accepted_at: now, event }
    }

    /// The place of the channel's last released event, or how far it is unknown.
    pub fn last_position(&self, channel: &Channel, namespaces: &Namespaces) -> Position {
        match self.channels.get(channel) {
            Some(record) => record.last_position,
            None => self.floors.of(channel, namespaces).through,
        }
    }

    /// Makes an event visible. It must have been admitted after all that were released before.
    /// `is_stored` says that it is also on disk, so that its going must be told ([`Change`]).
    pub fn release(
        &mut self,
        mut logged: Arc<LoggedEvent>,
        is_stored: bool,
        namespaces: &Namespaces,
        now: Millis,
    ) -> Arc<LoggedEvent> {
        let channel = logged.event.channel.clone();
        if logged.event.is_ephemeral {
            return self.pass_by(logged, namespaces);
        }
        let namespace = namespaces.of(&channel);
        let record = match self.channels.entry(channel.clone()) {
            Entry::Occupied(mut occupied) => {
                occupied.to_back();
                occupied.into_mut()
            }
            Entry::Vacant(vacant) => vacant.insert(Record::new(self.floors.of(&channel, namespaces))),
        };
        if logged.previous != record.last_position {
            Arc::make_mut(&mut logged).previous = record.last_position;
        }
        self.head = self.head.max(logged.position);
        record.last_position = logged.position;
        record.is_stored |= is_stored;
        record.events.push_back(logged.clone());
        self.tally.on_held(&logged);
        record.trim(&channel, namespace, now, &mut self.tally);
        if !record.events.is_empty() {
            self.order.push_back((logged.position, channel.clone()));
            record.schedule(&channel, namespace, &mut self.expiries);
        }
        self.forget_channels(namespaces, now);
        self.evict_for_memory(now);
        self.compact();
        logged
    }

    /// The release of an ephemeral event: it needs no record, and leaves no mark but its place.
    fn pass_by(&mut self, mut logged: Arc<LoggedEvent>, namespaces: &Namespaces) -> Arc<LoggedEvent> {
        let previous = self.last_position(&logged.event.channel, namespaces);
        if logged.previous != previous {
            Arc::make_mut(&mut logged).previous = previous;
        }
        self.head = self.head.max(logged.position);
        logged
    }

    /// Passes over positions that were given and will not be released.
    pub fn pass_over(&mut self, through: Position) {
        self.head = self.head.max(through);
        self.next = self.next.max(through.next());
    }

    /// What it knows of a channel.
    pub fn channel(&mut self, channel: &Channel, namespaces: &Namespaces, now: Millis) -> ChannelState {
        let Some(record) = self.channels.get_mut(channel) else { return ChannelState::default() };
        record.trim(channel, namespaces.of(channel), now, &mut self.tally);
        let events = &record.events;
        ChannelState {
            history_len: events.len(),
            oldest: events.front().map(|logged| logged.id()),
            newest: events.back().map(|logged| logged.id()),
        }
    }

    /// Forgets a channel's events, and says how many they were. Its used keys stay used.
    pub fn purge(&mut self, channel: &Channel, now: Millis) -> usize {
        let Some(record) = self.channels.get_mut(channel) else { return 0 };
        record.purge(channel, now, &mut self.tally)
    }

    /// Drops what is past its time, at most about `budget` events and keys. `true` if there is more.
    pub fn sweep(&mut self, namespaces: &Namespaces, now: Millis, budget: usize) -> bool {
        let mut left = budget;
        while let Some(Reverse((at, _))) = self.expiries.peek()
            && *at <= now
        {
            if left == 0 {
                return true;
            }
            let Some(Reverse((_, channel))) = self.expiries.pop() else { break };
            let Some(record) = self.channels.get_mut(&channel) else { continue };
            record.is_scheduled = false;
            let held = record.events.len();
            record.trim(&channel, namespaces.of(&channel), now, &mut self.tally);
            record.schedule(&channel, namespaces.of(&channel), &mut self.expiries);
            left = left.saturating_sub(1 + held - record.events.len());
        }
        self.compact();
        self.keys.sweep(now, left)
    }

    /// The rules have been replaced. A namespace that was durable and is not any more will have lost
    /// events after the next start, even if it is durable again by then.
    pub fn on_new_rules(&mut self, old: &Namespaces, new: &Namespaces) {
        let was_volatile = |label: &str| old.labelled().any(|(old, namespace)| old == label && !namespace.durable);
        let turned = new.labelled().filter(|(label, namespace)| !namespace.durable && !was_volatile(label));
        self.tally.changes.extend(turned.map(|(label, _)| Change::Volatile(label.into())));
    }

    /// What is to be taken off the disk since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.tally.changes)
    }

    /// Keys of positions before this one are not needed any more.
    pub fn oldest_key(&self) -> Position {
        self.keys.oldest().unwrap_or(self.next)
    }

    /// Its sizes and counts.
    pub fn stats(&self) -> LogStats {
        LogStats {
            history_events: self.tally.events,
            history_bytes: self.tally.bytes,
            channels: self.channels.len(),
            keys: self.keys.len(),
            evicted: self.tally.evicted,
            expired: self.tally.expired,
            keys_forgotten: self.keys.forgotten(),
        }
    }

    fn forget_channels(&mut self, namespaces: &Namespaces, now: Millis) {
        while self.channels.len() > self.limits.channels_max.max(1) {
            let Some((channel, mut record)) = self.channels.pop_front() else { return };
            let is_stored = std::mem::replace(&mut record.is_stored, false);
            // The floor first: a crash between the two must find the mark, not the hole without it.
            let dropped = record.drop_all(now, &mut self.tally);
            let floor = self.floors.raise(&channel, namespaces, record.gone);
            if is_stored {
                let label = namespaces.label(&channel).into();
                self.tally.changes.push(Change::Forgotten { channel, label, floor });
                self.tally.changes.extend(dropped.into_iter().map(Change::Dropped));
            }
        }
    }

    fn evict_for_memory(&mut self, now: Millis) {
        while self.tally.bytes > self.limits.history_max_bytes {
            let Some((position, channel)) = self.order.pop_front() else { return };
            let Some(record) = self.channels.get_mut(&channel) else { continue };
            if record.events.front().is_some_and(|front| front.position == position) {
                record.drop_front(&channel, GapReason::Evicted, now, &mut self.tally);
            }
        }
    }

    /// Keeps what is queued beside the records in proportion to them. Each pass is paid for by as
    /// many entries that were added since the last.
    fn compact(&mut self) {
        const SLACK: usize = 1024;
        if self.order.len() > 2 * self.tally.events + SLACK {
            let channels = &self.channels;
            self.order.retain(|(position, channel)| {
                let front = channels.get(channel).and_then(|record| record.events.front());
                front.is_some_and(|front| front.position <= *position)
            });
        }
        if self.expiries.len() > 2 * self.channels.len() + SLACK {
            let channels = &self.channels;
            self.expiries.retain(|Reverse((_, channel))| channels.contains_key(channel));
            // A channel that was forgotten and came back may stand twice; that is found when due.
        }
    }
}

#[cfg(test)]
mod tests;
