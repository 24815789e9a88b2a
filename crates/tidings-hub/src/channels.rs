//! The index from channels to who listens to them.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, sync::Arc};

use hashbrown::HashTable;
use indexmap::IndexMap;
use slab::Slab;
use smallvec::SmallVec;
use tidings_protocol::Channel;

use crate::{hub::Registration, session::Session};

/// The channels that have a listener on this node, each with a number. A number is used again when its
/// channel has lost its last listener; whoever is told of one is told in order, so that is no harm.
#[derive(Default)]
pub(crate) struct Channels {
    entries: Slab<Listeners>,
    names: HashTable<u32>,
    hasher: RandomState,
}

/// The listeners of one channel.
pub(crate) struct Listeners {
    pub(crate) channel: Channel,
    pub(crate) registration: Registration,
    /// Whether the marker has come, so that the feed is known to have the channel.
    pub(crate) is_ready: bool,
    /// Those that tasks serve, by their number in the registry. Boxed, for most channels have none.
    sessions: Option<Box<IndexMap<u32, Arc<Session>>>>,
    /// How many there are on each shard that has any.
    shards: SmallVec<[(u16, u32); 2]>,
}

impl Listeners {
    pub(crate) fn new(channel: Channel, registration: Registration) -> Self {
        Self { channel, registration, is_ready: false, sessions: None, shards: SmallVec::new() }
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter().flat_map(|sessions| sessions.values())
    }

    /// The shards to which the channel's events must go.
    pub(crate) fn shards(&self) -> impl Iterator<Item = u16> {
        self.shards.iter().map(|(shard, _)| *shard)
    }

    pub(crate) fn len(&self) -> usize {
        let sessions = self.sessions.as_ref().map_or(0, |sessions| sessions.len());
        sessions + self.shards.iter().map(|(_, count)| *count as usize).sum::<usize>()
    }

    pub(crate) fn add_session(&mut self, session: &Arc<Session>) {
        self.sessions.get_or_insert_default().insert(session.number, session.clone());
    }

    pub(crate) fn remove_session(&mut self, number: u32) {
        if let Some(sessions) = &mut self.sessions {
            sessions.swap_remove(&number);
            if sessions.is_empty() {
                self.sessions = None;
            }
        }
    }

    pub(crate) fn add_on_shard(&mut self, shard: u16) {
        match self.shards.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, count)) => *count += 1,
            None => self.shards.push((shard, 1)),
        }
    }

    pub(crate) fn remove_on_shard(&mut self, shard: u16) {
        if let Some(at) = self.shards.iter().position(|(other, _)| *other == shard) {
            self.shards[at].1 -= 1;
            if self.shards[at].1 == 0 {
                self.shards.swap_remove(at);
            }
        }
    }
}

impl Channels {
    pub(crate) fn number_of(&self, channel: &Channel) -> Option<u32> {
        let hash = self.hasher.hash_one(channel);
        self.names.find(hash, |number| self.entries[*number as usize].channel == *channel).copied()
    }

    pub(crate) fn get(&self, channel: &Channel) -> Option<(u32, &Listeners)> {
        let number = self.number_of(channel)?;
        Some((number, &self.entries[number as usize]))
    }

    pub(crate) fn by_number(&mut self, number: u32) -> Option<&mut Listeners> {
        self.entries.get_mut(number as usize)
    }

    /// Adds a channel that is not there yet.
    pub(crate) fn insert(&mut self, listeners: Listeners) -> u32 {
        let hash = self.hasher.hash_one(&listeners.channel);
        let number = self.entries.insert(listeners) as u32;
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.names.insert_unique(hash, number, |other| hasher.hash_one(&entries[*other as usize].channel));
        number
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<Listeners> {
        let listeners = self.entries.try_remove(number as usize)?;
        let hash = self.hasher.hash_one(&listeners.channel);
        if let Ok(entry) = self.names.find_entry(hash, |other| *other == number) {
            drop(entry.remove());
        }
        Some(listeners)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
