//! How fast the store writes a notification out to many, and how fast it reads an inbox.
//!
//!     cargo run --release -p tidings-store --example fan_out -- URL [FOLLOWERS] [ROWS] [BATCH]
//!
//! `URL` is that of an empty database, e.g. `sqlite:/tmp/bench.sqlite`. `ROWS` rows of other inboxes are put there first.

#![allow(clippy::print_stdout, reason = "a command line talks to its user")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

use std::time::{Duration, Instant};

use rand::Rng as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection, SqliteConnection};
use tidings_core::{
    notifications::{Content, Kind, PushMode, Recipients},
    ports::{Store as _, store::*},
};
use tidings_protocol::{Channel, UserId};
use tidings_store::{DatabaseConfig, SqlStore};

const NOW: u64 = 1_700_000_000_000;
const EXPIRES: u64 = 2 * NOW;

/// Rows of each of the other inboxes.
const EACH: u64 = 100;

/// Inboxes that are read.
const READS: usize = 3_000;

/// Numbers from 0 to 999,999 in every dialect.
const NUMBERS: &str = "(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d AS i
    FROM digits AS a CROSS JOIN digits AS b CROSS JOIN digits AS c CROSS JOIN digits AS e CROSS JOIN digits AS f
    CROSS JOIN digits AS g) AS numbers";

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let url = args.first().expect("the URL of an empty database");
    let number = |at: usize, default: u64| args.get(at).map_or(default, |text| text.parse().unwrap());
    let (followers, rows, batch) = (number(1, 100_000), number(2, 1_000_000), number(3, 2_000));
    let config = DatabaseConfig::new(url.as_str(), ".");
    let store = SqlStore::open(&config, NOW).await.unwrap();
    let started = Instant::now();
    fill(url, followers, rows / EACH).await;
    println!("filled {rows} rows and {followers} follows in {:?}", started.elapsed());
    for round in 0..3 {
        write_out(&store, followers, batch, round).await;
    }
    read(&store, rows / EACH).await;
    println!("{:?}", store.status().await);
    store.close().await;
}

async fn write_out(store: &SqlStore, followers: u64, batch: u64, round: u32) {
    let content = Content {
        kind: Kind::parse("bench").unwrap(),
        title: format!("round {round}"),
        body: Some("x".repeat(200)),
        url: None,
        data: None,
        collapse: None,
    };
    let new = NewNotification {
        recipients: Recipients::FollowersOf(Channel::parse("bench:all").unwrap()),
        content,
        push: PushMode::Offline,
        key: None,
        created_at: NOW,
        expires_at: EXPIRES,
    };
    store.accept(new).await.unwrap();
    let (started, mut written) = (Instant::now(), 0);
    while let FanOut::Wrote { rows, .. } = store.fan_out(batch as usize, NOW).await.unwrap() {
        written += rows;
    }
    let took = started.elapsed();
    assert_eq!(written as u64, followers);
    println!("round {round}: {written} rows in {took:?}, {:.0} rows/s", written as f64 / took.as_secs_f64());
    let started = Instant::now();
    let mut told = 0;
    loop {
        let untold = store.untold(batch as usize, NOW).await.unwrap();
        if untold.is_empty() {
            break;
        }
        let batch: Vec<Told> = untold
            .into_iter()
            .map(|untold| Told { id: untold.notification.id, user: untold.user, at: None, escalate_at: None })
            .collect();
        store.on_told(&batch).await.unwrap();
        told += batch.len();
    }
    let took = started.elapsed();
    println!("    told {told} in {took:?}, {:.0} rows/s", told as f64 / took.as_secs_f64());
}

async fn read(store: &SqlStore, users: u64) {
    let mut took: Vec<Duration> = Vec::with_capacity(READS);
    for _ in 0..READS {
        let user = UserId::parse(&format!("o{:06}", rand::rng().random_range(0..users))).unwrap();
        let started = Instant::now();
        let query = InboxQuery { state: None, before: None, limit: 50 };
        let page = store.inbox(&user, query, NOW).await.unwrap();
        let counts = store.counts(&user, NOW).await.unwrap();
        took.push(started.elapsed());
        assert_eq!((page.entries.len(), counts.total.unread), (50, EACH / 2));
    }
    took.sort_unstable();
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    println!("a page of 50 and counts: p50 {:?}, p99 {:?}, most {:?}", at(0.5), at(0.99), took[took.len() - 1]);
}

/// Puts follows and other inboxes there, by statements that make the rows themselves.
async fn fill(url: &str, followers: u64, users: u64) {
    let mut statements = vec![
        "CREATE TABLE digits (d BIGINT)".to_owned(),
        "INSERT INTO digits (d) VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)".to_owned(),
    ];
    let is_my_sql = url.starts_with("mysql");
    let name = |prefix: &str| match is_my_sql {
        true => format!("CONCAT('{prefix}', LPAD(i, 6, '0'))"),
        false if url.starts_with("postgres") => format!("'{prefix}' || lpad(i::text, 6, '0')"),
        false => format!("'{prefix}' || printf('%06d', i)"),
    };
    for (prefix, count) in [("f", followers), ("o", users)] {
        let name = name(prefix);
        statements.push(format!(
            "INSERT INTO tidings_users (user_id, everyone_through) SELECT {name}, 0 FROM {NUMBERS} WHERE i < {count}"
        ));
    }
    statements.push(format!(
        "INSERT INTO tidings_follows (user_id, channel, since) SELECT {}, 'bench:all', 0 FROM {NUMBERS} WHERE i < {followers}",
        name("f")
    ));
    statements.push(format!(
        "INSERT INTO tidings_notifications (kind, title, push, created_at, expires_at, audience)
         SELECT 'other', 'a title of usual length', 0, {NOW}, {EXPIRES}, 0 FROM {NUMBERS} WHERE i < 100000"
    ));
    let chunk: usize = 20_000;
    for first in (0..users).step_by(chunk) {
        let last = (first + chunk as u64).min(users);
        let (name, modulo) = (name("o"), if is_my_sql { "MOD(i, 1000)" } else { "i % 1000" });
        statements.push(format!(
            "INSERT INTO tidings_inbox (user_id, notification_id, kind, expires_at, state, is_seen, was_read, is_live,
                 is_delivered, push)
             SELECT {name}, 1 + 1000 * (k.d + 10 * l.d) + {modulo}, 'other', {EXPIRES},
                 CASE WHEN l.d < 5 THEN 1 ELSE 0 END, 1, 0, 1, 1, 0
             FROM {NUMBERS} CROSS JOIN digits AS k CROSS JOIN digits AS l WHERE i >= {first} AND i < {last}"
        ));
    }
    statements.push(format!(
        "INSERT INTO tidings_counts (user_id, kind, unread, unseen) SELECT {}, 'other', {}, 0 FROM {NUMBERS} WHERE i < {users}",
        name("o"),
        EACH / 2
    ));
    if url.starts_with("postgres") {
        statements.push("ANALYZE".to_owned());
        run(PgConnection::connect(url).await.unwrap(), statements).await;
    } else if is_my_sql {
        run(MySqlConnection::connect(url).await.unwrap(), statements).await;
    } else {
        statements.insert(0, "PRAGMA synchronous = off".to_owned());
        statements.insert(0, "PRAGMA cache_size = -1000000".to_owned());
        statements.push("PRAGMA wal_checkpoint(TRUNCATE)".to_owned());
        run(SqliteConnection::connect(url).await.unwrap(), statements).await;
    }
}

async fn run<C: sqlx::Connection>(mut connection: C, statements: Vec<String>)
where
    for<'c> &'c mut C: sqlx::Executor<'c>,
{
    for statement in statements {
        (&mut connection).execute(AssertSqlSafe(statement)).await.unwrap();
    }
    connection.close().await.unwrap();
}
