//! A store of one test's own, and short ways to use it.

use tempfile::TempDir;
use tidings_core::{
    notifications::{Content, Counts, Fingerprint, InboxEntry, Kind, NotificationId, PushMode, Recipients, State},
    ports::{Store as _, store::*},
};
use tidings_protocol::{Channel, Epoch, EventId, Millis, Partition, PartitionCursor, Position, UserId};
use tidings_store::{DatabaseConfig, SqlStore};
use tidings_testkit::databases::{DatabaseServer, Engine};

/// When the tests begin. Their clock moves only by their own doing.
pub(crate) const NOW: Millis = 1_700_000_000_000;

/// A year, in which nothing expires by itself.
pub(crate) const LONG: Millis = 365 * 24 * 3600 * 1000;

/// On which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
    MariaDb,
}

/// A store of one test's own.
pub(crate) struct Fixture {
    pub(crate) store: SqlStore,
    pub(crate) config: DatabaseConfig,
    pub(crate) on: On,
    _dir: TempDir,
}

impl Fixture {
    pub(crate) async fn new(on: On) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Self::config(on, &dir).await;
        let store = SqlStore::open(&config, NOW).await.unwrap();
        Self { store, config, on, _dir: dir }
    }

    /// An empty database of the same sort.
    pub(crate) async fn another(&self) -> (DatabaseConfig, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Self::config(self.on, &dir).await, dir)
    }

    /// An empty database.
    async fn config(on: On, dir: &TempDir) -> DatabaseConfig {
        let url = match on {
            On::Sqlite => "sqlite".to_owned(),
            On::Postgres => DatabaseServer::shared(Engine::Postgres).await.unwrap().database().await.unwrap(),
            On::MariaDb => DatabaseServer::shared(Engine::MariaDb).await.unwrap().database().await.unwrap(),
        };
        let mut config = DatabaseConfig::new(url, dir.path());
        // Many tests at once share the server.
        config.max_connections = 6;
        config
    }

    pub(crate) async fn accept(&self, new: New) -> NotificationId {
        self.store.accept(new.0).await.unwrap().id
    }

    pub(crate) async fn page(&self, name: &str, now: Millis) -> Vec<InboxEntry> {
        let query = InboxQuery { state: None, before: None, limit: 1_000 };
        self.store.inbox(&user(name), query, now).await.unwrap().entries
    }

    /// The titles of a user's inbox.
    pub(crate) async fn titles(&self, name: &str) -> Vec<String> {
        self.page(name, NOW).await.iter().map(|entry| entry.notification.content.title.clone()).collect()
    }

    /// Unread and unseen.
    pub(crate) async fn counts(&self, name: &str) -> (u64, u64) {
        total(&self.store.counts(&user(name), NOW).await.unwrap())
    }

    pub(crate) async fn follow(&self, name: &str, channel: &str) {
        self.store.follow(&user(name), &[Channel::parse(channel).unwrap()], 100, NOW).await.unwrap();
    }

    /// Writes out all that is to be.
    pub(crate) async fn fan_out_all(&self) {
        while self.store.fan_out(1_000, NOW).await.unwrap() != FanOut::Idle {}
    }

    /// Tells all that is untold, from this position on, each due then. Answers what it was.
    pub(crate) async fn tell_all(&self, first: u64, escalate_at: Option<Millis>) -> Vec<Untold> {
        let untold = self.store.untold(1_000, NOW).await.unwrap();
        let told: Vec<Told> = untold
            .iter()
            .enumerate()
            .map(|(at, untold)| Told {
                id: untold.notification.id,
                user: untold.user.clone(),
                at: untold.is_live.then(|| place(first + at as u64)),
                escalate_at,
            })
            .collect();
        self.store.on_told(&told).await.unwrap();
        untold
    }

    pub(crate) async fn verify(&self) {
        assert_eq!(self.store.verify().await.unwrap().findings, [""; 0]);
    }
}

pub(crate) fn total(counts: &Counts) -> (u64, u64) {
    (counts.total.unread, counts.total.unseen)
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn place(position: u64) -> EventId {
    let at = PartitionCursor { epoch: Epoch(7), position: Position(position) };
    EventId { partition: Partition::ZERO, at }
}

pub(crate) fn unread_of(entries: &[InboxEntry]) -> usize {
    entries.iter().filter(|entry| entry.state == State::Unread).count()
}

/// A notification that is to be accepted.
#[derive(Debug, Clone)]
pub(crate) struct New(pub(crate) NewNotification);

impl New {
    fn to(recipients: Recipients, title: &str) -> Self {
        let content = Content {
            kind: Kind::default_kind(),
            title: title.to_owned(),
            body: None,
            url: None,
            data: None,
            collapse: None,
        };
        Self(NewNotification {
            recipients,
            content,
            push: PushMode::Offline,
            key: None,
            created_at: NOW,
            expires_at: NOW + LONG,
        })
    }

    pub(crate) fn to_users(names: &[&str], title: &str) -> Self {
        Self::to(Recipients::Users(names.iter().map(|name| user(name)).collect()), title)
    }

    pub(crate) fn to_user(name: &str, title: &str) -> Self {
        Self::to_users(&[name], title)
    }

    pub(crate) fn to_followers(channel: &str, title: &str) -> Self {
        Self::to(Recipients::FollowersOf(Channel::parse(channel).unwrap()), title)
    }

    pub(crate) fn to_everyone(title: &str) -> Self {
        Self::to(Recipients::Everyone, title)
    }

    pub(crate) fn kind(mut self, kind: &str) -> Self {
        self.0.content.kind = Kind::parse(kind).unwrap();
        self
    }

    pub(crate) fn collapse(mut self, value: &str) -> Self {
        self.0.content.collapse = Some(value.to_owned());
        self
    }

    pub(crate) fn key(mut self, key: &str, body: u8) -> Self {
        self.0.key = Some((key.to_owned(), Fingerprint([body; 32])));
        self
    }

    pub(crate) fn push(mut self, push: PushMode) -> Self {
        self.0.push = push;
        self
    }

    pub(crate) fn created_at(mut self, at: Millis) -> Self {
        self.0.created_at = at;
        self
    }

    pub(crate) fn expires_at(mut self, at: Millis) -> Self {
        self.0.expires_at = at;
        self
    }
}
