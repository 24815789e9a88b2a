//! The broker inside the server process: one partition, in memory, and on disk where a namespace is
//! durable.
//!
//! An event passes [`EmbeddedBroker::append`](Broker::append) → `sequence` (its position, under one
//! lock) → `writer` (one thread, one transaction for all that waits; only durable events) → `feed`.
//! An event is answered, seen by history and fed when it is as durable as its namespace promises, and
//! never before an event of a lower position.
//!
//! Positions never go back, volatile ones included: they are reserved on disk in blocks before they
//! are used, and a new process begins beyond what the last one had reserved.

mod disk;
mod feed;
mod inspect;
mod sequence;
mod writer;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidings_core::{
    SharedNamespaces,
    ports::{
        AppendError, Appended, Broker, BrokerStatus, ChannelState, Clock, HistoryPage, HistoryRequest, Unavailable,
    },
};
use tidings_hub::{Interest, Registration};
use tidings_protocol::{Channel, Event, Partition, Position};
use tokio::sync::oneshot;

use crate::log::{Floors, KeyLimits, LogLimits, PartitionLog};
pub use disk::OpenError;
pub use feed::EmbeddedFeed;
pub use inspect::{InspectError, Report, inspect};
use sequence::{Answer, Sequence, Submitted};

/// The file that the log is kept in, inside the data directory.
pub const DATABASE_FILE: &str = "tidings.sqlite";

/// Where the embedded broker keeps its log, and how much it may hold.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The data directory. It is made if it is not there, for its owner alone.
    pub dir: PathBuf,
    /// Memory for history, by [`Event::cost_bytes`].
    pub history_max_bytes: usize,
    /// Channels of which something is known; about 200 bytes each.
    pub channels_max: usize,
    /// Idempotency keys; about 100 bytes each, and as much on disk for durable events.
    pub keys: KeyLimits,
    /// Memory for events that were taken and have not yet reached the node's hub. Publishers wait
    /// beyond it. No transaction is larger, so the WAL stays below this and 16 MiB together.
    pub append_queue_max_bytes: usize,
    /// The largest that the database may grow to, if there is a limit. Durable events are refused
    /// beyond it.
    pub database_max_bytes: Option<u64>,
}

impl EmbeddedConfig {
    /// The defaults, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            history_max_bytes: 256 * 1024 * 1024,
            channels_max: 500_000,
            keys: KeyLimits { window_ms: 10 * 60 * 1000, keys_max: 1_000_000 },
            append_queue_max_bytes: 32 * 1024 * 1024,
            database_max_bytes: None,
        }
    }
}

/// The broker inside the server process. Dropping it ends its thread, after what it has taken is on
/// disk; [`EmbeddedBroker::shutdown`] does the same without blocking.
pub struct EmbeddedBroker {
    sequence: Arc<Sequence>,
    writer: Mutex<Option<(JoinHandle<()>, oneshot::Receiver<()>)>>,
}

impl EmbeddedBroker {
    /// Opens the log in the directory and starts its thread. Reads all stored history: about a
    /// second for a million events. Blocks meanwhile.
    pub fn open(
        config: EmbeddedConfig,
        namespaces: SharedNamespaces,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, EmbeddedFeed), OpenError> {
        let opened = disk::open(&config)?;
        let rules = namespaces.load_full();
        let floors = Floors::at_start(&opened.labels, &rules, opened.start);
        let labels = floors.to_stored(&rules);
        let limits = LogLimits {
            history_max_bytes: config.history_max_bytes,
            channels_max: config.channels_max,
            keys: config.keys,
        };
        let mut log = PartitionLog::new(Partition::ZERO, opened.epoch, opened.start, floors, limits, opened.key_seed);
        let mut disk = opened.disk;
        disk.load(&mut log, &rules, clock.now())?;
        let reserved_through = Position(opened.start.0 + sequence::RESERVED_AT_ONCE);
        disk.begin(reserved_through, &labels)?;
        let sequence = Arc::new(Sequence::new(log, reserved_through, config.append_queue_max_bytes, namespaces, clock));
        let feed = EmbeddedFeed::new(sequence.clone());
        let writer = writer::start(disk, sequence.clone()).map_err(|source| OpenError::Thread { source })?;
        Ok((Arc::new(Self { sequence, writer: Mutex::new(Some(writer)) }), feed))
    }

    /// Takes no more events, and waits until those that were taken are on disk and answered. The feed
    /// ends after them.
    pub async fn shutdown(&self) {
        self.sequence.stop();
        let writer = self.writer.lock().take();
        if let Some((thread, done)) = writer {
            // An error means that the thread is gone already, and so is what it had to do.
            let _done_or_gone = done.await;
            join(thread);
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.sequence.stop();
        if let Some((thread, _)) = self.writer.lock().take() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("the log's thread panicked; its last events may not be on disk");
    }
}

fn unavailable(cause: impl ToString) -> Unavailable {
    Unavailable { cause: cause.to_string() }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn append(&self, events: Vec<Event>) -> Vec<Result<Appended, AppendError>> {
        let mut answers = Vec::with_capacity(events.len());
        let mut batches = Vec::new();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            // In pieces that fit the queue, so that no call is held up by its own size.
            let mut chunk = self.sequence.acquire(&mut events).await;
            while !chunk.is_empty() {
                let Submitted { answers: more, batches: waits, reservation } = self.sequence.submit(&mut chunk);
                answers.extend(more);
                batches.extend(waits);
                if let Some(reservation) = reservation
                    && let Err(unavailable) = outcome(reservation.await)
                {
                    let refused = self.sequence.give_back(std::mem::take(&mut chunk));
                    answers.extend((0..refused).map(|_| Answer::Ready(Err(unavailable.clone().into()))));
                }
            }
        }
        let mut outcomes = Vec::with_capacity(batches.len());
        for (batch, wait) in batches {
            outcomes.push((batch, outcome(wait.await)));
        }
        let resolve = |answer| match answer {
            Answer::Ready(result) => result,
            Answer::Waiting { batch, appended } => {
                let outcome = outcomes.iter().find(|(id, _)| *id == batch).map(|(_, outcome)| outcome.clone());
                outcome.unwrap_or_else(|| Err(unavailable("no answer"))).map(|()| appended).map_err(Into::into)
            }
        };
        answers.into_iter().map(resolve).collect()
    }

    async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, Unavailable> {
        if request.partition != Partition::ZERO {
            return Err(unavailable("this broker has one partition"));
        }
        Ok(self.sequence.history(&request))
    }

    async fn channel(&self, channel: &Channel) -> Result<ChannelState, Unavailable> {
        Ok(self.sequence.channel(channel))
    }

    async fn purge(&self, channel: &Channel) -> Result<usize, Unavailable> {
        let (count, written) = self.sequence.purge(channel)?;
        outcome(written.await).map(|()| count)
    }

    fn partition_of(&self, _channel: &Channel) -> Partition {
        Partition::ZERO
    }

    fn status(&self) -> BrokerStatus {
        self.sequence.status()
    }
}

/// What a batch came to. That nobody answers means that the thread is gone.
fn outcome(answer: Result<Result<(), Unavailable>, oneshot::error::RecvError>) -> Result<(), Unavailable> {
    answer.unwrap_or_else(|_| Err(unavailable("the log's thread has ended")))
}

impl Interest for EmbeddedBroker {
    fn register(&self, channel: &Channel, registration: Registration) {
        self.sequence.feed().mark(channel, registration);
    }

    fn unregister(&self, _channel: &Channel, _registration: Registration) {
        // The feed carries every channel: the hub is in this process, and its index is the filter.
    }

    fn probe(&self, _partition: Partition, registration: Registration) {
        self.sequence.feed().answer_probe(registration);
    }
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBroker").field("status", &self.status()).finish_non_exhaustive()
    }
}
