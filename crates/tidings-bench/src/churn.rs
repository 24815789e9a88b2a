//! Whether anything grows with time: clients that come and go, and events meanwhile.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tidings_protocol::sse::{Parsed, Parser};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
};

use crate::{
    client::{Publisher, Target},
    process,
};

/// Streams open at a time, at most: a server that does not keep up is reported, not buried.
const OPEN_MAX: usize = 4000;

/// Longest block of a stream that is read.
const BLOCK_MAX_BYTES: usize = 1 << 20;

/// What to do.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// The server.
    pub target: Target,
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
    /// What the channels' names begin with.
    pub channel_prefix: String,
    /// The server's process.
    pub pid: u32,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Streams that were opened and got `connected`.
    pub connected: u64,
    /// Streams that did not.
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
        )
    }
}

#[derive(Default)]
struct Counts {
    connected: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
}

/// Runs to the end; `progress` is told the second and the resident bytes now and then.
pub async fn run(parameters: &Parameters, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Report> {
    let start = Instant::now();
    let counts = Arc::new(Counts::default());
    let open = Arc::new(Semaphore::new(OPEN_MAX));
    let mut publisher = Publisher::connect(&parameters.target, 0).await?;
    let mut connects = tokio::time::interval(Duration::from_secs(1) / parameters.connects_per_second.max(1));
    let mut events = tokio::time::interval(Duration::from_secs(1) / parameters.events_per_second.max(1));
    let mut samples_due = tokio::time::interval(Duration::from_secs(10));
    let (mut number, mut published) = (0_u64, 0_u64);
    let mut samples = Vec::new();
    let mut settled = None;
    while start.elapsed() < parameters.duration {
        tokio::select! {
            _ = connects.tick() => {
                number += 1;
                let Ok(permit) = open.clone().try_acquire_owned() else {
                    counts.failed.fetch_add(1, Relaxed);
                    continue;
                };
                let (parameters, counts) = (parameters.clone(), counts.clone());
                tokio::spawn(async move {
                    if visit(&parameters, number, &counts).await.is_err() {
                        counts.failed.fetch_add(1, Relaxed);
                    }
                    drop(permit);
                });
            }
            _ = events.tick() => {
                let channel = published % u64::from(parameters.channels.max(1));
                let body = format!(r#"{{"channel":"{}{channel}","data":{{"n":{published}}}}}"#, parameters.channel_prefix);
                publisher.publish("application/json", body.into()).await?;
                published += 1;
            }
            _ = samples_due.tick() => {
                let (second, bytes) = (start.elapsed().as_secs(), process::resident_bytes(parameters.pid)?);
                samples.push((second, bytes));
                progress(second, bytes);
                if settled.is_none() && start.elapsed() >= parameters.settle {
                    settled = Some(bytes);
                }
            }
        }
    }
    let resident_end_bytes = process::resident_bytes(parameters.pid)?;
    let resident_settled_bytes = settled.unwrap_or(resident_end_bytes);
    Ok(Report {
        connected: counts.connected.load(Relaxed),
        failed: counts.failed.load(Relaxed),
        published,
        received: counts.received.load(Relaxed),
        resident_settled_bytes,
        resident_end_bytes,
        growth: resident_end_bytes as f64 / resident_settled_bytes.max(1) as f64,
        samples,
    })
}

/// One client: it connects, listens for a while, and leaves in one of the ways that clients do.
async fn visit(parameters: &Parameters, number: u64, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = parameters.target.connect(number).await?;
    let channel = number % u64::from(parameters.channels.max(1));
    let request = format!(
        "GET /v1/subscribe?channel={}{channel} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n",
        parameters.channel_prefix, parameters.target.address
    );
    stream.write_all(request.as_bytes()).await?;
    let leave = tokio::time::sleep(parameters.stay.mul_f64(rand::random::<f64>() * 2.0));
    tokio::pin!(leave);
    let mut parser = Parser::new(BLOCK_MAX_BYTES);
    let mut bytes = vec![0; 4096];
    let mut is_connected = false;
    loop {
        tokio::select! {
            read = stream.read(&mut bytes) => {
                let read = read?;
                anyhow::ensure!(read > 0, "the server ended the stream");
                // The head and the chunk sizes are lines without a field's name that matters, so the
                // parser passes over them.
                parser.push(&bytes[..read], |parsed| {
                    if let Parsed::Event { event, .. } = parsed {
                        let is_event = event != "connected";
                        is_connected |= !is_event;
                        counts.received.fetch_add(u64::from(is_event), Relaxed);
                    }
                })?;
            }
            () = &mut leave => break,
        }
    }
    anyhow::ensure!(is_connected, "no `connected` came");
    counts.connected.fetch_add(1, Relaxed);
    if number.is_multiple_of(2) {
        // Every other one resets the connection, as phones do that change networks.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}
