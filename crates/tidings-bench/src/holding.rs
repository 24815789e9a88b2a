//! Streams that are opened and held: the client's part of `idle` and `storm`.

use serde::{Deserialize, Serialize};

use crate::{
    clock::{now_nanos, seconds_between},
    crew::{Desk, Side, Work},
    epoll::Kind,
    events::Event,
    process,
    report::Progress,
    streams::{Channels, Heard, Streams},
    tally::Tally,
};

/// Memory is looked at so often, for the plot of it.
const SAMPLE_NANOS: u64 = 1_000_000_000;

/// What to do.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) streams: u64,
    /// Streams that are being opened at a time, by all clients.
    pub(crate) concurrency: u64,
    pub(crate) channels: Channels,
    pub(crate) cursor: Option<String>,
    pub(crate) hold_nanos: u64,
    /// Whether to end before, when nothing has come for a while.
    pub(crate) quiet_nanos: Option<u64>,
    /// The server's processes.
    pub(crate) pids: Vec<u32>,
}

/// The streams.
pub(crate) struct Holding {
    desk: Desk,
    plan: Plan,
    streams: Streams,
    tally: Tally,
}

impl Holding {
    pub(crate) fn open(mut desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let mut streams = Streams::new(desk.target.clone(), Kind::Stream, plan.channels.clone(), plan.cursor.clone());
        let mut tally = Tally::default();
        let began = now_nanos();
        let (shard, concurrency) = (desk.shard, desk.shard.share(plan.concurrency));
        let count = shard.share(plan.streams);
        streams.open_all(&mut desk.epoll, shard, count, concurrency, &mut desk.buffer, |_, heard, _| {
            tally.hear(heard);
        })?;
        tally.opened_seconds = seconds_between(began, now_nanos());
        tally.first_failure = streams.first_failure.take();
        Ok(Self { desk, plan, streams, tally })
    }

    /// Waits once, at most until then; whether any stream was ready.
    fn step(&mut self, until: u64) -> anyhow::Result<bool> {
        let mut was_ready = false;
        for at in 0..self.desk.epoll.wait(Some(until))? {
            let ready = self.desk.epoll.ready(at);
            if ready.kind == Kind::Stream {
                was_ready = true;
                self.streams.ready(ready, &mut self.desk.buffer, |_, heard, _| self.tally.hear(heard));
            }
        }
        self.tally.push_bytes = self.streams.bytes_received;
        Ok(was_ready)
    }
}

impl Tally {
    /// Counts what was heard of a stream, where messages are only counted.
    pub(crate) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Opened(nanos) => {
                self.opened += 1;
                self.open_latency.record(0, nanos);
            }
            Heard::Failed => self.failed += 1,
            Heard::Ended => self.ended += 1,
            Heard::Said(Event::Message(_)) => self.deliveries += 1,
            Heard::Said(Event::Gap) => self.gaps += 1,
            Heard::Said(Event::Comment) => self.heartbeats += 1,
            Heard::Said(Event::Connected | Event::Closing) => {}
        }
    }
}

impl Work for Holding {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        self.step(until).map(|_| ())
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let end = start + self.plan.hold_nanos;
        let (mut sample_due, mut last) = (start, start);
        self.tally.began = Some(start);
        loop {
            side.listen()?;
            let now = now_nanos();
            self.tally.ended_at = now;
            if side.leads && now >= sample_due {
                if let Some(usage) = process::usage(&self.plan.pids)? {
                    self.tally.samples.push((seconds_between(start, now), usage.rss_bytes));
                }
                sample_due = now + SAMPLE_NANOS;
            }
            let quiet_until = self.plan.quiet_nanos.map(|nanos| last + nanos);
            if now >= end || quiet_until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            progress.tell(|| format!("{} streams held, {:.0} s left", self.streams.open, seconds_between(now, end)));
            if self.step(end.min(sample_due).min(quiet_until.unwrap_or(end)))? {
                last = now_nanos();
            }
        }
    }

    fn tally(&mut self) -> Tally {
        self.tally.clone()
    }
}
