//! A log that takes each key once, and sinks in front of it that misbehave.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidings_protocol::publish::{Publish, PublishLimits};
use tidings_store::outbox::{OutboxRow, OutboxSink, SinkError, Taken};
use tokio::sync::Notify;

/// What outlives the nodes.
#[derive(Default)]
pub(super) struct Log {
    keys: Mutex<HashSet<(String, String)>>,
    channels: Mutex<HashMap<String, Vec<String>>>,
    notifications: Mutex<Vec<String>>,
    pub(super) duplicates: AtomicU64,
    pub(super) has_no_events: AtomicBool,
    pub(super) has_no_notifications: AtomicBool,
}

impl Log {
    /// The data of a channel's events, in order.
    pub(super) fn channel(&self, channel: &str) -> Vec<String> {
        self.channels.lock().get(channel).cloned().unwrap_or_default()
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.channels.lock().values().map(Vec::len).sum()
    }

    /// The bodies of notifications, in order.
    pub(super) fn notifications(&self) -> Vec<String> {
        self.notifications.lock().clone()
    }

    fn is_new(&self, scope: &str, key: String) -> bool {
        let is_new = self.keys.lock().insert((scope.to_owned(), key));
        self.duplicates.fetch_add(u64::from(!is_new), Relaxed);
        is_new
    }
}

/// A node's way to the log. Each `hang_each`th call does what it is asked and then never answers, as if the
/// node had been killed.
pub(super) struct Node {
    pub(super) log: Arc<Log>,
    pub(super) hang_each: u64,
    pub(super) calls: AtomicU64,
    pub(super) hangs: Notify,
}

impl Node {
    /// One that answers each call.
    pub(super) fn new(log: &Arc<Log>) -> Arc<Self> {
        Self::hanging(log, u64::MAX)
    }

    /// One that hangs.
    pub(super) fn hanging(log: &Arc<Log>, hang_each: u64) -> Arc<Self> {
        Arc::new(Self { log: log.clone(), hang_each, calls: AtomicU64::new(0), hangs: Notify::new() })
    }

    async fn maybe_hang(&self) {
        if (self.calls.fetch_add(1, Relaxed) + 1).is_multiple_of(self.hang_each) {
            self.hangs.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl OutboxSink for Node {
    async fn events(&self, rows: Vec<OutboxRow>) -> Vec<Result<Taken, SinkError>> {
        let mut answers = Vec::new();
        for row in rows {
            // Another node's appends may come between these.
            tokio::task::yield_now().await;
            if self.log.has_no_events.load(Relaxed) {
                answers.push(Err(SinkError::Unavailable("the log is down".to_owned())));
                continue;
            }
            let limits = PublishLimits { data_max_bytes: 1000, channels_max: 10 };
            answers.push(match Publish::parse(&row.payload, limits, 0) {
                Err(error) => Err(SinkError::Refused(error.to_string())),
                Ok(publish) => {
                    let event = &publish.events[0];
                    let key = event.key.as_deref().unwrap_or(&row.key).to_owned();
                    if self.log.is_new(event.channel.as_str(), key) {
                        let mut channels = self.log.channels.lock();
                        let channel = channels.entry(event.channel.as_str().to_owned()).or_default();
                        channel.push(event.data.as_json().to_owned());
                        Ok(Taken::New)
                    } else {
                        Ok(Taken::Duplicate)
                    }
                }
            });
        }
        self.maybe_hang().await;
        answers
    }

    async fn notification(&self, row: OutboxRow) -> Result<Taken, SinkError> {
        if self.log.has_no_notifications.load(Relaxed) {
            return Err(SinkError::Unavailable("the store is down".to_owned()));
        }
        let body = String::from_utf8(row.payload).unwrap();
        if !body.contains("title") {
            return Err(SinkError::Refused("title: missing".to_owned()));
        }
        let taken = if self.log.is_new("notifications", row.key) {
            self.log.notifications.lock().push(body);
            Taken::New
        } else {
            Taken::Duplicate
        };
        self.maybe_hang().await;
        Ok(taken)
    }
}
