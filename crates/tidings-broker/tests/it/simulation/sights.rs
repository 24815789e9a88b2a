//! What was seen to happen, so that a run which saw nothing of it is not taken for a proof.

use std::collections::HashMap;

use tidings_protocol::{CloseReason, GapReason};

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    Nothing,
    /// Bytes, and no event was complete.
    Bytes,
    /// An event, or the end of the stream.
    Event,
}

#[derive(Debug, Default)]
pub(crate) struct Sights {
    pub(crate) replayed: u64,
    pub(crate) live: u64,
    pub(crate) conflated_away: u64,
    pub(crate) past: u64,
    pub(crate) in_gaps: u64,
    pub(crate) gaps: HashMap<GapReason, u64>,
    /// `closing` events that were read.
    pub(crate) closed: HashMap<CloseReason, u64>,
    pub(crate) cut_in_catch_up: u64,
    pub(crate) cut_inside_frame: u64,
    pub(crate) resumed_after_cut_inside_frame: u64,
    pub(crate) resumed_elsewhere: u64,
    pub(crate) later_fences: u64,
    pub(crate) conflated: u64,
    pub(crate) all_left: u64,
    /// Notifications that were read from the inbox in their places, as they happened, and as unread ones.
    pub(crate) notifications_replayed: u64,
    pub(crate) notifications_live: u64,
    pub(crate) notifications_unread: u64,
    pub(crate) notifications_silent: u64,
    /// Those that came twice, for a node had died before it noted where it told them.
    pub(crate) notifications_told_again: u64,
    pub(crate) cut_among_unread: u64,
    pub(crate) unread_after_loss: u64,
}

/// The same of what the sockets of shards saw.
#[derive(Debug, Default)]
pub(crate) struct ShardSights {
    pub(crate) handed_over: u64,
    pub(crate) handed_over_with_frames: u64,
    pub(crate) handed_over_closed: u64,
    pub(crate) not_taken: u64,
    pub(crate) short_inside_frame: u64,
    pub(crate) short_inside_closing: u64,
    pub(crate) half_heartbeats: u64,
    pub(crate) heartbeats: u64,
    pub(crate) stalls: u64,
    pub(crate) too_much_input: u64,
    pub(crate) write_timeouts: u64,
    pub(crate) lingered_in_vain: u64,
    pub(crate) conflated: u64,
    pub(crate) most_waiting: usize,
    /// Streams that ended after `closing` was written.
    pub(crate) closed: HashMap<CloseReason, u64>,
    /// Streams that were lost.
    pub(crate) lost: HashMap<CloseReason, u64>,
}

/// Adds one to a count by reason.
pub(crate) fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, what: K) {
    *counts.entry(what).or_default() += 1;
}

pub(crate) fn counted<K: std::hash::Hash + Eq>(counts: &HashMap<K, u64>, what: K) -> u64 {
    counts.get(&what).copied().unwrap_or_default()
}
