//! The index from channels to subscribers, and the node's place in the log.

use std::{collections::HashMap, sync::Arc, time::Duration};

use indexmap::IndexMap;
use parking_lot::Mutex;
use tidings_protocol::{Channel, CloseReason, Cursor, LoggedEvent, Partition, PartitionCursor, Position};

use crate::{
    connection::{ConnectionFilter, ConnectionId, ConnectionInfo},
    counters::Counters,
    frame::{Format, SharedFrame},
    queue::{Queue, QueueLimits},
    subscription::Subscription,
};

/// Monotonic time since some fixed moment. The caller's clock gives it, so that tests can.
pub type Tick = Duration;

/// One interest in a channel from its first subscriber to its last. A marker for an earlier one says
/// nothing about this one: between the two, events may have passed the node by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registration(pub u64);

/// Where the hub says which channels this node wants. Called with the hub's lock held: it must return
/// at once and must not call back. The answer to a registration comes through the feed, in order, as
/// a marker: [`Hub::on_marker`].
pub trait Interest: Send + Sync {
    /// From now on the feed shall have the channel's events.
    fn register(&self, channel: &Channel, registration: Registration);
    /// Nobody listens any more.
    fn unregister(&self, channel: &Channel, registration: Registration);
    /// The feed shall say, in order, where the partition's head is: [`Hub::on_head`].
    fn probe(&self, partition: Partition, registration: Registration);
}

impl<I: Interest + ?Sized> Interest for Arc<I> {
    fn register(&self, channel: &Channel, registration: Registration) {
        (**self).register(channel, registration);
    }

    fn unregister(&self, channel: &Channel, registration: Registration) {
        (**self).unregister(channel, registration);
    }

    fn probe(&self, partition: Partition, registration: Registration) {
        (**self).probe(partition, registration);
    }
}

/// The subscribers of one node.
pub struct Hub {
    state: Mutex<State>,
    interest: Box<dyn Interest>,
    counters: Counters,
}

struct State {
    /// How far the node has read each partition.
    cursor: Cursor,
    channels: HashMap<Channel, Listeners>,
    connections: IndexMap<ConnectionId, Arc<Subscriber>>,
    /// Subscribers that have seen more of the log than this node had read when they came: from another
    /// node, or from the answer to a publish. They wait until the node has read as much.
    probes: HashMap<Registration, Arc<Subscriber>>,
    last_registration: u64,
}

/// The subscribers of one channel.
struct Listeners {
    registration: Registration,
    /// Whether the marker has come, so that the feed is known to have the channel.
    is_ready: bool,
    subscribers: IndexMap<ConnectionId, Arc<Subscriber>>,
}

pub(crate) struct Subscriber {
    pub(crate) info: ConnectionInfo,
    pub(crate) queue: Mutex<Queue>,
    /// How many markers must come before its fence can be chosen.
    awaited: Mutex<usize>,
}

impl State {
    fn next_registration(&mut self) -> Registration {
        self.last_registration += 1;
        Registration(self.last_registration)
    }

    /// The node has read the partition at least this far.
    fn advance(&mut self, partition: Partition, head: PartitionCursor) {
        let position = self.cursor.get(partition).map_or(Position::ZERO, |at| at.position);
        if head.position > position {
            self.cursor.set(partition, head);
        }
    }

    /// One of the markers that the subscriber waits for has come.
    fn on_awaited(&self, subscriber: &Subscriber) {
        let mut awaited = subscriber.awaited.lock();
        *awaited -= 1;
        if *awaited == 0
            && let Some(waker) = subscriber.queue.lock().begin_catch_up(self.cursor.clone())
        {
            waker.wake();
        }
    }
}

impl Hub {
    /// A hub at the place in the log where its feed begins.
    pub fn new(cursor: Cursor, interest: Box<dyn Interest>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                cursor,
                channels: HashMap::new(),
                connections: IndexMap::new(),
                probes: HashMap::new(),
                last_registration: 0,
            }),
            interest,
            counters: Counters::default(),
        })
    }

    /// Adds a subscriber of the channels that its `info` names. Its fence is chosen when the feed is
    /// known to have all of them, and the node has read as much as the subscriber has `seen`.
    pub fn subscribe(
        self: &Arc<Self>,
        info: ConnectionInfo,
        format: Format,
        limits: QueueLimits,
        seen: Option<&Cursor>,
    ) -> Subscription {
        let subscriber =
            Arc::new(Subscriber { queue: Mutex::new(Queue::new(limits, format)), awaited: Mutex::new(0), info });
        self.counters.opened[subscriber.info.transport as usize].add(1);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut awaited = 0;
        for channel in &subscriber.info.channels {
            if !state.channels.contains_key(channel) {
                let registration = state.next_registration();
                self.interest.register(channel, registration);
                let listeners = Listeners { registration, is_ready: false, subscribers: IndexMap::new() };
                state.channels.insert(channel.clone(), listeners);
            }
            if let Some(listeners) = state.channels.get_mut(channel) {
                let is_new = listeners.subscribers.insert(subscriber.info.id.clone(), subscriber.clone()).is_none();
                awaited += usize::from(is_new && !listeners.is_ready);
            }
        }
        for (partition, theirs) in seen.iter().flat_map(|seen| seen.entries()) {
            let is_ahead = |ours: PartitionCursor| ours.epoch == theirs.epoch && ours.position < theirs.position;
            if state.cursor.get(partition).is_some_and(is_ahead) {
                let registration = state.next_registration();
                state.probes.insert(registration, subscriber.clone());
                self.interest.probe(partition, registration);
                awaited += 1;
            }
        }
        *subscriber.awaited.lock() = awaited;
        if awaited == 0 {
            subscriber.queue.lock().begin_catch_up(state.cursor.clone());
        }
        state.connections.insert(subscriber.info.id.clone(), subscriber.clone());
        drop(guard);
        Subscription::new(self.clone(), subscriber)
    }

    /// The feed has an event. Called in the order of the feed, by one caller at a time.
    pub fn on_event(&self, logged: Arc<LoggedEvent>, conflate_window: Tick, now: Tick) {
        let mut state = self.state.lock();
        let at = logged.id();
        state.cursor.set(at.partition, at.at);
        let Some(listeners) = state.channels.get(&logged.event.channel) else { return };
        let window = if logged.event.conflate.is_some() { conflate_window } else { Tick::ZERO };
        let frame = Arc::new(SharedFrame::new(logged, state.cursor.clone(), window));
        for subscriber in listeners.subscribers.values() {
            let waker = subscriber.queue.lock().push(&frame, now, &self.counters);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The feed has the answer to a registration: from here on it carries the channel's events, and
    /// the partition's head was `head` when the broker took the registration.
    pub fn on_marker(
        &self,
        channel: &Channel,
        registration: Registration,
        partition: Partition,
        head: PartitionCursor,
    ) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.advance(partition, head);
        let Some(listeners) = state.channels.get_mut(channel) else { return };
        if listeners.registration != registration || std::mem::replace(&mut listeners.is_ready, true) {
            return;
        }
        if let Some(listeners) = state.channels.get(channel) {
            listeners.subscribers.values().for_each(|subscriber| state.on_awaited(subscriber));
        }
    }

    /// The feed has the answer to a probe.
    pub fn on_head(&self, registration: Registration, partition: Partition, head: PartitionCursor) {
        let mut state = self.state.lock();
        state.advance(partition, head);
        if let Some(subscriber) = state.probes.remove(&registration) {
            state.on_awaited(&subscriber);
        }
    }

    /// How far the node has read the log.
    pub fn cursor(&self) -> Cursor {
        self.state.lock().cursor.clone()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.state.lock().connections.len()
    }

    /// How many channels have a listener here.
    pub fn channel_count(&self) -> usize {
        self.state.lock().channels.len()
    }

    /// How many connections listen to the channel.
    pub fn listener_count(&self, channel: &Channel) -> usize {
        self.state.lock().channels.get(channel).map_or(0, |listeners| listeners.subscribers.len())
    }

    /// The connections that the filter means.
    pub fn connections(&self, filter: &ConnectionFilter) -> Vec<ConnectionInfo> {
        let state = self.state.lock();
        state.connections.values().map(|s| &s.info).filter(|info| filter.matches(info)).cloned().collect()
    }

    /// How many connections the filter means.
    pub fn count(&self, filter: &ConnectionFilter) -> usize {
        self.state.lock().connections.values().filter(|s| filter.matches(&s.info)).count()
    }

    /// Ends one connection. `false` if there is none of this id.
    pub fn close(&self, id: &ConnectionId, reason: CloseReason) -> bool {
        let Some(subscriber) = self.state.lock().connections.get(id).cloned() else { return false };
        subscriber.close(reason);
        true
    }

    /// Ends the connections that the filter means, and says how many they were.
    pub fn close_all(&self, filter: &ConnectionFilter, reason: CloseReason) -> usize {
        let chosen: Vec<_> =
            self.state.lock().connections.values().filter(|s| filter.matches(&s.info)).cloned().collect();
        chosen.iter().for_each(|subscriber| subscriber.close(reason));
        chosen.len()
    }

    /// Chooses a later fence for a subscriber whose buffer has overrun, unless it has not: then it is live.
    pub(crate) fn go_live(&self, subscriber: &Subscriber) -> Result<(), Cursor> {
        // The hub's lock first, as in on_event: no event may pass between the look and the choice.
        let state = self.state.lock();
        let mut queue = subscriber.queue.lock();
        if queue.go_live() {
            return Ok(());
        }
        self.counters.later_fences.add(1);
        queue.begin_catch_up(state.cursor.clone());
        Err(state.cursor.clone())
    }

    pub(crate) fn remove(&self, subscriber: &Subscriber) {
        let mut state = self.state.lock();
        state.connections.swap_remove(&subscriber.info.id);
        for channel in &subscriber.info.channels {
            let Some(listeners) = state.channels.get_mut(channel) else { continue };
            listeners.subscribers.swap_remove(&subscriber.info.id);
            if listeners.subscribers.is_empty() {
                self.interest.unregister(channel, listeners.registration);
                state.channels.remove(channel);
            }
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("connections", &self.connection_count()).finish_non_exhaustive()
    }
}

impl Subscriber {
    pub(crate) fn close(&self, reason: CloseReason) {
        let waker = self.queue.lock().close(reason);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
