//! From the node's feed to its hub: the only way by which an event reaches a stream.

use std::sync::Arc;

use tidings_hub::Hub;

use crate::{
    namespaces::SharedNamespaces,
    ports::{Clock, Feed, FeedItem},
};

/// What the feed's items meet on this node.
pub struct Delivery {
    /// The subscribers.
    pub hub: Arc<Hub>,
    /// The rules.
    pub namespaces: SharedNamespaces,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Delivery {
    /// Hands items to the hub, in order.
    pub fn deliver(&self, items: impl IntoIterator<Item = FeedItem>) {
        let (now, namespaces) = (self.clock.tick(), self.namespaces.load());
        let mut batch = self.hub.batch();
        for item in items {
            match item {
                FeedItem::Event(logged) => {
                    let conflate_window = namespaces.of(&logged.event.channel).conflate_window;
                    batch.on_event(logged, conflate_window, now);
                }
                FeedItem::Marker { channel, registration, partition, head } => {
                    batch.on_marker(&channel, registration, partition, head);
                }
                FeedItem::Head { registration, partition, head } => batch.on_head(registration, partition, head),
            }
        }
    }

    /// Reads the feed to its end.
    pub async fn run(self, mut feed: impl Feed) {
        let mut items = Vec::new();
        while feed.next(&mut items).await {
            self.deliver(items.drain(..));
            self.hub.room().await;
            // A feed that always has more must not keep other tasks from their turn.
            tokio::task::yield_now().await;
        }
    }
}
