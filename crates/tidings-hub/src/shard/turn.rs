//! A shard without its thread: what it does when something happens.

use std::{collections::VecDeque, io, sync::Arc};

use smallvec::SmallVec;
use tidings_protocol::{Channel, CloseReason, Millis};

use super::{
    Handover, Message,
    connection::{Connection, Next, nanos},
    epoll::Epoll,
    inbox::Inbox,
    slots::Slots,
    wheel::Wheel,
};
use crate::{
    confirm::Sight,
    connection::Transport,
    counters::LocalLatencies,
    frame::SharedFrame,
    hub::{Hub, Tick, Time},
};

/// Timers that are served before events are looked at again: heartbeats of many streams at the same time
/// must not hold up an event.
const TIMERS_AT_ONCE: usize = 256;

/// Deliveries between two looks at the wall clock, for the delivery times.
const DELIVERIES_BETWEEN_CLOCKS: u32 = 16;

/// What a socket has become ready for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// It has input, or its end, or an error.
    pub readable: bool,
    /// It takes bytes again.
    pub writable: bool,
}

/// The connections of one shard.
pub struct Shard {
    number: u16,
    hub: Arc<Hub>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) time: Arc<dyn Time>,
    pub(super) epoll: Option<Epoll>,
    connections: Vec<Option<Connection>>,
    /// For each channel by its number the slots of its listeners.
    channels: Vec<Slots>,
    pub(super) wheel: Wheel,
    /// Slots that have something to write.
    dirty: Vec<u32>,
    messages: VecDeque<Message>,
    /// What is read and thrown away.
    scratch: Box<[u8]>,
    wall: WallClock,
    delivered: [usize; Transport::ALL.len()],
    latencies: LocalLatencies,
}

/// The wall clock, looked at now and then.
struct WallClock {
    now: Millis,
    uses: u32,
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.hub.forget_shard(self.number);
    }
}

impl WallClock {
    fn now(&mut self, time: &dyn Time) -> Millis {
        self.uses += 1;
        if self.uses == DELIVERIES_BETWEEN_CLOCKS {
            *self = Self { now: time.now(), uses: 0 };
        }
        self.now
    }
}

impl Shard {
    /// A shard of the hub that is driven by its caller, with simulated sockets.
    pub fn simulated(hub: &Arc<Hub>, time: Arc<dyn Time>) -> io::Result<Self> {
        Ok(Self::new(hub, time, Arc::new(Inbox::new(false)?), None))
    }

    pub(super) fn new(hub: &Arc<Hub>, time: Arc<dyn Time>, inbox: Arc<Inbox>, epoll: Option<Epoll>) -> Self {
        Self {
            number: hub.add_shard(inbox.clone()),
            hub: hub.clone(),
            inbox,
            wheel: Wheel::new(time.tick()),
            time,
            epoll,
            connections: Vec::new(),
            channels: Vec::new(),
            dirty: Vec::new(),
            messages: VecDeque::new(),
            scratch: vec![0; 16 * 1024].into(),
            wall: WallClock { now: 0, uses: 0 },
            delivered: [0; Transport::ALL.len()],
            latencies: LocalLatencies::default(),
        }
    }

    /// Takes what has come, writes what there is to write, and does what is due. `false` when the shard
    /// shall end.
    pub fn turn(&mut self) -> bool {
        let now = self.time.tick();
        self.wall = WallClock { now: self.time.now(), uses: 0 };
        let goes_on = self.take_messages(now);
        self.write_dirty(now);
        for _ in 0..TIMERS_AT_ONCE {
            let Some(slot) = self.wheel.pop(now) else { break };
            if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
                let next = connection.on_timer(now);
                self.follow(slot, next);
            }
        }
        self.write_dirty(now);
        for (transport, delivered) in self.delivered.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            self.hub.counters().delivered[transport].add(std::mem::take(delivered));
        }
        self.hub.counters().delivery.add(&mut self.latencies);
        goes_on
    }

    /// A socket has become ready.
    pub fn on_ready(&mut self, slot: u32, readiness: Readiness) {
        let now = self.time.tick();
        if readiness.readable
            && let Some(Some(connection)) = self.connections.get_mut(slot as usize)
        {
            let next = connection.on_readable(now, &mut self.scratch);
            self.follow(slot, next);
        }
        if readiness.writable
            && let Some(Some(connection)) = self.connections.get_mut(slot as usize)
        {
            let next = connection.on_writable();
            self.follow(slot, next);
        }
    }

    fn take_messages(&mut self, now: Tick) -> bool {
        let mut messages = std::mem::take(&mut self.messages);
        self.inbox.take(&mut messages);
        let mut goes_on = true;
        while let Some(message) = messages.pop_front() {
            match message {
                // Nothing more comes now that could go out in the same call.
                Message::Event { channel, frame } if messages.is_empty() && frame.conflate_window.is_zero() => {
                    self.on_last_event(channel, &frame, now);
                }
                Message::Event { channel, frame } => self.on_event(channel, &frame, now),
                Message::Adopt(handover) => self.adopt(*handover),
                Message::Close { slot, reason } => {
                    if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
                        let next = connection.end(reason);
                        self.follow(slot, next);
                    }
                }
                Message::Join { slot, channel } => self.join(slot, channel),
                Message::Leave { slot, channel, name } => self.part(slot, channel, &name),
                Message::Look(looks) => looks.answer(|slot, event, mark| {
                    let connection = self.connections.get(slot as usize).and_then(Option::as_ref);
                    connection.map_or(Sight::Gone, |connection| connection.look(event, mark))
                }),
                Message::Stop => goes_on = false,
            }
        }
        // Give back what a burst needed.
        messages.shrink_to(1024);
        self.messages = messages;
        goes_on
    }

    fn on_event(&mut self, channel: u32, frame: &Arc<SharedFrame>, now: Tick) {
        // Taken out while connections are looked at; one that ends leaves the list afterwards.
        let Some(listeners) = self.channels.get_mut(channel as usize).map(std::mem::take) else { return };
        let mut lost: SmallVec<[(u32, Next); 8]> = SmallVec::new();
        for slot in listeners.as_slice() {
            let Some(Some(connection)) = self.connections.get_mut(*slot as usize) else { continue };
            let done =
                observe(connection.transport, &mut self.delivered, &mut self.latencies, &mut self.wall, &*self.time);
            match connection.push(frame, now, self.hub.counters(), done) {
                Next::Write if !connection.is_dirty => {
                    connection.is_dirty = true;
                    self.dirty.push(*slot);
                }
                Next::Keep | Next::Write => {}
                Next::Timer => self.wheel.set(*slot, connection.deadline()),
                next @ (Next::Ended(_) | Next::Lost { .. } | Next::Gone) => lost.push((*slot, next)),
            }
        }
        self.channels[channel as usize] = listeners;
        lost.into_iter().for_each(|(slot, next)| self.follow(slot, next));
    }

    /// The last event of those that have come: whoever has nothing else to be written gets it at once.
    fn on_last_event(&mut self, channel: u32, frame: &Arc<SharedFrame>, now: Tick) {
        let Some(listeners) = self.channels.get_mut(channel as usize).map(std::mem::take) else { return };
        let now_nanos = nanos(now);
        let mut busy: SmallVec<[(u32, Next); 8]> = SmallVec::new();
        for slot in listeners.as_slice() {
            let Some(Some(connection)) = self.connections.get_mut(*slot as usize) else { continue };
            let done =
                observe(connection.transport, &mut self.delivered, &mut self.latencies, &mut self.wall, &*self.time);
            let next = match connection.is_idle() {
                true => connection.write_at_once(frame, now_nanos, done),
                false => connection.push(frame, now, self.hub.counters(), done),
            };
            if next != Next::Keep {
                busy.push((*slot, next));
            }
        }
        self.channels[channel as usize] = listeners;
        busy.into_iter().for_each(|(slot, next)| self.follow(slot, next));
    }

    fn adopt(&mut self, handover: Handover) {
        let (slot, close) = (handover.slot, handover.close);
        let index = slot as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        let mut connection = Connection::new(handover);
        for (channel, place) in &mut connection.channels {
            *place = self.add_listener(*channel, slot);
        }
        let registered = match (&self.epoll, connection.socket().fd()) {
            (Some(epoll), Some(fd)) => epoll.add(fd, slot),
            _ => Ok(()),
        };
        let next = match close {
            Some(reason) => connection.end(reason),
            None => Next::Write,
        };
        self.wheel.set(slot, connection.deadline());
        self.connections[index] = Some(connection);
        match registered {
            Ok(()) => self.follow(slot, next),
            Err(error) => {
                tracing::error!(%error, "a stream's socket could not be watched");
                self.follow(slot, Next::Lost { reason: CloseReason::Error, abort: false });
            }
        }
    }

    /// Answers the listener's place.
    fn add_listener(&mut self, channel: u32, slot: u32) -> u32 {
        let channel = channel as usize;
        if self.channels.len() <= channel {
            self.channels.resize_with(channel + 1, Slots::default);
        }
        self.channels[channel].push(slot)
    }

    fn remove_listener(&mut self, channel: u32, place: u32) {
        if let Some(moved) = self.channels[channel as usize].swap_remove(place)
            && let Some(Some(other)) = self.connections.get_mut(moved as usize)
            && let Some((_, their_place)) = other.channels.iter_mut().find(|(number, _)| *number == channel)
        {
            *their_place = place;
        }
    }

    /// The connection listens to one more channel, unless its stream has ended: the hub may not know yet.
    fn join(&mut self, slot: u32, channel: u32) {
        let is_there = |connection: &&Connection| !connection.is_lingering();
        let connection = self.connections.get(slot as usize).and_then(Option::as_ref).filter(is_there);
        if connection.is_none() {
            return;
        }
        let place = self.add_listener(channel, slot);
        if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
            connection.channels.push((channel, place));
        }
    }

    /// The connection listens to one channel less.
    fn part(&mut self, slot: u32, channel: u32, name: &Channel) {
        let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { return };
        let Some(at) = connection.channels.iter().position(|(number, _)| *number == channel) else { return };
        let (_, place) = connection.channels.swap_remove(at);
        connection.forget(name);
        self.remove_listener(channel, place);
    }

    fn write_dirty(&mut self, now: Tick) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { continue };
            connection.is_dirty = false;
            let done =
                observe(connection.transport, &mut self.delivered, &mut self.latencies, &mut self.wall, &*self.time);
            let next = connection.write(now, done);
            if next != Next::Keep {
                self.follow(slot, next);
            }
        }
        // What following a connection has made dirty waits for the next turn, which comes at once.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Whether there is something to do at once.
    pub(super) fn is_busy(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn follow(&mut self, slot: u32, next: Next) {
        let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { return };
        match next {
            Next::Keep => {}
            Next::Write => {
                if !std::mem::replace(&mut connection.is_dirty, true) {
                    self.dirty.push(slot);
                }
                // The wheel has let go of it if it was its timer. What is due already is written in this turn;
                // a timer in the past would come up again at once, before those of others.
                self.wheel.set(slot, connection.deadline().max(self.time.tick()));
            }
            Next::Timer => self.wheel.set(slot, connection.deadline()),
            Next::Ended(reason) => {
                self.wheel.set(slot, connection.deadline());
                self.leave(slot, reason);
            }
            Next::Lost { reason, abort } => {
                self.leave(slot, reason);
                self.drop_socket(slot, abort);
            }
            Next::Gone => self.drop_socket(slot, false),
        }
    }

    /// The stream has ended: nobody speaks of it any more.
    fn leave(&mut self, slot: u32, reason: CloseReason) {
        let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { return };
        let (number, transport) = (connection.number, connection.transport);
        let channels = std::mem::take(&mut connection.channels);
        channels.iter().for_each(|(channel, place)| self.remove_listener(*channel, *place));
        self.hub.remove_on_shard(self.number, number, channels.iter().map(|(channel, _)| *channel));
        self.hub.counters().on_closed(transport, reason);
    }

    fn drop_socket(&mut self, slot: u32, abort: bool) {
        self.wheel.clear(slot);
        let Some(connection) = self.connections.get_mut(slot as usize).and_then(Option::take) else { return };
        let socket = connection.into_socket();
        if abort {
            socket.abort()
        } else {
            drop(socket)
        }
        self.hub.release_slot(self.number, slot);
    }

    /// Ends what is still there, without a word.
    pub(super) fn end(&mut self) {
        self.hub.end_shard(self.number);
        self.take_messages(self.time.tick());
        for slot in 0..self.connections.len() as u32 {
            let Some(Some(connection)) = self.connections.get(slot as usize) else { continue };
            let next = match connection.is_lingering() {
                true => Next::Gone,
                false => Next::Lost { reason: CloseReason::Drain, abort: false },
            };
            self.follow(slot, next);
        }
    }

    /// Frames and bytes that wait in a slot.
    pub fn waiting(&self, slot: u32) -> (usize, usize) {
        let connection = self.connections.get(slot as usize).and_then(Option::as_ref);
        connection.map_or((0, 0), Connection::waiting)
    }

    /// One more than the highest slot that has been in use.
    pub fn slots(&self) -> u32 {
        self.connections.len() as u32
    }
}

/// Counts what a connection's socket has taken.
fn observe<'a>(
    transport: Transport,
    delivered: &'a mut [usize; Transport::ALL.len()],
    latencies: &'a mut LocalLatencies,
    wall: &'a mut WallClock,
    time: &'a dyn Time,
) -> impl FnMut(&SharedFrame) + 'a {
    move |frame| {
        delivered[transport as usize] += 1;
        latencies.observe(wall.now(time).saturating_sub(frame.logged.event.sent_at));
    }
}
