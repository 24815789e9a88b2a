//! Where events meet those who listen, and the node's place in the log.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidings_protocol::{Channel, CloseReason, Cursor, Millis, Partition, PartitionCursor, Position, UserId};

use crate::{
    channels::{Channels, Listeners},
    connection::{ConnectionFilter, ConnectionId, ConnectionInfo, Transport},
    counters::Counters,
    frame::Format,
    registry::{Place, Registry, Since},
    session::{Queue, Session},
    shard::{Adoption, Handover, Inbox, Message},
    subscription::Subscription,
    waiting::QueueLimits,
    watch::Watch,
};

mod batch;
mod confirm;
mod follow;

pub use batch::Batch;
use follow::Following;
pub use follow::{Added, MayListen};

/// Monotonic time since some fixed moment. The caller's clock gives it, so that tests can.
pub type Tick = Duration;

/// The time, as shards are told it.
pub trait Time: Send + Sync {
    /// Wall-clock time.
    fn now(&self) -> Millis;
    /// Time that never goes back, since some fixed moment.
    fn tick(&self) -> Tick;
}

/// One interest in a channel from its first subscriber to its last. A marker for an earlier one says
/// nothing about this one: between the two, events may have passed the node by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registration(pub u64);

/// Where the hub says which channels this node wants. Called with the hub's lock held: it must return
/// at once and must not call back. The answer to a registration comes through the feed, in order, as
/// a marker: [`Batch::on_marker`].
pub trait Interest: Send + Sync {
    /// From now on the feed shall have the channel's events.
    fn register(&self, channel: &Channel, registration: Registration);
    /// Nobody listens any more.
    fn unregister(&self, channel: &Channel, registration: Registration);
    /// The feed shall say, in order, where the partition's head is: [`Batch::on_head`].
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
    /// Whether some shard's inbox was full when something was put in.
    is_crowded: AtomicBool,
    watch: OnceLock<Box<dyn Watch>>,
}

struct State {
    /// How far the node has read each partition.
    cursor: Cursor,
    channels: Channels,
    registry: Registry,
    shards: Vec<ShardEntry>,
    /// Subscribers that have seen more of the log than this node had read when they came: from another
    /// node, or from the answer to a publish. They wait until the node has read as much.
    probes: HashMap<Registration, Arc<Session>>,
    last_registration: u64,
    following: Following,
}

/// A shard, as the hub knows it. It gives out the shard's slots, so that a connection can be spoken of
/// from the moment on which it is handed over.
struct ShardEntry {
    inbox: Arc<Inbox>,
    free_slots: Vec<u32>,
    slots: u32,
    /// Whether it takes no more.
    has_ended: bool,
}

impl ShardEntry {
    /// Sockets that it holds, those that are being closed included.
    fn sockets(&self) -> usize {
        self.slots as usize - self.free_slots.len()
    }
}

impl State {
    fn next_registration(&mut self) -> Registration {
        self.last_registration += 1;
        Registration(self.last_registration)
    }

    /// The channel's number; the feed shall have it from now on, if it does not yet.
    fn number_or_register(&mut self, channel: &Channel, interest: &dyn Interest) -> u32 {
        self.channels.number_of(channel).unwrap_or_else(|| {
            let registration = self.next_registration();
            interest.register(channel, registration);
            self.channels.insert(Listeners::new(channel.clone(), registration))
        })
    }

    /// The node has read the partition at least this far.
    fn advance(&mut self, partition: Partition, head: PartitionCursor) {
        let position = self.cursor.get(partition).map_or(Position::ZERO, |at| at.position);
        if head.position > position {
            self.cursor.set(partition, head);
        }
    }

    /// One of the markers that the subscriber waits for has come.
    fn on_awaited(&mut self, session: &Session) {
        let mut awaited = session.awaited.lock();
        // One that has its fence waits for nothing more: what it has come to listen to since is live at once.
        let Some(left) = awaited.checked_sub(1) else { return };
        *awaited = left;
        if left == 0
            && let Some(waker) = self.begin_catch_up(session)
        {
            waker.wake();
        }
    }

    /// Chooses a subscriber's first fence. Answers whom to wake.
    fn begin_catch_up(&mut self, session: &Session) -> Option<Waker> {
        self.note_beginning(session);
        session.queue.lock().begin_catch_up(self.cursor.clone())
    }

    fn close(&self, place: &Place, reason: CloseReason) {
        match place {
            Place::Session(session) => session.close(reason),
            Place::Shard { shard, slot, .. } => {
                self.shards[usize::from(*shard)].inbox.push(Message::Close { slot: *slot, reason });
            }
        }
    }
}

impl Hub {
    /// A hub at the place in the log where its feed begins.
    pub fn new(cursor: Cursor, interest: Box<dyn Interest>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                cursor,
                channels: Channels::default(),
                registry: Registry::default(),
                shards: Vec::new(),
                probes: HashMap::new(),
                last_registration: 0,
                following: Following::default(),
            }),
            interest,
            counters: Counters::default(),
            is_crowded: AtomicBool::new(false),
            watch: OnceLock::new(),
        })
    }

    /// Adds a subscriber of the channels that its `info` names, each once, and of `hidden` ones, which nobody
    /// is told that it listens to. Its fence is chosen when the feed is known to have all of them, and the node
    /// has read as much as the subscriber has `seen`.
    pub fn subscribe(
        self: &Arc<Self>,
        info: ConnectionInfo,
        hidden: &[Channel],
        format: Format,
        limits: QueueLimits,
        seen: Option<&Cursor>,
    ) -> Subscription {
        self.counters.opened[info.transport as usize].add(1);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut channels = SmallVec::new();
        for channel in info.channels.iter().chain(hidden) {
            channels.push(state.number_or_register(channel, &*self.interest));
        }
        let session = Arc::new(Session {
            info,
            number: state.registry.next_number(),
            channels,
            queue: Mutex::new(Queue::new(limits, format)),
            is_new: seen.is_none(),
            since: Mutex::new(Since::ALL),
            has_left: AtomicBool::new(false),
            awaited: Mutex::new(0),
        });
        if let Some(watch) = self.watch.get() {
            watch.on_opened(&session.info);
        }
        state.registry.insert(session.info.clone(), Place::Session(session.clone()));
        let mut awaited = 0;
        for number in &session.channels {
            if let Some(listeners) = state.channels.by_number(*number) {
                listeners.add_session(&session);
                awaited += usize::from(!listeners.is_ready);
            }
        }
        for (partition, theirs) in seen.iter().flat_map(|seen| seen.entries()) {
            let is_ahead = |ours: PartitionCursor| ours.epoch == theirs.epoch && ours.position < theirs.position;
            if state.cursor.get(partition).is_some_and(is_ahead) {
                let registration = state.next_registration();
                state.probes.insert(registration, session.clone());
                self.interest.probe(partition, registration);
                awaited += 1;
            }
        }
        *session.awaited.lock() = awaited;
        if awaited == 0 {
            let _nobody_waits_yet = state.begin_catch_up(&session);
        }
        drop(guard);
        Subscription::new(self.clone(), session)
    }

    /// Takes what the feed has, in its order. By one caller at a time, who waits for
    /// [`room`](Self::room) in between.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self, self.state.lock())
    }

    /// Waits until every shard has room for more events: the feed must not run ahead of them.
    pub async fn room(&self) {
        if !self.is_crowded.swap(false, Relaxed) {
            return;
        }
        let inboxes: SmallVec<[Arc<Inbox>; 8]> =
            self.state.lock().shards.iter().map(|shard| shard.inbox.clone()).collect();
        let mut has_waited = false;
        for inbox in inboxes {
            let room = poll_fn(|cx| match inbox.has_room(cx) {
                true => Poll::Ready(()),
                false => {
                    has_waited = true;
                    Poll::Pending
                }
            });
            room.await;
        }
        self.counters.feed_waits.add(usize::from(has_waited));
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
        self.state.lock().registry.len()
    }

    /// How many of them are of this transport.
    pub fn count_of_transport(&self, transport: Transport) -> usize {
        self.state.lock().registry.count_of_transport(transport)
    }

    /// How many of them are this user's.
    pub fn count_of_user(&self, user: &UserId) -> usize {
        self.state.lock().registry.count_of_user(user)
    }

    /// How many of them come from this address.
    pub fn count_from(&self, address: IpAddr) -> usize {
        self.state.lock().registry.count_from(address)
    }

    /// How many channels have a listener here.
    pub fn channel_count(&self) -> usize {
        self.state.lock().channels.len()
    }

    /// How many connections listen to the channel.
    pub fn listener_count(&self, channel: &Channel) -> usize {
        self.state.lock().channels.get(channel).map_or(0, |(_, listeners)| listeners.len())
    }

    /// The connections that the filter means.
    pub fn connections(&self, filter: &ConnectionFilter) -> Vec<ConnectionInfo> {
        self.state.lock().registry.matching(filter).map(|(info, _)| info.clone()).collect()
    }

    /// Ends one connection. `false` if there is none of this id.
    pub fn close(&self, id: &ConnectionId, reason: CloseReason) -> bool {
        let state = self.state.lock();
        let Some(place) = state.registry.place_of(id) else { return false };
        state.close(&place, reason);
        true
    }

    /// Ends the connections that the filter means, and says how many they were.
    pub fn close_all(&self, filter: &ConnectionFilter, reason: CloseReason) -> usize {
        let state = self.state.lock();
        state.registry.matching(filter).map(|(_, place)| state.close(place, reason)).count()
    }

    /// Chooses a later fence for a subscriber whose buffer has overrun, unless it has not: then it is live.
    pub(crate) fn go_live(&self, session: &Session) -> Result<(), Cursor> {
        // The hub's lock first, as in on_event: no event may pass between the look and the choice.
        let state = self.state.lock();
        let mut queue = session.queue.lock();
        if queue.go_live() {
            return Ok(());
        }
        self.counters.later_fences.add(1);
        queue.begin_catch_up(state.cursor.clone());
        Err(state.cursor.clone())
    }

    /// Tells whoever keeps account of streams from now on, before there are any. There can be one.
    pub fn watch(&self, watch: Box<dyn Watch>) {
        let _there_is_one = self.watch.set(watch);
    }

    fn on_ended(&self, info: Option<ConnectionInfo>) {
        if let (Some(watch), Some(info)) = (self.watch.get(), &info) {
            watch.on_ended(info);
        }
    }

    /// Forgets a connection that a task served.
    pub(crate) fn remove(&self, session: &Session) {
        let mut state = self.state.lock();
        self.on_ended(state.registry.remove(session.number));
        let changed = state.following.remove(session.number);
        for number in changed.as_deref().unwrap_or(&session.channels) {
            self.leave(&mut state, *number, |listeners| listeners.remove_session(session.number));
        }
    }

    fn leave(&self, state: &mut State, number: u32, remove: impl FnOnce(&mut Listeners)) {
        let Some(listeners) = state.channels.by_number(number) else { return };
        remove(listeners);
        if listeners.len() == 0
            && let Some(listeners) = state.channels.remove(number)
        {
            state.following.on_answered(listeners.registration);
            self.interest.unregister(&listeners.channel, listeners.registration);
        }
    }

    /// Takes in a shard, which will get its messages through the inbox. Answers its number.
    pub(crate) fn add_shard(&self, inbox: Arc<Inbox>) -> u16 {
        let mut state = self.state.lock();
        let number = state.shards.len() as u16;
        state.shards.push(ShardEntry { inbox, free_slots: Vec::new(), slots: 0, has_ended: false });
        number
    }

    /// Whether there are shards, so that live streams need no task.
    pub fn has_shards(&self) -> bool {
        !self.state.lock().shards.iter().all(|shard| shard.has_ended)
    }

    /// How many sockets the shards hold, those that are being closed included.
    pub fn shard_sockets(&self) -> usize {
        self.state.lock().shards.iter().map(ShardEntry::sockets).sum()
    }

    /// The same, shard by shard.
    pub fn sockets_by_shard(&self) -> Vec<usize> {
        self.state.lock().shards.iter().map(ShardEntry::sockets).collect()
    }

    /// Hands a live subscriber to the shard with the fewest sockets, with all that waits for it. What
    /// came before in the feed is in its queue; what comes after goes to the shard's inbox, behind it.
    pub(crate) fn hand_over(&self, session: &Session, adoption: Adoption) -> Result<(), Adoption> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_there = |at: &usize| !state.shards[*at].has_ended;
        let shards = (0..state.shards.len()).filter(is_there);
        let Some(shard) = shards.min_by_key(|at| state.shards[*at].sockets()) else {
            return Err(adoption);
        };
        let Some((waiting, format, close)) = session.queue.lock().hand_over() else { return Err(adoption) };
        let entry = &mut state.shards[shard];
        let slot = entry.free_slots.pop().unwrap_or_else(|| {
            entry.slots += 1;
            entry.slots - 1
        });
        let place = Place::Shard { shard: shard as u16, slot, since: *session.since.lock() };
        state.registry.set_place(session.number, place);
        let channels = state.following.channels_of(session.number).unwrap_or(&session.channels);
        for number in channels {
            if let Some(listeners) = state.channels.by_number(*number) {
                listeners.remove_session(session.number);
                listeners.add_on_shard(shard as u16);
            }
        }
        let handover = Handover {
            slot,
            number: session.number,
            transport: session.info.transport,
            channels: channels.into(),
            waiting,
            format,
            close,
            adoption,
        };
        state.shards[shard].inbox.push(Message::Adopt(Box::new(handover)));
        Ok(())
    }

    /// Forgets a connection that a shard served. Its slot stays taken until the socket is gone.
    pub(crate) fn remove_on_shard(&self, shard: u16, number: u32, channels: impl Iterator<Item = u32>) {
        let mut state = self.state.lock();
        self.on_ended(state.registry.remove(number));
        let changed = state.following.remove(number);
        let leave = |channel| self.leave(&mut state, channel, |listeners| listeners.remove_on_shard(shard));
        match changed {
            // What the shard says may be behind.
            Some(changed) => changed.into_iter().for_each(leave),
            None => channels.for_each(leave),
        }
    }

    /// The socket in this slot of the shard is gone.
    pub(crate) fn release_slot(&self, shard: u16, slot: u32) {
        self.state.lock().shards[usize::from(shard)].free_slots.push(slot);
    }

    /// Tells the shards to end now, with whatever they hold.
    pub(crate) fn stop_shards(&self) {
        self.state.lock().shards.iter().for_each(|shard| shard.inbox.push(Message::Stop));
    }

    /// The shard is gone. What it still held is gone with it, be it that its thread has panicked: its clients
    /// come back, to another one.
    pub(crate) fn forget_shard(&self, shard: u16) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(entry) = state.shards.get_mut(usize::from(shard)) else { return };
        entry.has_ended = true;
        entry.inbox.close();
        (entry.slots, entry.free_slots) = (0, Vec::new());
        for (number, info) in state.registry.on_shard(shard) {
            self.on_ended(state.registry.remove(number));
            state.following.remove(number);
            self.counters.on_closed(info.transport, CloseReason::Error);
        }
        // By the channels, for a connection does not say which hidden ones it listens to.
        for listeners in state.channels.forget_shard(shard) {
            state.following.on_answered(listeners.registration);
            self.interest.unregister(&listeners.channel, listeners.registration);
        }
    }

    /// The shard takes no more: what was handed over to it by now is all.
    pub(crate) fn end_shard(&self, shard: u16) {
        self.state.lock().shards[usize::from(shard)].has_ended = true;
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("connections", &self.connection_count()).finish_non_exhaustive()
    }
}
