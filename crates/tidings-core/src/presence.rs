//! What the node knows of those who are connected to it.

mod book;
mod node;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_hub::{Confirming, Hub};
use tidings_protocol::{EventId, UserId};

pub use self::node::{JOIN, LEAVE, NodePresence, NodePresenceParts};
use crate::ports::{Clock, Confirmations};

/// How often connections are looked at before what they have not confirmed counts as lost.
const LOOKS_MAX: usize = 20;

/// Between two looks. All of them together take as long as a slow mobile network may for a round trip, with one
/// retransmission.
const BETWEEN_LOOKS: Duration = Duration::from_millis(75);

/// Confirmations by the connections of one node.
pub struct NodeConfirmations {
    /// The connections.
    pub hub: Arc<Hub>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Confirmations for NodeConfirmations {
    async fn confirmed(&self, deliveries: &[(UserId, EventId)]) -> Vec<bool> {
        let mut confirming = Confirming::new(deliveries);
        for look in 1..=LOOKS_MAX {
            self.hub.look(&mut confirming).await;
            if confirming.is_done() || look == LOOKS_MAX {
                break;
            }
            self.clock.sleep_until(self.clock.tick() + BETWEEN_LOOKS).await;
        }
        confirming.into_answers()
    }
}
