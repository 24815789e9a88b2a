//! Takes events and notifications out of a table of the application's own database (the outbox pattern), so
//! that they are sent if, and only if, the transaction that wrote them was committed.
//!
//! # Order
//!
//! What is promised: if the row of one event was committed before the row of another was inserted, or both
//! stand in one transaction in this order, then they come out in this order. (Transactions that ran at the
//! same time have no order of their own; they come out in the order of their ids, or of their commits.)
//!
//! It holds because rows are read by plain `SELECT … ORDER BY id`, each of which sees one moment of the
//! database, and are deleted only after the log has answered. Let *a* have been committed before *b* was
//! inserted. The database counts the ids up when rows are inserted, so *a* has the lower one; and a reading
//! that sees *b* sees *a* too, and in front of it, unless *a* is deleted, and then it is in the log.
//!
//! Several nodes may read one table. A lock in the database makes one of them the leader, but only to spare
//! the others the work: the promise does not need it. Each node appends what it reads in the order of the ids,
//! one call after another, and a row's key makes the log take it once. What counts is thus the earlier of
//! two appends of a row, and the minimum of two sequences that grow grows. So a leader that is cut off, and
//! does not know it, does no harm.
//!
//! This is why there is no `SKIP LOCKED` here: such a reading is not of one moment (in MySQL), or gives
//! neighbouring rows of one channel to two readers, and either would turn rows around.
//!
//! # Exactly once
//!
//! The append and the deletion are not one transaction. When the process is killed between them, the row is
//! appended again, with the same key: the row's own, or one made of the table's name, the row's id, its time
//! and its payload. The log knows keys for its idempotency window, across restarts where the namespace is
//! durable; the store knows those of notifications for as long as it has them.

mod ddl;
mod drain;
mod lane;
mod link;
mod row;
mod status;
mod wake;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use ddl::{Database, UnknownDatabase};
pub use status::OutboxHandle;

/// The table, where no other is configured.
pub const DEFAULT_TABLE: &str = "tidings_outbox";

/// What the table's name is followed by in the name of that for rows that are refused.
const FAILED_SUFFIX: &str = "_failed";

/// Longest name of a table: with the suffix, what Postgres takes for a name.
const TABLE_MAX_BYTES: usize = 63 - FAILED_SUFFIX.len();

/// Which table, and how it is read.
#[derive(Clone)]
pub struct OutboxConfig {
    /// What it is called in the log and in metrics.
    pub name: String,
    /// The application's database: `postgres://…`, `mysql://…` or `sqlite:PATH`.
    pub url: String,
    /// The table in it.
    pub table: Table,
    /// Rows with more than that are refused.
    pub payload_max_bytes: usize,
    /// The longest that a row waits to be seen where nothing wakes the reader.
    pub poll_max: Duration,
}

/// The name of an outbox table: letters, digits and `_`, with a schema and a dot in front of it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table(String);

/// Why a text is no name of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "accepted is a name of up to {TABLE_MAX_BYTES} letters, digits and `_`, as in `{DEFAULT_TABLE}`, or `schema.name`"
)]
pub struct TableError;

impl Table {
    /// Checks a name. It becomes part of statements, so it is one that needs no quotes.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let is_name = |name: &str| {
            let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
            name.len() <= TABLE_MAX_BYTES
                && name.starts_with(is_start)
                && name.chars().all(|c| is_start(c) || c.is_ascii_digit())
        };
        let (schema, name) = text.split_once('.').map_or((None, text), |(schema, name)| (Some(schema), name));
        if text.len() <= TABLE_MAX_BYTES && is_name(name) && schema.is_none_or(is_name) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TableError)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table for rows that are refused.
    fn failed(&self) -> String {
        format!("{}{FAILED_SUFFIX}", self.0)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self(DEFAULT_TABLE.to_owned())
    }
}

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The body of a publish or of a notification, JSON as the application wrote it.
    pub payload: Vec<u8>,
    /// What makes it harmless to take the row twice, unless the payload has a key of its own.
    pub key: String,
}

/// What became of a row that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It had been taken before.
    Duplicate,
}

/// Why a row was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It will never be: the row is put aside with this reason.
    #[error("{0}")]
    Refused(String),
    /// It may be later.
    #[error("{0}")]
    Unavailable(String),
}

/// Where rows go.
#[async_trait]
pub trait OutboxSink: Send + Sync + 'static {
    /// Takes events, in this order. The answers are in the order of the rows.
    async fn events(&self, rows: Vec<OutboxRow>) -> Vec<Result<Taken, SinkError>>;

    /// Takes a notification.
    async fn notification(&self, row: OutboxRow) -> Result<Taken, SinkError>;
}

/// A table that is drained into a sink.
pub struct Outbox {
    config: OutboxConfig,
    sink: Arc<dyn OutboxSink>,
    handle: OutboxHandle,
}

impl Outbox {
    /// Makes ready to drain.
    ///
    /// # Errors
    ///
    /// When the URL names no database that we know.
    pub fn new(config: OutboxConfig, sink: Arc<dyn OutboxSink>) -> Result<Self, UnknownDatabase> {
        Database::of_url(&config.url)?;
        let handle = OutboxHandle::new(config.name.clone());
        Ok(Self { config, sink, handle })
    }

    /// How it fares, while and after it runs.
    pub fn handle(&self) -> OutboxHandle {
        self.handle.clone()
    }

    /// Drains until it is told to stop: what is under way is finished then. Connects again, and tries again,
    /// for as long as it takes.
    pub async fn run(self, stop: CancellationToken) {
        drain::Drain::new(self.config, self.sink, self.handle).run(stop).await;
    }
}

/// Connects to an outbox's database once, and sees whether its tables are as they should be. Answers how many rows
/// wait there, or why it cannot be drained.
pub async fn check(config: &OutboxConfig) -> Result<u64, String> {
    let database = Database::of_url(&config.url).map_err(|error| error.to_string())?;
    let mut link = link::Link::connect(config, database).await.map_err(|error| error.to_string())?;
    let waiting = link.waiting().await.map_err(|error| error.to_string());
    link.close().await;
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_plain_name() {
        for text in ["tidings_outbox", "app.Outbox2", "_x"] {
            assert_eq!(Table::parse(text).unwrap().as_str(), text);
        }
        for text in ["", ".", "a.", ".a", "a.b.c", "a b", "a;b", "2a", "a\"", "é", &"a".repeat(57)] {
            assert_eq!(Table::parse(text), Err(TableError), "{text}");
        }
    }
}
