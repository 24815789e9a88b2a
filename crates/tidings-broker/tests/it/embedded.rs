//! The embedded broker while it runs: order, failure, limits.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc, task::Context};

use futures_util::{FutureExt as _, task::noop_waker};
use tidings_broker::{
    EmbeddedBroker, EmbeddedConfig, OpenError,
    embedded::{DATABASE_FILE, inspect},
};
use tidings_core::ports::{AppendError, Broker, Feed, FeedItem};
use tidings_hub::{Interest as _, Registration};
use tidings_protocol::{Event, EventId, Partition};

use crate::support::{
    ManualClock, append, before, channel, event, eventually, figure, history, keyed, namespaces, open, open_with, text,
};

async fn fed(feed: &mut impl Feed, count: usize) -> Vec<EventId> {
    let mut items = Vec::new();
    while items.len() < count {
        assert!(feed.next(&mut items).await, "the feed ended early");
    }
    let id = |item| match item {
        FeedItem::Event(logged) => logged.id(),
        other => panic!("not an event: {other:?}"),
    };
    items.into_iter().map(id).collect()
}

#[tokio::test]
async fn the_feed_has_every_event_in_the_order_of_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut feed) = open(dir.path(), &ManualClock::new());
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for number in 0..50 {
                    let name = if (task + number) % 3 == 0 { "volatile:a" } else { "durable:a" };
                    ids.push(append(&broker, event(name, "x")).await);
                }
                ids
            })
        })
        .collect();
    let fed = fed(&mut feed, 800).await;
    assert!(fed.windows(2).all(|pair| pair[0].at.position < pair[1].at.position));
    let mut answered = Vec::new();
    for task in tasks {
        answered.extend(task.await.unwrap());
    }
    answered.sort_by_key(|id| id.at.position);
    assert_eq!(fed, answered);
    assert_eq!(figure(&broker, "append_queue_bytes"), 0, "what the feed has taken is no longer charged");
    broker.shutdown().await;
}

#[tokio::test]
async fn markers_and_probes_are_answered_in_order_with_the_last_released_place() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut feed) = open(dir.path(), &ManualClock::new());
    let start = feed.start().get(Partition::ZERO).unwrap();
    broker.register(&channel("a"), Registration(1));
    let first = append(&broker, event("volatile:a", "1")).await;
    broker.probe(Partition::ZERO, Registration(2));
    broker.unregister(&channel("a"), Registration(1));
    let mut items = Vec::new();
    assert!(feed.next(&mut items).await);
    let [FeedItem::Marker { registration, head, .. }, FeedItem::Event(logged), FeedItem::Head { head: probed, .. }] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!((*registration, *head), (Registration(1), start));
    assert_eq!((logged.id(), *probed), (first, first.at));
}

#[tokio::test]
async fn a_key_makes_a_repeat_harmless_and_another_body_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let (broker, _feed) = open(dir.path(), &clock);
    for name in ["durable:a", "volatile:a"] {
        let first = append(&broker, keyed(name, "x", "k")).await;
        // sent_at may differ; so may the channel, which has keys of its own.
        let repeated = broker.append(vec![Event { sent_at: 8, ..keyed(name, "x", "k") }]).await.remove(0).unwrap();
        assert_eq!((repeated.id, repeated.is_duplicate), (first, true));
        assert_ne!(append(&broker, keyed(&format!("{name}2"), "x", "k")).await, first);
        for other in [
            keyed(name, "y", "k"),
            Event { conflate: Some("c".into()), ..keyed(name, "x", "k") },
            Event { expires_in_secs: Some(1), ..keyed(name, "x", "k") },
        ] {
            assert_eq!(broker.append(vec![other]).await, [Err(AppendError::KeyConflict)]);
        }
        clock.advance(10 * 60 * 1000);
        assert_ne!(append(&broker, keyed(name, "y", "k")).await, first, "the window has ended");
    }
    let twice = broker.append(vec![keyed("durable:b", "x", "k"), keyed("durable:b", "x", "k")]).await;
    let [Ok(first), Ok(second)] = &twice[..] else { panic!("{twice:?}") };
    assert_eq!((first.is_duplicate, second.is_duplicate, first.id), (false, true, second.id));
}

/// Holds the database so that no commit succeeds, as an operator's shell or a full disk may.
struct Held(rusqlite::Connection);

impl Held {
    fn by_another(dir: &std::path::Path) -> Self {
        let connection = rusqlite::Connection::open(dir.join(DATABASE_FILE)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    fn let_go(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

#[tokio::test]
async fn a_failed_commit_fails_its_appends_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut feed) = open(dir.path(), &ManualClock::new());
    let first = append(&broker, event("durable:a", "1")).await;
    let held = Held::by_another(dir.path());
    let answers = broker.append(vec![keyed("durable:a", "2", "k"), event("volatile:a", "v")]).await;
    assert!(matches!(answers[0], Err(AppendError::Unavailable(_))), "{answers:?}");
    let volatile = answers[1].as_ref().expect("volatile events need no disk").id;
    assert!(broker.status().trouble.is_some_and(|trouble| trouble.contains("cannot be written")));
    assert_eq!(figure(&broker, "commit_failures"), 1);
    let second = append(&broker, event("volatile:a", "w")).await;
    held.let_go();

    let retried = broker.append(vec![keyed("durable:a", "2", "k")]).await.remove(0).unwrap();
    assert!(!retried.is_duplicate, "the first attempt came to nothing");
    assert_eq!(broker.status().trouble, None);
    assert_eq!(history(&broker, &["durable:a"], before(first)).await, [text("1"), text("2")]);
    assert_eq!(fed(&mut feed, 4).await, [first, volatile, second, retried.id]);
    assert_eq!(figure(&broker, "append_queue_bytes"), 0, "a failed append gives its room back");
}

#[tokio::test]
async fn trouble_ends_by_itself_when_the_disk_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _feed) = open(dir.path(), &ManualClock::new());
    let held = Held::by_another(dir.path());
    assert!(broker.append(vec![event("durable:a", "1")]).await[0].is_err());
    held.let_go();
    // Nobody publishes to a node that says it is not ready, so it has to look for itself.
    eventually(|| broker.status().trouble.is_none()).await;
}

#[tokio::test]
async fn a_full_database_refuses_durable_events_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { database_max_bytes: Some(256 * 1024), ..EmbeddedConfig::new(dir.path()) };
    let (broker, _feed) = open_with(config, namespaces(), &ManualClock::new());
    let large = "x".repeat(2000);
    let mut taken = 0;
    let refused = loop {
        match broker.append(vec![event(&format!("durable:{taken}"), &large)]).await.remove(0) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(refused.to_string().contains("full"), "{refused}");
    assert!(taken > 50, "{taken}");
    assert!(broker.status().trouble.is_some());
    append(&broker, event("volatile:a", &large)).await;
    for number in 0..taken {
        assert_eq!(broker.purge(&channel(&format!("durable:{number}"))).await, Ok(1));
    }
    append(&broker, event("durable:a", &large)).await;
    assert_eq!(broker.status().trouble, None);
}

#[tokio::test]
async fn publishers_wait_while_the_feed_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cost = event("volatile:a", "x").cost_bytes();
    let config = EmbeddedConfig { append_queue_max_bytes: 10 * cost, ..EmbeddedConfig::new(dir.path()) };
    let (broker, mut feed) = open_with(config, namespaces(), &ManualClock::new());
    for _ in 0..10 {
        append(&broker, event("volatile:a", "x")).await;
    }
    assert_eq!(figure(&broker, "append_queue_bytes"), 10 * cost as u64);
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut eleventh = std::pin::pin!(append(&broker, event("volatile:a", "x")));
    assert!(eleventh.poll_unpin(&mut cx).is_pending());
    // One that gives up takes no room with it.
    assert!(append(&broker, event("volatile:a", "x")).boxed().poll_unpin(&mut cx).is_pending());
    assert_eq!(fed(&mut feed, 10).await.len(), 10);
    assert!(eleventh.poll_unpin(&mut cx).is_ready());

    let larger_than_all = event("volatile:a", &"x".repeat(20 * cost));
    fed(&mut feed, 1).await;
    append(&broker, larger_than_all).await;
    fed(&mut feed, 1).await;
    assert_eq!(figure(&broker, "append_queue_bytes"), 0);

    // Without a reader nothing is queued, and nobody waits.
    append(&broker, event("volatile:a", "x")).await;
    drop(feed);
    for _ in 0..20 {
        append(&broker, event("volatile:a", "x")).await;
        append(&broker, event("durable:a", "x")).await;
    }
    assert_eq!(figure(&broker, "append_queue_bytes"), 0);
}

#[tokio::test]
async fn after_a_shutdown_the_feed_ends_and_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut feed) = open(dir.path(), &ManualClock::new());
    let appending = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.append(vec![event("durable:a", "1"); 100]).await })
    };
    let ids = fed(&mut feed, 100).await;
    broker.shutdown().await;
    assert_eq!(appending.await.unwrap().into_iter().map(|answer| answer.unwrap().id).collect::<Vec<_>>(), ids);
    assert!(!feed.next(&mut Vec::new()).await);
    for name in ["durable:a", "volatile:a"] {
        assert!(matches!(broker.append(vec![event(name, "x")]).await[0], Err(AppendError::Unavailable(_))));
    }
    assert!(broker.purge(&channel("durable:a")).await.is_err());
    broker.shutdown().await;
}

#[tokio::test]
async fn a_data_directory_has_one_server_and_one_owner() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let clock = ManualClock::new();
    let (broker, feed) = open(&dir, &clock);
    let second = EmbeddedBroker::open(EmbeddedConfig::new(&dir), namespaces(), clock.clone());
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    append(&broker, event("durable:a", "1")).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop((broker, feed));
    drop(open(&dir, &clock));
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    drop(open(dir.path(), &clock));
    let connection = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let refused = EmbeddedBroker::open(EmbeddedConfig::new(dir.path()), namespaces(), clock).unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found: 99, .. }), "{refused:?}");
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

#[tokio::test]
async fn the_doctor_sees_a_running_log_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    assert!(inspect(dir.path()).is_err(), "there is nothing yet");
    let (broker, feed) = open(dir.path(), &ManualClock::new());
    for number in 0..200 {
        append(&broker, keyed("durable:a", &"x".repeat(1000), &number.to_string())).await;
    }
    let report = inspect(dir.path()).unwrap();
    assert_eq!((report.schema_version, report.schema_known), (1, 1));
    assert_eq!((report.used_keys, report.journal_mode.as_str()), (200, "wal"));
    assert!(report.events >= 100 && report.wal_bytes > 0, "{report:?}");
    assert_eq!(report.damage, Vec::<String>::new());
    broker.shutdown().await;
    drop((broker, feed));

    let report = inspect(dir.path()).unwrap();
    assert_eq!(report.events, 100, "what history no longer holds is taken off the disk");
    let path = dir.path().join(DATABASE_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    // A page in the middle: neither the header nor the schema.
    bytes[40_960..40_970].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    assert!(inspect(dir.path()).map_or(true, |report| !report.damage.is_empty()));
}

#[tokio::test]
async fn the_wal_stays_bounded_and_rows_go_with_their_history() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, feed) = open(dir.path(), &ManualClock::new());
    drop(feed);
    let large = "x".repeat(4000);
    for _ in 0..60 {
        let answers = broker.append((0..200).map(|n| event(&format!("short:{}", n % 10), &large)).collect()).await;
        assert!(answers.iter().all(Result::is_ok));
        let wal_bytes = figure(&broker, "wal_bytes");
        assert!(wal_bytes < 24 * 1024 * 1024, "{wal_bytes}");
    }
    // Twelve thousand events of four thousand bytes went through; thirty are kept.
    let database_bytes = figure(&broker, "database_bytes");
    assert!(database_bytes < 16 * 1024 * 1024, "{database_bytes}");
    broker.shutdown().await;
    assert_eq!(inspect(dir.path()).unwrap().events, 30);
    drop(Arc::new(broker));
}
