//! What events and notifications are taken from, besides requests.

/// A source of events and notifications that a backend writes without calling this server.
pub trait Ingest: Send + Sync + 'static {
    /// How it fares.
    fn status(&self) -> IngestStatus;
}

/// How a source is being drained, for metrics and the doctor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestStatus {
    /// Which it is, from the configuration and without a secret, e.g. `postgres tidings_outbox`. No two have
    /// the same.
    pub name: String,
    /// Whether this node drains it; else another one does, or nobody can.
    pub is_leader: bool,
    /// What became an event.
    pub events_total: u64,
    /// What became a notification.
    pub notifications_total: u64,
    /// What had become one of them before, and came again.
    pub duplicates_total: u64,
    /// What was refused and put aside.
    pub parked_total: u64,
    /// How often the source said of itself that there is something.
    pub wakes_total: u64,
    /// How long the oldest had waited when this node looked last; 0 if there was none.
    pub lag_ms: u64,
    /// Why nothing is being taken, if it is not.
    pub trouble: Option<String>,
}
