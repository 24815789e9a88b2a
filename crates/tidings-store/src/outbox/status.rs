//! How a table is being drained.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Database;

/// How a table is being drained, for metrics, readiness and the doctor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Which table, e.g. `postgres tidings_outbox`.
    pub name: String,
    /// Whether this node drains it; else another one does, or nobody can.
    pub is_leader: bool,
    /// Rows that became events.
    pub events_total: u64,
    /// Rows that became notifications.
    pub notifications_total: u64,
    /// Rows, of both, that had been taken before.
    pub duplicates_total: u64,
    /// Rows that were refused and put aside.
    pub parked_total: u64,
    /// How often the database said that there are rows.
    pub wakes_total: u64,
    /// How long the oldest row had waited when this node looked last; 0 if there was none.
    pub lag_ms: u64,
    /// Why rows are not being taken, if they are not.
    pub trouble: Option<String>,
}

/// Shows the status of an outbox, from anywhere.
#[derive(Debug, Clone)]
pub struct OutboxHandle(Arc<Mutex<OutboxStatus>>);

impl OutboxHandle {
    pub(super) fn new(database: Database, table: &str) -> Self {
        let name = format!("{} {table}", database.as_str());
        Self(Arc::new(Mutex::new(OutboxStatus { name, ..OutboxStatus::default() })))
    }

    /// The status now.
    pub fn status(&self) -> OutboxStatus {
        self.0.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut OutboxStatus)) {
        change(&mut self.0.lock());
    }

    /// Notes a trouble, or its end, and tells the log when it has changed: not at each attempt.
    pub(super) fn trouble(&self, trouble: Option<String>) {
        let mut status = self.0.lock();
        match (&status.trouble, &trouble) {
            (None, Some(cause)) => tracing::warn!(outbox = status.name, cause, "the outbox is not being drained"),
            (Some(_), None) => tracing::info!(outbox = status.name, "the outbox is being drained again"),
            _ => {}
        }
        status.trouble = trouble;
    }
}
