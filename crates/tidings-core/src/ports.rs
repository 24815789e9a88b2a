//! What the domain needs from the world. Adapters implement these; nothing here names one.

use std::{future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;
use tidings_hub::{Interest, Registration, Tick, Time};
use tidings_protocol::{Channel, Cursor, Event, EventId, GapReason, LoggedEvent, Partition, PartitionCursor, Position};

pub mod ingest;
pub mod presence;
pub mod push;
pub mod store;

pub use ingest::{Ingest, IngestStatus};
pub use presence::{Confirmations, FollowListeners, Presence, UserListener};
pub use push::{PushError, PushSender, PushVerdict};
pub use store::{AcceptError, Store};

/// The time, as the domain is told it.
pub trait Clock: Time + 'static {
    /// Waits until the tick.
    fn sleep_until(&self, tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The log: order, history, and who wants what.
///
/// A broker has 1 to 16 partitions; each is a total order of the events of its channels.
#[async_trait]
pub trait Broker: Interest + 'static {
    /// Appends events in order and answers when each is as durable as its namespace promises. The
    /// answers are in the order of the events. Events of one call keep their order.
    async fn append(&self, events: Vec<Event>) -> Vec<Result<Appended, AppendError>>;

    /// Reads history of channels of one partition, in the order of positions.
    async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, Unavailable>;

    /// What the log knows of a channel.
    async fn channel(&self, channel: &Channel) -> Result<ChannelState, Unavailable>;

    /// Forgets a channel's history. Cursors from before get a `gap`. Answers how many events went.
    async fn purge(&self, channel: &Channel) -> Result<usize, Unavailable>;

    /// The partition that a channel lies in.
    fn partition_of(&self, channel: &Channel) -> Partition;

    /// How it fares.
    fn status(&self) -> BrokerStatus;
}

/// An event that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where it is.
    pub id: EventId,
    /// Whether an earlier publish with the same key put it there.
    pub is_duplicate: bool,
}

/// Why an event is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The key was used for another event. The publisher's mistake; trying again does not help.
    #[error(
        "the key was used within the idempotency window for an event with another type, data, conflate or expires_in"
    )]
    KeyConflict,
    /// Trying again later may help.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The broker cannot do it now. Whether an append took effect is then unknown; a key makes a retry safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker is unavailable: {cause}")]
pub struct Unavailable {
    /// For the log and the operator, not for clients.
    pub cause: String,
}

/// Where a reading of history begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryFrom {
    /// After the place that a client has read to. What is missing since then is announced.
    Cursor(PartitionCursor),
    /// At each channel's last so many events; the numbers are those of the channels, in their order.
    Last(Vec<usize>),
    /// Where an earlier page ended.
    Next {
        /// The place of its last entry.
        read_to: Position,
        /// How far each channel has been handed over, in the order of the channels.
        after: Vec<Position>,
    },
}

/// A reading of history.
#[derive(Debug, Clone)]
pub struct HistoryRequest {
    /// The partition.
    pub partition: Partition,
    /// Channels of that partition, each once.
    pub channels: Arc<[Channel]>,
    /// Where to begin.
    pub from: HistoryFrom,
    /// The last position that counts.
    pub through: Position,
    /// Most entries of one page, at least 1.
    pub limit: usize,
}

/// One stretch of history, merged over its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// In the order of their positions. Gaps come first, so that no entry's position claims an event
    /// whose loss has not been told: a reader may stop after any of them and begin there again.
    pub entries: Vec<HistoryEntry>,
    /// Where the next page begins; `None` if this one reached the end.
    pub next: Option<HistoryFrom>,
}

/// What history says of a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryEntry {
    /// An event.
    Event(Arc<LoggedEvent>),
    /// Events that it no longer holds.
    Gap {
        /// Of these channels.
        channels: Vec<Channel>,
        /// Why.
        reason: GapReason,
        /// Where a reader is that has been told: all events up to here have been handed over or are
        /// announced. The hole may reach further; who begins here again is then told again.
        through: Position,
    },
}

impl HistoryEntry {
    /// Where a reader is after it.
    pub fn position(&self) -> Position {
        match self {
            Self::Event(logged) => logged.position,
            Self::Gap { through, .. } => *through,
        }
    }
}

/// What the log knows of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelState {
    /// How many events history holds.
    pub history_len: usize,
    /// The oldest of them.
    pub oldest: Option<EventId>,
    /// The newest of them.
    pub newest: Option<EventId>,
}

/// What a node's feed brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedItem {
    /// An event of a channel that the node wants (and perhaps of others).
    Event(Arc<LoggedEvent>),
    /// The answer to a registration of interest. It stands in order: whatever this node was to get of
    /// the partition's events up to `head` stands before it.
    Marker {
        /// The channel.
        channel: Channel,
        /// Which registration.
        registration: Registration,
        /// The channel's partition.
        partition: Partition,
        /// Its head when the registration took effect.
        head: PartitionCursor,
    },
    /// The answer to a probe, in order like a marker.
    Head {
        /// Which probe.
        registration: Registration,
        /// The partition.
        partition: Partition,
        /// Its head when the probe was answered.
        head: PartitionCursor,
    },
}

/// A node's reading of the log, in order.
#[async_trait]
pub trait Feed: Send {
    /// Where it begins.
    fn start(&self) -> Cursor;

    /// Waits for the next items and appends them to `items`. `false` when there will be no more.
    async fn next(&mut self, items: &mut Vec<FeedItem>) -> bool;
}

/// How a broker fares, for readiness, metrics and the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerStatus {
    /// Why it cannot take durable events now.
    pub trouble: Option<String>,
    /// Numbers of its own, by name and with a unit as suffix; names are fixed words.
    pub gauges: Vec<(&'static str, u64)>,
    /// Numbers that only grow.
    pub counters: Vec<(&'static str, u64)>,
}
