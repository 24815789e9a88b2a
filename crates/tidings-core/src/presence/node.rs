//! Who is connected to this node, and who is told of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use tidings_hub::{ConnectionFilter, ConnectionInfo, Hub, Watch};
use tidings_protocol::{Channel, Data, Event, EventType, UserId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::book::{Book, Change};
use crate::{
    namespaces::Namespaces,
    ports::{
        Broker, Clock, Presence, Unavailable, UserListener,
        presence::{Members, PresenceStatus, UserConnection, UserEvent},
    },
};

/// The type of the event that somebody has come to a channel.
pub const JOIN: &str = "tidings.join";

/// The type of the event that somebody has left it.
pub const LEAVE: &str = "tidings.leave";

/// Of how many it is told at a time.
const CHANGES_AT_ONCE: usize = 256;

/// The data of both.
#[derive(Serialize)]
struct Body<'a> {
    user: &'a str,
}

/// What presence is made of.
pub struct NodePresenceParts {
    /// This node.
    pub node: Arc<str>,
    /// Its connections.
    pub hub: Arc<Hub>,
    /// Which channels account is kept of. As it is now: what was not counted as it came cannot be as it goes.
    pub namespaces: Arc<Namespaces>,
    /// Who is told of users that come and go.
    pub listener: Option<Arc<dyn UserListener>>,
    /// How long somebody may be gone before they have left.
    pub grace: std::time::Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Who is connected to one node.
pub struct NodePresence {
    node: Arc<str>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    listener: Option<Arc<dyn UserListener>>,
    register: Arc<Register>,
    joins: AtomicU64,
    leaves: AtomicU64,
    lost: AtomicU64,
}

/// What the hub writes into.
struct Register {
    book: Mutex<Book>,
    namespaces: Arc<Namespaces>,
    counts_users: bool,
    clock: Arc<dyn Clock>,
    news: Notify,
    is_withdrawn: AtomicBool,
}

impl Register {
    /// Whether account is kept of the channel. A personal one has nobody but its owner.
    fn keeps(&self, channel: &Channel) -> bool {
        channel.owner().is_none() && self.namespaces.of(channel).presence
    }

    fn places<'a>(&'a self, info: &'a ConnectionInfo) -> impl Iterator<Item = Option<Channel>> + 'a {
        let of_user = (self.counts_users && info.user.is_some()).then_some(None);
        let channels = info.channels.iter().filter(|channel| self.keeps(channel));
        of_user.into_iter().chain(channels.map(|channel| Some(channel.clone())))
    }

    fn arrive(&self, places: impl Iterator<Item = Option<Channel>>, info: &ConnectionInfo) {
        let mut book = self.book.lock();
        let mut has_news = false;
        places.for_each(|place| has_news |= book.arrive(place, info.user.as_ref()));
        drop(book);
        if has_news {
            self.news.notify_one();
        }
    }

    fn depart(&self, places: impl Iterator<Item = Option<Channel>>, info: &ConnectionInfo) {
        let now = self.clock.tick();
        let mut book = self.book.lock();
        let mut has_news = false;
        places.for_each(|place| has_news |= book.depart(place, info.user.as_ref(), now));
        drop(book);
        if has_news {
            self.news.notify_one();
        }
    }
}

/// A register as the hub holds it.
struct Watching(Arc<Register>);

impl Watch for Watching {
    fn on_opened(&self, info: &ConnectionInfo) {
        self.0.arrive(self.0.places(info), info);
    }

    fn on_ended(&self, info: &ConnectionInfo) {
        self.0.depart(self.0.places(info), info);
    }

    fn on_joined(&self, info: &ConnectionInfo, channel: &Channel) {
        let place = self.0.keeps(channel).then(|| Some(channel.clone()));
        self.0.arrive(place.into_iter(), info);
    }

    fn on_left(&self, info: &ConnectionInfo, channel: &Channel) {
        let place = self.0.keeps(channel).then(|| Some(channel.clone()));
        self.0.depart(place.into_iter(), info);
    }
}

impl NodePresence {
    /// Begins to keep account, if there is anything to keep account of. The hub has no connections yet.
    pub fn new(parts: NodePresenceParts) -> Arc<Self> {
        let NodePresenceParts { node, hub, namespaces, listener, grace, clock } = parts;
        let counts_users = listener.is_some();
        let is_needed = counts_users || namespaces.labelled().any(|(_, namespace)| namespace.presence);
        let register = Arc::new(Register {
            book: Mutex::new(Book::new(grace)),
            namespaces,
            counts_users,
            clock: clock.clone(),
            news: Notify::new(),
            is_withdrawn: AtomicBool::new(false),
        });
        if is_needed {
            hub.watch(Box::new(Watching(register.clone())));
        }
        Arc::new(Self {
            node,
            hub,
            clock,
            listener,
            register,
            joins: AtomicU64::new(0),
            leaves: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// This node.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Tells of those who come and go, until it is stopped.
    pub async fn run(self: Arc<Self>, broker: Arc<dyn Broker>, stop: CancellationToken) {
        loop {
            let now = self.clock.tick();
            let (changes, next) = {
                let mut book = self.register.book.lock();
                (book.take(CHANGES_AT_ONCE, now), book.next_due(now))
            };
            if !changes.is_empty() {
                self.tell(&*broker, changes).await;
                continue;
            }
            let due = async {
                match next {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.register.news.notified() => {}
                () = due => {}
            }
        }
    }

    async fn tell(&self, broker: &dyn Broker, changes: Vec<Change>) {
        let is_withdrawn = self.register.is_withdrawn.load(Relaxed);
        let mut events = Vec::new();
        for Change { place, user, has_come } in changes.into_iter().filter(|change| change.has_come || !is_withdrawn) {
            let Some(channel) = place else {
                if let Some(listener) = &self.listener {
                    let (node, at) = (self.node.clone(), self.clock.now());
                    listener.on_user(UserEvent { user, is_connected: has_come, node, at });
                }
                continue;
            };
            let counter = if has_come { &self.joins } else { &self.leaves };
            counter.fetch_add(1, Relaxed);
            events.extend(event(channel, &user, has_come, self.clock.now()));
        }
        if events.is_empty() {
            return;
        }
        let answers = broker.append(events).await;
        let lost = answers.iter().filter(|answer| answer.is_err()).count();
        if lost > 0 {
            self.lost.fetch_add(lost as u64, Relaxed);
            tracing::warn!(lost, "the log did not take who has come and gone");
        }
    }
}

/// Passes by: who comes later asks who is there.
fn event(channel: Channel, user: &UserId, has_come: bool, now: tidings_protocol::Millis) -> Option<Event> {
    let json = serde_json::to_string(&Body { user: user.as_str() }).ok()?;
    Some(Event {
        channel,
        event_type: EventType::trusted(if has_come { JOIN } else { LEAVE }),
        data: Data::trusted(json),
        sent_at: now,
        key: None,
        conflate: None,
        expires_in_secs: None,
        is_ephemeral: true,
    })
}

#[async_trait]
impl Presence for NodePresence {
    async fn user(&self, user: &UserId) -> Result<Vec<UserConnection>, Unavailable> {
        let filter = ConnectionFilter { user: Some(user.clone()), ..ConnectionFilter::default() };
        let connection = |info: ConnectionInfo| UserConnection {
            id: info.id,
            node: self.node.clone(),
            transport: info.transport,
            since: info.opened_at,
            remote: info.remote,
        };
        Ok(self.hub.connections(&filter).into_iter().map(connection).collect())
    }

    async fn channel(
        &self,
        channel: &Channel,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Option<Members>, Unavailable> {
        let is_kept = self.register.keeps(channel);
        Ok(is_kept.then(|| self.register.book.lock().members(channel, after, limit)))
    }

    fn withdraw(&self) {
        self.register.is_withdrawn.store(true, Relaxed);
    }

    fn status(&self) -> PresenceStatus {
        PresenceStatus {
            joins: self.joins.load(Relaxed),
            leaves: self.leaves.load(Relaxed),
            lost: self.lost.load(Relaxed),
            listener: self.listener.as_ref().map(|listener| listener.outcomes()).unwrap_or_default(),
        }
    }
}
