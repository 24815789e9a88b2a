//! Who is where, and of whom it has been told.
//!
//! Somebody is told of when they come with their first connection, and again when they have had none for as long as
//! a client may take to come back. What is told lags behind what is so: whoever has changed waits, once, to be looked
//! at, so that nothing here grows but with those who are there or have just left.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use tidings_hub::Tick;
use tidings_protocol::{Channel, UserId};

use crate::ports::presence::{Member, Members};

/// Where somebody may be: on a channel, or on the node at all.
pub(super) type Place = Option<Channel>;

/// Of whom is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) place: Place,
    pub(super) user: UserId,
    pub(super) has_come: bool,
}

#[derive(Default)]
struct Attendance {
    users: BTreeMap<UserId, Attendee>,
    anonymous: usize,
}

#[derive(Default)]
struct Attendee {
    connections: usize,
    /// Since when there has been none.
    gone_since: Tick,
    /// Whether it has been told that they have come.
    is_told: bool,
    /// Whether they are to be looked at: at once, or when their time is over.
    waits: bool,
}

pub(super) struct Book {
    grace: Duration,
    places: HashMap<Place, Attendance>,
    changed: VecDeque<(Place, UserId)>,
    leaving: BTreeMap<(Tick, u64), (Place, UserId)>,
    last_number: u64,
}

impl Book {
    pub(super) fn new(grace: Duration) -> Self {
        let (changed, leaving) = (VecDeque::new(), BTreeMap::new());
        Self { grace, places: HashMap::new(), changed, leaving, last_number: 0 }
    }

    /// One more connection. Answers whether there is something to be told.
    pub(super) fn arrive(&mut self, place: Place, user: Option<&UserId>) -> bool {
        let attendance = self.places.entry(place.clone()).or_default();
        let Some(user) = user else {
            attendance.anonymous += 1;
            return false;
        };
        let attendee = attendance.users.entry(user.clone()).or_default();
        attendee.connections += 1;
        if attendee.is_told || attendee.waits {
            return false;
        }
        attendee.waits = true;
        self.changed.push_back((place, user.clone()));
        true
    }

    /// One connection less. Answers whether there will be something to be told.
    pub(super) fn depart(&mut self, place: Place, user: Option<&UserId>, now: Tick) -> bool {
        let Some(attendance) = self.places.get_mut(&place) else { return false };
        let Some(user) = user else {
            attendance.anonymous = attendance.anonymous.saturating_sub(1);
            self.tidy(&place);
            return false;
        };
        let Some(attendee) = attendance.users.get_mut(user) else { return false };
        attendee.connections = attendee.connections.saturating_sub(1);
        if attendee.connections > 0 {
            return false;
        }
        attendee.gone_since = now;
        if std::mem::replace(&mut attendee.waits, true) {
            return false;
        }
        self.wait(now + self.grace, place, user.clone());
        true
    }

    fn wait(&mut self, until: Tick, place: Place, user: UserId) {
        self.last_number += 1;
        self.leaving.insert((until, self.last_number), (place, user));
    }

    /// Forgets a place where nobody is.
    fn tidy(&mut self, place: &Place) {
        let is_empty = |attendance: &Attendance| attendance.users.is_empty() && attendance.anonymous == 0;
        if self.places.get(place).is_some_and(is_empty) {
            self.places.remove(place);
        }
    }

    /// Takes at most so many of whom is to be told now.
    pub(super) fn take(&mut self, limit: usize, now: Tick) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < limit {
            let is_due = |(at, _): &(Tick, u64)| *at <= now;
            let next = match self.leaving.first_key_value().is_some_and(|(at, _)| is_due(at)) {
                true => self.leaving.pop_first().map(|(_, who)| who),
                false => self.changed.pop_front(),
            };
            let Some((place, user)) = next else { break };
            changes.extend(self.look(place, user, now));
        }
        changes
    }

    fn look(&mut self, place: Place, user: UserId, now: Tick) -> Option<Change> {
        let users = &mut self.places.get_mut(&place)?.users;
        let attendee = users.get_mut(&user)?;
        attendee.waits = false;
        let has_come = attendee.connections > 0;
        if has_come {
            let was_told = std::mem::replace(&mut attendee.is_told, true);
            return (!was_told).then_some(Change { place, user, has_come });
        }
        let until = attendee.gone_since + self.grace;
        if attendee.is_told && until > now {
            attendee.waits = true;
            self.wait(until, place, user);
            return None;
        }
        // Who has come and gone before anybody was told is not spoken of.
        let was_told = attendee.is_told;
        users.remove(&user);
        self.tidy(&place);
        was_told.then_some(Change { place, user, has_come })
    }

    /// When there is something to be told, unless there is now.
    pub(super) fn next_due(&self, now: Tick) -> Option<Tick> {
        match self.changed.is_empty() {
            false => Some(now),
            true => self.leaving.first_key_value().map(|((at, _), _)| *at),
        }
    }

    /// Who is known to be on a channel.
    pub(super) fn members(&self, channel: &Channel, after: Option<&UserId>, limit: usize) -> Members {
        let Some(attendance) = self.places.get(&Some(channel.clone())) else { return Members::default() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = attendance.users.range::<UserId, _>((from, Bound::Unbounded));
        let member =
            |(user, attendee): (&UserId, &Attendee)| Member { user: user.clone(), connections: attendee.connections };
        let users = rest.by_ref().take(limit).map(member).collect();
        Members {
            users,
            has_more: rest.next().is_some(),
            user_count: attendance.users.len(),
            anonymous: attendance.anonymous,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn user(number: u8) -> UserId {
        UserId::parse(&format!("u{number}")).unwrap()
    }

    fn place() -> Place {
        Some(Channel::parse("chat:lobby").unwrap())
    }

    fn told(book: &mut Book, secs: u64) -> Vec<(UserId, bool)> {
        book.take(100, Duration::from_secs(secs)).into_iter().map(|change| (change.user, change.has_come)).collect()
    }

    #[test]
    fn the_first_connection_joins_and_the_last_leaves_after_a_while() {
        let mut book = Book::new(GRACE);
        assert!(book.arrive(place(), Some(&user(1))));
        assert!(!book.arrive(place(), Some(&user(1))), "it is to be told already");
        assert_eq!(told(&mut book, 0), [(user(1), true)]);
        assert!(!book.depart(place(), Some(&user(1)), Duration::from_secs(1)));
        assert!(book.depart(place(), Some(&user(1)), Duration::from_secs(5)));
        assert_eq!(book.next_due(Duration::from_secs(5)), Some(Duration::from_secs(15)));
        assert_eq!(told(&mut book, 14), []);
        assert_eq!(book.members(&place().unwrap(), None, 10).user_count, 1);
        assert_eq!(told(&mut book, 15), [(user(1), false)]);
        assert!(book.places.is_empty() && book.leaving.is_empty());
    }

    #[test]
    fn who_comes_back_in_time_has_not_left() {
        let mut book = Book::new(GRACE);
        book.arrive(place(), Some(&user(1)));
        assert_eq!(told(&mut book, 0), [(user(1), true)]);
        for secs in [2, 4, 6] {
            book.depart(place(), Some(&user(1)), Duration::from_secs(secs));
            book.arrive(place(), Some(&user(1)));
        }
        book.depart(place(), Some(&user(1)), Duration::from_secs(11));
        assert_eq!(book.leaving.len(), 1, "however often somebody comes and goes");
        assert_eq!(told(&mut book, 12), [], "it is the last departure that counts");
        assert_eq!(told(&mut book, 21), [(user(1), false)]);
    }

    #[test]
    fn who_was_gone_before_anybody_was_told_is_not_spoken_of() {
        let mut book = Book::new(GRACE);
        book.arrive(place(), Some(&user(1)));
        book.depart(place(), Some(&user(1)), Tick::ZERO);
        assert_eq!(told(&mut book, 100), []);
        assert!(book.places.is_empty());
    }

    #[test]
    fn members_come_in_pages_and_nobody_is_counted_only() {
        let mut book = Book::new(GRACE);
        for number in 0..5 {
            book.arrive(place(), Some(&user(number)));
        }
        book.arrive(place(), Some(&user(0)));
        for _ in 0..3 {
            book.arrive(place(), None);
        }
        book.depart(place(), None, Tick::ZERO);
        let channel = place().unwrap();
        let page = book.members(&channel, None, 2);
        assert_eq!((page.users.len(), page.has_more, page.user_count, page.anonymous), (2, true, 5, 2));
        assert_eq!(page.users[0], Member { user: user(0), connections: 2 });
        let last = book.members(&channel, Some(&user(2)), 2);
        assert_eq!(last.users.iter().map(|member| &member.user).collect::<Vec<_>>(), [&user(3), &user(4)]);
        assert!(!last.has_more);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u8),
        Depart(u8),
        Pass(u64),
        Tell,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..3_u8).prop_map(Step::Arrive),
            3 => (0..3_u8).prop_map(Step::Depart),
            2 => (0..15_u64).prop_map(Step::Pass),
            3 => Just(Step::Tell),
        ]
    }

    proptest! {
        /// Comings and goings take turns for each user; who is told to be gone has been for the time that is given,
        /// and in the end it has been told what is so, and nothing is left.
        #[test]
        fn what_is_told_follows_what_is_so(steps in prop::collection::vec(step(), 0..100)) {
            let mut book = Book::new(GRACE);
            let (mut connections, mut gone_since, mut present) = ([0_usize; 3], [Tick::ZERO; 3], [false; 3]);
            let mut now = Tick::ZERO;
            let end = [Step::Depart(0), Step::Depart(1), Step::Depart(2)].into_iter().cycle().take(300);
            let end = end.chain([Step::Tell, Step::Pass(20), Step::Tell]);
            for step in steps.into_iter().chain(end) {
                match step {
                    Step::Arrive(number) => {
                        connections[usize::from(number)] += 1;
                        book.arrive(place(), Some(&user(number)));
                    }
                    Step::Depart(number) if connections[usize::from(number)] > 0 => {
                        connections[usize::from(number)] -= 1;
                        gone_since[usize::from(number)] = now;
                        book.depart(place(), Some(&user(number)), now);
                    }
                    Step::Depart(_) => {}
                    Step::Pass(secs) => now += Duration::from_secs(secs),
                    Step::Tell => {
                        for change in book.take(100, now) {
                            let number = (0..3).find(|number| user(*number as u8) == change.user).unwrap();
                            prop_assert_eq!(present[number], !change.has_come);
                            present[number] = change.has_come;
                            prop_assert_eq!(connections[number] > 0, change.has_come);
                            prop_assert!(change.has_come || gone_since[number] + GRACE <= now);
                        }
                        for number in 0..3 {
                            prop_assert!(present[number] || connections[number] == 0);
                        }
                    }
                }
                prop_assert!(book.leaving.len() + book.changed.len() <= 3);
            }
            prop_assert_eq!(present, [false; 3]);
            prop_assert!(book.places.is_empty() && book.leaving.is_empty() && book.changed.is_empty());
        }
    }
}
