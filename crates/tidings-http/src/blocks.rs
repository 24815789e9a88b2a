//! Users who were sent away and must not come back for a while.
//!
//! Kept in this node's memory: a restart forgets them. It stops well-behaved clients, which is what
//! `204` is for; whoever must not come back at all must lose their token.

use std::collections::HashMap;

use parking_lot::Mutex;
use tidings_protocol::{Millis, UserId};

/// Most users that are kept away at a time, about 100 bytes each.
const USERS_MAX: usize = 100_000;

/// Who is kept away, and until when.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Mutex<HashMap<UserId, Millis>>);

impl Blocks {
    /// Keeps a user away. `false` if there are too many already.
    pub(crate) fn add(&self, user: UserId, until: Millis, now: Millis) -> bool {
        let mut blocked = self.0.lock();
        if blocked.len() >= USERS_MAX {
            blocked.retain(|_, until| *until > now);
        }
        if blocked.len() >= USERS_MAX && !blocked.contains_key(&user) {
            return false;
        }
        blocked.insert(user, until);
        true
    }

    /// Whether the user is kept away.
    pub(crate) fn contains(&self, user: &UserId, now: Millis) -> bool {
        let mut blocked = self.0.lock();
        match blocked.get(user) {
            None => false,
            Some(until) if *until > now => true,
            Some(_) => {
                blocked.remove(user);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_and_there_are_only_so_many() {
        let blocks = Blocks::default();
        let user = |number: usize| UserId::parse(&number.to_string()).unwrap();
        assert!(blocks.add(user(1), 100, 0));
        assert!(blocks.contains(&user(1), 99));
        assert!(!blocks.contains(&user(1), 100));
        for number in 0..USERS_MAX {
            assert!(blocks.add(user(number), 100, 0));
        }
        assert!(!blocks.add(user(USERS_MAX), 200, 99));
        assert!(blocks.add(user(0), 200, 99), "a known one can be prolonged");
        assert!(blocks.add(user(USERS_MAX), 200, 100), "those that have ended make room");
    }
}
