//! Shards: live streams whose sockets belong to the hub.
//!
//! A stream that is live and whose transport is a plain socket needs no task: what happens to it is that
//! frames come and go out, and that time passes. A [`Shard`] is a thread with an epoll loop and a slab of
//! such connections. The hub puts each event once into the inbox of every shard that has a listener of
//! its channel; the shard appends the shared frame to the queue of each; and when the inbox is empty it
//! writes once to every connection that has something, all that has come to wait for it.
//!
//! How a connection ends is this file's neighbour `connection`, when something is due `wheel`.

mod connection;
mod epoll;
mod inbox;
mod slots;
mod socket;
mod tcp_info;
mod turn;
mod wheel;

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tidings_protocol::{Channel, CloseReason};

pub use self::{
    epoll::Shards,
    socket::{Progress, ShardSocket, SimulatedSocket, close_reason_of},
    turn::{Readiness, Shard},
};
pub(crate) use inbox::Inbox;

use crate::{
    confirm::Looks,
    connection::Transport,
    frame::{Format, SharedFrame},
    hub::Tick,
    waiting::{QueueLimits, Waiting},
};

/// What a client may send on an open stream, in all, before it is not a client of this protocol.
pub const INPUT_MAX_BYTES: u32 = 64 * 1024;

/// How long a peer that is still sending, or has not closed its side, is waited for after the last byte:
/// until it has said something again,
pub const LINGER_IDLE: Duration = Duration::from_secs(1);

/// and in all.
pub const LINGER_MAX: Duration = Duration::from_secs(5);

/// How the streams of a shard behave. One for all that were opened under the same configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveSettings {
    /// After how much silence a comment line is sent.
    pub heartbeat: Duration,
    /// How long a connection may refuse to take any byte that waits for it.
    pub write_timeout: Duration,
    /// Between what times a client is told to come back, in milliseconds.
    pub retry_millis: (u64, u64),
    /// How much may wait for one stream.
    pub limits: QueueLimits,
}

/// What a shard is given with a live stream.
pub struct Adoption {
    /// Where to write. Nothing that was written before still waits, and it does not block.
    pub socket: ShardSocket,
    /// How the stream behaves.
    pub settings: Arc<LiveSettings>,
    /// When it ends by itself, and why.
    pub ends_at: Option<(Tick, CloseReason)>,
    /// When something was written last.
    pub silent_since: Tick,
    /// What the client has sent on the stream so far.
    pub input_bytes: u32,
}

/// An [`Adoption`] with what the hub adds to it.
pub(crate) struct Handover {
    pub(crate) slot: u32,
    pub(crate) number: u32,
    pub(crate) transport: Transport,
    pub(crate) channels: SmallVec<[u32; 2]>,
    pub(crate) waiting: Waiting,
    pub(crate) format: Format,
    pub(crate) close: Option<CloseReason>,
    pub(crate) adoption: Adoption,
}

/// What the hub has for a shard.
pub(crate) enum Message {
    /// An event of the channel of this number.
    Event { channel: u32, frame: Arc<SharedFrame> },
    /// A connection.
    Adopt(Box<Handover>),
    /// The connection shall end.
    Close { slot: u32, reason: CloseReason },
    /// The connection, if it is still there, listens to the channel of this number too.
    Join { slot: u32, channel: u32 },
    /// It does not any more.
    Leave { slot: u32, channel: u32, name: Channel },
    /// Somebody asks what has arrived.
    Look(Looks),
    /// The shard shall end.
    Stop,
}
