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
    /// Hands one item to the hub.
    pub fn deliver(&self, item: FeedItem) {
        match item {
            FeedItem::Event(logged) => {
                let conflate_window = self.namespaces.load().of(&logged.event.channel).conflate_window;
                self.hub.on_event(logged, conflate_window, self.clock.tick());
            }
            FeedItem::Marker { channel, registration, partition, head } => {
                self.hub.on_marker(&channel, registration, partition, head);
            }
            FeedItem::Head { registration, partition, head } => self.hub.on_head(registration, partition, head),
        }
    }

    /// Reads the feed to its end.
    pub async fn run(self, mut feed: impl Feed) {
        let mut items = Vec::new();
        while feed.next(&mut items).await {
            items.drain(..).for_each(|item| self.deliver(item));
            self.hub.room().await;
            // A feed that always has more must not keep other tasks from their turn.
            tokio::task::yield_now().await;
        }
    }
}
