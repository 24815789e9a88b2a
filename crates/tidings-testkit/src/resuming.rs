//! A client that comes back for ever, and writes down all that it was given.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tidings_protocol::sse::Parsed;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    client::{Received, SseClient},
    wait,
};

/// How it connects.
#[derive(Debug, Clone)]
pub struct ResumingOptions {
    /// Where to, most likely a proxy.
    pub addr: SocketAddr,
    /// What for: `/v1/subscribe?channel=…`.
    pub path: String,
    /// With these headers; `last-event-id` is added once there is one.
    pub headers: Vec<(String, String)>,
    /// Longest pause before it comes back. It does not keep to the server's `retry`, which is meant
    /// for a hundred thousand clients.
    pub back_off: Duration,
    /// Without a byte for so long, heartbeats included, it takes the connection for dead.
    pub idle_limit: Duration,
}

impl ResumingOptions {
    /// The usual ones for this address and path.
    pub fn new(addr: SocketAddr, path: impl Into<String>) -> Self {
        Self {
            addr,
            path: path.into(),
            headers: Vec::new(),
            back_off: Duration::from_millis(50),
            idle_limit: Duration::from_secs(20),
        }
    }
}

/// What a client was given, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The events that were published, in the order of arrival.
    pub events: Vec<Received>,
    /// The gaps that were announced.
    pub gaps: Vec<Received>,
    /// The data of each `closing`.
    pub closings: Vec<String>,
    /// The cursor to come back with; empty before the first.
    pub cursor: String,
    /// How often a stream was opened.
    pub connects: u64,
    /// How often there was no stream: no connection, or another status than 200.
    pub failures: u64,
    /// What went wrong last.
    pub last_failure: String,
}

/// The client, in a task of its own that ends when this is dropped.
#[derive(Debug)]
pub struct ResumingClient {
    record: Arc<watch::Sender<Record>>,
    task: JoinHandle<()>,
}

impl ResumingClient {
    /// Starts it.
    pub fn start(options: ResumingOptions) -> Self {
        let record = Arc::new(watch::Sender::new(Record::default()));
        let task = tokio::spawn(stay(options, Arc::clone(&record)));
        Self { record, task }
    }

    /// Looks at what it has been given so far.
    pub fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        at(&self.record.borrow())
    }

    /// Waits until the condition holds.
    pub async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Record) -> bool,
    ) -> anyhow::Result<()> {
        let mut receiver = self.record.subscribe();
        // The sender lives as long as `self`, so that only the limit can fail.
        let waited = wait::within(what, limit, receiver.wait_for(|record| condition(record))).await;
        match waited {
            Ok(_) => Ok(()),
            Err(error) => {
                let seen = self.look(|record| {
                    format!(
                        "{} events, {} gaps, {} streams, {} failures, the last: {}",
                        record.events.len(),
                        record.gaps.len(),
                        record.connects,
                        record.failures,
                        record.last_failure
                    )
                });
                Err(error.context(seen))
            }
        }
    }

    /// Ends it and gives what it was given.
    pub fn stop(self) -> Record {
        self.task.abort();
        self.record.send_replace(Record::default())
    }
}

impl Drop for ResumingClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stay(options: ResumingOptions, record: Arc<watch::Sender<Record>>) {
    loop {
        let Err(error) = read_one_stream(&options, &record).await else { continue };
        record.send_modify(|record| {
            record.failures += 1;
            record.last_failure = format!("{error:#}");
        });
        wait::back_off(options.back_off).await;
    }
}

/// Reads one stream until it ends. It always ends with an error, if only that it ended.
async fn read_one_stream(options: &ResumingOptions, record: &watch::Sender<Record>) -> anyhow::Result<()> {
    let cursor = record.borrow().cursor.clone();
    let mut headers: Vec<(&str, &str)> =
        options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    if !cursor.is_empty() {
        headers.push(("last-event-id", &cursor));
    }
    let connect = SseClient::connect(options.addr, &options.path, &headers);
    let mut stream = wait::within("a stream", options.idle_limit, connect).await??;
    if stream.status() != 200 {
        let body = stream.body(options.idle_limit).await.unwrap_or_default();
        anyhow::bail!("status {}: {}", stream.status(), String::from_utf8_lossy(&body));
    }
    record.send_modify(|record| record.connects += 1);
    loop {
        match stream.next(options.idle_limit).await? {
            Some(Parsed::Event { event, data, id }) => {
                record.send_modify(|record| record.take(Received { event, data, id }));
            }
            Some(Parsed::Retry(_) | Parsed::Comment(_)) => {}
            None => anyhow::bail!("the stream ended"),
        }
    }
}

impl Record {
    fn take(&mut self, received: Received) {
        if !received.id.is_empty() {
            self.cursor.clone_from(&received.id);
        }
        match received.event.as_str() {
            "connected" => {}
            "gap" => self.gaps.push(received),
            "closing" => self.closings.push(received.data),
            _ => self.events.push(received),
        }
    }
}
