//! The crash-and-resume scenario: while publishers publish and subscribers read through a proxy that
//! cuts every connection sooner or later, the server is killed and started again. In the end every
//! subscriber must hold every acknowledged event of its channels, once, in order, without a gap.

use std::{
    fmt,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::index::sample};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    model::Ledger,
    process::{ServerOptions, TidingsServer},
    proxy::{CutPlan, CuttingProxy},
    publisher::Publisher,
    resuming::{Record, ResumingClient, ResumingOptions},
    wait,
};

const API_KEY: &str = "tk_stress_0123456789abcdef";

/// Most channels of one subscriber.
const CHANNELS_PER_SUBSCRIBER_MAX: usize = 20;

/// Most events of one NDJSON publish.
const BATCH_MAX: u64 = 20;

/// How many violations a failure shows of each subscriber.
const SHOWN_MAX: usize = 10;

/// How large and how rough it is.
#[derive(Debug, Clone)]
pub struct StressOptions {
    /// The server; without it, `TIDINGS_BIN` names it.
    pub binary: Option<PathBuf>,
    /// How many events are published, over all channels.
    pub events: u64,
    /// On how many channels.
    pub channels: usize,
    /// How many subscribers read them, each a random choice of the channels.
    pub subscribers: usize,
    /// How often the server is killed.
    pub kills: usize,
    /// When the proxy cuts.
    pub cuts: CutPlan,
    /// What all random choices come from. Threads and sockets have their own will, so that a seed
    /// gives the same plan and not the same run.
    pub seed: u64,
    /// How long it may take.
    pub limit: Duration,
}

impl StressOptions {
    /// A run for the test suite: under a minute.
    pub fn short(seed: u64) -> Self {
        Self {
            binary: None,
            events: 5_000,
            channels: 10,
            subscribers: 8,
            kills: 3,
            cuts: CutPlan { min_bytes: 1, max_bytes: 32 << 10 },
            seed,
            limit: Duration::from_secs(180),
        }
    }

    /// A run before a release.
    pub fn long(seed: u64) -> Self {
        Self {
            binary: None,
            events: 100_000,
            channels: 20,
            subscribers: 50,
            kills: 5,
            cuts: CutPlan { min_bytes: 1, max_bytes: 2 << 20 },
            seed,
            limit: Duration::from_secs(1800),
        }
    }
}

/// What happened in a run that found nothing wrong.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Of those, how many a repeated publish found in the log already.
    pub duplicates: u64,
    /// Publish requests.
    pub publish_attempts: u64,
    /// Events that subscribers were given.
    pub delivered: usize,
    /// Streams that subscribers opened.
    pub streams: u64,
    /// Streams that could not be opened, or broke.
    pub stream_failures: u64,
    /// Connections that the proxy carried.
    pub connections: u64,
    /// Connections that it cut.
    pub cuts: u64,
    /// How often the server was killed.
    pub kills: usize,
    /// The longest time from a kill to `/readyz`.
    pub slowest_restart: Duration,
    /// How long it all took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "every acknowledged event arrived, once, in order; seed {}, {:.1?}", self.seed, self.took)?;
        writeln!(
            f,
            "  published: {} events acknowledged in {} requests, {} of them found in the log on a repeated request",
            self.acknowledged, self.publish_attempts, self.duplicates
        )?;
        writeln!(
            f,
            "  delivered: {} events over {} streams; {} ended or could not be opened",
            self.delivered, self.streams, self.stream_failures
        )?;
        writeln!(f, "  network:   {} connections, {} cut", self.connections, self.cuts)?;
        write!(f, "  server:    killed {} times, ready again after at most {:.1?}", self.kills, self.slowest_restart)
    }
}

/// A subscriber and what it asked for.
struct Subscriber {
    channels: Vec<String>,
    enveloped: bool,
    client: ResumingClient,
}

/// What the actors of a run share.
struct Stage {
    options: StressOptions,
    proxy: CuttingProxy,
    ledger: Mutex<Ledger>,
    /// How many events have been acknowledged.
    acknowledged: watch::Sender<u64>,
}

/// Runs the scenario. The error says what was violated, with the seed and the end of the server's log.
pub async fn run(options: StressOptions) -> anyhow::Result<Report> {
    let seed = options.seed;
    ensure!(options.channels > 0 && options.subscribers > 0, "no channels or no subscribers");
    let mut server = start_server(&options).await?;
    match perform(options, &mut server).await {
        Ok(report) => Ok(report),
        Err(error) => bail!("seed {seed}: {error:#}\nthe server's log, its last part:\n{}", server.log_tail()),
    }
}

async fn start_server(options: &StressOptions) -> anyhow::Result<TidingsServer> {
    // Everything stays in history, so that no gap is ever right.
    let config = format!(
        r#"
[auth]
api_keys = ["{API_KEY}"]

[stream]
heartbeat = "1s"

[limits]
ip_requests_per_second = 1000000
ip_burst = 1000000

[namespaces.default]
history_size = 200000
history_ttl = "24h"
durable = true
subscribe = ["anyone"]
"#
    );
    let mut server = ServerOptions::new(config);
    if let Some(binary) = &options.binary {
        server = server.binary(binary);
    }
    TidingsServer::start(server).await
}

async fn perform(options: StressOptions, server: &mut TidingsServer) -> anyhow::Result<Report> {
    let started = Instant::now();
    let limit = options.limit;
    let addr = server.addr();
    let proxy = CuttingProxy::start(addr, options.cuts, options.seed).await?;
    let stage = Arc::new(Stage { options, proxy, ledger: Mutex::default(), acknowledged: watch::Sender::new(0) });

    let mut subscribers = stage.subscribe_early().await?;
    let acts = async { tokio::try_join!(stage.publish_all(), stage.kill_now_and_then(server), stage.subscribe_late()) };
    let (published, slowest_restart, late) = wait::within("everything to be published", limit, acts).await??;
    subscribers.extend(late);

    // The last events arrive while connections are still being cut, as long as that is not too long.
    let expected: Vec<usize> =
        subscribers.iter().map(|subscriber| stage.ledger.lock().count_on(&subscriber.channels)).collect();
    let cut_until = tokio::time::Instant::now() + Duration::from_secs(30).min(limit / 4);
    for (subscriber, &expected) in subscribers.iter().zip(&expected) {
        let caught_up = subscriber.client.wait_until("to catch up", limit, |record| record.events.len() >= expected);
        if tokio::time::timeout_at(cut_until, caught_up).await.is_err() {
            break;
        }
    }
    stage.proxy.stop_cutting();

    // What follows a marker in no channel, nothing can come after: late repetitions are seen too.
    let mut publisher = Publisher::new(addr, Some(API_KEY));
    for channel in stage.channels() {
        let data = json!({ "channel": channel, "marker": true });
        let acknowledgement = publisher.acknowledged(&json!({ "channel": channel, "data": data })).await?;
        stage.ledger.lock().acknowledge(&channel, &data.to_string(), &acknowledgement.id)?;
    }
    let mut late = Vec::new();
    for subscriber in &subscribers {
        // Who waits in vain lacks something, and that is told below.
        late.extend(subscriber.wait_for_markers(limit.saturating_sub(started.elapsed())).await.err());
    }

    let ledger = stage.ledger.lock();
    let mut records = Vec::new();
    let mut wrong = String::new();
    for (number, subscriber) in subscribers.into_iter().enumerate() {
        let Subscriber { channels, enveloped, client } = subscriber;
        let record = client.stop();
        let violations = ledger.check(&channels, enveloped, &record);
        if !violations.is_empty() {
            wrong += &format!("subscriber {number} of {channels:?}: {} violations\n", violations.len());
            for violation in violations.iter().take(SHOWN_MAX) {
                wrong += &format!("  {violation}\n");
            }
        }
        records.push(record);
    }
    ensure!(wrong.is_empty(), "{wrong}");
    if let Some(error) = late.pop() {
        return Err(error);
    }
    let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>();
    Ok(Report {
        seed: stage.options.seed,
        acknowledged: ledger.len(),
        duplicates: published.duplicates,
        publish_attempts: published.attempts,
        delivered: records.iter().map(|record| record.events.len()).sum(),
        streams: sum(|record| record.connects),
        stream_failures: sum(|record| record.failures),
        connections: stage.proxy.connections(),
        cuts: stage.proxy.cuts(),
        kills: stage.options.kills,
        slowest_restart,
        took: started.elapsed(),
    })
}

/// What publishers had to do.
#[derive(Debug, Default)]
struct Published {
    attempts: u64,
    duplicates: u64,
}

impl Stage {
    /// A source of choices for one actor, the same for the same seed whatever the others do.
    fn rng(&self, actor: &str, number: usize) -> StdRng {
        let tag = actor.bytes().fold(number as u64, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        StdRng::seed_from_u64(self.options.seed ^ tag.rotate_left(17))
    }

    fn channels(&self) -> Vec<String> {
        (0..self.options.channels).map(|number| format!("stress:{number}")).collect()
    }

    async fn wait_for_acknowledged(&self, count: u64) {
        let mut receiver = self.acknowledged.subscribe();
        // The sender is in `self`, so that it cannot be gone.
        let _sender_lives = receiver.wait_for(|acknowledged| *acknowledged >= count).await;
    }

    /// Two thirds of the subscribers are there before the first event.
    fn early(&self) -> Range<usize> {
        0..(self.options.subscribers.div_ceil(3) * 2).min(self.options.subscribers)
    }

    async fn subscribe_early(&self) -> anyhow::Result<Vec<Subscriber>> {
        let subscribers: Vec<_> = self.early().map(|number| self.subscribe(number, "")).collect();
        for subscriber in &subscribers {
            // From its first cursor on, everything is promised to it.
            subscriber
                .client
                .wait_until("its first cursor", Duration::from_secs(60), |record| !record.cursor.is_empty())
                .await?;
        }
        Ok(subscribers)
    }

    /// The others come at some time and ask for all of history.
    async fn subscribe_late(&self) -> anyhow::Result<Vec<Subscriber>> {
        let mut arrivals: Vec<_> = (self.early().end..self.options.subscribers)
            .map(|number| (self.rng("arrival", number).random_range(0..self.options.events), number))
            .collect();
        arrivals.sort_unstable();
        let mut subscribers = Vec::new();
        for (after, number) in arrivals {
            self.wait_for_acknowledged(after).await;
            subscribers.push(self.subscribe(number, "&replay=all"));
        }
        Ok(subscribers)
    }

    fn subscribe(&self, number: usize, query: &str) -> Subscriber {
        let mut rng = self.rng("subscriber", number);
        let all = self.channels();
        let wanted = rng.random_range(1..=all.len().min(CHANNELS_PER_SUBSCRIBER_MAX));
        let channels: Vec<_> =
            sample(&mut rng, all.len(), wanted).into_iter().map(|number| all[number].clone()).collect();
        let enveloped = rng.random_bool(0.5);
        let envelope = if enveloped { "&envelope=1" } else { "" };
        let path = format!("/v1/subscribe?channel={}{envelope}{query}", channels.join("&channel="));
        let client = ResumingClient::start(ResumingOptions::new(self.proxy.addr(), path));
        Subscriber { channels, enveloped, client }
    }

    /// One publisher for each channel, which numbers its events.
    async fn publish_all(self: &Arc<Self>) -> anyhow::Result<Published> {
        let mut publishers = JoinSet::new();
        let channels = self.options.channels as u64;
        for (number, channel) in (0..).zip(self.channels()) {
            let count = self.options.events / channels + u64::from(number < self.options.events % channels);
            let stage = Arc::clone(self);
            publishers.spawn(async move { stage.publish(number as usize, &channel, count).await });
        }
        let mut total = Published::default();
        while let Some(published) = publishers.join_next().await {
            let published = published??;
            total.attempts += published.attempts;
            total.duplicates += published.duplicates;
        }
        Ok(total)
    }

    async fn publish(&self, number: usize, channel: &str, count: u64) -> anyhow::Result<Published> {
        let mut rng = self.rng("publisher", number);
        let mut publisher = Publisher::new(self.proxy.addr(), Some(API_KEY));
        let mut duplicates = 0;
        let mut next = 0;
        while next < count {
            let batch = if rng.random_bool(0.5) { 1 } else { rng.random_range(2..=BATCH_MAX) };
            let numbers = next..count.min(next + batch);
            let events: Vec<Value> = numbers.clone().map(|n| event(&mut rng, channel, n)).collect();
            let acknowledgements = publisher.until_acknowledged(&events, self.options.limit).await?;
            let mut ledger = self.ledger.lock();
            for (event, acknowledgement) in events.iter().zip(&acknowledgements) {
                ledger.acknowledge(channel, &event["data"].to_string(), &acknowledgement.id)?;
                duplicates += u64::from(acknowledgement.duplicate);
            }
            drop(ledger);
            next = numbers.end;
            self.acknowledged.send_modify(|acknowledged| *acknowledged += acknowledgements.len() as u64);
        }
        Ok(Published { attempts: publisher.attempts(), duplicates })
    }

    /// Kills the server and starts it again. Gives the longest time that took.
    async fn kill_now_and_then(&self, server: &mut TidingsServer) -> anyhow::Result<Duration> {
        let mut rng = self.rng("killer", 0);
        let mut moments: Vec<_> =
            (0..self.options.kills).map(|_| rng.random_range(0..self.options.events.max(1))).collect();
        moments.sort_unstable();
        let mut slowest = Duration::ZERO;
        for moment in moments {
            self.wait_for_acknowledged(moment).await;
            // Not right after an acknowledgement, but somewhere within the next commit.
            wait::back_off(Duration::from_millis(30)).await;
            if let Some(status) = server.ended()? {
                bail!("the server ended by itself: {status}");
            }
            let killed = Instant::now();
            server.restart().await?;
            slowest = slowest.max(killed.elapsed());
        }
        Ok(slowest)
    }
}

impl Subscriber {
    async fn wait_for_markers(&self, limit: Duration) -> anyhow::Result<()> {
        let (mut looked_at, mut markers) = (0, 0);
        let wanted = self.channels.len();
        self.client
            .wait_until("the marker at the end of each channel", limit, |record| {
                let new = &record.events[looked_at..];
                markers += new.iter().filter(|event| event.data.contains(r#""marker":true"#)).count();
                looked_at = record.events.len();
                markers >= wanted
            })
            .await
    }
}

/// Event JSON of some size. Its data tells it from all others.
fn event(rng: &mut StdRng, channel: &str, number: u64) -> Value {
    let padding = "x".repeat(rng.random_range(0..100));
    let mut event = json!({
        "channel": channel,
        "data": { "channel": channel, "n": number, "padding": padding },
        "key": format!("k{number}"),
    });
    if rng.random_bool(0.5) {
        event["event"] = "tick".into();
    }
    event
}
