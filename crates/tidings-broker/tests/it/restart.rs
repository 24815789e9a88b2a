//! What a new process knows of what an earlier one was told.

use std::{path::Path, sync::Arc, time::Duration};

use tidings_broker::{EmbeddedBroker, EmbeddedConfig};
use tidings_core::{
    Namespace, Namespaces, SharedNamespaces,
    ports::{AppendError, Broker, Feed, HistoryFrom},
};
use tidings_protocol::{Event, EventId, GapReason, Partition, PartitionCursor, Position};

use crate::support::{
    ManualClock, Seen, append, before, channel, event, gap, history, keyed, open, open_with, read, text,
};

async fn append_all(broker: &EmbeddedBroker, name: &str, texts: &[&str]) -> Vec<EventId> {
    let mut ids = Vec::new();
    for text in texts {
        ids.push(append(broker, event(name, text)).await);
    }
    ids
}

/// A new process, after one that ended in order. Crashes have tests of their own.
async fn restart(dir: &Path, clock: &Arc<ManualClock>, broker: Arc<EmbeddedBroker>) -> Arc<EmbeddedBroker> {
    broker.shutdown().await;
    drop(broker);
    open(dir, clock).0
}

#[tokio::test]
async fn durable_history_keys_and_epoch_survive() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let (broker, _) = open(dir.path(), &clock);
    let full = Event {
        event_type: tidings_protocol::EventType::parse("said").unwrap(),
        conflate: Some("c".into()),
        expires_in_secs: Some(9),
        is_ephemeral: false,
        sent_at: u64::MAX,
        ..keyed("durable:a", "제주 \"quoted\"", "k")
    };
    let first = append(&broker, full.clone()).await;
    let volatile_key = append(&broker, keyed("volatile:a", "v", "k")).await;
    let before_restart = broker.channel(&channel("durable:a")).await.unwrap();

    let broker = restart(dir.path(), &clock, broker).await;
    assert_eq!(broker.channel(&channel("durable:a")).await.unwrap(), before_restart);
    let page = broker
        .history(tidings_core::ports::HistoryRequest {
            partition: Partition::ZERO,
            channels: [channel("durable:a")].into(),
            from: HistoryFrom::Last(vec![5]),
            through: Position(u64::MAX),
            limit: 10,
        })
        .await
        .unwrap();
    let [tidings_core::ports::HistoryEntry::Event(logged)] = &page.entries[..] else { panic!("{page:?}") };
    assert_eq!((logged.id(), &logged.event, logged.previous), (first, &full, Position::ZERO));

    let repeated = broker.append(vec![full.clone()]).await.remove(0).unwrap();
    assert_eq!((repeated.id, repeated.is_duplicate), (first, true));
    let other = keyed("durable:a", "other", "k");
    assert_eq!(broker.append(vec![other.clone()]).await, [Err(AppendError::KeyConflict)]);
    let volatile = broker.append(vec![keyed("volatile:a", "v", "k")]).await.remove(0).unwrap();
    assert!(!volatile.is_duplicate && volatile.id.at.position > volatile_key.at.position);
    assert_eq!(volatile.id.at.epoch, first.at.epoch);

    clock.advance(10 * 60 * 1000);
    let broker = restart(dir.path(), &clock, broker).await;
    assert!(!broker.append(vec![other]).await.remove(0).unwrap().is_duplicate, "the window has ended");
}

#[tokio::test]
async fn only_volatile_channels_have_a_gap_from_before_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let (broker, _) = open(dir.path(), &clock);
    let first = append(&broker, event("durable:a", "1")).await;
    append(&broker, event("volatile:a", "lost")).await;
    let last = append(&broker, event("durable:a", "2")).await;
    broker.shutdown().await;
    drop(broker);

    let (broker, feed) = open(dir.path(), &clock);
    let start = feed.start().get(Partition::ZERO).unwrap();
    assert!(start.epoch == first.at.epoch && start.position > last.at.position);
    let start = EventId { at: start, ..first };
    let all = &["durable:a", "volatile:a", "durable:never", "volatile:never"];
    let lost = gap(&["volatile:a", "volatile:never"], GapReason::Restart);
    assert_eq!(history(&broker, all, first).await, [lost, text("2")]);
    assert_eq!(history(&broker, all, start).await, []);
    append_all(&broker, "volatile:a", &["3"]).await;
    assert_eq!(history(&broker, all, start).await, [text("3")]);

    // Another epoch, or a place that was never reached: all that there is, after a gap.
    let strange = [
        PartitionCursor { epoch: tidings_protocol::Epoch(!first.at.epoch.0), position: Position(1) },
        PartitionCursor { position: Position(start.at.position.0 + 2), ..first.at },
    ];
    for at in strange {
        let seen = history(&broker, all, EventId { at, ..first }).await;
        assert_eq!(seen, [gap(all, GapReason::Epoch), text("1"), text("2"), text("3")]);
    }
}

#[tokio::test]
async fn what_went_before_a_restart_is_gone_exactly_as_far_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let (broker, _) = open(dir.path(), &clock);
    let evicted = append_all(&broker, "short:evicted", &["1", "2", "3", "4", "5"]).await;
    let expired = append_all(&broker, "short:expired", &["1", "2"]).await;
    clock.advance(60_000);
    let fresh = append_all(&broker, "short:fresh", &["1", "2"]).await;
    let purged = append_all(&broker, "durable:purged", &["1", "2"]).await;
    assert_eq!(broker.purge(&channel("durable:purged")).await, Ok(2));
    append_all(&broker, "durable:purged", &["3"]).await;

    let check = async |broker: &EmbeddedBroker, reason| {
        let seen = async |name: &str, after| history(broker, &[name], after).await;
        assert_eq!(seen("short:evicted", evicted[4]).await, []);
        assert_eq!(seen("short:evicted", evicted[3]).await, [gap(&["short:evicted"], GapReason::Expired)]);
        assert_eq!(seen("short:expired", expired[1]).await, []);
        assert_eq!(seen("short:expired", expired[0]).await, [gap(&["short:expired"], GapReason::Expired)]);
        assert_eq!(seen("short:fresh", before(fresh[0])).await, [text("1"), text("2")]);
        assert_eq!(seen("durable:purged", purged[1]).await, [text("3")]);
        assert_eq!(seen("durable:purged", purged[0]).await, [gap(&["durable:purged"], reason), text("3")]);
        assert_eq!(seen("durable:never", before(evicted[0])).await, Vec::<Seen>::new());
    };
    check(&broker, GapReason::Evicted).await;
    let broker = restart(dir.path(), &clock, broker).await;
    check(&broker, GapReason::Evicted).await;
    let broker = restart(dir.path(), &clock, broker).await;
    check(&broker, GapReason::Evicted).await;

    // Time passes while no server runs.
    broker.shutdown().await;
    drop(broker);
    clock.advance(60_000);
    let (broker, _) = open(dir.path(), &clock);
    let gone = gap(&["short:fresh"], GapReason::Expired);
    assert_eq!(history(&broker, &["short:fresh"], fresh[0]).await, [gone]);
}

#[tokio::test]
async fn evicted_rows_leave_their_mark_in_the_first_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let (broker, _) = open(dir.path(), &clock);
    let ids = append_all(&broker, "short:a", &["1", "2", "3", "4", "5"]).await;
    let broker = restart(dir.path(), &clock, broker).await;
    assert_eq!(history(&broker, &["short:a"], ids[1]).await, [text("3"), text("4"), text("5")]);
    let gone = gap(&["short:a"], GapReason::Evicted);
    assert_eq!(history(&broker, &["short:a"], ids[0]).await, [gone, text("3"), text("4"), text("5")]);
    assert_eq!(read(&broker, &["short:a"], HistoryFrom::Last(vec![2])).await, [text("4"), text("5")]);
}

#[tokio::test]
async fn a_forgotten_channel_raises_the_floor_of_its_namespace_alone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let config = || EmbeddedConfig { channels_max: 2, ..EmbeddedConfig::new(dir.path()) };
    let namespaces = crate::support::namespaces;
    let (broker, _) = open_with(config(), namespaces(), &clock);
    let first = append(&broker, event("short:1", "x")).await;
    let second = append(&broker, event("short:2", "x")).await;
    append(&broker, event("durable:1", "x")).await;
    append(&broker, event("durable:2", "x")).await;
    let check = async |broker: &EmbeddedBroker| {
        let gone = gap(&["short:1", "short:2", "short:never"], GapReason::Evicted);
        assert_eq!(history(broker, &["short:1", "short:2", "short:never"], first).await, [gone]);
        assert_eq!(history(broker, &["short:1"], second).await, []);
        assert_eq!(history(broker, &["durable:1", "default"], before(first)).await, [text("x")]);
    };
    check(&broker).await;
    broker.shutdown().await;
    drop(broker);
    let (broker, _) = open_with(config(), namespaces(), &clock);
    check(&broker).await;
    // The channel comes back: what is before the floor is unknown, what is after it is not.
    let third = append(&broker, event("short:1", "y")).await;
    assert_eq!(history(&broker, &["short:1"], second).await, [text("y")]);
    let gone = gap(&["short:1"], GapReason::Evicted);
    assert_eq!(history(&broker, &["short:1"], first).await, [gone, text("y")]);
    assert_eq!(history(&broker, &["short:1"], third).await, []);
}

fn with_durability(is_durable: bool) -> SharedNamespaces {
    let namespace = Namespace { durable: is_durable, history_ttl: Duration::from_secs(60), ..Namespace::default() };
    Namespaces::new([("turned".to_owned(), namespace)].into()).shared()
}

#[tokio::test]
async fn a_namespace_that_becomes_durable_still_tells_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let config = || EmbeddedConfig::new(dir.path());
    let (broker, _) = open_with(config(), with_durability(false), &clock);
    let first = append(&broker, event("turned:a", "lost")).await;
    broker.shutdown().await;
    drop(broker);

    let (broker, _) = open_with(config(), with_durability(true), &clock);
    let lost = || gap(&["turned:a", "turned:b"], GapReason::Restart);
    assert_eq!(history(&broker, &["turned:a", "turned:b"], before(first)).await, [lost()]);
    append(&broker, event("turned:a", "kept")).await;
    broker.shutdown().await;
    drop(broker);

    let (broker, _) = open_with(config(), with_durability(true), &clock);
    let seen = history(&broker, &["turned:a", "turned:b"], before(first)).await;
    assert_eq!(seen, [lost(), text("kept")]);
}

#[tokio::test]
async fn a_namespace_that_was_volatile_for_a_while_tells_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let config = || EmbeddedConfig::new(dir.path());
    let rules = with_durability(true);
    let (broker, _) = open_with(config(), rules.clone(), &clock);
    let first = append(&broker, event("turned:a", "stored")).await;
    rules.store(with_durability(false).load_full());
    append(&broker, event("turned:a", "lost")).await;
    append(&broker, event("turned:b", "lost")).await;
    rules.store(with_durability(true).load_full());
    broker.shutdown().await;
    drop(broker);

    let (broker, _) = open_with(config(), with_durability(true), &clock);
    let seen = history(&broker, &["turned:a", "turned:b"], before(first)).await;
    // What was stored before goes too: what came between is unknown.
    assert_eq!(seen, [gap(&["turned:a", "turned:b"], GapReason::Restart)]);
    assert_eq!(history(&broker, &["turned:a"], first).await, [gap(&["turned:a"], GapReason::Restart)]);
}
