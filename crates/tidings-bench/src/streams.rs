//! Many streams at once: what an idle one costs, and how an event reaches all of them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tidings_protocol::sse::{Parsed, Parser};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    client::{Publisher, Target},
    process,
};

/// Streams that are being opened at a time: a listen queue has room for more.
const OPENING_MAX: usize = 256;

/// Longest block of a stream that is read.
const BLOCK_MAX_BYTES: usize = 1 << 20;

/// Longest latency that is told apart, in microseconds: a minute.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// How long the last events may take to arrive once all are published.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// Latencies are kept in so many parts, so that the threads do not wait for each other.
const PARTS: usize = 16;

/// What to do.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// The server.
    pub target: Target,
    /// How many streams.
    pub streams: usize,
    /// How many channels they are spread over.
    pub channels: usize,
    /// What the channels' names begin with.
    pub channel_prefix: String,
    /// How long events are published, or how long the streams stay idle.
    pub duration: Duration,
    /// Events a second, each to one of the channels in turn; none leaves the streams idle.
    pub events_per_second: u32,
    /// Length of an event's padding, in bytes.
    pub data_bytes: usize,
    /// The server's process, if it is on this machine.
    pub pid: Option<u32>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Streams that were open.
    pub streams: usize,
    /// How long opening them took, in seconds.
    pub open_seconds: f64,
    /// Resident memory of the server for each stream, in bytes: after opening, less before.
    pub server_bytes_per_stream: Option<i64>,
    /// Events published.
    pub published: u64,
    /// Deliveries that there should have been.
    pub expected: u64,
    /// Deliveries that there were.
    pub delivered: u64,
    /// Deliveries of an event that its stream had been given already, or after a later one.
    pub repeated_or_reordered: u64,
    /// From just before the publish to the arrival, in microseconds: median.
    pub p50_micros: u64,
    /// The same, 99th percentile.
    pub p99_micros: u64,
    /// The same, longest.
    pub max_micros: u64,
    /// Processor time of the server while events were published, as a part of one core.
    pub server_cpu_of_one_core: Option<f64>,
    /// The same for each delivery, in microseconds.
    pub server_cpu_micros_per_delivery: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "streams: {} opened in {:.2} s", self.streams, self.open_seconds)?;
        if let Some(bytes) = self.server_bytes_per_stream {
            write!(f, "; {bytes} bytes of the server's memory each")?;
        }
        if let Some(part) = self.server_cpu_of_one_core {
            write!(f, "; server at {:.1} % of a core", part * 100.0)?;
        }
        if self.published == 0 {
            return Ok(());
        }
        write!(
            f,
            "\n{} events published, {} of {} deliveries, {} repeated or out of order; \
             {} µs (p50), {} µs (p99), {} µs (longest)",
            self.published,
            self.delivered,
            self.expected,
            self.repeated_or_reordered,
            self.p50_micros,
            self.p99_micros,
            self.max_micros
        )?;
        match self.server_cpu_micros_per_delivery {
            Some(micros) => write!(f, "; server CPU {micros:.1} µs a delivery"),
            None => Ok(()),
        }
    }
}

/// What an event carries: which of its channel's it is, and when it was sent.
#[derive(Serialize, Deserialize)]
struct Sent {
    n: u64,
    micros: u64,
}

struct Counts {
    start: Instant,
    delivered: AtomicU64,
    misplaced: AtomicU64,
    latencies: [parking_lot::Mutex<Histogram<u64>>; PARTS],
}

/// Opens the streams, leaves them idle or publishes to them, and accounts for every delivery.
pub async fn run(parameters: &Parameters) -> anyhow::Result<Report> {
    let new_histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).map(parking_lot::Mutex::new);
    let latencies: Vec<_> = (0..PARTS).map(|_| new_histogram()).collect::<Result<_, _>>()?;
    let counts = Arc::new(Counts {
        start: Instant::now(),
        delivered: AtomicU64::new(0),
        misplaced: AtomicU64::new(0),
        latencies: latencies.try_into().ok().context("as many parts as there are")?,
    });
    let memory_before = parameters.pid.map(process::resident_bytes).transpose()?;
    let opening = Instant::now();
    let mut streams = open(parameters, &counts).await?;
    let open_seconds = opening.elapsed().as_secs_f64();
    let memory_after = parameters.pid.map(process::resident_bytes).transpose()?;

    let cpu_before = parameters.pid.map(process::cpu_time).transpose()?;
    let began = Instant::now();
    let (published, expected) = publish(parameters, &counts).await?;
    let waited = Instant::now();
    while counts.delivered.load(Relaxed) < expected && waited.elapsed() < ARRIVAL_LIMIT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = began.elapsed();
    let cpu_after = parameters.pid.map(process::cpu_time).transpose()?;
    let lost_streams = std::iter::from_fn(|| streams.try_join_next()).count();
    anyhow::ensure!(lost_streams == 0, "{lost_streams} streams ended before the scenario did");

    let mut all = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?;
    for part in &counts.latencies {
        all.add(&*part.lock())?;
    }
    let delivered = counts.delivered.load(Relaxed);
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
    let memory = memory_after.zip(memory_before).map(|(after, before)| after as i64 - before as i64);
    Ok(Report {
        streams: parameters.streams,
        open_seconds,
        server_bytes_per_stream: memory.map(|bytes| bytes / parameters.streams.max(1) as i64),
        published,
        expected,
        delivered,
        repeated_or_reordered: counts.misplaced.load(Relaxed),
        p50_micros: all.value_at_quantile(0.5),
        p99_micros: all.value_at_quantile(0.99),
        max_micros: all.max(),
        server_cpu_of_one_core: cpu.map(|seconds| seconds / elapsed.as_secs_f64()),
        server_cpu_micros_per_delivery: cpu.filter(|_| delivered > 0).map(|seconds| seconds * 1e6 / delivered as f64),
    })
}

/// Opens all streams and waits until each has got `connected`.
async fn open(parameters: &Parameters, counts: &Arc<Counts>) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let mut streams = JoinSet::new();
    for number in 0..parameters.streams {
        let permit = opening.clone().acquire_owned().await?;
        let (target, counts) = (parameters.target.clone(), counts.clone());
        let channel = format!("{}{}", parameters.channel_prefix, number % parameters.channels.max(1));
        streams.spawn(async move { listen(&target, number, &channel, permit, &counts).await });
        if let Some(ended) = streams.try_join_next() {
            ended??;
            anyhow::bail!("a stream ended while others were being opened");
        }
    }
    // Every permit is back when every stream is connected, or has failed to be.
    let _all = opening.acquire_many(OPENING_MAX as u32).await?;
    match streams.try_join_next() {
        Some(ended) => ended?.and_then(|()| anyhow::bail!("a stream ended at once")).map(|()| streams),
        None => Ok(streams),
    }
}

async fn listen(
    target: &Target,
    number: usize,
    channel: &str,
    opening: tokio::sync::OwnedSemaphorePermit,
    counts: &Counts,
) -> anyhow::Result<()> {
    let mut stream = target.connect(number as u64).await?;
    let address = target.address;
    let head =
        format!("GET /v1/subscribe?channel={channel} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut opening = Some(opening);
    let mut parser = Parser::new(BLOCK_MAX_BYTES);
    let mut bytes = vec![0; 2048];
    let mut last = None;
    loop {
        let read = stream.read(&mut bytes).await?;
        anyhow::ensure!(read > 0, "the server ended a stream");
        let now = counts.start.elapsed().as_micros() as u64;
        parser.push(&bytes[..read], |parsed| {
            let Parsed::Event { event, data, .. } = parsed else { return };
            if event == "connected" {
                opening = None;
            } else if let Ok(Sent { n, micros }) = serde_json::from_str(&data) {
                let is_next = last.is_none_or(|last| n > last);
                last = Some(n);
                let counter = if is_next { &counts.delivered } else { &counts.misplaced };
                counter.fetch_add(1, Relaxed);
                counts.latencies[number % PARTS].lock().saturating_record(now.saturating_sub(micros));
            }
        })?;
    }
}

/// Publishes at the rate, whatever the server makes of it: an event that is sent late counts from when
/// it was due, so that a server that stalls does not look better for it. Answers how many events there
/// were, and how many deliveries there are to be.
async fn publish(parameters: &Parameters, counts: &Counts) -> anyhow::Result<(u64, u64)> {
    if parameters.events_per_second == 0 {
        tokio::time::sleep(parameters.duration).await;
        return Ok((0, 0));
    }
    let mut publisher = Publisher::connect(&parameters.target, 0).await?;
    let channels = parameters.channels.max(1);
    let listeners = |channel: usize| (parameters.streams + channels - 1 - channel) / channels;
    let interval = Duration::from_secs(1) / parameters.events_per_second;
    let padding = "x".repeat(parameters.data_bytes);
    let began = Instant::now();
    let (mut published, mut expected) = (0, 0);
    while interval * published < parameters.duration {
        let due = began + interval * published;
        tokio::time::sleep_until(due.into()).await;
        let channel = published as usize % channels;
        let micros = (due - counts.start).as_micros();
        let body = format!(
            r#"{{"channel":"{}{channel}","data":{{"n":{published},"micros":{micros},"padding":"{padding}"}}}}"#,
            parameters.channel_prefix
        );
        publisher.publish("application/json", body.into()).await?;
        published += 1;
        expected += listeners(channel) as u64;
    }
    Ok((u64::from(published), expected))
}
