//! What the notifier has counted since its start.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ports::store::Outcome;

/// The providers that pushes are counted by; any other is counted with the last.
const PROVIDERS: [&str; 2] = ["fcm", "web_push"];

/// What is counted of pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PushCount {
    /// The provider has taken it.
    Sent,
    /// It failed and will be tried again.
    Retry,
    /// It was given up.
    Dead,
    /// The provider does not know the device any more.
    Gone,
    /// The device is another sender's.
    Quarantined,
}

impl PushCount {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Sent, Self::Retry, Self::Dead, Self::Gone, Self::Quarantined];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Gone => "gone",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Numbers that only grow.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    fan_out_rows: AtomicU64,
    told: AtomicU64,
    swept: AtomicU64,
    store_errors: AtomicU64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    pushes: [[AtomicU64; PushCount::ALL.len()]; PROVIDERS.len()],
}

impl Counters {
    pub(super) fn on_accepted(&self, is_duplicate: bool) {
        if is_duplicate { &self.duplicates } else { &self.accepted }.fetch_add(1, Relaxed);
    }

    pub(super) fn on_fan_out(&self, rows: usize) {
        self.fan_out_rows.fetch_add(rows as u64, Relaxed);
    }

    pub(super) fn on_told(&self, rows: usize) {
        self.told.fetch_add(rows as u64, Relaxed);
    }

    pub(super) fn on_swept(&self, rows: usize) {
        self.swept.fetch_add(rows as u64, Relaxed);
    }

    pub(super) fn on_store_error(&self) {
        self.store_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn on_outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn on_outcomes(&self, outcome: Outcome, count: usize) {
        self.outcomes[outcome as usize].fetch_add(count as u64, Relaxed);
    }

    pub(super) fn on_push(&self, provider: &str, count: PushCount) {
        let at = PROVIDERS.iter().position(|known| *known == provider).unwrap_or(PROVIDERS.len() - 1);
        self.pushes[at][count as usize].fetch_add(1, Relaxed);
    }

    /// Notifications that were taken, repeated requests not among them.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Repeated requests, which changed nothing.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Relaxed)
    }

    /// Rows that were written out to followers, and for everyone to who has a device.
    pub fn fan_out_rows(&self) -> u64 {
        self.fan_out_rows.load(Relaxed)
    }

    /// Events of notifications that were appended to the log.
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Rows that were taken away because they had expired.
    pub fn swept(&self) -> u64 {
        self.swept.load(Relaxed)
    }

    /// Calls of the store that failed, those of the notifier's own work and what it did for others.
    pub fn store_errors(&self) -> u64 {
        self.store_errors.load(Relaxed)
    }

    /// What became of deliveries.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.outcomes[outcome as usize].load(Relaxed)))
    }

    /// What became of pushes, by provider.
    pub fn pushes(&self) -> impl Iterator<Item = (&'static str, PushCount, u64)> + '_ {
        PROVIDERS.into_iter().zip(&self.pushes).flat_map(|(provider, counts)| {
            PushCount::ALL.into_iter().map(move |count| (provider, count, counts[count as usize].load(Relaxed)))
        })
    }
}
