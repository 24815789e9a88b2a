//! Takes notifications and what users do with them.

use std::sync::Arc;

use tidings_protocol::{
    Channel, Cursor, UserId,
    notify::{Notify, NotifyTo},
};

use super::{Content, Fingerprint, NotificationId, Recipients};
use crate::ports::{
    AcceptError, Clock, Store,
    store::{Accepted, FollowError, Mark, Marked, NewNotification, StoreError, Which},
};

/// What a client says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// This notification.
    Id(NotificationId),
    /// All that was told up to here.
    Cursor(Cursor),
}

/// Takes notifications and what users do with them.
pub struct Notifier {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long a notification is kept that says nothing of it, in milliseconds.
    pub retention_ms: u64,
    /// Most channels that a user may follow.
    pub follows_max: usize,
}

impl Notifier {
    /// Takes a well-formed notification.
    pub async fn notify(&self, notify: Notify) -> Result<Accepted, AcceptError> {
        let now = self.clock.now();
        let fingerprint = Fingerprint(notify.fingerprint());
        self.accept(NewNotification {
            recipients: match notify.to {
                NotifyTo::Users(users) => Recipients::Users(users),
                NotifyTo::FollowersOf(channel) => Recipients::FollowersOf(channel),
                NotifyTo::Everyone => Recipients::Everyone,
            },
            content: Content {
                kind: notify.kind,
                title: notify.title,
                body: notify.body,
                url: notify.url,
                data: notify.data,
                collapse: notify.collapse,
            },
            push: notify.push,
            key: notify.key.map(|key| (key, fingerprint)),
            created_at: now,
            expires_at: now + notify.expires_in_secs.map_or(self.retention_ms, |secs| secs * 1000),
        })
        .await
    }

    /// Takes a notification.
    pub async fn accept(&self, new: NewNotification) -> Result<Accepted, AcceptError> {
        self.store.accept(new).await
    }

    /// Marks.
    pub async fn mark(&self, user: &UserId, which: &Which, mark: Mark) -> Result<Marked, StoreError> {
        self.store.mark(user, which, mark, self.clock.now()).await
    }

    /// Follows.
    pub async fn follow(&self, user: &UserId, channels: &[Channel]) -> Result<Vec<Channel>, FollowError> {
        self.store.follow(user, channels, self.follows_max, self.clock.now()).await
    }

    /// Unfollows.
    pub async fn unfollow(&self, user: &UserId, channels: &[Channel]) -> Result<Vec<Channel>, StoreError> {
        self.store.unfollow(user, channels).await
    }

    /// Acknowledges.
    pub async fn acknowledge(&self, _user: &UserId, _ack: Ack) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// Tries again.
    pub async fn retry_push(&self, id: i64) -> Result<bool, StoreError> {
        self.store.retry_push(id, self.clock.now()).await
    }

    /// Erases.
    pub async fn erase_user(&self, user: &UserId) -> Result<usize, StoreError> {
        self.store.erase_user(user).await
    }
}
