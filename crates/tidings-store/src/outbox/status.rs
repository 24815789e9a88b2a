//! How a table is being drained.

use std::sync::Arc;

use parking_lot::Mutex;
use tidings_core::ports::{Ingest, IngestStatus};

/// Shows how an outbox is being drained, from anywhere.
#[derive(Debug, Clone)]
pub struct OutboxHandle(Arc<Mutex<IngestStatus>>);

impl Ingest for OutboxHandle {
    fn status(&self) -> IngestStatus {
        self.0.lock().clone()
    }
}

impl OutboxHandle {
    pub(super) fn new(name: String) -> Self {
        Self(Arc::new(Mutex::new(IngestStatus { name, ..IngestStatus::default() })))
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut IngestStatus)) {
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
