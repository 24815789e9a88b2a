//! What polling an API costs, and what it costs to be told when to ask: the same users, the same API.

use std::{fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::index::sample};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{nanos, now_nanos, seconds_between},
    crew::{Common, Crew, Desk, Side, Work},
    epoll::Kind,
    events::Event,
    exchange::Exchange,
    idle::OPENING_MAX,
    latency::LatencyReport,
    payload::Payload,
    process,
    report::{Progress, kind},
    scenario::Load,
    sequence::{Arrival, Sequence},
    streams::{Channels, Heard, Streams},
    tally::Tally,
    target::{Message, ServerKind, Url},
};

/// Connections that publish the signals, at most, for each client.
const PUBLISHERS_MAX: usize = 64;

/// What stands for the user in the URL that is polled.
const USER: &str = "{user}";

/// What the signals replace each other by.
const CONFLATE: &str = "refetch";

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// What each user asks for, with a place for `{user}`.
    pub poll_url: Url,
    /// How many users.
    pub users: u64,
    /// How often a user polls.
    pub interval: Duration,
    /// How long each phase lasts.
    pub duration: Duration,
    /// Parts of the users for whom something changes in an interval; a phase for each.
    pub change_rates: Vec<f64>,
    /// The processes of the API.
    pub api_pids: Vec<u32>,
}

/// What was seen of one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// `poll` or `push`.
    pub phase: &'static str,
    /// The part of the users for whom something changes in an interval; all of them where they poll.
    pub change_rate: f64,
    /// How long it took.
    pub seconds: f64,
    /// Requests that the API answered.
    pub requests: u64,
    /// The same for each second.
    pub requests_per_second: f64,
    /// Polls that were not made, as the one before was not answered.
    pub skipped: u64,
    /// Changes that were signalled.
    pub changes: u64,
    /// Changes of a user who had not got the last one yet, and gets both at once.
    pub merged: u64,
    /// Signals that came.
    pub events: u64,
    /// The same for each second.
    pub events_per_second: f64,
    /// Signals that did not come.
    pub lost: u64,
    /// Signals that came twice.
    pub duplicated: u64,
    /// Signals that came after a later one.
    pub reordered: u64,
    /// Processor time of the API, in percent of one core.
    pub api_cpu_percent_of_core: Option<f64>,
    /// Processor time of the push server, in percent of one core.
    pub push_cpu_percent_of_core: Option<f64>,
    /// Bytes to and from the API.
    pub api_bytes: u64,
    /// Bytes to and from the push server.
    pub push_bytes: u64,
    /// From a change to having the answer that shows it.
    pub latency: LatencyReport,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `poll`.
    pub scenario: &'static str,
    /// What kind of server pushes.
    pub server_kind: ServerKind,
    /// How many users.
    pub users: u64,
    /// How often a user polls.
    pub interval_seconds: f64,
    /// Polling, then push at each rate of changes.
    pub phases: Vec<Phase>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "poll: {} users, every {} s", self.users, self.interval_seconds)?;
        writeln!(f, "| | requests/s | events/s | API CPU % | push CPU % | MB | fresh after, p50 ms | p99 ms | lost |")?;
        write!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        for phase in &self.phases {
            write!(
                f,
                "\n| {}, {} % change | {:.0} | {:.0} | {} | {} | {:.2} | {:.1} | {:.1} | {} |",
                phase.phase,
                phase.change_rate * 100.0,
                phase.requests_per_second,
                phase.events_per_second,
                percent(phase.api_cpu_percent_of_core),
                percent(phase.push_cpu_percent_of_core),
                (phase.api_bytes + phase.push_bytes) as f64 / 1e6,
                phase.latency.p50_micros as f64 / 1000.0,
                phase.latency.p99_micros as f64 / 1000.0,
                phase.lost,
            )?;
        }
        Ok(())
    }
}

/// Polls, then pushes.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    common.target.publish_address()?;
    common.target.ensure_channels()?;
    anyhow::ensure!(!parameters.interval.is_zero() && parameters.users > 0, "there is nothing to ask for");
    let mut phases = vec![run_phase(common, parameters, None, progress)?];
    for rate in &parameters.change_rates {
        phases.push(run_phase(common, parameters, Some(*rate), progress)?);
    }
    Ok(Report {
        scenario: "poll",
        server_kind: kind(common),
        users: parameters.users,
        interval_seconds: parameters.interval.as_secs_f64(),
        phases,
    })
}

fn run_phase(
    common: &Common,
    parameters: &Parameters,
    change_rate: Option<f64>,
    progress: &mut Progress<'_>,
) -> anyhow::Result<Phase> {
    let plan = Plan {
        poll_url: parameters.poll_url.clone(),
        prefix: common.channel_prefix.clone(),
        users: parameters.users,
        interval_nanos: nanos(parameters.interval),
        duration_nanos: nanos(parameters.duration),
        change_rate,
        born: now_nanos(),
    };
    let (mut crew, opened) = Crew::open(common, Load::Poll(plan))?;
    opened.ensure_all_open()?;
    let before = (process::usage(&parameters.api_pids)?, process::usage(&common.pids)?);
    let tally = crew.run(progress)?;
    let after = (process::usage(&parameters.api_pids)?, process::usage(&common.pids)?);
    let seconds = tally.seconds();
    let percent = |before: Option<process::Usage>, after: Option<process::Usage>| {
        let (before, after) = before.zip(after)?;
        Some(after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds.max(1e-9) * 100.0)
    };
    Ok(Phase {
        phase: if change_rate.is_some() { "push" } else { "poll" },
        change_rate: change_rate.unwrap_or(1.0),
        seconds,
        requests: tally.requests,
        requests_per_second: tally.requests as f64 / seconds.max(1e-9),
        skipped: tally.skipped,
        changes: tally.messages,
        merged: tally.merged,
        events: tally.deliveries,
        events_per_second: tally.deliveries as f64 / seconds.max(1e-9),
        lost: tally.lost,
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        api_cpu_percent_of_core: percent(before.0, after.0),
        push_cpu_percent_of_core: percent(before.1, after.1),
        api_bytes: tally.api_bytes,
        push_bytes: tally.push_bytes,
        latency: tally.latency.report(),
    })
}

/// The part of one client, in one phase.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    poll_url: Url,
    prefix: String,
    users: u64,
    interval_nanos: u64,
    duration_nanos: u64,
    /// None where users poll.
    change_rate: Option<f64>,
    born: u64,
}

/// A user, with a connection to the API of their own.
struct User {
    number: u64,
    exchange: Exchange,
    /// Since when something has changed that the user has not got.
    changed_at: Option<u64>,
    /// Whether the answer under way shows that change.
    is_shown: bool,
    sent: u64,
    sequence: Sequence,
}

/// The users, and the publishers of signals.
pub(crate) struct Asking {
    desk: Desk,
    plan: Plan,
    users: Vec<User>,
    streams: Streams,
    publishers: Vec<Exchange>,
    free: Vec<usize>,
    /// Users who have been told, and ask next.
    told: Vec<usize>,
    /// Changes of this interval that are still to come, the next one last.
    changes: Vec<(u64, usize)>,
    /// Answers and signals that are waited for.
    open_changes: usize,
    random: SmallRng,
    tally: Tally,
}

impl Asking {
    pub(crate) fn open(desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let shard = desk.shard;
        let (api, push) = (plan.poll_url.address, desk.target.publish_address()?);
        let exchange = |kind, at: u64, address| {
            Exchange::new(kind, at as usize, address, desk.target.source(address, shard.number(at)))
        };
        let user = |own| User {
            number: shard.number(own),
            exchange: exchange(Kind::Poller, own, api),
            changed_at: None,
            is_shown: false,
            sent: 0,
            sequence: Sequence::default(),
        };
        let users: Vec<User> = (0..shard.share(plan.users)).map(user).collect();
        let publishers: Vec<Exchange> = match plan.change_rate {
            Some(_) => (0..PUBLISHERS_MAX as u64).map(|at| exchange(Kind::Publisher, at, push)).collect(),
            None => Vec::new(),
        };
        let streams = Streams::new(desk.target.clone(), Kind::Stream, Channels::Own(plan.prefix.clone()), None);
        let mut this = Self {
            free: (0..publishers.len()).collect(),
            desk,
            plan,
            users,
            streams,
            publishers,
            told: Vec::new(),
            changes: Vec::new(),
            open_changes: 0,
            random: SmallRng::from_os_rng(),
            tally: Tally::default(),
        };
        this.connect()?;
        Ok(this)
    }

    /// Opens the streams, and has each user ask once: to connect is not what is measured.
    fn connect(&mut self) -> anyhow::Result<()> {
        let (shard, began) = (self.desk.shard, now_nanos());
        let concurrency = shard.share(OPENING_MAX);
        if self.plan.change_rate.is_some() {
            let (tally, users) = (&mut self.tally, self.users.len() as u64);
            let desk = &mut self.desk;
            self.streams.open_all(&mut desk.epoll, shard, users, concurrency, &mut desk.buffer, |_, heard, _| {
                tally.hear(heard);
            })?;
            self.tally.first_failure = self.streams.first_failure.take();
        }
        let mut asked = 0;
        let mut last = (0, now_nanos());
        while self.tally.requests < self.users.len() as u64 {
            while asked < self.users.len() && (asked as u64) < self.tally.requests + concurrency {
                self.ask(asked)?;
                asked += 1;
            }
            if self.tally.requests != last.0 {
                last = (self.tally.requests, now_nanos());
            }
            anyhow::ensure!(now_nanos() < last.1 + self.desk.patience_nanos, "the API does not answer");
            self.step(last.1 + self.desk.patience_nanos)?;
        }
        // What was kept from before the run has come by now, or counts as somebody else's.
        (self.tally.requests, self.tally.deliveries) = (0, 0);
        self.users.iter_mut().for_each(|user| (user.exchange.bytes_sent, user.exchange.bytes_received) = (0, 0));
        self.streams.bytes_received = 0;
        self.tally.opened_seconds = seconds_between(began, now_nanos());
        Ok(())
    }

    fn ask(&mut self, index: usize) -> anyhow::Result<()> {
        let user = &mut self.users[index];
        user.is_shown = user.changed_at.is_some();
        let (url, name) = (&self.plan.poll_url, format!("u{}", user.number));
        user.exchange.send(&self.desk.epoll, |out| url.write_get(out, USER, &name))
    }

    fn step(&mut self, until: u64) -> anyhow::Result<()> {
        let epoll = &mut self.desk.epoll;
        for at in 0..epoll.wait(Some(until))? {
            let ready = epoll.ready(at);
            let (buffer, tally) = (&mut self.desk.buffer, &mut self.tally);
            let (users, told, born) = (&mut self.users, &mut self.told, self.plan.born);
            match ready.kind {
                Kind::Stream => self.streams.ready(ready, buffer, |index, heard, _| match heard {
                    Heard::Said(Event::Message(payload)) => match payload {
                        Some(Payload { n, t }) if t >= born && n < users[index].sent => {
                            match users[index].sequence.take(n) {
                                Arrival::Again => tally.duplicated += 1,
                                arrival => {
                                    tally.deliveries += 1;
                                    tally.reordered += u64::from(arrival == Arrival::Late);
                                    told.push(index);
                                }
                            }
                        }
                        _ => tally.foreign += 1,
                    },
                    other => tally.hear(other),
                }),
                Kind::Publisher => {
                    let free = &mut self.free;
                    self.publishers[ready.index].ready(epoll, ready, buffer, |answer| {
                        free.push(ready.index);
                        answer.ensure_success()
                    })?;
                }
                Kind::Poller => {
                    let User { exchange, changed_at, is_shown, .. } = &mut users[ready.index];
                    let open_changes = &mut self.open_changes;
                    exchange.ready(epoll, ready, buffer, |answer| {
                        answer.ensure_success()?;
                        tally.requests += 1;
                        if std::mem::take(is_shown)
                            && let Some(changed_at) = changed_at.take()
                        {
                            tally.latency.record(changed_at, answer.at);
                            *open_changes = open_changes.saturating_sub(1);
                        }
                        Ok(())
                    })?;
                }
                Kind::Slow | Kind::Own => {}
            }
        }
        self.ask_those_told()
    }

    /// Each user who was told asks, after the answer that may be under way.
    fn ask_those_told(&mut self) -> anyhow::Result<()> {
        let mut waiting = Vec::new();
        for index in std::mem::take(&mut self.told) {
            if self.users[index].exchange.under_way() == 0 {
                self.ask(index)?;
            } else {
                waiting.push(index);
            }
        }
        self.told = waiting;
        Ok(())
    }

    /// Users poll in turn, spread evenly. Answers when the next one does.
    fn poll(&mut self, start: u64, end: u64, polls: &mut u64, now: u64) -> anyhow::Result<u64> {
        let users = self.users.len() as u64;
        loop {
            let due = start + (*polls as f64 * self.plan.interval_nanos as f64 / users as f64) as u64;
            if due > now || due >= end {
                return Ok(due.min(end));
            }
            let index = (*polls % users) as usize;
            *polls += 1;
            if self.users[index].exchange.under_way() > 0 {
                self.tally.skipped += 1;
                continue;
            }
            // What this poll shows has changed at any time since the last one.
            let since = (self.random.random::<f64>() * self.plan.interval_nanos as f64) as u64;
            self.users[index].changed_at.get_or_insert(due.saturating_sub(since));
            self.ask(index)?;
        }
    }

    /// Signals what has changed. Answers when something changes next.
    fn signal(&mut self, start: u64, end: u64, drawn: &mut u64, now: u64, rate: f64) -> anyhow::Result<u64> {
        let interval = self.plan.interval_nanos;
        while start + *drawn * interval <= now && start + *drawn * interval < end {
            let count = (rate.clamp(0.0, 1.0) * self.users.len() as f64).round() as usize;
            let from = start + *drawn * interval;
            for index in sample(&mut self.random, self.users.len(), count) {
                let at = from + (self.random.random::<f64>() * interval as f64) as u64;
                self.changes.push((at, index));
            }
            self.changes.retain(|(at, _)| *at < end);
            self.changes.sort_unstable_by(|one, other| other.cmp(one));
            *drawn += 1;
        }
        while let Some((at, index)) = self.changes.last().copied()
            && at <= now
        {
            if self.users[index].changed_at.is_some() {
                self.changes.pop();
                self.tally.merged += 1;
                continue;
            }
            let Some(publisher) = self.free.pop() else { break };
            self.changes.pop();
            self.publish(publisher, index, at)?;
        }
        let next = (start + *drawn * interval).min(end);
        let change = self.changes.last().filter(|_| !self.free.is_empty());
        Ok(change.map_or(next, |(at, _)| next.min(*at)))
    }

    fn publish(&mut self, publisher: usize, index: usize, at: u64) -> anyhow::Result<()> {
        let user = &mut self.users[index];
        user.changed_at = Some(at);
        let channel = self.desk.target.own_channel(&self.plan.prefix, user.number);
        let payload = Payload { n: user.sent, t: at };
        user.sent += 1;
        self.open_changes += 1;
        self.tally.messages += 1;
        let message = Message { channel: &channel, payload, data_bytes: 0, conflate: Some(CONFLATE) };
        let target = &self.desk.target;
        self.publishers[publisher].send(&self.desk.epoll, |out| target.write_message(out, &message))
    }

    fn close(&mut self) {
        self.tally.lost = self.users.iter().map(|user| user.sent - user.sequence.arrived_of(user.sent)).sum();
        let exchanged = |exchange: &Exchange| exchange.bytes_sent + exchange.bytes_received;
        self.tally.api_bytes = self.users.iter().map(|user| exchanged(&user.exchange)).sum();
        self.tally.push_bytes = self.streams.bytes_received + self.publishers.iter().map(exchanged).sum::<u64>();
    }
}

impl Work for Asking {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        self.step(until)
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let end = start + self.plan.duration_nanos;
        let mut turn = 0;
        self.tally.began = Some(start);
        let what = if self.plan.change_rate.is_some() { "push" } else { "poll" };
        loop {
            side.listen()?;
            let now = now_nanos();
            self.tally.ended_at = now;
            let next = match self.plan.change_rate {
                None => self.poll(start, end, &mut turn, now)?,
                Some(rate) => self.signal(start, end, &mut turn, now, rate)?,
            };
            let is_answered = self.open_changes == 0 && self.changes.is_empty();
            let is_asking = || self.users.iter().any(|user| user.exchange.under_way() > 0);
            if now >= end && ((is_answered && !is_asking()) || now >= end + self.desk.patience_nanos) {
                break;
            }
            let Tally { requests, deliveries, .. } = self.tally;
            progress.tell(|| format!("{what}: {requests} requests, {deliveries} events"));
            self.step(if next > now && now < end { next } else { now + self.desk.patience_nanos / 10 })?;
        }
        self.close();
        Ok(())
    }

    fn tally(&mut self) -> Tally {
        self.tally.clone()
    }
}
