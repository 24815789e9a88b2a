//! What is done with notifications on request. What then goes on by itself is the workers'.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidings_protocol::{
    Channel, Cursor, Millis, UserId,
    notify::{Notify, NotifyTo},
};
use tokio::{sync, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Content, Counters, Counts, Fingerprint, NotificationId, Recipients, Telling,
    events::unread_event,
    stripes::Stripes,
    to_its_end::to_its_end,
    workers::{self, Wakers},
};
use crate::ports::{
    AcceptError, Broker, Clock, Confirmations, FollowListeners, PushSender, Store,
    store::{
        Accepted, Acknowledged, FollowError, FollowersChanged, Mark, Marked, NewNotification, Outcome, StoreError,
        StoreStatus, Which,
    },
};

/// How long an acknowledgement waits for what is being told.
const ACK_PATIENCE: Duration = Duration::from_secs(1);

/// What a client says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// This notification.
    Id(NotificationId),
    /// All that was told up to here.
    Cursor(Cursor),
}

/// What an operator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifierSettings {
    /// How long a notification is kept that says nothing of it.
    pub retention: Duration,
    /// Most channels that a user may follow.
    pub follows_max: usize,
    /// How long after it was told a notification is pushed, unless a stream is known to have it by then.
    pub push_after: Duration,
    /// Rows that are written out to recipients in one transaction. More keep other writers waiting longer.
    pub fan_out_rows: usize,
    /// Events of notifications that are appended to the log together.
    pub tell_rows: usize,
    /// Deliveries whose confirmations are asked for together.
    pub escalate_rows: usize,
    /// Pushes that are under way at the same time.
    pub push_concurrency: usize,
    /// How long a provider may take for one.
    pub push_timeout: Duration,
    /// How often a push is tried.
    pub push_attempts: u32,
    /// Rows that are taken away in one transaction.
    pub sweep_rows: usize,
    /// How often it is looked for what has expired.
    pub sweep_every: Duration,
    /// Whether other processes tell streams too. If not, what is being told is told by this one.
    pub is_shared: bool,
    /// How often it is looked for work that nobody has woken a worker for: that other processes leave, or that
    /// the database held back, as it holds what a killed process had locked until it has noticed. `None` if
    /// there can be none.
    pub poll_every: Option<Duration>,
}

impl Default for NotifierSettings {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(90 * 24 * 3600),
            follows_max: 1000,
            push_after: Duration::from_secs(5),
            fan_out_rows: 2000,
            tell_rows: 1000,
            escalate_rows: 5000,
            push_concurrency: 64,
            push_timeout: Duration::from_secs(15),
            push_attempts: 8,
            sweep_rows: 1000,
            sweep_every: Duration::from_secs(60),
            is_shared: false,
            poll_every: None,
        }
    }
}

/// What a [`Notifier`] is made of.
pub struct NotifierParts {
    /// Where notifications are.
    pub store: Arc<dyn Store>,
    /// The log, by which streams are told.
    pub broker: Arc<dyn Broker>,
    /// Who knows what has arrived.
    pub confirmations: Arc<dyn Confirmations>,
    /// Who sends to devices.
    pub push: Arc<dyn PushSender>,
    /// Streams that keep up with what is followed.
    pub follow_listeners: Arc<dyn FollowListeners>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What an operator has set.
    pub settings: NotifierSettings,
}

/// Takes notifications and what users do with them, and sees to what is to be done then.
pub struct Notifier {
    /// Where they are. What only reads, or changes nothing that streams are told of, may go there directly.
    pub store: Arc<dyn Store>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) confirmations: Arc<dyn Confirmations>,
    pub(super) push: Arc<dyn PushSender>,
    follow_listeners: Arc<dyn FollowListeners>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: NotifierSettings,
    pub(super) counters: Counters,
    pub(super) telling: Arc<Telling>,
    pub(super) wakers: Wakers,
    /// Whoever reads counts and appends an event with them holds this, so that a user's last event has the
    /// last counts: the teller alone, everybody else beside each other.
    pub(super) counts_order: sync::RwLock<()>,
    /// The same among those that change one user's counts.
    user_counts_order: Stripes,
    /// Whoever changes what a user follows and says so to the user's streams holds this, so that they are told last
    /// of what is so.
    follows_order: Stripes,
    health: Mutex<Health>,
}

/// How it fares.
#[derive(Default)]
struct Health {
    store: StoreStatus,
    /// What each worker cannot do now, and why.
    troubles: BTreeMap<&'static str, String>,
}

/// What streams need of inboxes.
#[derive(Clone)]
pub struct Inbox {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Where the teller is.
    pub telling: Arc<Telling>,
    /// Whether other processes tell too, of which `telling` knows nothing.
    pub is_shared: bool,
    /// The channel of what is for everyone.
    pub everyone: Channel,
}

impl Notifier {
    /// Puts the parts together. Its workers are [started](Self::start) separately.
    pub fn new(parts: NotifierParts) -> Arc<Self> {
        let NotifierParts { store, broker, confirmations, push, follow_listeners, clock, settings } = parts;
        Arc::new(Self {
            store,
            broker,
            confirmations,
            push,
            follow_listeners,
            clock,
            settings,
            counters: Counters::default(),
            telling: Arc::default(),
            wakers: Wakers::default(),
            counts_order: sync::RwLock::new(()),
            user_counts_order: Stripes::default(),
            follows_order: Stripes::default(),
            health: Mutex::default(),
        })
    }

    /// Starts what goes on by itself, until `stop`: each worker then ends what it has begun.
    pub fn start(self: &Arc<Self>, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        workers::start(self, stop)
    }

    /// What streams need of it.
    pub fn inbox(&self) -> Inbox {
        Inbox {
            store: self.store.clone(),
            telling: self.telling.clone(),
            is_shared: self.settings.is_shared,
            everyone: Channel::everyone(),
        }
    }

    /// What an operator has set.
    pub fn settings(&self) -> &NotifierSettings {
        &self.settings
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the store fared when it was last looked at.
    pub fn status(&self) -> StoreStatus {
        self.health.lock().store.clone()
    }

    /// Why notifications cannot be served now, if they cannot.
    pub fn trouble(&self) -> Option<String> {
        self.health.lock().store.trouble.clone()
    }

    /// What workers cannot do now, by their names, and why.
    pub fn worker_troubles(&self) -> Vec<(&'static str, String)> {
        self.health.lock().troubles.iter().map(|(name, cause)| (*name, cause.clone())).collect()
    }

    /// Takes a well-formed notification.
    pub async fn notify(self: &Arc<Self>, notify: Notify) -> Result<Accepted, AcceptError> {
        let now = self.clock.now();
        let fingerprint = Fingerprint(notify.fingerprint());
        let lives_ms = notify
            .expires_in_secs
            .map_or(self.settings.retention.as_millis() as Millis, |secs| secs.saturating_mul(1000));
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
            expires_at: now.saturating_add(lives_ms),
        })
        .await
    }

    /// Takes a notification. It is durable when this answers, and is told and written out after that.
    pub async fn accept(self: &Arc<Self>, new: NewNotification) -> Result<Accepted, AcceptError> {
        let this = self.clone();
        to_its_end(async move { this.accept_and_wake(new).await }).await
    }

    async fn accept_and_wake(&self, new: NewNotification) -> Result<Accepted, AcceptError> {
        let is_written_out = !matches!(new.recipients, Recipients::Users(_));
        let answer = self.store.accept(new).await;
        match &answer {
            Ok(accepted) => self.counters.on_accepted(accepted.is_duplicate),
            Err(AcceptError::Store(_)) => self.counters.on_store_error(),
            Err(AcceptError::KeyConflict) => {}
        }
        // Also if the store failed: it may have been taken all the same.
        if !matches!(answer, Ok(Accepted { is_duplicate: true, .. }) | Err(AcceptError::KeyConflict)) {
            self.wakers.tell.wake();
            if is_written_out {
                self.wakers.fan_out.wake();
            }
        }
        answer
    }

    /// Changes how a user stands to some of theirs, and tells the user's streams of the new counts.
    pub async fn mark(self: &Arc<Self>, user: &UserId, which: Which, mark: Mark) -> Result<Marked, StoreError> {
        let (this, user) = (self.clone(), user.clone());
        to_its_end(async move { this.mark_and_tell(&user, &which, mark).await }).await
    }

    async fn mark_and_tell(&self, user: &UserId, which: &Which, mark: Mark) -> Result<Marked, StoreError> {
        let _order = self.counts_order.read().await;
        let _before_others = self.user_counts_order.of(user).await;
        let marked = self.counted(self.store.mark(user, which, mark, self.clock.now()).await)?;
        self.counters.on_outcomes(Outcome::Read, marked.settled);
        if marked.changed > 0 {
            self.tell_counts(user, &marked.counts).await;
        }
        Ok(marked)
    }

    /// Follows channels. Answers which are new.
    pub async fn follow(self: &Arc<Self>, user: &UserId, channels: Vec<Channel>) -> Result<Vec<Channel>, FollowError> {
        let (this, user) = (self.clone(), user.clone());
        to_its_end(async move {
            let _order = this.follows_order.of(&user).await;
            let answer = this.store.follow(&user, &channels, this.settings.follows_max, this.clock.now()).await;
            let added = answer.inspect_err(|error| {
                if let FollowError::Store(_) = error {
                    this.counters.on_store_error();
                }
            })?;
            if !added.is_empty() {
                this.follow_listeners.on_follows(&user, &added, &[]);
            }
            Ok(added)
        })
        .await
    }

    /// Does not follow channels any more. Answers which were followed.
    pub async fn unfollow(self: &Arc<Self>, user: &UserId, channels: Vec<Channel>) -> Result<Vec<Channel>, StoreError> {
        let (this, user) = (self.clone(), user.clone());
        to_its_end(async move {
            let _order = this.follows_order.of(&user).await;
            let removed = this.counted(this.store.unfollow(&user, &channels).await)?;
            if !removed.is_empty() {
                this.follow_listeners.on_follows(&user, &[], &removed);
            }
            Ok(removed)
        })
        .await
    }

    /// Lets users follow a channel, and others not follow it any more.
    pub async fn change_followers(
        self: &Arc<Self>,
        channel: Channel,
        follow: Vec<UserId>,
        unfollow: Vec<UserId>,
    ) -> Result<FollowersChanged, StoreError> {
        let this = self.clone();
        to_its_end(async move {
            let _order = this.follows_order.of_all(follow.iter().chain(&unfollow)).await;
            let (max, now) = (this.settings.follows_max, this.clock.now());
            let changed = this.counted(this.store.change_followers(&channel, &follow, &unfollow, max, now).await)?;
            let channel = std::slice::from_ref(&channel);
            changed.followed.iter().for_each(|user| this.follow_listeners.on_follows(user, channel, &[]));
            changed.unfollowed.iter().for_each(|user| this.follow_listeners.on_follows(user, &[], channel));
            Ok(changed)
        })
        .await
    }

    /// The client says what it has: that need not be pushed. Answers how many deliveries that settled.
    pub async fn acknowledge(&self, user: &UserId, ack: Ack) -> Result<usize, StoreError> {
        // What is being told just now may be what the client has. If it takes too long: a push too many.
        tokio::select! {
            () = self.telling.settled() => {}
            () = self.clock.sleep_until(self.clock.tick() + ACK_PATIENCE) => {}
        }
        // Streams come back with cursors all the time, nearly always when nothing is open.
        if matches!(ack, Ack::Cursor(_)) && self.wakers.escalate.is_idle() && !self.settings.is_shared {
            return Ok(0);
        }
        let (now, mut count) = (self.clock.now(), 0);
        let what: Vec<_> = match ack {
            Ack::Id(id) => vec![Acknowledged::One(id)],
            Ack::Cursor(cursor) => {
                cursor.entries().map(|(partition, at)| Acknowledged::Through { partition, at }).collect()
            }
        };
        for what in &what {
            count += self.counted(self.store.acknowledge(user, what, now).await)?;
        }
        self.counters.on_outcomes(Outcome::Confirmed, count);
        Ok(count)
    }

    /// Tries a push that was given up again. `false` if there is none of this id.
    pub async fn retry_push(&self, id: i64) -> Result<bool, StoreError> {
        let is_there = self.counted(self.store.retry_push(id, self.clock.now()).await)?;
        self.wakers.push.wake();
        Ok(is_there)
    }

    /// Forgets all of a user. Answers how many notifications were in the inbox.
    pub async fn erase_user(&self, user: &UserId) -> Result<usize, StoreError> {
        let _order = self.counts_order.read().await;
        let _before_others = self.user_counts_order.of(user).await;
        self.counted(self.store.erase_user(user).await)
    }

    /// Tells a user's streams of new counts. They are a hint: who misses them has them with the next
    /// notification, or asks.
    async fn tell_counts(&self, user: &UserId, counts: &Counts) {
        let Ok(event) = unread_event(user, counts, self.clock.now()) else { return };
        for answer in self.broker.append(vec![event]).await {
            if let Err(error) = answer {
                tracing::debug!(%user, %error, "streams were not told of new counts");
            }
        }
    }

    fn counted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        answer.inspect_err(|_| self.counters.on_store_error())
    }

    pub(super) fn set_status(&self, status: StoreStatus) {
        let mut health = self.health.lock();
        match (&health.store.trouble, &status.trouble) {
            (None, Some(cause)) => tracing::error!(%cause, "the store cannot be used"),
            (Some(_), None) => tracing::info!("the store can be used again"),
            _ => {}
        }
        health.store = status;
    }

    /// Notes what a worker cannot do. Says so once, not each time that it tries.
    pub(super) fn set_trouble(&self, worker: &'static str, cause: Option<String>) {
        let mut health = self.health.lock();
        match cause {
            Some(cause) => {
                if !health.troubles.contains_key(worker) {
                    tracing::warn!(worker, %cause, "a step of notifications failed and is tried again");
                }
                health.troubles.insert(worker, cause);
            }
            None => {
                if health.troubles.remove(worker).is_some() {
                    tracing::info!(worker, "notifications go on");
                }
            }
        }
    }
}
