//! The index from channels to who listens to them.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, sync::Arc};

use hashbrown::HashTable;
use indexmap::IndexMap;
use slab::Slab;
use tidings_protocol::{Channel, Partition};

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
    /// Where it lies, once that is known.
    pub(crate) partition: Option<Partition>,
    /// Those that tasks serve, by their number in the registry. Boxed, for most channels have none.
    sessions: Option<Box<IndexMap<u32, Arc<Session>>>>,
    /// How many there are on each shard that has any. One inline: most channels have one listener.
    on_first_shard: (u16, u32),
    #[allow(clippy::box_collection, reason = "one word, for nearly all channels have none")]
    on_other_shards: Option<Box<Vec<(u16, u32)>>>,
}

impl Listeners {
    pub(crate) fn new(channel: Channel, registration: Registration) -> Self {
        Self {
            channel,
            registration,
            is_ready: false,
            partition: None,
            sessions: None,
            on_first_shard: (0, 0),
            on_other_shards: None,
        }
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter().flat_map(|sessions| sessions.values())
    }

    /// The shards to which the channel's events must go.
    pub(crate) fn shards(&self) -> impl Iterator<Item = u16> {
        self.counts().map(|(shard, _)| shard)
    }

    pub(crate) fn len(&self) -> usize {
        let sessions = self.sessions.as_ref().map_or(0, |sessions| sessions.len());
        sessions + self.counts().map(|(_, count)| count as usize).sum::<usize>()
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

    fn counts(&self) -> impl Iterator<Item = (u16, u32)> {
        let others = self.on_other_shards.iter().flat_map(|others| others.iter());
        std::iter::once(&self.on_first_shard).chain(others).copied().filter(|(_, count)| *count > 0)
    }

    pub(crate) fn add_on_shard(&mut self, shard: u16) {
        let (first, count) = &mut self.on_first_shard;
        if *count == 0 && self.on_other_shards.is_none() {
            *first = shard;
        }
        if *first == shard {
            *count += 1;
            return;
        }
        let others = self.on_other_shards.get_or_insert_default();
        match others.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, count)) => *count += 1,
            None => others.push((shard, 1)),
        }
    }

    pub(crate) fn remove_on_shard(&mut self, shard: u16) {
        let (first, count) = &mut self.on_first_shard;
        if *first == shard {
            *count = count.saturating_sub(1);
            return;
        }
        let Some(others) = &mut self.on_other_shards else { return };
        if let Some(at) = others.iter().position(|(other, _)| *other == shard) {
            others[at].1 -= 1;
            if others[at].1 == 0 {
                others.swap_remove(at);
            }
        }
        if others.is_empty() {
            self.on_other_shards = None;
        }
    }

    /// Whoever is on the shard is gone. Whether there was anybody.
    fn forget_shard(&mut self, shard: u16) -> bool {
        let before = self.len();
        if self.on_first_shard.0 == shard {
            self.on_first_shard.1 = 0;
        }
        if let Some(others) = &mut self.on_other_shards {
            others.retain(|(other, _)| *other != shard);
            if others.is_empty() {
                self.on_other_shards = None;
            }
        }
        self.len() < before
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
            entry.remove();
        }
        Some(listeners)
    }

    /// Whoever is on the shard is gone. Takes out, and answers, the channels that have lost their last listener
    /// by it.
    pub(crate) fn forget_shard(&mut self, shard: u16) -> Vec<Listeners> {
        let has_lost_all = |(number, listeners): (usize, &mut Listeners)| {
            (listeners.forget_shard(shard) && listeners.len() == 0).then_some(number as u32)
        };
        let numbers: Vec<_> = self.entries.iter_mut().filter_map(has_lost_all).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

const _: () = assert!(size_of::<Listeners>() <= 56, "a node has one for each channel");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn listeners_on_shards_are_counted(steps in prop::collection::vec((any::<bool>(), 0..4_u16), 0..100)) {
            let mut listeners = Listeners::new(Channel::parse("a").unwrap(), Registration(1));
            let mut model = [0_usize; 4];
            for (comes, shard) in steps {
                let count = &mut model[usize::from(shard)];
                if comes {
                    listeners.add_on_shard(shard);
                    *count += 1;
                } else if *count > 0 {
                    listeners.remove_on_shard(shard);
                    *count -= 1;
                }
                prop_assert_eq!(listeners.len(), model.iter().sum::<usize>());
                let mut shards: Vec<_> = listeners.shards().map(usize::from).collect();
                shards.sort_unstable();
                prop_assert_eq!(shards, (0..4).filter(|shard| model[*shard] > 0).collect::<Vec<_>>());
            }
            for (shard, count) in model.iter_mut().enumerate() {
                prop_assert_eq!(listeners.forget_shard(shard as u16), std::mem::take(count) > 0);
                prop_assert!(listeners.shards().all(|other| usize::from(other) > shard));
            }
            prop_assert_eq!(listeners.len(), 0);
        }
    }
}
