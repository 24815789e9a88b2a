//! What happened, in numbers that only grow. An exporter reads them; the hub does not know of any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_protocol::CloseReason;

use crate::connection::Transport;

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Everything that the hub counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams opened, by transport.
    pub opened: [Counter; Transport::ALL.len()],
    /// Streams ended, by transport and reason.
    pub closed: [[Counter; CloseReason::ALL.len()]; Transport::ALL.len()],
    /// Events handed to a transport, by transport.
    pub delivered: [Counter; Transport::ALL.len()],
    /// Undelivered events that a newer one replaced.
    pub conflated: Counter,
    /// Undelivered events of streams that were closed as slow consumers. Their clients resume.
    pub overflowed: Counter,
    /// Times that live events came faster than a stream could catch up, so that it began a later fence.
    pub later_fences: Counter,
}

impl Counters {
    /// Counts a stream that was turned away, for there are too many or the node is shutting down: it
    /// ended as it began.
    pub fn on_shed(&self, transport: Transport, reason: CloseReason) {
        self.opened[transport as usize].add(1);
        self.on_closed(transport, reason);
    }

    /// Counts the end of a stream.
    pub(crate) fn on_closed(&self, transport: Transport, reason: CloseReason) {
        self.closed[transport as usize][reason as usize].add(1);
    }
}
