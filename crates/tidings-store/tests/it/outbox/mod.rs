//! The outbox, on real databases.

mod application;
mod log;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tidings_core::ports::Ingest as _;
use tidings_store::outbox::{Database, Outbox, OutboxConfig, OutboxHandle};
use tidings_testkit::{
    databases::{DatabaseServer, Engine},
    wait,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use application::{Application, event, row};
use log::{Log, Node};

const LIMIT: Duration = Duration::from_secs(60);

/// A node that drains a table.
struct Drainer {
    handle: OutboxHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drainer {
    fn start(config: OutboxConfig, node: &Arc<Node>) -> Self {
        let outbox = Outbox::new(config, node.clone()).unwrap();
        let (handle, stop) = (outbox.handle(), CancellationToken::new());
        let task = tokio::spawn(outbox.run(stop.clone()));
        Self { handle, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        wait::within("a drainer to stop", LIMIT, self.task).await.unwrap().unwrap();
    }

    /// As a process is killed: nothing more is said or done.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    wait::until(what, LIMIT, async || condition().await.then_some(())).await.unwrap();
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Several writers, one after another on a channel that they have in common and each on its own, with
/// transactions that overlap and some that are rolled back; several nodes, which are killed between the
/// append and the deletion.
async fn events_come_out_once_and_in_order(database: Database) {
    const WRITERS: usize = 4;
    const TRANSACTIONS: usize = 40;
    let application = Arc::new(Application::new(database).await);
    let log = Arc::new(Log::default());
    let shared = Arc::new(tokio::sync::Mutex::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (application, shared) = (application.clone(), shared.clone());
        writers.spawn(async move {
            for number in 0..TRANSACTIONS {
                let own = [2 * number, 2 * number + 1].map(|data| event(&format!("own:{writer}"), data));
                application.transaction(&own, true).await;
                application.transaction(&[event("never", 0)], false).await;
                // Whoever has the turn knows that all before it are committed.
                let mut turn = shared.lock().await;
                application.transaction(&[event("shared", *turn)], true).await;
                *turn += 1;
            }
        });
    }
    let mut nodes = tokio::task::JoinSet::new();
    let done = CancellationToken::new();
    for _ in 0..2 {
        let (application, log, done) = (application.clone(), log.clone(), done.clone());
        nodes.spawn(async move {
            while !done.is_cancelled() {
                let node = Node::hanging(&log, 3);
                let drainer = Drainer::start(application.config(), &node);
                tokio::select! {
                    () = node.hangs.notified() => drainer.kill().await,
                    () = done.cancelled() => drainer.stop().await,
                }
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    until("the table to be empty", async || application.waiting().await == 0).await;
    done.cancel();
    while let Some(ended) = nodes.join_next().await {
        ended.unwrap();
    }
    assert_eq!(log.channel("shared"), numbers(WRITERS * TRANSACTIONS));
    for writer in 0..WRITERS {
        assert_eq!(log.channel(&format!("own:{writer}")), numbers(2 * TRANSACTIONS));
    }
    assert_eq!(log.len(), 3 * WRITERS * TRANSACTIONS, "what was rolled back has come out");
    assert!(log.duplicates.load(Relaxed) > 0, "no row was seen twice: the nodes were not killed where it matters");
}

/// What is refused is put aside with its reason, and holds up nobody.
async fn poison_is_put_aside(database: Database) {
    let application = Application::new(database).await;
    let log = Arc::new(Log::default());
    let large = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(100_000));
    application
        .transaction(
            &[
                event("a", 1),
                row("event", r#"{"data":2}"#),
                row("event", &large),
                row("notification", r#"{"to":{"user":"7"}}"#),
                row("notification", r#"{"to":{"user":"7"},"title":"안녕"}"#),
                event("a", 3),
            ],
            true,
        )
        .await;
    let drainer = Drainer::start(application.config(), &Node::new(&log));
    until("the table to be empty", async || application.waiting().await == 0).await;
    assert_eq!(log.channel("a"), ["1", "3"]);
    assert_eq!(log.notifications(), [r#"{"to":{"user":"7"},"title":"안녕"}"#]);
    let reasons = application.texts("SELECT error FROM tidings_outbox_failed ORDER BY id").await;
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    for reason in ["channel: missing", "payload: 100025 bytes; accepted are up to 100000", "title: missing"] {
        assert!(reasons.iter().any(|said| said.contains(reason)), "{reason}: {reasons:?}");
    }
    let kept = application.texts("SELECT payload FROM tidings_outbox_failed ORDER BY outbox_id").await;
    assert_eq!(kept, [r#"{"data":2}"#, &large, r#"{"to":{"user":"7"}}"#]);
    until("the numbers", async || drainer.handle.status().parked_total == 3).await;
    let status = drainer.handle.status();
    assert_eq!((status.events_total, status.notifications_total, status.duplicates_total), (2, 1, 0));
    assert!(status.is_leader && status.trouble.is_none(), "{status:?}");

    // An operator has mended a row and sends it again.
    application
        .run(
            r#"INSERT INTO tidings_outbox (target, payload)
               SELECT target, '{"channel":"a","data":2}' FROM tidings_outbox_failed WHERE outbox_id = 2;
               DELETE FROM tidings_outbox_failed WHERE outbox_id = 2;"#,
        )
        .await;
    until("the mended row", async || log.channel("a") == ["1", "3", "2"]).await;
    drainer.stop().await;
}

/// Events go on where notifications cannot, and the other way round; nothing is lost or turned around.
async fn a_sink_that_is_down_is_waited_for(database: Database) {
    let application = Application::new(database).await;
    let log = Arc::new(Log::default());
    let title = |number: usize| format!(r#"{{"title":"{number}"}}"#);
    log.has_no_notifications.store(true, Relaxed);
    for number in 0..10 {
        application.transaction(&[row("notification", &title(number)), event("a", number)], true).await;
    }
    let drainer = Drainer::start(application.config(), &Node::new(&log));
    until("the events", async || log.channel("a").len() == 10).await;
    until("the trouble to be told", async || {
        drainer.handle.status().trouble.is_some_and(|trouble| trouble == "the store is down")
    })
    .await;
    assert_eq!(application.waiting().await, 10);
    log.has_no_events.store(true, Relaxed);
    application.transaction(&[event("a", 10), event("a", 11)], true).await;
    log.has_no_notifications.store(false, Relaxed);
    until("the notifications", async || log.notifications().len() == 10).await;
    log.has_no_events.store(false, Relaxed);
    until("the table to be empty", async || application.waiting().await == 0).await;
    until("the end of the trouble", async || drainer.handle.status().trouble.is_none()).await;
    assert_eq!(log.channel("a"), numbers(12));
    assert_eq!(log.notifications(), (0..10).map(title).collect::<Vec<_>>());
    drainer.stop().await;
}

/// When the leader stops, or is killed, another one goes on.
async fn another_node_goes_on(database: Database) {
    let application = Application::new(database).await;
    let log = Arc::new(Log::default());
    let mut drainers = vec![Drainer::start(application.config(), &Node::new(&log))];
    for number in 0..4 {
        application.transaction(&[event("a", number)], true).await;
        until("the event", async || log.channel("a").len() == number + 1).await;
        drainers.push(Drainer::start(application.config(), &Node::new(&log)));
        let leader = drainers.remove(0);
        assert!(leader.handle.status().is_leader);
        if number % 2 == 0 {
            leader.stop().await
        } else {
            leader.kill().await
        }
        until("another leader", async || drainers[0].handle.status().is_leader).await;
    }
    assert_eq!(log.channel("a"), numbers(4));
    assert_eq!(log.duplicates.load(Relaxed), 0);
    drainers.remove(0).stop().await;
}

/// A database that is killed and comes back.
async fn a_database_that_is_lost_is_waited_for(engine: Engine) {
    let mut server = DatabaseServer::start(engine).await.unwrap();
    let application = Application::on(&server).await;
    let log = Arc::new(Log::default());
    let drainer = Drainer::start(application.config(), &Node::new(&log));
    application.transaction(&[event("a", 0)], true).await;
    until("the event", async || log.channel("a").len() == 1).await;
    server.kill9().await.unwrap();
    until("the trouble to be told", async || drainer.handle.status().trouble.is_some()).await;
    assert!(!drainer.handle.status().is_leader);
    server.restart().await.unwrap();
    let url = application.url.clone();
    server.sql(&url, &event("a", 1)).await.unwrap();
    until("the next event", async || log.channel("a").len() == 2).await;
    until("the end of the trouble", async || drainer.handle.status().trouble.is_none()).await;
    assert_eq!(log.channel("a"), ["0", "1"]);
    drainer.stop().await;
}

macro_rules! on_each {
    ($($test:ident),* $(,)?) => {
        mod postgres {
            $(#[tokio::test] async fn $test() { super::$test(super::Database::Postgres).await; })*
        }
        mod mariadb {
            $(#[tokio::test] async fn $test() { super::$test(super::Database::MySql).await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $test() { super::$test(super::Database::Sqlite).await; })*
        }
    };
}

on_each!(
    events_come_out_once_and_in_order,
    poison_is_put_aside,
    a_sink_that_is_down_is_waited_for,
    another_node_goes_on,
);

#[tokio::test]
async fn postgres_that_is_lost_is_waited_for() {
    a_database_that_is_lost_is_waited_for(Engine::Postgres).await;
}

#[tokio::test]
async fn mariadb_that_is_lost_is_waited_for() {
    a_database_that_is_lost_is_waited_for(Engine::MariaDb).await;
}

#[tokio::test]
async fn postgres_wakes_the_reader() {
    let application = Application::new(Database::Postgres).await;
    let log = Arc::new(Log::default());
    let config = OutboxConfig { poll_max: Duration::from_secs(3600), ..application.config() };
    let drainer = Drainer::start(config, &Node::new(&log));
    // However this one is found.
    let is_awake = async || {
        application.transaction(&[event("first", 0)], true).await;
        drainer.handle.status().wakes_total > 0
    };
    until("the trigger to be heard", is_awake).await;
    until("the table to be empty", async || application.waiting().await == 0).await;
    // From now on nobody looks for half a minute.
    for number in 0..20 {
        application.transaction(&[event("a", number)], true).await;
        let seen = async || (log.channel("a").len() == number + 1).then_some(());
        wait::until("an event that was told", Duration::from_secs(20), seen).await.unwrap();
    }
    drainer.stop().await;
}

#[tokio::test]
async fn tables_that_are_not_there_are_named_with_what_makes_them() {
    for engine in Engine::ALL {
        let server = DatabaseServer::shared(engine).await.unwrap();
        let application = Application::on(server).await;
        application.run("DROP TABLE tidings_outbox_failed").await;
        let drainer = Drainer::start(application.config(), &Node::new(&Arc::default()));
        let told = async || drainer.handle.status().trouble;
        let trouble = wait::until("the trouble to be told", LIMIT, told).await.unwrap();
        assert!(trouble.contains("tidings_outbox_failed cannot be read"), "{trouble}");
        assert!(trouble.contains("tidings outbox ddl --database"), "{trouble}");
        drainer.stop().await;
    }
}
