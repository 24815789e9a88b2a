//! How many events a second the server takes, each answered when it is as durable as promised.

use std::{fmt, time::Duration};

use anyhow::ensure;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{nanos, now_nanos, seconds_between},
    crew::{Common, Crew, Desk, Side, Work},
    epoll::Kind,
    exchange::{Answer, Exchange},
    latency::LatencyReport,
    process,
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    tally::Tally,
    target::{ServerKind, Target},
};

/// What stands in Tidings' answer for each event that was accepted.
const DUPLICATE_FALSE: &[u8] = br#""duplicate":false"#;

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// Publishers at the same time, each with one request under way.
    pub publishers: u64,
    /// How long.
    pub duration: Duration,
    /// Length of `data`, a JSON string, in bytes without its quotes.
    pub data_bytes: usize,
    /// Events of a request; more than one are sent as NDJSON.
    pub batch: u64,
    /// Channels that the events go to, in turn.
    pub channels: u64,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `publish`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// Publishers at the same time.
    pub publishers: u64,
    /// Events of a request.
    pub batch: u64,
    /// Events that were acknowledged.
    pub events: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Acknowledged events a second.
    pub events_per_second: f64,
    /// From a request to its answer.
    pub latency: LatencyReport,
    /// Processor time of the server for one event, in microseconds.
    pub server_cpu_micros_per_event: Option<f64>,
    /// What the server used.
    pub server: Option<ServerUse>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishers, batch, events_per_second, latency, .. } = self;
        write!(f, "publish: {events_per_second:.0} events/s, {publishers} publishers, {batch} to a request; ")?;
        write!(f, "a request takes {latency}")?;
        if let Some(micros) = self.server_cpu_micros_per_event {
            write!(f, "; server CPU {micros:.1} µs an event")?;
        }
        write_server(f, self.server.as_ref())
    }
}

/// Publishes as fast as the server answers.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    ensure!(parameters.batch <= 1 || kind(common) == ServerKind::Tidings, "only Tidings takes more than one event");
    common.target.publish_address()?;
    let plan = Plan {
        prefix: common.channel_prefix.clone(),
        publishers: parameters.publishers,
        duration_nanos: nanos(parameters.duration),
        data_bytes: parameters.data_bytes,
        batch: parameters.batch.max(1),
        channels: parameters.channels.max(1),
    };
    let before = process::usage(&common.pids)?;
    let (mut crew, _) = Crew::open(common, Load::Publish(plan))?;
    let tally = crew.run(progress)?;
    let seconds = tally.seconds();
    let server = ServerUse::since(before, None, common, 0)?;
    Ok(Report {
        scenario: "publish",
        server_kind: kind(common),
        publishers: parameters.publishers,
        batch: parameters.batch,
        events: tally.messages,
        seconds,
        events_per_second: tally.messages as f64 / seconds.max(1e-9),
        latency: tally.latency.report(),
        server_cpu_micros_per_event: server
            .as_ref()
            .map(|server| server.cpu_seconds * 1e6 / tally.messages.max(1) as f64),
        server,
    })
}

/// The part of one client.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    prefix: String,
    publishers: u64,
    duration_nanos: u64,
    data_bytes: usize,
    batch: u64,
    channels: u64,
}

/// A publisher, and its requests made beforehand: their making is not the server's time.
struct Publisher {
    exchange: Exchange,
    next: usize,
    sent_at: u64,
}

/// The publishers.
pub(crate) struct Publishing {
    desk: Desk,
    plan: Plan,
    publishers: Vec<Publisher>,
    requests: Vec<Vec<u8>>,
    tally: Tally,
}

impl Publishing {
    pub(crate) fn open(desk: Desk, plan: Plan) -> anyhow::Result<Self> {
        let address = desk.target.publish_address()?;
        let publisher = |at: u64| {
            let number = desk.shard.number(at);
            let exchange = Exchange::new(Kind::Publisher, at as usize, address, desk.target.source(address, number));
            Publisher { exchange, next: number as usize, sent_at: 0 }
        };
        let publishers = (0..desk.shard.share(plan.publishers)).map(publisher).collect();
        let requests = requests(&desk.target, &plan);
        Ok(Self { desk, plan, publishers, requests, tally: Tally::default() })
    }
}

fn requests(target: &Target, plan: &Plan) -> Vec<Vec<u8>> {
    let data = "x".repeat(plan.data_bytes);
    let channel = |at: u64| format!("{}{}", plan.prefix, at % plan.channels);
    let line = |at: u64| format!(r#"{{"channel":"{}","data":"{data}"}}"#, channel(at));
    let request = |at: u64, media_type: &str, body: String| {
        let mut out = Vec::new();
        target.write_post(&mut out, &channel(at), media_type, body.as_bytes());
        out
    };
    match (target.kind, plan.batch) {
        (ServerKind::Plain, _) => (0..plan.channels).map(|at| request(at, "text/plain", data.clone())).collect(),
        (ServerKind::Tidings, 1) => (0..plan.channels).map(|at| request(at, "application/json", line(at))).collect(),
        (ServerKind::Tidings, batch) => {
            let lines: Vec<String> = (0..batch).map(line).collect();
            vec![request(0, "application/x-ndjson", lines.join("\n"))]
        }
    }
}

/// How many events an answer accepts. It must be all: else what was measured is not publishing.
fn accepted(answer: &Answer<'_>, kind: ServerKind, batch: u64) -> anyhow::Result<u64> {
    answer.ensure_success()?;
    if kind == ServerKind::Tidings {
        let accepted = memmem::find_iter(answer.body, DUPLICATE_FALSE).count() as u64;
        let said = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(400)]).into_owned();
        ensure!(accepted == batch, "{accepted} of {batch} events were accepted: {}", said());
    }
    Ok(batch)
}

impl Work for Publishing {
    fn tend(&mut self, until: u64) -> anyhow::Result<()> {
        let epoll = &mut self.desk.epoll;
        let (kind, batch, tally) = (self.desk.target.kind, self.plan.batch, &mut self.tally);
        for at in 0..epoll.wait(Some(until))? {
            let ready = epoll.ready(at);
            if ready.kind != Kind::Publisher {
                continue;
            }
            let publisher = &mut self.publishers[ready.index];
            publisher.exchange.ready(epoll, ready, &mut self.desk.buffer, |answer| {
                tally.messages += accepted(&answer, kind, batch)?;
                tally.latency.record(publisher.sent_at, answer.at);
                tally.ended_at = answer.at;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn run(&mut self, start: u64, side: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()> {
        let end = start + self.plan.duration_nanos;
        self.tally.began = Some(start);
        loop {
            side.listen()?;
            let now = now_nanos();
            let mut under_way = 0;
            for publisher in &mut self.publishers {
                if publisher.exchange.under_way() == 0 && now < end {
                    let request = &self.requests[publisher.next % self.requests.len()];
                    publisher.next += 1;
                    publisher.sent_at = now_nanos();
                    publisher.exchange.send(&self.desk.epoll, |out| out.extend_from_slice(request))?;
                }
                under_way += publisher.exchange.under_way();
            }
            if now >= end && under_way == 0 {
                return Ok(());
            }
            ensure!(now < end + self.desk.patience_nanos, "{under_way} requests were not answered");
            progress.tell(|| format!("{} events, {:.0} s left", self.tally.messages, seconds_between(now, end)));
            self.tend(if now < end { end } else { end + self.desk.patience_nanos })?;
        }
    }

    fn tally(&mut self) -> Tally {
        self.tally.clone()
    }
}
