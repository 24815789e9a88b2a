//! How many events the embedded broker takes in a second, with its feed read as a node would.
//!
//! `cargo run --release -p tidings-broker --example append_bench [DIR]`
#![allow(clippy::print_stdout, reason = "an example's output")]

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidings_broker::{EmbeddedBroker, EmbeddedConfig};
use tidings_core::{
    Namespace, Namespaces,
    ports::{Broker, Clock, Feed},
};
use tidings_hub::{Tick, Time};
use tidings_protocol::{Channel, Data, Event, EventType, Millis};

struct SystemClock(Instant);

impl Time for SystemClock {
    fn now(&self) -> Millis {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
    }

    fn tick(&self) -> Tick {
        self.0.elapsed()
    }
}

impl Clock for SystemClock {
    fn sleep_until(&self, tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep_until((self.0 + tick).into()))
    }
}

fn event(channel: String, key: Option<String>) -> Event {
    Event {
        channel: Channel::parse(&channel).expect("a channel name"),
        event_type: EventType::default(),
        data: Data::parse(&format!("\"{}\"", "x".repeat(126))).expect("JSON"),
        sent_at: 0,
        key: key.map(Into::into),
        conflate: None,
        expires_in_secs: None,
        is_ephemeral: false,
    }
}

struct Load {
    name: &'static str,
    namespace: &'static str,
    tasks: usize,
    events_per_append: usize,
    is_keyed: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = 4;
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("tidings-append-bench"), PathBuf::from);
    let named = [
        ("durable".to_owned(), Namespace::default()),
        ("volatile".to_owned(), Namespace { durable: false, ..Namespace::default() }),
    ];
    let namespaces = Namespaces::new(named.into()).shared();
    let clock = Arc::new(SystemClock(Instant::now()));
    let opened = Instant::now();
    let (broker, mut feed) = EmbeddedBroker::open(EmbeddedConfig::new(&dir), namespaces, clock)?;
    println!("opened in {:?}", opened.elapsed());
    let fed = Arc::new(AtomicU64::new(0));
    let counted = fed.clone();
    tokio::spawn(async move {
        let mut items = Vec::new();
        while feed.next(&mut items).await {
            counted.fetch_add(items.len() as u64, Relaxed);
            items.clear();
        }
    });
    let single = |name, namespace, tasks, is_keyed| Load { name, namespace, tasks, events_per_append: 1, is_keyed };
    for load in [
        single("durable, 1 task", "durable", 1, false),
        single("durable, 64 tasks", "durable", 64, false),
        single("durable, 64 tasks, keyed", "durable", 64, true),
        Load {
            name: "durable, 1 task, batches of 1000",
            namespace: "durable",
            tasks: 1,
            events_per_append: 1000,
            is_keyed: false,
        },
        Load {
            name: "durable, 4 tasks, batches of 1000",
            namespace: "durable",
            tasks: 4,
            events_per_append: 1000,
            is_keyed: false,
        },
        single("volatile, 1 task", "volatile", 1, false),
        single("volatile, 64 tasks", "volatile", 64, false),
    ] {
        let until = Instant::now() + Duration::from_secs(seconds);
        let tasks: Vec<_> = (0..load.tasks)
            .map(|task| {
                let broker = broker.clone();
                let Load { namespace, events_per_append, is_keyed, .. } = load;
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut number = 0;
                    while Instant::now() < until {
                        let batch = (0..events_per_append).map(|_| {
                            number += 1;
                            let key = is_keyed.then(|| format!("{task}-{number}-{until:?}"));
                            event(format!("{namespace}:{}", (task * 7919 + number) % 10_000), key)
                        });
                        let batch = batch.collect();
                        let began = Instant::now();
                        let answers = broker.append(batch).await;
                        latencies.push(began.elapsed());
                        assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|a| a.is_err()));
                    }
                    latencies
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await?);
        }
        latencies.sort();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        let events = latencies.len() * load.events_per_append;
        println!(
            "{:36} {:>9} events/s   p50 {:>10.1?}  p99 {:>10.1?}  max {:>10.1?}",
            load.name,
            events as u64 / seconds,
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    let status = broker.status();
    println!("{:?}\n{:?}\nfed {}", status.gauges, status.counters, fed.load(Relaxed));
    let closed = Instant::now();
    broker.shutdown().await;
    println!("shut down in {:?}", closed.elapsed());
    Ok(())
}
