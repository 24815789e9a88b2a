//! Streams that keep up with what their users follow.

use std::sync::Arc;

use tidings_hub::{Hub, MayListen};
use tidings_protocol::{Channel, CloseReason, UserId};

use crate::{
    ports::{FollowListeners, Store, store::StoreError},
    stream::Stream,
};

/// Follows that are read at a time.
const PAGE: usize = 500;

/// How often it is looked up again what a user follows, when that changes meanwhile: few users follow anything in
/// the moment in which they open a stream.
const LOOKS_MAX: usize = 8;

/// The streams of this node.
pub struct NodeFollows {
    /// Where they are.
    pub hub: Arc<Hub>,
}

impl FollowListeners for NodeFollows {
    fn on_follows(&self, user: &UserId, added: &[Channel], removed: &[Channel]) {
        if !removed.is_empty() {
            self.hub.remove_channels(user, removed);
        }
        if !added.is_empty() {
            // Nobody waits for it: who follows is told that it is noted, not that it is heard.
            let _at_its_time = self.hub.add_channels(user, added);
        }
    }
}

/// What a user follows.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The channels.
    pub channels: Vec<Channel>,
    as_of: u64,
}

/// How a stream is to keep up.
pub struct KeepUp<'a> {
    /// Where it stands what is followed.
    pub store: &'a dyn Store,
    /// So many of the stream's channels are its own, the first; the others are among those that are followed.
    pub named: usize,
    /// So many it may have in all.
    pub channels_max: usize,
    /// Whether whoever has the stream may listen to a channel.
    pub may_listen: MayListen,
    /// What is followed, as it was looked up before the stream was opened.
    pub followed: Followed,
}

impl Followed {
    /// Looks up what the user follows.
    pub async fn of(user: &UserId, store: &dyn Store, hub: &Hub) -> Result<Self, StoreError> {
        let as_of = hub.follow_changes(user);
        let mut channels = Vec::new();
        loop {
            let page = store.follows(user, channels.last(), PAGE).await?;
            let is_last = page.len() < PAGE;
            channels.extend(page.into_iter().map(|follow| follow.channel));
            if is_last {
                return Ok(Self { channels, as_of });
            }
        }
    }
}

impl Stream {
    /// Keeps up with what the stream's user follows from now on. To be called before anything is taken from it.
    pub async fn keep_up(&mut self, how: KeepUp<'_>) -> Result<(), StoreError> {
        let KeepUp { store, named, channels_max, may_listen, mut followed } = how;
        let Some(user) = self.info().user.clone() else { return Ok(()) };
        let hub = self.hub().clone();
        self.subscription().keep_up(named, channels_max, may_listen);
        for _ in 0..LOOKS_MAX {
            // What changes from now on, the hub tells the stream.
            if self.subscription().set_followed(&followed.channels, followed.as_of) {
                return Ok(());
            }
            followed = Followed::of(&user, store, &hub).await?;
        }
        self.subscription().close(CloseReason::Error);
        Err(StoreError { cause: "what the user follows changes faster than it can be read".to_owned() })
    }
}
