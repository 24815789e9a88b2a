//! Whether anything grows with time: clients that come and go, and events meanwhile.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{nanos, now_nanos, seconds_between},
    crew::{Common, Crew, Desk, Side, Work},
    epoll::Kind,
    exchange::Exchange,
    payload::Payload,
    process,
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    streams::{Channels, Heard, Streams},
    tally::Tally,
    target::{Message, ServerKind},
};

/// Streams open at a time, at most: a server that does not keep up is reported, not buried.
const OPEN_MAX: usize = 4000;

/// Publishes that are not answered, at most.
const UNANSWERED_MAX: usize = 1000;

/// Memory is looked at so often.
const SAMPLE_NANOS: u64 = 10_000_000_000;

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// Streams opened (and so closed) a second.
    pub connects_per_second: u32,
    /// Events published a second.
    pub events_per_second: u32,
    /// How long.
    pub duration: Duration,
    /// When the first measurement counts: what a server needs once it has by then.
    pub settle: Duration,
    /// How long a stream stays open, on average.
    pub stay: Duration,
    /// Channels that streams and events are spread over.
    pub channels: u32,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `churn`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// How long it took.
    pub seconds: f64,
    /// Streams that were opened.
    pub connected: u64,
    /// Streams that were not, or that ended before their clients left.
    pub failed: u64,
    /// Events that were published.
    pub published: u64,
    /// Events that reached a stream.
    pub received: u64,
    /// Resident memory of the server after `settle`, in bytes.
    pub resident_settled_bytes: u64,
    /// The same at the end.
    pub resident_end_bytes: u64,
    /// The second over the first.
    pub growth: f64,
    /// Resident memory every ten seconds: the second, and the bytes.
    pub samples: Vec<(u64, u64)>,
    /// What the server used.
    pub server: Option<ServerUse>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(
            f,
            "churn: {} streams came and went ({} failed), {} events published, {} received; \
             resident {:.1} MiB when settled, {:.1} MiB at the end: × {:.3}",
            self.connected,
            self.failed,
            self.published,
            self.received,
            mib(self.resident_settled_bytes),
            mib(self.resident_end_bytes),
            self.growth
        )?;
        write_server(f, self.server.as_ref())
    }
}

/// Runs to the end.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    common.target.publish_address()?;
    let plan = Plan {
        prefix: common.channel_prefix.clone(),
        connects_per_second: parameters.connects_per_second,
        events_per_second: parameters.events_per_second,
        duration_nanos: nanos(parameters.duration),
        stay_nanos: nanos(parameters.stay),
        channels: parameters.channels.max(1),
        pids: common.pids.clone(),
    };
    let before = process::usage(&common.pids)?;
    let (mut crew, _) = Crew::open(common, Load::Churn(plan))?;
    let tally = crew.run(progress)?;
    let server = ServerUse::since(before, None, common, tally.deliveries)?;
    let resident_end_bytes = server.as_ref().map_or(0, |server| server.rss_after_bytes);
    let settle = parameters.settle.as_secs_f64();
    let settled = tally.samples.iter().find(|(second, _)| *second >= settle).map(|(_, bytes)| *bytes);
    let resident_settled_bytes = settled.unwrap_or(resident_end_bytes);
    Ok(Report {
        scenario: "churn",
        server_kind: kind(common),
        seconds: tally.seconds(),
        connected: tally.opened,
        failed: tally.failed + tally.ended,
        published: tally.messages,
        received: tally.deliveries,
        resident_settled_bytes,
        resident_end_bytes,
        growth: resident_end_bytes as f64 / resident_settled_bytes.max(1) as f64,
        samples: tally.samples.into_iter().map(|(second, bytes)| (second as u64, bytes)).collect(),
        server,
    })
}

/// The part of one client.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    prefix: String,
    connects_per_second: u32,
    events_per_second: u32,
    duration_nanos: u64,
    stay_nanos: u64,
    channels: u32,
    pids: Vec<u32>,
}

/// The visitors.
pub(crate) struct Visiting {
    desk: Desk,
    plan: Plan,
    streams: Streams,
    publisher: Exchange,
    /// When which visitor leaves.
    leaving: BinaryHeap<Reverse<(u64, usize)>>,
    free: Vec<usize>,
    visits: u64,
    tally: Tally,
    random: SmallRng,
}

impl Visiting {
    pub(crate) fn open(desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let channels = Channels::Some(plan.prefix.clone(), plan.channels.into());
        let streams = Streams::new(desk.target.clone(), Kind::Stream, channels, None);
        let address = desk.target.publish_address()?;
        let source = desk.target.source(address, desk.shard.index);
        let publisher = Exchange::new(Kind::Publisher, 0, address, source);
        Ok(Self {
            desk,
            plan,
            streams,
            publisher,
            leaving: BinaryHeap::new(),
            free: Vec::new(),
            visits: 0,
            tally: Tally::default(),
            random: SmallRng::from_os_rng(),
        })
    }

    fn come(&mut self) -> anyhow::Result<()> {
        let number = self.desk.shard.number(self.visits);
        self.visits += 1;
        if self.leaving.len() >= OPEN_MAX {
            self.tally.failed += 1;
            return Ok(());
        }
        let index = self.streams.begin(&self.desk.epoll, self.free.pop(), number)?;
        let stay = self.plan.stay_nanos as f64 * self.random.random::<f64>() * 2.0;
        self.leaving.push(Reverse((now_nanos() + stay as u64, index)));
        Ok(())
    }

    fn leave(&mut self, index: usize) {
        // Every other one resets the connection, as phones do that change networks.
        let by_reset = self.streams.number(index).is_multiple_of(2);
        self.streams.leave(index, by_reset);
        self.free.push(index);
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let channel = format!("{}{}", self.plan.prefix, self.tally.messages % u64::from(self.plan.channels));
        let payload = Payload { n: self.tally.messages, t: now_nanos() };
        let message = Message { channel: &channel, payload, data_bytes: 0, conflate: None };
        self.tally.messages += 1;
        self.publisher.send(&self.desk.epoll, |out| self.desk.target.write_message(out, &message))
    }
}

impl Work for Visiting {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        let epoll = &mut self.desk.epoll;
        for at in 0..epoll.wait(Some(until))? {
            let ready = epoll.ready(at);
            let (buffer, tally) = (&mut self.desk.buffer, &mut self.tally);
            match ready.kind {
                Kind::Stream => self.streams.ready(ready, buffer, |_, heard, _| {
                    // Those that fail are counted with the streams.
                    if heard != Heard::Failed {
                        tally.hear(heard);
                    }
                }),
                Kind::Publisher => {
                    self.publisher.ready(epoll, ready, buffer, |answer| answer.ensure_success())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let end = start + self.plan.duration_nanos;
        let of = self.desk.shard.of;
        let due = |count: u64, per_second: u32| {
            if per_second == 0 { u64::MAX } else { start + count * of * 1_000_000_000 / u64::from(per_second) }
        };
        let mut sample_due = start;
        self.tally.began = Some(start);
        loop {
            side.listen()?;
            let now = now_nanos();
            self.tally.ended_at = now;
            if side.leads && now >= sample_due {
                if let Some(usage) = process::usage(&self.plan.pids)? {
                    self.tally.samples.push((seconds_between(start, now), usage.rss_bytes));
                }
                sample_due += SAMPLE_NANOS;
            }
            if now >= end {
                break;
            }
            while let Some(Reverse((at, index))) = self.leaving.peek().copied()
                && at <= now
            {
                self.leaving.pop();
                self.leave(index);
            }
            while due(self.visits, self.plan.connects_per_second) <= now {
                self.come()?;
            }
            while due(self.tally.messages, self.plan.events_per_second) <= now
                && self.publisher.under_way() < UNANSWERED_MAX
            {
                self.publish()?;
            }
            progress.tell(|| {
                let (second, bytes) = self.tally.samples.last().copied().unwrap_or_default();
                let mib = bytes as f64 / (1 << 20) as f64;
                format!("{:.0} s: {} visits; {mib:.1} MiB at {second:.0} s", seconds_between(start, now), self.visits)
            });
            let leaves = self.leaving.peek().map_or(end, |Reverse((at, _))| *at);
            let next = due(self.visits, self.plan.connects_per_second).min(leaves).min(end);
            // What is held back does not wake: its answers do.
            let publish_due = due(self.tally.messages, self.plan.events_per_second);
            self.tend(if publish_due > now { next.min(publish_due) } else { next })?;
        }
        while let Some(Reverse((_, index))) = self.leaving.pop() {
            self.leave(index);
        }
        self.tally.failed += self.streams.failed as u64;
        self.tally.first_failure = self.streams.first_failure.take();
        Ok(())
    }

    fn tally(&mut self) -> Tally {
        self.tally.clone()
    }
}
