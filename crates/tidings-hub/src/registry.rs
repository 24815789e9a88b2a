//! The connections of one node: found by number, id and user, and counted by address and transport.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    net::IpAddr,
    sync::Arc,
};

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use tidings_protocol::{EventId, Partition, Position, UserId};

use crate::{
    connection::{ConfirmBy, ConnectionFilter, ConnectionId, ConnectionInfo, Transport},
    session::Session,
};

/// No connection.
const NONE: u32 = u32::MAX;

/// Who serves a connection.
#[derive(Clone)]
pub(crate) enum Place {
    Session(Arc<Session>),
    Shard {
        shard: u16,
        slot: u32,
        /// It stands here because there is room: it is wanted of streams that a task serves too.
        since: Since,
    },
}

const _: () = assert!(size_of::<Place>() == 16, "a node has one for each connection");

impl Place {
    /// From where on the connection has its user's events.
    fn since(&self) -> Since {
        match self {
            Self::Session(session) => *session.since.lock(),
            Self::Shard { since, .. } => *since,
        }
    }
}

struct Entry {
    /// By value: a count and an allocation less for each.
    info: ConnectionInfo,
    place: Place,
    /// The other connections of the same user.
    next: u32,
    previous: u32,
}

/// From where on a stream has its user's events: one that began without a cursor was not sent what had been
/// before. A partition and a position in eight bytes, for there is one for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

impl Since {
    /// It has all: what it was not sent itself, another stream of the same client was. No event has position 0.
    pub(crate) const ALL: Self = Self(0);

    /// It has what is beyond this place. Of other partitions it has all, as far as is known.
    pub(crate) fn after(partition: Partition, position: Position) -> Self {
        // Positions have 49 bits.
        Self(position.0 << 8 | partition.index() as u64)
    }

    pub(crate) fn has(self, event: EventId) -> bool {
        event.partition.index() as u64 != self.0 & 0xff || event.at.position.0 > self.0 >> 8
    }
}

/// Its tables hold numbers and look the rest up in the entries: names and ids are stored once.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Slab<Entry>,
    ids: HashTable<u32>,
    /// The latest connection of each user; the others are chained to it.
    users: HashTable<u32>,
    addresses: HashMap<IpAddr, u32>,
    transports: [usize; Transport::ALL.len()],
    hasher: RandomState,
}

impl Registry {
    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The number that the next connection will have.
    pub(crate) fn next_number(&self) -> u32 {
        self.entries.vacant_key() as u32
    }

    pub(crate) fn insert(&mut self, info: ConnectionInfo, place: Place) -> u32 {
        let number = self.next_number();
        let (entries, hasher) = (&self.entries, &self.hasher);
        let id_of = |number: &u32| hasher.hash_one(entries[*number as usize].info.id);
        let id_hash = hasher.hash_one(info.id);
        self.ids.insert_unique(id_hash, number, id_of);
        self.transports[info.transport as usize] += 1;
        if let Some(address) = info.remote {
            *self.addresses.entry(address).or_default() += 1;
        }
        let user = info.user.clone();
        self.entries.insert(Entry { info, place, next: NONE, previous: NONE });
        if let Some(user) = user {
            self.chain(&user, number);
        }
        number
    }

    fn chain(&mut self, user: &UserId, number: u32) {
        let hash = self.hash(Some(user));
        let entries = &self.entries;
        if let Some(first) = self.users.find_mut(hash, |other| is_of(entries, *other, user)) {
            let next = std::mem::replace(first, number);
            self.entries[number as usize].next = next;
            self.entries[next as usize].previous = number;
            return;
        }
        let hasher = &self.hasher;
        self.users.insert_unique(hash, number, |other| hasher.hash_one(entries[*other as usize].info.user.as_ref()));
    }

    fn unchain(&mut self, user: &UserId, number: u32) {
        let Entry { next, previous, .. } = self.entries[number as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        if let Ok(mut first) = self.users.find_entry(self.hash(Some(user)), |other| *other == number) {
            if next == NONE {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
        }
    }

    /// Forgets a connection, and answers it. `None` if there is none of this number.
    pub(crate) fn remove(&mut self, number: u32) -> Option<ConnectionInfo> {
        let info = self.entries.get(number as usize)?.info.clone();
        if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(info.id), |other| *other == number) {
            entry.remove();
        }
        if let Some(user) = &info.user {
            self.unchain(user, number);
        }
        self.transports[info.transport as usize] -= 1;
        if let Some(address) = info.remote
            && let Some(count) = self.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        self.entries.try_remove(number as usize);
        Some(info)
    }

    /// The connections that a shard serves.
    pub(crate) fn on_shard(&self, number: u16) -> Vec<(u32, ConnectionInfo)> {
        let is_there = |place: &Place| matches!(place, Place::Shard { shard, .. } if *shard == number);
        let there = self.entries.iter().filter(|(_, entry)| is_there(&entry.place));
        there.map(|(number, entry)| (number as u32, entry.info.clone())).collect()
    }

    pub(crate) fn set_place(&mut self, number: u32, place: Place) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.place = place;
        }
    }

    pub(crate) fn place(&self, number: u32) -> Option<&Place> {
        self.entries.get(number as usize).map(|entry| &entry.place)
    }

    pub(crate) fn info_mut(&mut self, number: u32) -> Option<&mut ConnectionInfo> {
        self.entries.get_mut(number as usize).map(|entry| &mut entry.info)
    }

    /// The user's connections.
    pub(crate) fn numbers_of_user(&self, user: &UserId) -> SmallVec<[u32; 4]> {
        let first = self.users.find(self.hash(Some(user)), |number| is_of(&self.entries, *number, user)).copied();
        std::iter::successors(first, |number| Some(self.entries[*number as usize].next).filter(|next| *next != NONE))
            .collect()
    }

    pub(crate) fn place_of(&self, id: &ConnectionId) -> Option<Place> {
        let number = self.ids.find(self.hash(id), |number| self.entries[*number as usize].info.id == *id)?;
        Some(self.entries[*number as usize].place.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn count_of_transport(&self, transport: Transport) -> usize {
        self.transports[transport as usize]
    }

    pub(crate) fn count_from(&self, address: IpAddr) -> usize {
        self.addresses.get(&address).map_or(0, |count| *count as usize)
    }

    pub(crate) fn count_of_user(&self, user: &UserId) -> usize {
        self.of_user(user).count()
    }

    /// The user's connections that were sent the event, or will be, and of which TCP's word counts.
    pub(crate) fn confirmable(&self, user: &UserId, event: EventId) -> impl Iterator<Item = (&ConnectionInfo, &Place)> {
        let has_it = move |entry: &&Entry| entry.info.confirms == ConfirmBy::Tcp && entry.place.since().has(event);
        self.of_user(user).filter(has_it).map(|entry| (&entry.info, &entry.place))
    }

    fn of_user(&self, user: &UserId) -> impl Iterator<Item = &Entry> {
        let first = self.users.find(self.hash(Some(user)), |number| is_of(&self.entries, *number, user)).copied();
        std::iter::successors(first.map(|number| &self.entries[number as usize]), |entry| {
            (entry.next != NONE).then(|| &self.entries[entry.next as usize])
        })
    }

    /// What the filter means: few for a user, a walk over all for anything else.
    pub(crate) fn matching<'a>(
        &'a self,
        filter: &'a ConnectionFilter,
    ) -> Box<dyn Iterator<Item = (&'a ConnectionInfo, &'a Place)> + 'a> {
        let matching = |entry: &&Entry| filter.matches(&entry.info);
        match &filter.user {
            Some(user) => Box::new(self.of_user(user).filter(matching).map(|entry| (&entry.info, &entry.place))),
            None => {
                let entries = self.entries.iter().map(|(_, entry)| entry);
                Box::new(entries.filter(matching).map(|entry| (&entry.info, &entry.place)))
            }
        }
    }
}

fn is_of(entries: &Slab<Entry>, number: u32, user: &UserId) -> bool {
    entries[number as usize].info.user.as_ref() == Some(user)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(user: Option<u8>, address: u8) -> ConnectionInfo {
        ConnectionInfo {
            id: ConnectionId::random(),
            user: user.map(|user| UserId::parse(&format!("u{user}")).unwrap()),
            transport: Transport::ALL[usize::from(address % 2)],
            confirms: ConfirmBy::Tcp,
            remote: Some([127, 0, 0, address].into()),
            opened_at: 0,
            channels: SmallVec::new(),
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_is_found_and_counted(
            steps in prop::collection::vec((any::<bool>(), prop::option::of(0..4_u8), 0..6_u8, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut registry = Registry::default();
            let mut model: Vec<(u32, ConnectionInfo)> = Vec::new();
            for (comes, user, address, which) in steps {
                if comes || model.is_empty() {
                    let info = info(user, address);
                    let place = Place::Shard { shard: 0, slot: model.len() as u32, since: Since::ALL };
                    prop_assert_eq!(registry.next_number(), registry.insert(info.clone(), place));
                    let number = registry.entries.iter().find(|(_, entry)| entry.info.id == info.id).unwrap().0;
                    model.push((number as u32, info));
                } else {
                    let (number, info) = model.swap_remove(which.index(model.len()));
                    prop_assert_eq!(registry.remove(number).map(|removed| removed.id), Some(info.id));
                    prop_assert!(registry.place_of(&info.id).is_none());
                    prop_assert!(registry.remove(number).is_none());
                }
                prop_assert_eq!(registry.len(), model.len());
                for user in 0..4 {
                    let user = UserId::parse(&format!("u{user}")).unwrap();
                    let of_user = model.iter().filter(|(_, info)| info.user.as_ref() == Some(&user)).count();
                    prop_assert_eq!(registry.count_of_user(&user), of_user);
                    let filter = ConnectionFilter { user: Some(user), ..ConnectionFilter::default() };
                    prop_assert_eq!(registry.matching(&filter).count(), of_user);
                }
                for address in 0..6 {
                    let address = IpAddr::from([127, 0, 0, address]);
                    let from = model.iter().filter(|(_, info)| info.remote == Some(address)).count();
                    prop_assert_eq!(registry.count_from(address), from);
                }
                for transport in Transport::ALL {
                    let of_transport = model.iter().filter(|(_, info)| info.transport == transport).count();
                    prop_assert_eq!(registry.count_of_transport(transport), of_transport);
                }
                prop_assert!(model.iter().all(|(_, info)| registry.place_of(&info.id).is_some()));
            }
        }
    }
}
