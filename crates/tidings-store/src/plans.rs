//! No statement walks over a table: each database is asked how it would run every statement that the store runs.

use std::{collections::BTreeMap, sync::Mutex};

use tidings_core::{
    notifications::{Content, Kind, NotificationId, PushMode, Recipients},
    ports::{Store as _, store::*},
};
use tidings_protocol::{Channel, Epoch, EventId, Partition, PartitionCursor, Position, UserId};
use tidings_testkit::databases::{DatabaseServer, Engine};

use crate::{
    DatabaseConfig, SqlStore,
    sql::{Database, Dialect, Session, Value},
};

const NOW: u64 = 1_700_000_000_000;

/// Enough that walking over them would not be the quickest way.
const USERS: usize = 400;
const EACH: usize = 25;

/// What has been run, with the parameters of the last time. The tests of this program alone note it.
static NOTED: Mutex<BTreeMap<(u8, String), Vec<Value>>> = Mutex::new(BTreeMap::new());

pub(crate) fn note(dialect: Dialect, sql: &str, args: &[Value]) {
    NOTED.lock().unwrap().insert((dialect as u8, sql.to_owned()), args.to_vec());
}

/// What may be walked over: they have a handful of rows, or are walked in order up to a limit.
const SMALL: [&str; 3] = ["tidings_meta", "tidings_schema", "tidings_fan_outs"];

fn user(number: usize) -> UserId {
    UserId::parse(&format!("user-{number:04}")).unwrap()
}

fn new(recipients: Recipients, expires_at: u64) -> NewNotification {
    let content = Content {
        kind: Kind::default_kind(),
        title: "x".into(),
        body: None,
        url: None,
        data: None,
        collapse: Some("same".into()),
    };
    NewNotification { recipients, content, push: PushMode::Offline, key: None, created_at: NOW, expires_at }
}

/// Does everything that the port has.
async fn tour(store: &SqlStore) {
    let all: Vec<UserId> = (0..USERS).map(user).collect();
    let later = NOW + 1_000_000;
    for number in 0..EACH {
        let mut each = new(Recipients::Users(all.clone()), later);
        each.content.collapse = (number % 5 == 0).then(|| format!("same-{number}"));
        store.accept(each).await.unwrap();
    }
    let channel = Channel::parse("region:jeju").unwrap();
    for (number, user) in all.iter().enumerate() {
        store.follow(user, std::slice::from_ref(&channel), 10, NOW).await.unwrap();
        let target = PushTarget::FcmToken(format!("token-{number}"));
        let device = Device { id: "phone".into(), target, updated_at: NOW, quarantine: None };
        store.put_device(user, device, 10).await.unwrap();
    }
    let kind = Kind::default_kind();
    let wishes = [(kind, tidings_core::notifications::KindPreference::default())].into();
    let one = user(7);
    store.set_preferences(&one, &wishes).await.unwrap();
    let mut keyed = new(Recipients::Users(vec![one.clone()]), later);
    keyed.key = Some(("key".into(), tidings_core::notifications::Fingerprint([1; 32])));
    let id = store.accept(keyed.clone()).await.unwrap().id;
    store.accept(keyed).await.unwrap();
    store.accept(new(Recipients::FollowersOf(channel.clone()), later)).await.unwrap();
    store.accept(new(Recipients::Everyone, later)).await.unwrap();
    tell(store).await;
    while store.fan_out(150, NOW).await.unwrap() != FanOut::Idle {}
    store.counts(&one, NOW).await.unwrap();
    tell(store).await;
    let queries = [None, Some(tidings_core::notifications::State::Unread)];
    for state in queries {
        let query = InboxQuery { state, before: Some(NotificationId(i64::MAX)), limit: 50 };
        store.inbox(&one, query, NOW).await.unwrap();
    }
    let at = PartitionCursor { epoch: Epoch(1), position: Position(5) };
    let through = Position(500);
    for since in [
        MissedSince::Told { partition: Partition::ZERO, after: at, through },
        MissedSince::Unread { after: Some(NotificationId(1)) },
    ] {
        store.missed(&MissedQuery { user: one.clone(), since, limit: 50 }, NOW).await.unwrap();
    }
    let through = Acknowledged::Through { partition: Partition::ZERO, at };
    for what in [Acknowledged::One(id), through] {
        store.acknowledge(&user(8), &what, NOW).await.unwrap();
    }
    store.next_due().await.unwrap();
    let due = store.due(100, NOW).await.unwrap();
    assert!(!due.is_empty());
    let settled: Vec<_> =
        due.into_iter().map(|due| Settled { id: due.id, user: due.user, how: Settlement::ConfirmedAndPush }).collect();
    store.settle(&settled, NOW).await.unwrap();
    push(store).await;
    for mark in [Mark::Seen, Mark::Read, Mark::Unread, Mark::Archive] {
        for which in [Which::Ids(vec![id, NotificationId(1)]), Which::Through(id), Which::All] {
            store.mark(&one, &which, mark, NOW).await.unwrap();
        }
    }
    store.report(id, NOW).await.unwrap();
    store.follows(&one, Some(&channel), 10).await.unwrap();
    store.unfollow(&one, &[channel]).await.unwrap();
    store.devices(&one).await.unwrap();
    store.preferences(&one).await.unwrap();
    store.remove_device(&user(9), "phone").await.unwrap();
    store.erase_user(&user(10)).await.unwrap();
    store.accept(new(Recipients::Users(all[..20].to_vec()), NOW)).await.unwrap();
    while store.sweep(15, NOW).await.unwrap() > 0 {}
    store.status().await;
    assert_eq!(store.verify().await.unwrap().findings, [""; 0]);
}

async fn tell(store: &SqlStore) {
    let mut position = 0;
    loop {
        let untold = store.untold(300, NOW).await.unwrap();
        if untold.is_empty() {
            return;
        }
        let told: Vec<Told> = untold
            .into_iter()
            .map(|untold| {
                position += 1;
                let at = PartitionCursor { epoch: Epoch(1), position: Position(position) };
                let at = Some(EventId { partition: Partition::ZERO, at });
                let escalate_at = (position % 10 > 0).then_some(NOW);
                Told { id: untold.notification.id, user: untold.user, at, escalate_at }
            })
            .collect();
        store.on_told(&told).await.unwrap();
    }
}

async fn push(store: &SqlStore) {
    store.next_push().await.unwrap();
    let taken = store.take_pushes(20, 1_000, NOW).await.unwrap();
    let cause = || "cause".to_owned();
    let outcomes = [
        PushOutcome::Sent,
        PushOutcome::Retry { at: NOW + 1, cause: cause() },
        PushOutcome::Dead { cause: cause() },
        PushOutcome::DeviceGone { cause: cause() },
        PushOutcome::Quarantine { cause: cause() },
    ];
    let results: Vec<_> = taken.iter().zip(outcomes).map(|(job, outcome)| PushResult { id: job.id, outcome }).collect();
    assert_eq!(results.len(), 5);
    store.on_pushed(&results, NOW).await.unwrap();
    let dead = store.dead_pushes(Some(i64::MAX), 10).await.unwrap();
    store.retry_push(dead[0].id, NOW).await.unwrap();
}

/// Has the database explain each statement of this tour, and answers those that walk over a table.
async fn walks(database: &Database) -> Vec<String> {
    let dialect = database.dialect();
    let noted: Vec<_> = {
        let noted = NOTED.lock().unwrap();
        noted
            .iter()
            .filter(|((of, _), _)| *of == dialect as u8)
            .map(|((_, sql), args)| (sql.clone(), args.clone()))
            .collect()
    };
    let is_explained = |sql: &str| {
        sql.contains("tidings_") && !sql.contains("_schema") && !sql.starts_with("EXPLAIN") && !sql.contains("VALUES (")
    };
    let noted: Vec<_> = noted.into_iter().filter(|(sql, _)| is_explained(sql)).collect();
    assert!(noted.len() > 70, "{}", noted.len());
    let mut on = database.begin().await.unwrap();
    // As many as there would be, had it been in use for a while.
    on.script(
        "INSERT INTO tidings_notifications (kind, title, push, created_at, expires_at, audience)
             SELECT kind, 'x', 0, 0, expires_at, 0 FROM tidings_inbox;
         INSERT INTO tidings_counts (user_id, kind, unread, unseen)
             SELECT user_id, CONCAT('kind-', notification_id), 1, 1 FROM tidings_inbox;
         INSERT INTO tidings_preferences (user_id, kind, live, push)
             SELECT user_id, CONCAT('kind-', notification_id), 1, 1 FROM tidings_inbox",
    )
    .await
    .unwrap();
    match dialect {
        // The store does not have it counted either.
        Dialect::Sqlite => {}
        Dialect::Postgres => on.script("ANALYZE").await.unwrap(),
        Dialect::MySql => {
            on.query(
                "ANALYZE TABLE tidings_inbox, tidings_notifications, tidings_users, tidings_counts, tidings_devices,
                      tidings_deliveries, tidings_pushes, tidings_follows, tidings_preferences",
                [],
            )
            .await
            .unwrap();
        }
    }
    let mut found = Vec::new();
    for (sql, args) in noted {
        let plan = explain(&mut on, &sql, args).await;
        // The index on what is due has all that is untold in one place: to find a row by it is a walk too.
        let is_change = sql.trim_start().starts_with("UPDATE") || sql.trim_start().starts_with("DELETE");
        // That on what is dead has all that is not in one place, too.
        let is_by_dead = |step: &String| step.contains("tidings_pushes_dead") && !sql.contains("dead_id = ?");
        let is_lost = |step: &String| is_change && (step.contains("tidings_deliveries_due") || is_by_dead(step));
        let walks = plan.iter().any(|step| is_walk(dialect, step) || is_lost(step));
        if walks {
            found.push(format!("{sql}\n    {}", plan.join("\n    ")));
        }
    }
    found
}

/// The steps of a plan.
async fn explain(on: &mut Session, sql: &str, args: Vec<Value>) -> Vec<String> {
    let how = if on.dialect() == Dialect::Sqlite { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
    let rows = on.query(&format!("{how} {sql}"), args).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    let step = |row: &crate::sql::Row| match on.dialect() {
        Dialect::Sqlite => row.text(3).unwrap(),
        Dialect::Postgres => row.text(0).unwrap(),
        Dialect::MySql => {
            // A table, and how its rows are found.
            let table = row.maybe_text(2).unwrap().unwrap_or_default();
            let how = [3, 5].map(|at| row.maybe_text(at).unwrap().unwrap_or_default());
            format!("{} {table} {}", how[0], how[1])
        }
    };
    let steps: Vec<String> = rows.iter().map(step).collect();
    if on.dialect() != Dialect::Postgres {
        return steps;
    }
    // A scan and its condition are lines of their own.
    let mut scans: Vec<String> = Vec::new();
    for line in steps {
        match scans.last_mut() {
            Some(last) if line.contains("Cond:") => last.push_str(&line),
            _ => scans.push(line),
        }
    }
    scans
}

/// Whether a step reads a table, or the whole of an index, from one end to the other.
fn is_walk(dialect: Dialect, step: &str) -> bool {
    /// Lists, and what the statement has made itself. (And `x`, a range of users that is counted again.)
    const MADE: [&str; 9] = ["l", "page", "w", "a", "b", "queue", "both_counts", "json_each", "x"];
    let words: Vec<&str> = step.split_whitespace().collect();
    if words.len() < 2 {
        return false;
    }
    match dialect {
        Dialect::Sqlite => {
            words.first() == Some(&"SCAN")
                && !MADE.contains(&words[1])
                && !SMALL.contains(&words[1])
                && words[1] != "CONSTANT"
                && !words[1].starts_with('(')
        }
        Dialect::Postgres => {
            let Some(at) = words.iter().position(|word| *word == "on") else { return false };
            let is_scan = words[..at].contains(&"Scan") && !words[..at].contains(&"Bitmap");
            is_scan
                && !step.contains("Cond:")
                && words[at + 1].starts_with("tidings_")
                && !SMALL.contains(&words[at + 1])
        }
        Dialect::MySql => {
            ["ALL", "index"].contains(&words[0])
                && !MADE.contains(&words[1])
                && !SMALL.contains(&words[1])
                && !words[1].starts_with('<')
        }
    }
}

async fn check(url: String) {
    let dir = tempfile::tempdir().unwrap();
    let config = DatabaseConfig::new(url, dir.path());
    let store = SqlStore::open(&config, NOW).await.unwrap();
    tour(&store).await;
    let walks = walks(&Database::connect(&config).unwrap()).await;
    assert!(walks.is_empty(), "{} walks:\n\n{}", walks.len(), walks.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_walks_over_no_table() {
    check("sqlite".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_walks_over_no_table() {
    check(DatabaseServer::shared(Engine::Postgres).await.unwrap().database().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_walks_over_no_table() {
    check(DatabaseServer::shared(Engine::MariaDb).await.unwrap().database().await.unwrap()).await;
}
