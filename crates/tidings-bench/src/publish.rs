//! How many events a second the server takes, each answered when it is as durable as promised.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{Publisher, Target},
    process,
};

/// Longest latency that is told apart, in microseconds: a minute.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// What to do.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// The server.
    pub target: Target,
    /// Publishers at the same time, each with one request under way.
    pub publishers: usize,
    /// How long.
    pub duration: Duration,
    /// Length of `data`, a JSON string, in bytes without its quotes.
    pub data_bytes: usize,
    /// Events of a request; more than one are sent as NDJSON.
    pub batch: usize,
    /// Channels that the events go to, in turn.
    pub channels: usize,
    /// What the channels' names begin with.
    pub channel_prefix: String,
    /// The server's process, if it is on this machine, to tell what it uses.
    pub pid: Option<u32>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Publishers at the same time.
    pub publishers: usize,
    /// Events of a request.
    pub batch: usize,
    /// Events that were acknowledged.
    pub events: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Acknowledged events a second.
    pub events_per_second: f64,
    /// From a request to its answer, in microseconds: median.
    pub p50_micros: u64,
    /// The same, 99th percentile.
    pub p99_micros: u64,
    /// The same, longest.
    pub max_micros: u64,
    /// Processor time of the server for one event, in microseconds.
    pub server_cpu_micros_per_event: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishers, batch, events_per_second, p50_micros, p99_micros, max_micros, .. } = self;
        write!(
            f,
            "publish: {events_per_second:.0} events/s, {publishers} publishers, {batch} to a request; \
             a request takes {p50_micros} µs (p50), {p99_micros} µs (p99), {max_micros} µs (longest)"
        )?;
        match self.server_cpu_micros_per_event {
            Some(micros) => write!(f, "; server CPU {micros:.1} µs an event"),
            None => Ok(()),
        }
    }
}

/// Publishes as fast as the server answers.
pub async fn run(parameters: &Parameters) -> anyhow::Result<Report> {
    let cpu_before = parameters.pid.map(process::cpu_time).transpose()?;
    let start = Instant::now();
    let end = start + parameters.duration;
    let mut publishers = JoinSet::new();
    for number in 0..parameters.publishers {
        let parameters = parameters.clone();
        publishers.spawn(async move { publish_until(&parameters, number, end).await });
    }
    let mut events = 0;
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?;
    while let Some(publisher) = publishers.join_next().await {
        let (published, latency) = publisher??;
        events += published;
        latencies.add(latency)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu_after = parameters.pid.map(process::cpu_time).transpose()?;
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    Ok(Report {
        publishers: parameters.publishers,
        batch: parameters.batch,
        events,
        seconds,
        events_per_second: events as f64 / seconds,
        p50_micros: latencies.value_at_quantile(0.5),
        p99_micros: latencies.value_at_quantile(0.99),
        max_micros: latencies.max(),
        server_cpu_micros_per_event: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / events.max(1) as f64),
    })
}

async fn publish_until(parameters: &Parameters, number: usize, end: Instant) -> anyhow::Result<(u64, Histogram<u64>)> {
    let mut publisher = Publisher::connect(&parameters.target, number as u64).await?;
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?;
    let (media_type, bodies) = bodies(parameters, number);
    let mut published = 0;
    for body in bodies.iter().cycle() {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let answer = publisher.publish(media_type, body.clone()).await?;
        latencies.saturating_record(sent.elapsed().as_micros() as u64);
        let accepted = answer.windows(DUPLICATE_FALSE.len()).filter(|window| *window == DUPLICATE_FALSE).count();
        anyhow::ensure!(
            accepted == parameters.batch,
            "{accepted} of {} events were accepted: {}",
            parameters.batch,
            String::from_utf8_lossy(&answer[..answer.len().min(400)])
        );
        published += accepted as u64;
    }
    Ok((published, latencies))
}

/// What stands in the answer to each event that was accepted.
const DUPLICATE_FALSE: &[u8] = br#""duplicate":false"#;

/// The bodies that a publisher sends in turn, made beforehand: their making is not the server's time.
fn bodies(parameters: &Parameters, number: usize) -> (&'static str, Vec<Bytes>) {
    let data = "x".repeat(parameters.data_bytes);
    let line = |at: usize| {
        let channel = at % parameters.channels.max(1);
        format!(r#"{{"channel":"{}{channel}","data":"{data}"}}"#, parameters.channel_prefix)
    };
    if parameters.batch <= 1 {
        let bodies = (0..parameters.channels.max(1)).map(|at| line(number + at).into());
        return ("application/json", bodies.collect());
    }
    let lines: Vec<String> = (0..parameters.batch).map(|at| line(number + at)).collect();
    ("application/x-ndjson", vec![lines.join("\n").into()])
}
