//! One channel, many streams: how an event reaches all of them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    clock::{now_nanos, seconds_between},
    crew::{Common, Crew, Desk, Side, Work},
    epoll::Kind,
    exchange::Exchange,
    idle::OPENING_MAX,
    latency::LatencyReport,
    link::Said,
    payload::Payload,
    process,
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    streams::{Channels, Heard, Streams},
    tally::Tally,
    target::{Message, ServerKind},
};

/// Publishes that are not answered, at most. At a fixed rate, further ones are held back, and count from
/// when they were due.
const UNANSWERED_MAX: usize = 10_000;

/// How long slow readers are read at the end, to see what the server has made of them.
const SLOW_LOOK_NANOS: u64 = 2_000_000_000;

/// When messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// As soon as fewer than `window` are published and not yet delivered to all; `messages` in all.
    Window {
        /// Messages under way at a time.
        window: u64,
        /// Messages in all.
        messages: u64,
    },
    /// So many a second, whatever the server makes of it.
    Rate {
        /// Messages a second.
        per_second: f64,
        /// For how long.
        duration: Duration,
    },
}

impl Pace {
    fn messages(self) -> u64 {
        match self {
            Self::Window { messages, .. } => messages,
            Self::Rate { per_second, duration } => (per_second * duration.as_secs_f64()).round() as u64,
        }
    }
}

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// How many streams.
    pub streams: u64,
    /// When messages are published.
    pub pace: Pace,
    /// Length of a message's data.
    pub data_bytes: usize,
    /// Streams besides, with the smallest receive buffer, that are never read.
    pub slow_readers: u64,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `broadcast`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// Streams that were open, slow readers apart.
    pub streams: u64,
    /// How long opening them took.
    pub opened_seconds: f64,
    /// From the first publish to the last delivery.
    pub seconds: f64,
    /// Messages that were published.
    pub published: u64,
    /// Messages that reached a stream, each counted once for each stream.
    pub deliveries: u64,
    /// The same for each second.
    pub deliveries_per_second: f64,
    /// Deliveries that there should have been, and were not.
    pub lost: u64,
    /// Deliveries of what its stream had been given already.
    pub duplicated: u64,
    /// Deliveries after that of a later message.
    pub reordered: u64,
    /// Messages of somebody else on the same channel.
    pub foreign: u64,
    /// `gap`s that came.
    pub gaps: u64,
    /// Streams that the server ended.
    pub ended: u64,
    /// Slow readers that were there.
    pub slow_readers: u64,
    /// How many of them the server had ended.
    pub slow_ended: u64,
    /// From when a message was, or should have been, sent to its arrival on a stream.
    pub latency: LatencyReport,
    /// What the server used while messages were published.
    pub server: Option<ServerUse>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, opened_seconds, published, seconds, deliveries, deliveries_per_second, .. } = self;
        let Self { lost, duplicated, reordered, gaps, ended, latency, .. } = self;
        write!(f, "broadcast: {streams} streams opened in {opened_seconds:.2} s; ")?;
        write!(
            f,
            "{published} messages in {seconds:.2} s, {deliveries} deliveries ({deliveries_per_second:.0} a second); "
        )?;
        write!(
            f,
            "{lost} lost, {duplicated} duplicated, {reordered} out of order, {gaps} gaps, {ended} streams ended"
        )?;
        if self.slow_readers > 0 {
            write!(f, "; {} of {} slow readers ended by the server", self.slow_ended, self.slow_readers)?;
        }
        write!(f, "\nfrom publish to arrival: {latency}")?;
        write_server(f, self.server.as_ref())
    }
}

/// Opens the streams, publishes, and accounts for every delivery.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    common.target.publish_address()?;
    let plan = Plan {
        channel: format!("{}0", common.channel_prefix),
        streams: parameters.streams,
        pace: parameters.pace,
        data_bytes: parameters.data_bytes,
        slow_readers: parameters.slow_readers,
        born: now_nanos(),
    };
    let rss_before = process::usage(&common.pids)?.map(|usage| usage.rss_bytes);
    let (mut crew, opened) = Crew::open(common, Load::Broadcast(plan))?;
    opened.ensure_all_open()?;
    let before = process::usage(&common.pids)?;
    let tally = crew.run(progress)?;
    let seconds = tally.seconds();
    Ok(Report {
        scenario: "broadcast",
        server_kind: kind(common),
        streams: opened.opened,
        opened_seconds: opened.opened_seconds,
        seconds,
        published: tally.messages,
        deliveries: tally.deliveries,
        deliveries_per_second: tally.deliveries as f64 / seconds.max(1e-9),
        lost: tally.lost,
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        foreign: tally.foreign,
        gaps: tally.gaps,
        ended: tally.ended,
        slow_readers: tally.slow_opened,
        slow_ended: tally.slow_ended,
        latency: tally.latency.report(),
        server: ServerUse::since(before, rss_before, common, tally.deliveries)?,
    })
}

/// The part of one client.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    channel: String,
    streams: u64,
    pace: Pace,
    data_bytes: usize,
    slow_readers: u64,
    /// When the run was planned: messages that are older are not of it.
    born: u64,
}

/// The streams, and in the client that leads, the publisher.
pub(crate) struct Casting {
    desk: Desk,
    plan: Plan,
    streams: Streams,
    slow: Streams,
    publisher: Option<Exchange>,
    account: Account,
    published: u64,
}

impl Casting {
    pub(crate) fn open(mut desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let channels = Channels::Shared(plan.channel.clone());
        let mut streams = Streams::new(desk.target.clone(), Kind::Stream, channels.clone(), None);
        let mut slow = Streams::new(desk.target.clone(), Kind::Slow, channels, None);
        let window = match plan.pace {
            Pace::Window { window, .. } => window as usize,
            Pace::Rate { .. } => 0,
        };
        let mut account = Account::new(plan.pace.messages(), window, plan.born);
        let shard = desk.shard;
        let began = now_nanos();
        let (count, concurrency) = (shard.share(plan.streams), shard.share(OPENING_MAX));
        streams.open_all(&mut desk.epoll, shard, count, concurrency, &mut desk.buffer, |index, heard, now| {
            account.hear(index, heard, now);
        })?;
        account.tally.opened_seconds = seconds_between(began, now_nanos());
        let (count, tally) = (shard.share(plan.slow_readers), &mut account.tally);
        slow.open_all(&mut desk.epoll, shard, count, concurrency, &mut desk.buffer, |_, heard, _| match heard {
            Heard::Opened(_) => tally.slow_opened += 1,
            Heard::Failed => tally.failed += 1,
            _ => {}
        })?;
        account.tally.first_failure = streams.first_failure.take().or(slow.first_failure.take());
        Ok(Self { desk, plan, streams, slow, publisher: None, account, published: 0 })
    }

    fn step(&mut self, until: u64) -> anyhow::Result<()> {
        let epoll = &mut self.desk.epoll;
        for at in 0..epoll.wait(Some(until))? {
            let ready = epoll.ready(at);
            let buffer = &mut self.desk.buffer;
            match ready.kind {
                Kind::Stream => self.streams.ready(ready, buffer, |index, heard, now| {
                    self.account.hear(index, heard, now);
                }),
                Kind::Slow => {
                    self.slow.ready(ready, buffer, |_, heard, _| {
                        self.account.tally.slow_ended += u64::from(heard == Heard::Ended);
                    });
                }
                Kind::Publisher => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.ready(epoll, ready, buffer, |answer| answer.ensure_success())?;
                    }
                }
                Kind::Poller | Kind::Own => {}
            }
        }
        Ok(())
    }

    /// Publishes what may be published now. Answers when the next may be, if that is known.
    fn publish(&mut self, start: u64, delivered: u64, now: u64) -> anyhow::Result<Option<u64>> {
        let Some(publisher) = &mut self.publisher else { return Ok(None) };
        let messages = self.plan.pace.messages();
        let mut next_due = None;
        let before = self.published;
        while self.published < messages && publisher.under_way() < UNANSWERED_MAX {
            let t = match self.plan.pace {
                Pace::Window { window, .. } if self.published < delivered + window => now_nanos(),
                Pace::Window { .. } => break,
                Pace::Rate { per_second, .. } => {
                    let due = start + (self.published as f64 / per_second * 1e9) as u64;
                    if due > now {
                        next_due = Some(due);
                        break;
                    }
                    due
                }
            };
            let message = Message {
                channel: &self.plan.channel,
                payload: Payload { n: self.published, t },
                data_bytes: self.plan.data_bytes,
                conflate: None,
            };
            publisher.enqueue(|out| self.desk.target.write_message(out, &message));
            self.account.tally.began.get_or_insert(t);
            self.published += 1;
        }
        if self.published > before {
            publisher.flush(&self.desk.epoll)?;
        }
        Ok(next_due)
    }

    fn look_at_slow_readers(&mut self) -> anyhow::Result<()> {
        let end = now_nanos() + SLOW_LOOK_NANOS;
        for index in 0..self.slow.len() {
            self.slow.look(index, &mut self.desk.buffer, |_, heard, _| {
                self.account.tally.slow_ended += u64::from(heard == Heard::Ended);
            });
        }
        while self.slow.open > 0 && now_nanos() < end {
            self.step(end)?;
        }
        Ok(())
    }
}

impl Work for Casting {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        self.step(until)
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let messages = self.plan.pace.messages();
        if side.leads {
            let address = self.desk.target.publish_address()?;
            let source = self.desk.target.source(address, 0);
            self.publisher = Some(Exchange::new(Kind::Publisher, 0, address, source));
        }
        let mut last = (u64::MAX, now_nanos());
        let mut told = 0;
        let mut is_ending = false;
        loop {
            side.listen()?;
            let now = now_nanos();
            if side.published.is_some() && !std::mem::replace(&mut is_ending, true) {
                // Until now nothing may have been due.
                last.1 = now;
            }
            let others = side.delivered().filter(|_| side.leads);
            let delivered = if self.account.is_empty() { others.unwrap_or(0) } else { self.account.done };
            let delivered = delivered.min(others.unwrap_or(u64::MAX));
            if !side.leads && self.account.done > told {
                told = self.account.done;
                side.say(&Said::Delivered(told))?;
            }
            let unanswered = self.publisher.as_ref().map_or(0, Exchange::under_way);
            // Anything that changes is progress, in whichever direction.
            let mark = self.account.tally.deliveries + delivered + self.published - unanswered as u64;
            if mark != last.0 {
                last = (mark, now);
            }
            let has_stalled = now >= last.1 + self.desk.patience_nanos;
            let mut next_due = None;
            if side.leads && side.published.is_none() {
                next_due = self.publish(start, delivered, now)?;
                let is_waiting = next_due.is_none() && self.published < messages;
                if self.published == messages || (is_waiting && has_stalled) {
                    side.published = Some(self.published);
                    side.say(&Said::Published(self.published))?;
                    continue;
                }
            }
            if let Some(published) = side.published
                && ((self.account.has_all(published) && unanswered == 0) || has_stalled)
            {
                self.account.close(published);
                self.account.tally.messages = if side.leads { published } else { 0 };
                break;
            }
            progress.tell(|| format!("{} of {messages} published, {delivered} delivered to all", self.published));
            self.step(next_due.unwrap_or(last.1.max(now) + self.desk.patience_nanos / 10))?;
        }
        self.look_at_slow_readers()
    }

    fn tally(&mut self) -> Tally {
        self.account.tally.clone()
    }
}
