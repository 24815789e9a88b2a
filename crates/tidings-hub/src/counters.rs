//! What happened, in numbers that only grow. An exporter reads them; the hub does not know of any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_protocol::{CloseReason, Millis};

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

/// Upper bounds of the counted delivery times in milliseconds: from below a loopback's delay to a
/// forgotten tab.
pub const DELIVERY_BOUNDS_MILLIS: [f64; 16] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0, 60_000.0];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Latencies {
    /// For each bound those that took no longer, and longer than the bound before; then the rest.
    counts: [Counter; DELIVERY_BOUNDS_MILLIS.len() + 1],
    sum_millis: Counter,
}

/// What one thread counts before it adds it to what all share.
#[derive(Debug, Default)]
pub(crate) struct LocalLatencies {
    counts: [usize; DELIVERY_BOUNDS_MILLIS.len() + 1],
    sum_millis: usize,
}

fn bound_of(millis: Millis) -> usize {
    DELIVERY_BOUNDS_MILLIS.iter().take_while(|bound| **bound < millis as f64).count()
}

impl Latencies {
    /// Counts one.
    pub fn observe(&self, millis: Millis) {
        self.counts[bound_of(millis)].add(1);
        self.sum_millis.add(millis as usize);
    }

    /// Adds what a thread has counted, and begins it anew.
    pub(crate) fn add(&self, local: &mut LocalLatencies) {
        let LocalLatencies { counts, sum_millis } = std::mem::take(local);
        self.counts.iter().zip(counts).filter(|(_, count)| *count > 0).for_each(|(total, count)| total.add(count));
        self.sum_millis.add(sum_millis);
    }

    /// The sum of all, in milliseconds, and how many there were by bound, those beyond the last included.
    pub fn get(&self) -> (u64, [u64; DELIVERY_BOUNDS_MILLIS.len() + 1]) {
        (self.sum_millis.get(), std::array::from_fn(|at| self.counts[at].get()))
    }
}

impl LocalLatencies {
    pub(crate) fn observe(&mut self, millis: Millis) {
        self.counts[bound_of(millis)] += 1;
        self.sum_millis += millis as usize;
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
    /// How long live events took, from `sent_at` until the transport took them.
    pub delivery: Latencies,
    /// Undelivered events that a newer one replaced.
    pub conflated: Counter,
    /// Undelivered events of streams that were closed as slow consumers. Their clients resume.
    pub overflowed: Counter,
    /// Times that the feed waited for a shard that had not written what it had.
    pub feed_waits: Counter,
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
