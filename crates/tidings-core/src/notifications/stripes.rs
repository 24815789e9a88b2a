//! One after the other, user by user.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
};

use tidings_protocol::UserId;
use tokio::sync::{Mutex, MutexGuard};

/// What is done for so many users at once need not wait for each other.
const STRIPES: usize = 64;

/// A lock for each user, which they share with a few others.
pub(super) struct Stripes {
    locks: [Mutex<()>; STRIPES],
    hasher: RandomState,
}

impl Default for Stripes {
    fn default() -> Self {
        Self { locks: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }
}

impl Stripes {
    fn index(&self, user: &UserId) -> usize {
        self.hasher.hash_one(user) as usize % STRIPES
    }

    /// Waits for a user's turn.
    pub(super) async fn of(&self, user: &UserId) -> MutexGuard<'_, ()> {
        self.locks[self.index(user)].lock().await
    }

    /// Waits for the turn of all of these users.
    pub(super) async fn of_all(&self, users: impl Iterator<Item = &UserId>) -> Vec<MutexGuard<'_, ()>> {
        // Each once and in one order, or they would wait in a circle.
        let indices: BTreeSet<usize> = users.map(|user| self.index(user)).collect();
        let mut guards = Vec::with_capacity(indices.len());
        for index in indices {
            guards.push(self.locks[index].lock().await);
        }
        guards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_waits_for_itself_alone_and_many_for_each_of_them() {
        let stripes = Stripes::default();
        let users: Vec<_> = (0..200).map(|number| UserId::parse(&format!("u{number}")).unwrap()).collect();
        let other = users.iter().find(|user| stripes.index(user) != stripes.index(&users[0])).unwrap();
        let first = stripes.of(&users[0]).await;
        drop(stripes.of(other).await);
        tokio::select! {
            biased;
            _ = stripes.of_all(users.iter()) => panic!("it is the first one's turn"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        // More users than stripes, so some share one.
        assert!(stripes.of_all(users.iter()).await.len() <= STRIPES);
    }
}
