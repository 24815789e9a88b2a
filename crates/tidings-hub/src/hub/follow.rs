//! Streams whose channels change while they are open.
//!
//! A stream that keeps up with what its user follows is one like any other, with an entry in a table beside. The
//! table says which channels it listens to: what its shard or its task knows of that may be behind, for changes
//! reach a shard through its inbox.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;
use tidings_protocol::{Channel, UserId};

use super::{Hub, Registration, State};
use crate::{registry::Place, session::Session, shard::Message};

/// Changes are told apart by user, roughly: who opens a stream meanwhile looks again at what its user follows.
const STRIPES: usize = 256;

/// Whether whoever has a stream may listen to a channel.
pub type MayListen = Arc<dyn Fn(&Channel) -> bool + Send + Sync>;

/// The streams that keep up with what is followed.
pub(super) struct Following {
    /// By their numbers in the registry.
    streams: HashMap<u32, Entry>,
    /// Who waits for markers.
    waiting: HashMap<Registration, Vec<Waker>>,
    changes: Box<[u64; STRIPES]>,
    hasher: RandomState,
}

struct Entry {
    /// All its channels by their numbers, hidden ones included.
    channels: SmallVec<[u32; 8]>,
    /// So many of those that it is known to listen to it has named itself: they stay.
    named: usize,
    /// So many it may have in all.
    channels_max: usize,
    may_listen: MayListen,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            waiting: HashMap::new(),
            changes: Box::new([0; STRIPES]),
            hasher: RandomState::new(),
        }
    }
}

impl Following {
    fn stripe(&mut self, user: &UserId) -> &mut u64 {
        let stripe = self.hasher.hash_one(user) as usize % STRIPES;
        &mut self.changes[stripe]
    }

    /// Forgets a stream. Answers its channels, if it was one of these.
    pub(super) fn remove(&mut self, number: u32) -> Option<SmallVec<[u32; 8]>> {
        self.streams.remove(&number).map(|entry| entry.channels)
    }

    /// Its channels, if it is one of these.
    pub(super) fn channels_of(&self, number: u32) -> Option<&[u32]> {
        self.streams.get(&number).map(|entry| entry.channels.as_slice())
    }

    /// The marker has come, or nobody waits for it any more.
    pub(super) fn on_answered(&mut self, registration: Registration) {
        for waker in self.waiting.remove(&registration).into_iter().flatten() {
            waker.wake();
        }
    }
}

/// Waits until the feed is known to carry channels that were added. Dropping it changes nothing.
pub struct Added {
    hub: Arc<Hub>,
    awaited: Vec<(Channel, Registration)>,
}

impl Future for Added {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { hub, awaited } = self.get_mut();
        let mut guard = hub.state.lock();
        let state = &mut *guard;
        awaited.retain(|(channel, registration)| {
            let listeners = state.channels.get(channel);
            listeners.is_some_and(|(_, found)| found.registration == *registration && !found.is_ready)
        });
        // One at a time will do.
        let Some((_, registration)) = awaited.first() else { return Poll::Ready(()) };
        let waiting = state.following.waiting.entry(*registration).or_default();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Hub {
    /// How often something has changed in what the user follows, or perhaps another user.
    pub fn follow_changes(&self, user: &UserId) -> u64 {
        *self.state.lock().following.stripe(user)
    }

    /// The stream keeps up with what its user follows from now on. Of its channels the first `named` are its own.
    pub(crate) fn keep_up(&self, session: &Session, named: usize, channels_max: usize, may_listen: MayListen) {
        let channels = session.channels.iter().copied().collect();
        let entry = Entry { channels, named, channels_max, may_listen };
        self.state.lock().following.streams.insert(session.number, entry);
    }

    /// The user's streams that keep up with what is followed listen to these channels too, as far as they may and
    /// have room: to each from when the feed is known to have it, and not to what was before.
    pub fn add_channels(self: &Arc<Self>, user: &UserId, channels: &[Channel]) -> Added {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        *state.following.stripe(user) += 1;
        for number in state.registry.numbers_of_user(user) {
            self.add_to_stream(state, number, channels);
        }
        let is_awaited = |channel: &Channel| {
            let (_, listeners) = state.channels.get(channel)?;
            (!listeners.is_ready).then(|| (channel.clone(), listeners.registration))
        };
        Added { hub: self.clone(), awaited: channels.iter().filter_map(is_awaited).collect() }
    }

    /// The user's streams that keep up with what is followed do not listen to these channels any more, unless they
    /// have named them themselves. Nothing of them comes from now on but what is being written already.
    pub fn remove_channels(&self, user: &UserId, channels: &[Channel]) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        *state.following.stripe(user) += 1;
        for number in state.registry.numbers_of_user(user) {
            channels.iter().for_each(|channel| self.remove_from_stream(state, number, channel));
        }
    }

    /// What the user of a stream follows, as it was when [`follow_changes`](Self::follow_changes) was `as_of`: the
    /// stream listens to that, and not to what it had followed before. `false` if something may have changed since
    /// then, so that it must be looked up again.
    pub(crate) fn set_followed(&self, session: &Session, followed: &[Channel], as_of: u64) -> bool {
        // Both lists may have a thousand, and events wait for the lock: so neither is searched for each of the other.
        let wanted: HashSet<&Channel> = followed.iter().collect();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(user) = &session.info.user else { return true };
        if *state.following.stripe(user) != as_of {
            return false;
        }
        let number = session.number;
        let Some(entry) = state.following.streams.get(&number) else { return true };
        let Some(info) = state.registry.info_mut(number) else { return true };
        let listed: HashSet<&Channel> = info.channels.iter().collect();
        let missing: Vec<_> = followed.iter().filter(|channel| !listed.contains(channel)).cloned().collect();
        let kept = info.channels.iter().skip(entry.named);
        let outdated: Vec<_> = kept.filter(|channel| !wanted.contains(channel)).cloned().collect();
        outdated.iter().for_each(|channel| self.remove_from_stream(state, number, channel));
        self.add_to_stream(state, number, &missing);
        true
    }

    fn add_to_stream(&self, state: &mut State, number: u32, channels: &[Channel]) {
        for channel in channels {
            let Some(entry) = state.following.streams.get_mut(&number) else { return };
            let Some(info) = state.registry.info_mut(number) else { return };
            if info.channels.len() >= entry.channels_max {
                return;
            }
            if info.channels.contains(channel) || !(entry.may_listen)(channel) {
                continue;
            }
            info.channels.push(channel.clone());
            if let Some(watch) = self.watch.get() {
                watch.on_joined(info, channel);
            }
            let at = state.number_or_register(channel, &*self.interest);
            let Some(place) = state.registry.place(number).cloned() else { return };
            let Some(listeners) = state.channels.by_number(at) else { continue };
            match place {
                Place::Session(session) => {
                    listeners.add_session(&session);
                    // Its fence has not been chosen: it waits for this one too.
                    let mut awaited = session.awaited.lock();
                    *awaited += usize::from(*awaited > 0 && !listeners.is_ready);
                }
                Place::Shard { shard, slot, .. } => {
                    listeners.add_on_shard(shard);
                    state.shards[usize::from(shard)].inbox.push(Message::Join { slot, channel: at });
                }
            }
            if let Some(entry) = state.following.streams.get_mut(&number) {
                entry.channels.push(at);
            }
        }
    }

    fn remove_from_stream(&self, state: &mut State, number: u32, channel: &Channel) {
        let Some(entry) = state.following.streams.get_mut(&number) else { return };
        let Some(info) = state.registry.info_mut(number) else { return };
        let Some(listed) = info.channels.iter().position(|other| other == channel) else { return };
        let Some(at) = state.channels.number_of(channel).filter(|_| listed >= entry.named) else { return };
        info.channels.remove(listed);
        if let Some(watch) = self.watch.get() {
            watch.on_left(info, channel);
        }
        entry.channels.retain(|other| *other != at);
        let Some(place) = state.registry.place(number).cloned() else { return };
        match place {
            Place::Session(session) => {
                session.has_left.store(true, Relaxed);
                session.queue.lock().forget(channel);
                // It waits for its first fence still, and for this marker among others.
                let is_awaited = *session.awaited.lock() > 0;
                if is_awaited && state.channels.by_number(at).is_some_and(|listeners| !listeners.is_ready) {
                    state.on_awaited(&session);
                }
                self.leave(state, at, |listeners| listeners.remove_session(number));
            }
            Place::Shard { shard, slot, .. } => {
                let message = Message::Leave { slot, channel: at, name: channel.clone() };
                state.shards[usize::from(shard)].inbox.push(message);
                self.leave(state, at, |listeners| listeners.remove_on_shard(shard));
            }
        }
    }

    /// What a stream listens to now, hidden channels left out.
    pub(crate) fn channels_of(&self, session: &Session) -> Vec<Channel> {
        let mut state = self.state.lock();
        let listed = state.registry.info_mut(session.number).map(|info| info.channels.to_vec());
        listed.unwrap_or_default()
    }
}
