//! What clients count, and how the counts of several become one.

use serde::{Deserialize, Serialize};

use crate::latency::Latencies;

/// The counts of one client, or the sum of several.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Streams that were opened.
    pub(crate) opened: u64,
    /// Streams that could not be.
    pub(crate) failed: u64,
    /// Why the first of them could not.
    pub(crate) first_failure: Option<String>,
    /// How long opening all took.
    pub(crate) opened_seconds: f64,
    /// From beginning to connect until a stream was open.
    pub(crate) open_latency: Latencies,
    /// Messages that were published, or completed.
    pub(crate) messages: u64,
    /// Messages that reached a stream, each counted once for each stream.
    pub(crate) deliveries: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Messages that are not of this run.
    pub(crate) foreign: u64,
    /// `gap`s that the server told of.
    pub(crate) gaps: u64,
    /// Streams that the server ended.
    pub(crate) ended: u64,
    pub(crate) heartbeats: u64,
    pub(crate) slow_opened: u64,
    pub(crate) slow_ended: u64,
    pub(crate) latency: Latencies,
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// Requests that were not made, as the one before was not answered.
    pub(crate) skipped: u64,
    /// Changes that came while one of the same user was not known yet.
    pub(crate) merged: u64,
    pub(crate) api_bytes: u64,
    pub(crate) push_bytes: u64,
    /// When the measured part began and ended, by the clock.
    pub(crate) began: Option<u64>,
    pub(crate) ended_at: u64,
    /// Resident memory of the server now and then: the second, and the bytes. The leader's alone.
    pub(crate) samples: Vec<(f64, u64)>,
}

impl Tally {
    /// Adds the counts of another client.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { first_failure, opened_seconds, open_latency, latency, began, ended_at, .. } = other;
        self.first_failure = self.first_failure.take().or_else(|| first_failure.clone());
        self.opened_seconds = self.opened_seconds.max(*opened_seconds);
        self.open_latency.add(open_latency);
        self.latency.add(latency);
        self.began = self.began.into_iter().chain(*began).min();
        self.ended_at = self.ended_at.max(*ended_at);
        for (sum, more) in [
            (&mut self.opened, other.opened),
            (&mut self.failed, other.failed),
            (&mut self.messages, other.messages),
            (&mut self.deliveries, other.deliveries),
            (&mut self.lost, other.lost),
            (&mut self.duplicated, other.duplicated),
            (&mut self.reordered, other.reordered),
            (&mut self.foreign, other.foreign),
            (&mut self.gaps, other.gaps),
            (&mut self.ended, other.ended),
            (&mut self.heartbeats, other.heartbeats),
            (&mut self.slow_opened, other.slow_opened),
            (&mut self.slow_ended, other.slow_ended),
            (&mut self.requests, other.requests),
            (&mut self.skipped, other.skipped),
            (&mut self.merged, other.merged),
            (&mut self.api_bytes, other.api_bytes),
            (&mut self.push_bytes, other.push_bytes),
        ] {
            *sum += more;
        }
    }

    /// How long the measured part took.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| crate::clock::seconds_between(began, self.ended_at))
    }

    /// A stream that cannot be opened ends the run: what would be measured is not what was asked for.
    pub(crate) fn ensure_all_open(&self) -> anyhow::Result<()> {
        let why = self.first_failure.as_deref().unwrap_or_default();
        let hint = if why.contains("answered 401") || why.contains("answered 403") {
            "; streams are anonymous: use a namespace that anyone may subscribe to, or --jwt-secret"
        } else {
            ""
        };
        anyhow::ensure!(self.failed == 0, "{} streams could not be opened: {why}{hint}", self.failed);
        Ok(())
    }
}
