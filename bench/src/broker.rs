//! Load on Redis and NATS over their own protocols, and `redis-benchmark` for what it does well.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// Messages sent in one call.
const PIPELINE: u64 = 100;

/// Most messages that may be under way: both brokers cut off a subscriber that is too far behind.
const UNDER_WAY_MAX: u64 = 20_000;

/// How long a broker may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How many commands a second `redis-benchmark` is to send, one at a time and in pipelines: it takes a number and
/// no time.
const APPENDS_PER_SECOND: (u64, u64) = (25_000, 150_000);

/// What is asked of a broker.
#[derive(Debug, Clone, Args)]
pub struct BrokerLoad {
    /// What to do
    pub kind: Kind,
    /// Where it is
    #[arg(long)]
    pub address: SocketAddr,
    /// For how long
    #[arg(long, value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Bytes of a message
    #[arg(long, default_value_t = 128)]
    pub data_bytes: usize,
    /// Clients that append
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Commands of a pipeline
    #[arg(long, default_value_t = 1)]
    pub batch: u64,
    /// Where to write the report
    #[arg(long)]
    pub json: std::path::PathBuf,
}

/// The loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// PUBLISH to one subscriber
    RedisPublish,
    /// PUB to one subscriber
    NatsPublish,
    /// XADD, by redis-benchmark
    RedisAppend,
}

/// Does it and writes the report.
pub fn run(load: &BrokerLoad) -> anyhow::Result<()> {
    let report = match load.kind {
        Kind::RedisAppend => redis_append(load)?,
        Kind::RedisPublish => fan_out(load, &Protocol::redis(load.data_bytes))?,
        Kind::NatsPublish => fan_out(load, &Protocol::nats(load.data_bytes))?,
    };
    std::fs::write(&load.json, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", load.json.display()))
}

/// What goes over the wire. All messages are alike, so that bytes count them.
struct Protocol {
    /// Makes a new connection ready, and what its answer ends with.
    hello: (Vec<u8>, &'static [u8]),
    /// Subscribes, and what the answer to that ends with.
    subscribe: (Vec<u8>, &'static [u8]),
    publish: Vec<u8>,
    /// Bytes of the answer to a publish.
    reply_bytes: usize,
    /// Bytes that a subscriber gets for a message.
    delivery_bytes: usize,
}

impl Protocol {
    fn redis(data_bytes: usize) -> Self {
        let data = "x".repeat(data_bytes);
        let delivery = format!("*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n${data_bytes}\r\n{data}\r\n");
        Self {
            hello: (b"PING\r\n".to_vec(), b"+PONG\r\n"),
            subscribe: (b"SUBSCRIBE bench\r\n".to_vec(), b":1\r\n"),
            publish: format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n${data_bytes}\r\n{data}\r\n").into_bytes(),
            // The number of subscribers.
            reply_bytes: b":1\r\n".len(),
            delivery_bytes: delivery.len(),
        }
    }

    fn nats(data_bytes: usize) -> Self {
        let data = "x".repeat(data_bytes);
        Self {
            hello: (b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n".to_vec(), b"PONG\r\n"),
            subscribe: (b"SUB bench 1\r\nPING\r\n".to_vec(), b"PONG\r\n"),
            publish: format!("PUB bench {data_bytes}\r\n{data}\r\n").into_bytes(),
            reply_bytes: 0,
            delivery_bytes: format!("MSG bench 1 {data_bytes}\r\n{data}\r\n").len(),
        }
    }

    fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        ask(&mut stream, &self.hello)?;
        Ok(stream)
    }
}

/// Sends something and reads until the answer ends as it should.
fn ask(stream: &mut TcpStream, (question, end): &(Vec<u8>, &'static [u8])) -> anyhow::Result<()> {
    stream.write_all(question)?;
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while !answer.ends_with(end) {
        let read = stream.read(&mut bytes)?;
        ensure!(read > 0 && answer.len() < 1 << 20, "an unexpected answer: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
    }
    Ok(())
}

fn fan_out(load: &BrokerLoad, protocol: &Protocol) -> anyhow::Result<Value> {
    let mut subscriber = protocol.connect(load.address)?;
    ask(&mut subscriber, &protocol.subscribe)?;
    let received_bytes = Arc::new(AtomicU64::new(0));
    let counter = received_bytes.clone();
    // It ends when the broker does, or with this process.
    std::thread::spawn(move || {
        let mut bytes = vec![0; 256 << 10];
        while let Ok(read @ 1..) = subscriber.read(&mut bytes) {
            counter.fetch_add(read as u64, Relaxed);
        }
    });
    let received = || received_bytes.load(Relaxed) / protocol.delivery_bytes as u64;
    let mut publisher = protocol.connect(load.address)?;
    let pipeline = protocol.publish.repeat(PIPELINE as usize);
    let mut replies = vec![0; protocol.reply_bytes * PIPELINE as usize];
    let started = Instant::now();
    let mut published = 0;
    while started.elapsed() < load.duration {
        publisher.write_all(&pipeline)?;
        publisher.read_exact(&mut replies)?;
        published += PIPELINE;
        wait_until(|| published - received() <= UNDER_WAY_MAX)?;
    }
    wait_until(|| received() == published)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({
        "scenario": "broker",
        "messages": published,
        "seconds": seconds,
        "lost": published - received(),
        "messages_per_second": published as f64 / seconds,
    }))
}

fn wait_until(condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let waiting = Instant::now();
    while !condition() {
        if waiting.elapsed() > SILENCE_MAX {
            bail!("messages were lost, or the broker has stopped");
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn redis_append(load: &BrokerLoad) -> anyhow::Result<Value> {
    let per_second = if load.batch > 1 { APPENDS_PER_SECOND.1 } else { APPENDS_PER_SECOND.0 };
    let commands = (per_second as f64 * load.duration.as_secs_f64()) as u64;
    let output = Command::new("redis-benchmark")
        .args(["-h", &load.address.ip().to_string(), "-p", &load.address.port().to_string()])
        .args(["-c", &load.publishers.to_string(), "-P", &load.batch.to_string(), "-n", &commands.to_string(), "--csv"])
        .args(["XADD", "bench", "MAXLEN", "~", "100", "*", "data", &"x".repeat(load.data_bytes)])
        .output()
        .context("starting redis-benchmark (Debian: apt-get install redis-tools)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "redis-benchmark: {said}{}", String::from_utf8_lossy(&output.stderr));
    // "XADD bench …","70052.54","0.9",…
    let last = said.lines().last().and_then(|line| line.split("\",\"").nth(1));
    let per_second: f64 = last.with_context(|| format!("redis-benchmark said {said:?}"))?.trim_matches('"').parse()?;
    Ok(json!({ "scenario": "broker", "events": commands, "events_per_second": per_second }))
}
