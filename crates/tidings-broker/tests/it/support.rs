//! What the tests share: a clock that stands still, short ways to events and histories.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tidings_broker::{EmbeddedBroker, EmbeddedConfig, EmbeddedFeed};
use tidings_core::{
    Namespace, Namespaces, SharedNamespaces,
    ports::{Broker, Clock, HistoryEntry, HistoryFrom, HistoryRequest},
};
use tidings_hub::{Tick, Time};
use tidings_protocol::{
    Channel, Data, Event, EventId, EventType, GapReason, Millis, Partition, PartitionCursor, Position,
};

/// A clock that moves when it is told to.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000)))
    }

    pub(crate) fn advance(&self, millis: Millis) {
        self.0.fetch_add(millis, SeqCst);
    }
}

impl Time for ManualClock {
    fn now(&self) -> Millis {
        self.0.load(SeqCst)
    }

    fn tick(&self) -> Tick {
        Tick::from_millis(self.now())
    }
}

impl Clock for ManualClock {
    fn sleep_until(&self, _tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// `short` keeps three events for a minute, `volatile` is not on disk, `default` keeps a hundred.
pub(crate) fn namespaces() -> SharedNamespaces {
    let short = Namespace { history_size: 3, history_ttl: Duration::from_secs(60), ..Namespace::default() };
    let volatile = Namespace { durable: false, ..Namespace::default() };
    Namespaces::new([("short".to_owned(), short), ("volatile".to_owned(), volatile)].into()).shared()
}

pub(crate) fn open(dir: &Path, clock: &Arc<ManualClock>) -> (Arc<EmbeddedBroker>, EmbeddedFeed) {
    open_with(EmbeddedConfig::new(dir), namespaces(), clock)
}

pub(crate) fn open_with(
    config: EmbeddedConfig,
    namespaces: SharedNamespaces,
    clock: &Arc<ManualClock>,
) -> (Arc<EmbeddedBroker>, EmbeddedFeed) {
    EmbeddedBroker::open(config, namespaces, clock.clone()).expect("the log opens")
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("a channel name")
}

pub(crate) fn event(name: &str, text: &str) -> Event {
    Event {
        channel: channel(name),
        event_type: EventType::default(),
        data: Data::parse(&format!("{text:?}")).expect("JSON"),
        sent_at: 7,
        key: None,
        conflate: None,
        expires_in_secs: None,
        is_ephemeral: false,
    }
}

pub(crate) fn keyed(name: &str, text: &str, key: &str) -> Event {
    Event { key: Some(key.into()), ..event(name, text) }
}

pub(crate) async fn append(broker: &EmbeddedBroker, event: Event) -> EventId {
    let answers = broker.append(vec![event]).await;
    answers.into_iter().next().expect("an answer").expect("appended").id
}

/// One entry of a history, in short.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Event(String),
    Gap(Vec<String>, GapReason),
}

pub(crate) fn text(text: &str) -> Seen {
    Seen::Event(text.to_owned())
}

pub(crate) fn gap(channels: &[&str], reason: GapReason) -> Seen {
    Seen::Gap(channels.iter().map(|name| (*name).to_owned()).collect(), reason)
}

/// All that history has after a place, in pages of two.
pub(crate) async fn history(broker: &EmbeddedBroker, channels: &[&str], after: EventId) -> Vec<Seen> {
    read(broker, channels, HistoryFrom::Cursor(after.at)).await
}

pub(crate) async fn read(broker: &EmbeddedBroker, channels: &[&str], from: HistoryFrom) -> Vec<Seen> {
    let mut request = HistoryRequest {
        partition: Partition::ZERO,
        channels: channels.iter().map(|name| channel(name)).collect(),
        from,
        through: Position(u64::MAX),
        limit: 2,
    };
    let mut seen = Vec::new();
    loop {
        let page = broker.history(request.clone()).await.expect("a page");
        assert!(page.entries.len() <= 2, "a page keeps its limit");
        seen.extend(page.entries.into_iter().map(|entry| match entry {
            HistoryEntry::Event(logged) => Seen::Event(logged.event.data.as_text().into_owned()),
            HistoryEntry::Gap { channels, reason, .. } => {
                Seen::Gap(channels.iter().map(|channel| channel.as_str().to_owned()).collect(), reason)
            }
        }));
        match page.next {
            Some(next) => request.from = next,
            None => return seen,
        }
    }
}

/// The place before an event.
pub(crate) fn before(id: EventId) -> EventId {
    EventId { at: PartitionCursor { position: id.at.position.previous(), ..id.at }, ..id }
}

/// One number of a broker's status.
pub(crate) fn figure(broker: &EmbeddedBroker, name: &str) -> u64 {
    let status = broker.status();
    let mut figures = status.gauges.iter().chain(&status.counters);
    figures.find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no figure {name}")).1
}

/// Waits until something is so that another thread brings about by itself.
pub(crate) async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is never so");
}

const CHILD_DIR: &str = "TIDINGS_TEST_CHILD_DIR";

/// The directory that this process is to work in, if it is a test's child: the same test, in a
/// process of its own, which can be killed or traced.
pub(crate) fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_DIR).map(Into::into)
}

/// Makes a command run this very test as a child that works in `dir`.
pub(crate) fn as_child(command: &mut Command, test: &str, dir: &Path) {
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD_DIR, dir);
}
