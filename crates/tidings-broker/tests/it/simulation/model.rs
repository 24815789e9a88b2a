//! What was appended, and what history may have lost of it: simple, slow, and written without a
//! look at the log. It does not say what history holds, but what it *must* hold: an event that no
//! rule lets it drop. A gap is right only if some event after the cursor may have been dropped.

use std::collections::HashMap;

use tidings_broker::log::LogLimits;
use tidings_core::Namespaces;
use tidings_protocol::{Channel, Epoch, EventId, LoggedEvent, Millis, Position};

/// One appended event.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: EventId,
    pub(crate) conflate: Option<Box<str>>,
    pub(crate) data: Box<str>,
    expires_at: Option<Millis>,
    /// From when on history may drop it.
    droppable_at: Millis,
}

impl Known {
    pub(crate) fn position(&self) -> Position {
        self.id.at.position
    }

    pub(crate) fn may_be_gone(&self, now: Millis) -> bool {
        self.droppable_at <= now
    }

    pub(crate) fn is_past(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

#[derive(Debug, Default)]
struct KnownChannel {
    events: Vec<Known>,
    label: String,
    is_durable: bool,
    /// No floor above this can have been taken over by the channel's record.
    record_floor: Position,
    /// Its record may have been forgotten since its last event.
    may_be_unknown: bool,
}

/// One partition's events.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) epoch: Epoch,
    pub(crate) head: Position,
    start: Position,
    limits: LogLimits,
    channels: HashMap<Channel, KnownChannel>,
    /// In the order of their last events.
    by_last_event: Vec<Channel>,
    /// All events of this process, oldest first, and which of them fit into memory together.
    costs: Vec<(Channel, usize, usize)>,
    fitting_from: usize,
    fitting_bytes: usize,
    floors: HashMap<String, Position>,
    restarted_at: Option<Millis>,
}

impl Model {
    pub(crate) fn new(epoch: Epoch, start: Position, limits: LogLimits) -> Self {
        Self {
            epoch,
            head: start.previous(),
            start,
            limits,
            channels: HashMap::new(),
            by_last_event: Vec::new(),
            costs: Vec::new(),
            fitting_from: 0,
            fitting_bytes: 0,
            floors: HashMap::new(),
            restarted_at: None,
        }
    }

    pub(crate) fn on_release(&mut self, logged: &LoggedEvent, namespaces: &Namespaces, now: Millis) {
        let channel = &logged.event.channel;
        let namespace = namespaces.of(channel);
        self.head = logged.position;
        if logged.event.is_ephemeral {
            // It is never in history, so nobody lacks it there.
            return;
        }
        let floor = self.floors.get(namespaces.label(channel)).copied().unwrap_or_default();
        let known = self.channels.entry(channel.clone()).or_insert_with(|| KnownChannel {
            label: namespaces.label(channel).to_owned(),
            is_durable: namespace.durable,
            may_be_unknown: true,
            ..KnownChannel::default()
        });
        if std::mem::take(&mut known.may_be_unknown) {
            known.record_floor = known.record_floor.max(floor);
        }
        known.events.push(Known {
            id: logged.id(),
            conflate: logged.event.conflate.clone(),
            data: logged.event.data.as_json().into(),
            expires_at: logged.event.expires_in_secs.map(|secs| logged.accepted_at + secs * 1000),
            droppable_at: logged.accepted_at + namespace.history_ttl.as_millis() as Millis,
        });
        let kept = known.events.len().saturating_sub(namespace.history_size);
        known.events[..kept].iter_mut().rev().take_while(|e| e.droppable_at > now).for_each(|e| e.droppable_at = now);
        self.costs.push((channel.clone(), known.events.len() - 1, logged.event.cost_bytes()));
        self.fitting_bytes += logged.event.cost_bytes();
        while self.fitting_bytes > self.limits.history_max_bytes {
            let (channel, at, bytes) = &self.costs[self.fitting_from];
            self.fitting_bytes -= bytes;
            self.fitting_from += 1;
            let event = self.channels.get_mut(channel).map(|known| &mut known.events[*at]);
            event.into_iter().for_each(|event| event.droppable_at = event.droppable_at.min(now));
        }
        self.by_last_event.retain(|other| other != channel);
        self.by_last_event.push(channel.clone());
        self.forget_channels(now);
    }

    fn forget_channels(&mut self, now: Millis) {
        let forgettable = self.by_last_event.len().saturating_sub(self.limits.channels_max);
        for at in 0..forgettable {
            let channel = self.by_last_event[at].clone();
            self.may_forget(&channel, now);
        }
        if forgettable > 0 && self.restarted_at.is_some() {
            // A restart puts channels without events before those with some.
            for channel in self.by_last_event.clone() {
                if self.channels[&channel].events.iter().all(|e| e.droppable_at <= now || e.is_past(now)) {
                    self.may_forget(&channel, now);
                }
            }
        }
    }

    fn may_forget(&mut self, channel: &Channel, now: Millis) {
        let Some(known) = self.channels.get_mut(channel) else { return };
        known.may_be_unknown = true;
        known.events.iter_mut().for_each(|event| event.droppable_at = event.droppable_at.min(now));
        let last = known.events.last().map_or(Position::ZERO, Known::position);
        let floor = self.floors.entry(known.label.clone()).or_default();
        *floor = (*floor).max(last).max(known.record_floor);
    }

    pub(crate) fn on_purge(&mut self, channel: &Channel, now: Millis) {
        let events = self.channels.get_mut(channel).into_iter().flat_map(|known| &mut known.events);
        events.for_each(|event| event.droppable_at = event.droppable_at.min(now));
    }

    pub(crate) fn on_restart(&mut self, start: Position, now: Millis) {
        self.start = start;
        self.head = start.previous();
        self.restarted_at = Some(now);
        for known in self.channels.values_mut().filter(|known| !known.is_durable) {
            known.events.iter_mut().for_each(|event| event.droppable_at = event.droppable_at.min(now));
            known.may_be_unknown = true;
        }
        // What is loaded fits into memory as it did: its order is the same.
        self.forget_channels(now);
    }

    /// A channel's events in a stretch, oldest first.
    pub(crate) fn events(&self, channel: &Channel, after: Position, through: Position) -> &[Known] {
        let Some(known) = self.channels.get(channel) else { return &[] };
        let from = known.events.partition_point(|event| event.position() <= after);
        let to = known.events.partition_point(|event| event.position() <= through);
        &known.events[from..to.max(from)]
    }

    /// Those of a channel's last `count` events that a replay must not leave out.
    pub(crate) fn must_replay(&self, channel: &Channel, count: usize, through: Position, now: Millis) -> Vec<Position> {
        let alive = self.events(channel, Position::ZERO, through).iter().rev().filter(|event| !event.is_past(now));
        alive.take(count).filter(|event| event.droppable_at > now).map(Known::position).collect()
    }

    /// Whether a reader that has read so far may be told of a gap in the channel.
    pub(crate) fn may_have_gap(
        &self,
        channel: &Channel,
        after: Position,
        is_durable: bool,
        label: &str,
        now: Millis,
    ) -> bool {
        let floor = self.floors.get(label).copied().unwrap_or_default();
        if !is_durable && after < self.start.previous() {
            return true;
        }
        let Some(known) = self.channels.get(channel) else { return after < floor };
        if after < known.record_floor || (known.may_be_unknown && after < floor) {
            return true;
        }
        // That an event was past its own time when it went is forgotten in a restart.
        let is_lost = |event: &Known| {
            event.droppable_at <= now
                && (!event.is_past(event.droppable_at) || self.restarted_at.is_some_and(|at| event.droppable_at <= at))
        };
        known.events.iter().rev().take_while(|event| event.position() > after).any(is_lost)
    }
}
