//! What the domain needs to know of streams: who is there, and what has reached them.

use async_trait::async_trait;
use tidings_protocol::{Channel, EventId, UserId};

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
