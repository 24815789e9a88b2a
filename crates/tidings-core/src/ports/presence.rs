//! What the domain needs to know of streams: who is there, and what has reached them.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use tidings_hub::{ConnectionId, Transport};
use tidings_protocol::{Channel, EventId, Millis, UserId};

use super::Unavailable;

/// Whether live deliveries have arrived.
#[async_trait]
pub trait Confirmations: Send + Sync + 'static {
    /// For each, in order: whether a stream of the user is known to have received the event. That is so when
    /// the user's stream was sent it, and the peer's TCP has acknowledged all that was sent up to it, on a
    /// connection where that counts.
    async fn confirmed(&self, deliveries: &[(UserId, EventId)]) -> Vec<bool>;
}

/// Streams that keep up with what their user follows.
pub trait FollowListeners: Send + Sync + 'static {
    /// The user follows some channels from now on, and others no more. Returns at once.
    fn on_follows(&self, user: &UserId, added: &[Channel], removed: &[Channel]);
}

/// Who is connected, on whichever node.
#[async_trait]
pub trait Presence: Send + Sync + 'static {
    /// A user's connections.
    async fn user(&self, user: &UserId) -> Result<Vec<UserConnection>, Unavailable>;

    /// Who listens to a channel: at most so many users, by name, after one of them. `None` if no account is kept of
    /// the channel's namespace.
    async fn channel(
        &self,
        channel: &Channel,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Option<Members>, Unavailable>;

    /// This node is going away, and its clients with it, to another one: from now on nobody is told that somebody
    /// has left.
    fn withdraw(&self);

    /// How it fares.
    fn status(&self) -> PresenceStatus;
}

/// One connection of a user.
#[derive(Debug, Clone)]
pub struct UserConnection {
    /// Its id.
    pub id: ConnectionId,
    /// The node that has it.
    pub node: Arc<str>,
    /// How it is connected.
    pub transport: Transport,
    /// Since when.
    pub since: Millis,
    /// Where it comes from, for operators.
    pub remote: Option<IpAddr>,
}

/// Who listens to a channel.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// Some of the users.
    pub users: Vec<Member>,
    /// Whether more follow the last one.
    pub has_more: bool,
    /// How many users there are in all.
    pub user_count: usize,
    /// How many streams of nobody in particular.
    pub anonymous: usize,
}

/// A user who listens to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// By how many streams. None while it is waited whether somebody who is gone comes back.
    pub connections: usize,
}

/// How presence fares.
#[derive(Debug, Clone, Default)]
pub struct PresenceStatus {
    /// Users of whom it was told that they have come to a channel.
    pub joins: u64,
    /// Users of whom it was told that they have left one.
    pub leaves: u64,
    /// What the log did not take of that.
    pub lost: u64,
    /// What became of what the listener was told, by outcome.
    pub listener: Vec<(&'static str, u64)>,
}

/// Who is told of users that come and go.
pub trait UserListener: Send + Sync + 'static {
    /// Somebody has come, or has been gone for a while. Returns at once.
    fn on_user(&self, event: UserEvent);

    /// What has become of them, by outcome, in numbers that only grow.
    fn outcomes(&self) -> Vec<(&'static str, u64)>;
}

/// A user has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEvent {
    /// Who.
    pub user: UserId,
    /// Whether they have come: with their first connection. They are gone some time after the last.
    pub is_connected: bool,
    /// The node that says so.
    pub node: Arc<str>,
    /// When.
    pub at: Millis,
}
