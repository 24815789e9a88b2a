//! The tables, and how they come to be.
//!
//! Each version is a script for each database. A node that starts brings the tables to its version, under a lock,
//! for several may start at once. Tables of a later version are refused.

use tidings_protocol::Millis;

use crate::sql::{Database, Dialect, Session, SqlError, args, reading};

/// What leads from each version to the next, for SQLite, Postgres and MySQL.
const SCRIPTS: [[&str; 3]; 1] = [[
    include_str!("migrations/sqlite/0001_notifications.sql"),
    include_str!("migrations/postgres/0001_notifications.sql"),
    include_str!("migrations/mysql/0001_notifications.sql"),
]];

/// The version that this program writes.
pub const SCHEMA_VERSION: usize = SCRIPTS.len();

/// How long a node waits for another one that brings the tables up to date.
const LOCK_WAIT_SECS: u32 = 60;

/// Any number that nobody else locks in this database.
const POSTGRES_LOCK: i64 = 0x7469_6469_6e67_7300;

/// The lock's name in MySQL, where names are the whole server's.
const MYSQL_LOCK: &str = "CONCAT('tidings:', LEFT(MD5(DATABASE()), 32))";

/// Why the tables are not what they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrationError {
    #[error("the store has schema version {found}, and this server knows versions up to {known}; use the newer server")]
    Newer { found: usize, known: usize },
    #[error("another node has been changing the store's tables for {LOCK_WAIT_SECS} s; try again")]
    Locked,
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// Which version the tables have: 0 if there are none.
pub(crate) async fn version(database: &Database) -> Result<usize, SqlError> {
    let exists = match database.dialect() {
        Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'tidings_schema'",
        Dialect::Postgres => "SELECT COUNT(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('tidings_schema')",
        Dialect::MySql => {
            "SELECT COUNT(*) FROM information_schema.tables
             WHERE table_schema = DATABASE() AND table_name = 'tidings_schema'"
        }
    };
    reading!(database, on => {
        if !on.one(exists, []).await?.flag(0)? {
            return Ok(0);
        }
        recorded(on).await
    })
}

/// Brings the tables to this program's version. Answers which it had before.
pub(crate) async fn migrate(database: &Database, now: Millis) -> Result<usize, MigrationError> {
    let found = version(database).await?;
    check(found)?;
    if found == SCHEMA_VERSION {
        return Ok(found);
    }
    let mut on = database.begin().await?;
    lock(&mut on).await?;
    let done = run(&mut on, now).await;
    if database.dialect() == Dialect::MySql {
        on.query(&format!("SELECT RELEASE_LOCK({MYSQL_LOCK})"), []).await?;
    }
    done?;
    on.commit().await?;
    Ok(found)
}

async fn run(on: &mut Session, now: Millis) -> Result<(), MigrationError> {
    let number = match on.dialect() {
        Dialect::Sqlite => "INTEGER",
        Dialect::Postgres | Dialect::MySql => "BIGINT",
    };
    on.script(&format!(
        "CREATE TABLE IF NOT EXISTS tidings_schema (version {number} NOT NULL PRIMARY KEY, applied_at {number} NOT NULL)"
    ))
    .await?;
    // Somebody may have done it while this one waited.
    let found = recorded(on).await?;
    check(found)?;
    for (before, script) in SCRIPTS.iter().enumerate().skip(found) {
        on.script(script[on.dialect() as usize]).await?;
        on.execute("INSERT INTO tidings_schema (version, applied_at) VALUES (?, ?)", args![before + 1, now]).await?;
        tracing::info!(version = before + 1, "the store's tables were brought to another version");
    }
    Ok(())
}

fn check(found: usize) -> Result<(), MigrationError> {
    if found > SCHEMA_VERSION {
        return Err(MigrationError::Newer { found, known: SCHEMA_VERSION });
    }
    Ok(())
}

async fn recorded(on: &mut Session) -> Result<usize, SqlError> {
    let version = on.one("SELECT MAX(version) FROM tidings_schema", []).await?.maybe_int(0)?;
    Ok(version.and_then(|version| usize::try_from(version).ok()).unwrap_or(0))
}

async fn lock(on: &mut Session) -> Result<(), MigrationError> {
    match on.dialect() {
        // The transaction has it already.
        Dialect::Sqlite => {}
        Dialect::Postgres => {
            on.script(&format!("SET LOCAL lock_timeout = '{LOCK_WAIT_SECS}s'")).await?;
            on.query("SELECT pg_advisory_xact_lock(?)", args![POSTGRES_LOCK]).await?;
        }
        Dialect::MySql => {
            let got = on.one(&format!("SELECT GET_LOCK({MYSQL_LOCK}, {LOCK_WAIT_SECS})"), []).await?.maybe_int(0)?;
            if got != Some(1) {
                return Err(MigrationError::Locked);
            }
        }
    }
    Ok(())
}
