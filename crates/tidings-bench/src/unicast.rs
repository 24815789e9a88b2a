//! Each message to one user's own channel, as notifications are sent.

use std::{fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
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
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    sequence::{Arrival, Sequence},
    streams::{Channels, Heard, Shard, Streams},
    tally::Tally,
    target::{Message, ServerKind},
};

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// Users, each with a stream on a channel of their own.
    pub users: u64,
    /// Connections that publish, each with one request under way.
    pub publishers: u64,
    /// Messages a second, whatever the server makes of it; or none, for as many as are acknowledged and
    /// delivered one after the other.
    pub per_second: Option<f64>,
    /// How long messages are published.
    pub duration: Duration,
    /// Length of a message's data.
    pub data_bytes: usize,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `unicast`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// Users, and their streams.
    pub streams: u64,
    /// Connections that published.
    pub publishers: u64,
    /// How long opening the streams took.
    pub opened_seconds: f64,
    /// From the first publish to the last delivery.
    pub seconds: f64,
    /// Messages that were published.
    pub published: u64,
    /// Messages that were acknowledged and delivered.
    pub messages: u64,
    /// The same for each second.
    pub messages_per_second: f64,
    /// Messages that reached their user.
    pub deliveries: u64,
    /// Messages that did not.
    pub lost: u64,
    /// Deliveries of what the stream had been given already.
    pub duplicated: u64,
    /// Deliveries after that of a later message of the same channel.
    pub reordered: u64,
    /// Messages of somebody else.
    pub foreign: u64,
    /// `gap`s that came.
    pub gaps: u64,
    /// Streams that the server ended.
    pub ended: u64,
    /// From when a message was, or should have been, sent to its arrival.
    pub latency: LatencyReport,
    /// What the server used while messages were published.
    pub server: Option<ServerUse>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, publishers, opened_seconds, seconds, messages, messages_per_second, .. } = self;
        let Self { lost, duplicated, reordered, gaps, ended, latency, .. } = self;
        write!(f, "unicast: {streams} users connected in {opened_seconds:.2} s; {publishers} publishers; ")?;
        write!(
            f,
            "{messages} messages acknowledged and delivered in {seconds:.2} s ({messages_per_second:.0} a second); "
        )?;
        write!(
            f,
            "{lost} lost, {duplicated} duplicated, {reordered} out of order, {gaps} gaps, {ended} streams ended"
        )?;
        write!(f, "\nfrom publish to arrival: {latency}")?;
        write_server(f, self.server.as_ref())
    }
}

/// Connects the users, publishes to them, and accounts for every message.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    common.target.publish_address()?;
    common.target.ensure_channels()?;
    let clients = u64::from(common.threads.max(1) * common.processes.max(1));
    let publishers = parameters.publishers.min(parameters.users);
    anyhow::ensure!(publishers >= clients, "each of {clients} clients needs at least one user and one publisher");
    let plan = Plan {
        prefix: common.channel_prefix.clone(),
        users: parameters.users,
        publishers,
        per_second: parameters.per_second,
        duration_nanos: nanos(parameters.duration),
        data_bytes: parameters.data_bytes,
        born: now_nanos(),
    };
    let rss_before = process::usage(&common.pids)?.map(|usage| usage.rss_bytes);
    let (mut crew, opened) = Crew::open(common, Load::Unicast(plan))?;
    opened.ensure_all_open()?;
    let before = process::usage(&common.pids)?;
    let tally = crew.run(progress)?;
    let seconds = tally.seconds();
    // What was delivered was also acknowledged: an answer other than a success ends the run.
    let messages = if parameters.per_second.is_some() { tally.deliveries } else { tally.messages };
    Ok(Report {
        scenario: "unicast",
        server_kind: kind(common),
        streams: opened.opened,
        publishers,
        opened_seconds: opened.opened_seconds,
        seconds,
        published: tally.requests,
        messages,
        messages_per_second: messages as f64 / seconds.max(1e-9),
        deliveries: tally.deliveries,
        lost: tally.lost,
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        foreign: tally.foreign,
        gaps: tally.gaps,
        ended: tally.ended,
        latency: tally.latency.report(),
        server: ServerUse::since(before, rss_before, common, tally.deliveries)?,
    })
}

/// The part of one client.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    prefix: String,
    users: u64,
    publishers: u64,
    per_second: Option<f64>,
    duration_nanos: u64,
    data_bytes: usize,
    /// When the run was planned: messages that are older are not of it.
    born: u64,
}

/// A user's channel. Each belongs to one publisher, so that its messages are sent in one order.
#[derive(Default)]
struct User {
    channel: String,
    sent: u64,
    sequence: Sequence,
    is_over: bool,
}

/// The message that a publisher has under way.
#[derive(Clone, Copy)]
struct Flight {
    user: usize,
    n: u64,
    is_acknowledged: bool,
    is_delivered: bool,
}

/// What is known of all messages.
struct Account {
    users: Vec<User>,
    flights: Vec<Option<Flight>>,
    /// Publishers that may send again.
    free: Vec<usize>,
    is_closed_loop: bool,
    /// Messages that may still come.
    outstanding: u64,
    born: u64,
    tally: Tally,
}

impl Account {
    fn hear(&mut self, index: usize, heard: Heard, now: u64) {
        match heard {
            Heard::Said(Event::Message(Some(Payload { n, t }))) if t >= self.born && n < self.users[index].sent => {
                self.arrive(index, n, t, now);
            }
            Heard::Said(Event::Message(_)) => self.tally.foreign += 1,
            Heard::Ended => {
                self.tally.ended += 1;
                let user = &mut self.users[index];
                user.is_over = true;
                self.outstanding -= user.sent - user.sequence.arrived_of(user.sent);
                self.finish(index % self.flights.len(), now, |flight| flight.user == index && !flight.is_delivered);
            }
            other => self.tally.hear(other),
        }
    }

    fn arrive(&mut self, index: usize, n: u64, t: u64, now: u64) {
        match self.users[index].sequence.take(n) {
            Arrival::Again => {
                self.tally.duplicated += 1;
                return;
            }
            Arrival::Late => self.tally.reordered += 1,
            Arrival::InOrder => {}
        }
        self.tally.deliveries += 1;
        self.outstanding -= 1;
        self.tally.latency.record(t, now);
        self.tally.ended_at = now;
        let publisher = index % self.flights.len();
        self.note(publisher, now, |flight| flight.is_delivered |= flight.user == index && flight.n == n);
    }

    /// Notes something about a publisher's message; the publisher is free when that is complete.
    fn note(&mut self, publisher: usize, now: u64, note: impl FnOnce(&mut Flight)) {
        let Some(flight) = &mut self.flights[publisher] else { return };
        note(flight);
        if flight.is_acknowledged && (flight.is_delivered || !self.is_closed_loop) {
            self.flights[publisher] = None;
            self.free.push(publisher);
            self.tally.messages += 1;
            self.tally.ended_at = self.tally.ended_at.max(now);
        }
    }

    /// Gives up a publisher's message whose user is gone.
    fn finish(&mut self, publisher: usize, now: u64, is_lost: impl FnOnce(&Flight) -> bool) {
        if self.flights[publisher].as_ref().is_some_and(is_lost) {
            self.note(publisher, now, |flight| {
                flight.is_delivered = true;
            });
        }
    }

    fn close(&mut self) {
        let missing = |user: &User| user.sent - user.sequence.arrived_of(user.sent);
        self.tally.lost = self.users.iter().map(missing).sum();
    }
}

/// The users' streams, and the publishers.
pub(crate) struct Posting {
    desk: Desk,
    plan: Plan,
    streams: Streams,
    publishers: Vec<Exchange>,
    account: Account,
    random: SmallRng,
}

impl Posting {
    pub(crate) fn open(mut desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let shard = desk.shard;
        let channels = Channels::Own(plan.prefix.clone());
        let (users, publishers) = (shard.share(plan.users), shard.share(plan.publishers));
        let user = |own| User { channel: channels.name(&desk.target, shard.number(own)), ..User::default() };
        let mut account = Account {
            users: (0..users).map(user).collect(),
            flights: vec![None; publishers as usize],
            free: (0..publishers as usize).rev().collect(),
            is_closed_loop: plan.per_second.is_none(),
            outstanding: 0,
            born: plan.born,
            tally: Tally::default(),
        };
        let mut streams = Streams::new(desk.target.clone(), Kind::Stream, channels, None);
        let began = now_nanos();
        let concurrency = shard.share(OPENING_MAX);
        streams.open_all(&mut desk.epoll, shard, users, concurrency, &mut desk.buffer, |index, heard, now| {
            account.hear(index, heard, now);
        })?;
        account.tally.opened_seconds = seconds_between(began, now_nanos());
        account.tally.first_failure = streams.first_failure.take();
        let address = desk.target.publish_address()?;
        let publisher = |at| {
            let source = desk.target.source(address, shard.number(at));
            Exchange::new(Kind::Publisher, at as usize, address, source)
        };
        let publishers = (0..publishers).map(publisher).collect();
        Ok(Self { desk, plan, streams, publishers, account, random: SmallRng::from_os_rng() })
    }

    fn step(&mut self, until: u64) -> anyhow::Result<()> {
        let epoll = &mut self.desk.epoll;
        for at in 0..epoll.wait(Some(until))? {
            let ready = epoll.ready(at);
            let (buffer, account) = (&mut self.desk.buffer, &mut self.account);
            match ready.kind {
                Kind::Stream => self.streams.ready(ready, buffer, |index, heard, now| account.hear(index, heard, now)),
                Kind::Publisher => self.publishers[ready.index].ready(epoll, ready, buffer, |answer| {
                    answer.ensure_success()?;
                    account.note(ready.index, answer.at, |flight| flight.is_acknowledged = true);
                    Ok(())
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends a message by a free publisher to one of its users.
    fn send(&mut self, publisher: usize, t: u64) -> anyhow::Result<()> {
        let own = Shard { index: publisher as u64, of: self.publishers.len() as u64 };
        let users = own.share(self.account.users.len() as u64);
        let index = own.number(self.random.random_range(0..users)) as usize;
        let user = &mut self.account.users[index];
        let flight = Flight { user: index, n: user.sent, is_acknowledged: false, is_delivered: user.is_over };
        user.sent += 1;
        self.account.outstanding += u64::from(!user.is_over);
        self.account.flights[publisher] = Some(flight);
        self.account.tally.requests += 1;
        self.account.tally.began.get_or_insert(t);
        let message = Message {
            channel: &user.channel,
            payload: Payload { n: flight.n, t },
            data_bytes: self.plan.data_bytes,
            conflate: None,
        };
        let target = &self.desk.target;
        self.publishers[publisher].send(&self.desk.epoll, |out| target.write_message(out, &message))
    }
}

impl Work for Posting {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        self.step(until)
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let end = start + self.plan.duration_nanos;
        // The clients divide the rate; each begins at another part of the first interval.
        let shard = self.desk.shard;
        let interval = self.plan.per_second.map(|rate| 1e9 * shard.of as f64 / rate);
        let due = |count: u64| {
            let interval = interval.unwrap_or_default();
            start + ((count as f64 + shard.index as f64 / shard.of as f64) * interval) as u64
        };
        let mut last = (u64::MAX, start);
        loop {
            side.listen()?;
            let now = now_nanos();
            let mut next = end;
            if interval.is_none() {
                while now < end
                    && let Some(publisher) = self.account.free.pop()
                {
                    self.send(publisher, now_nanos())?;
                }
            } else {
                // What is due and has no free publisher is sent when there is one, and counts from when it
                // was due.
                next = due(self.account.tally.requests);
                while next <= now
                    && next < end
                    && let Some(publisher) = self.account.free.pop()
                {
                    self.send(publisher, next)?;
                    next = due(self.account.tally.requests);
                }
            }
            let is_all_sent = if interval.is_some() { next >= end } else { now >= end };
            let mark = self.account.tally.deliveries + self.account.tally.messages;
            if mark != last.0 || (!is_all_sent && self.account.outstanding == 0) {
                last = (mark, now);
            }
            let is_idle = self.account.free.len() == self.publishers.len() && self.account.outstanding == 0;
            let has_stalled = now >= last.1 + self.desk.patience_nanos;
            if (is_all_sent && is_idle) || (has_stalled && (is_all_sent || self.account.free.is_empty())) {
                break;
            }
            let Tally { requests, deliveries, .. } = self.account.tally;
            progress.tell(|| format!("{requests} published, {deliveries} delivered"));
            let can_send = next > now && !self.account.free.is_empty();
            let deadline = last.1.max(now) + self.desk.patience_nanos / 10;
            self.step(if can_send && !is_all_sent {
                next.min(deadline)
            } else if now < end {
                end.min(deadline)
            } else {
                deadline
            })?;
        }
        self.account.close();
        Ok(())
    }

    fn tally(&mut self) -> Tally {
        self.account.tally.clone()
    }
}
