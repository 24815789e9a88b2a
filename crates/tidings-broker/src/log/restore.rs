//! A log as it stands after a restart: from what was stored, and from what is known to be lost.

use std::{collections::HashMap, sync::Arc};

use tidings_core::{Namespace, Namespaces};
use tidings_protocol::{Channel, GapReason, LoggedEvent, Millis, Position, channel::DEFAULT_NAMESPACE};

use super::{Change, Gone, KeyRecord, PartitionLog, record::Record};

/// How far back the channels are unknown that have no record, by namespace label. By label, so that
/// a busy namespace of passing channels does not make for needless gaps in the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floors(HashMap<Box<str>, Gone>);

/// What was stored of a namespace label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLabel {
    /// The label.
    pub label: Box<str>,
    /// Whether all events of its channels were stored in the process that wrote this.
    pub is_durable: bool,
    /// Its floor.
    pub floor: Gone,
}

/// What was stored of a channel without events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChannel {
    /// The channel.
    pub channel: Channel,
    /// What history no longer holds.
    pub gone: Gone,
    /// Its last event.
    pub last_position: Position,
}

impl Floors {
    /// The floors of a process whose first position is `start`, after one that stored these labels.
    /// What was not stored is gone up to `start`. Labels come and go with the configuration, and a
    /// channel without a label of its own is served by `default`, so where a label is new its
    /// channels were under the floor of `default`, and where it is gone they are from now on.
    pub fn at_start(stored: &[StoredLabel], namespaces: &Namespaces, start: Position) -> Self {
        let restart = Gone { through: start.previous(), reason: GapReason::Restart };
        let of = |label: &str| stored.iter().find(|stored| *stored.label == *label);
        let kept = |stored: &StoredLabel| if stored.is_durable { stored.floor } else { restart };
        let floor = |(label, namespace): (&str, &Namespace)| {
            let mut floor = match of(label).or_else(|| of(DEFAULT_NAMESPACE)) {
                _ if !namespace.durable => restart,
                Some(stored) => kept(stored),
                None => Gone::NOTHING,
            };
            if label == DEFAULT_NAMESPACE {
                let is_configured = |label: &str| namespaces.labelled().any(|(configured, _)| configured == label);
                stored.iter().filter(|old| !is_configured(&old.label)).for_each(|old| floor.raise(kept(old)));
            }
            (label.into(), floor)
        };
        Self(namespaces.labelled().map(floor).collect())
    }

    /// What is to be stored of them.
    pub fn to_stored(&self, namespaces: &Namespaces) -> Vec<StoredLabel> {
        let stored = |(label, namespace): (&str, &Namespace)| StoredLabel {
            label: label.into(),
            is_durable: namespace.durable,
            floor: self.0.get(label).copied().unwrap_or(Gone::NOTHING),
        };
        namespaces.labelled().map(stored).collect()
    }

    /// What is gone of a channel that has no record.
    pub fn of(&self, channel: &Channel, namespaces: &Namespaces) -> Gone {
        // A label that was configured since the start had its channels under `default` before.
        let by_label = |label: &str| self.0.get(label).copied();
        by_label(namespaces.label(channel)).or_else(|| by_label(DEFAULT_NAMESPACE)).unwrap_or(Gone::NOTHING)
    }

    /// A channel's record is forgotten of which this much is gone.
    pub(super) fn raise(&mut self, channel: &Channel, namespaces: &Namespaces, gone: Gone) -> Gone {
        let mut floor = self.of(channel, namespaces);
        floor.raise(gone);
        self.0.insert(namespaces.label(channel).into(), floor);
        floor
    }
}

impl PartitionLog {
    /// Puts back a channel that has no stored events, or had none once. Before any event, least
    /// recently used first.
    pub fn restore_channel(&mut self, stored: StoredChannel, namespaces: &Namespaces) {
        let mut record = Record::new(stored.gone);
        record.gone.raise(self.lost_by(&stored.channel, namespaces));
        record.last_position = stored.last_position.max(record.gone.through);
        record.is_stored = true;
        self.channels.insert(stored.channel, record);
    }

    /// Puts back a stored event. In the order of positions. What its namespace no longer keeps, or
    /// memory has no room for, goes again, as it would have.
    ///
    /// What is missing between a channel's stored events shows in their `previous`, and is gone: it
    /// was trimmed, or not stored in its time. That an event was past its `expires_in` when it was
    /// trimmed does not show, so a cursor from before it may be told of a gap needlessly.
    pub fn restore_event(&mut self, logged: LoggedEvent, namespaces: &Namespaces, now: Millis) {
        let channel = logged.event.channel.clone();
        let lost = self.lost_by(&channel, namespaces);
        let gone = self.channels.get(&channel).map_or(lost, |record| record.gone);
        if logged.position <= gone.through.max(lost.through) {
            // A crash came between the mark and the deletion, or the channel was durable only for a
            // while and nobody knows what it had besides.
            self.tally.changes.push(Change::Dropped(logged.position));
            return;
        }
        let record = self.channels.entry(channel.clone()).or_insert_with(|| Record::new(lost));
        if logged.previous > record.last_position {
            let dropped = record.drop_all(now, &mut self.tally);
            self.tally.changes.extend(dropped.into_iter().map(Change::Dropped));
            record.gone.raise(Gone { through: logged.previous, reason: GapReason::Evicted });
            record.last_position = logged.previous;
        }
        self.release(Arc::new(logged), true, namespaces, now);
    }

    /// What a channel has lost that is in a namespace which was not stored.
    fn lost_by(&self, channel: &Channel, namespaces: &Namespaces) -> Gone {
        let floor = self.floors.of(channel, namespaces);
        if floor.reason == GapReason::Restart { floor } else { Gone::NOTHING }
    }

    /// Puts back a used key. In the order of positions.
    pub fn restore_key(&mut self, key: KeyRecord, position: Position, accepted_at: Millis) {
        self.keys.insert(key, position, accepted_at);
    }
}
