//! The feed's side of the hub.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use parking_lot::MutexGuard;
use smallvec::SmallVec;
use tidings_protocol::{Channel, LoggedEvent, Partition, PartitionCursor};

use super::{Hub, Registration, State, Tick};
use crate::{frame::SharedFrame, session::Session};

/// The hub while it takes some of the feed: its lock is held once for all of them, and each shard is woken
/// once, at the end.
pub struct Batch<'a> {
    hub: &'a Hub,
    state: MutexGuard<'a, State>,
    to_wake: SmallVec<[u16; 8]>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(hub: &'a Hub, state: MutexGuard<'a, State>) -> Self {
        Self { hub, state, to_wake: SmallVec::new() }
    }

    /// The feed has an event.
    pub fn on_event(&mut self, logged: Arc<LoggedEvent>, conflate_window: Tick, now: Tick) {
        let Self { hub, state, to_wake } = self;
        let at = logged.id();
        state.cursor.set(at.partition, at.at);
        let Some((channel, listeners)) = state.channels.get(&logged.event.channel) else { return };
        let window = if logged.event.conflate.is_some() { conflate_window } else { Tick::ZERO };
        let frame = Arc::new(SharedFrame::new(logged, state.cursor.clone(), window));
        for session in listeners.sessions() {
            let waker = session.queue.lock().push(&frame, now, &hub.counters);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        // Under the lock: a shard must get an event before or after a connection that listens to it, as
        // the fence of that connection says.
        for shard in listeners.shards() {
            if !state.shards[usize::from(shard)].inbox.push_event(channel, frame.clone()) {
                hub.is_crowded.store(true, Relaxed);
            }
            if !to_wake.contains(&shard) {
                to_wake.push(shard);
            }
        }
    }

    /// The feed has the answer to a registration: from here on it carries the channel's events, and
    /// the partition's head was `head` when the broker took the registration.
    pub fn on_marker(
        &mut self,
        channel: &Channel,
        registration: Registration,
        partition: Partition,
        head: PartitionCursor,
    ) {
        let state = &mut *self.state;
        state.advance(partition, head);
        let number = state.channels.number_of(channel);
        let Some(listeners) = number.and_then(|number| state.channels.by_number(number)) else { return };
        if listeners.registration != registration || std::mem::replace(&mut listeners.is_ready, true) {
            return;
        }
        listeners.partition = Some(partition);
        state.following.on_answered(registration);
        let waiting: SmallVec<[Arc<Session>; 4]> = listeners.sessions().cloned().collect();
        waiting.iter().for_each(|session| state.on_awaited(session));
    }

    /// The feed has the answer to a probe.
    pub fn on_head(&mut self, registration: Registration, partition: Partition, head: PartitionCursor) {
        self.state.advance(partition, head);
        if let Some(session) = self.state.probes.remove(&registration) {
            self.state.on_awaited(&session);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.to_wake.iter().for_each(|shard| self.state.shards[usize::from(*shard)].inbox.ring());
    }
}
