//! Who on this node wants which channel, and what waits for each of them.
//!
//! An event comes in from the node's feed ([`Hub::batch`]), is wrapped in a [`SharedFrame`] that
//! is encoded once per format, and is appended to the bounded queue of every subscriber of its channel.
//! A task takes from the queue through its [`Subscription`]; once the stream is live and if its
//! transport is a plain socket, the task gives both to a [`shard`] and ends.
//!
//! The hub knows nothing of HTTP, of brokers or of users' rights. What it does know is the *fence*:
//! the place in the log up to which a new stream reads history, and beyond which it listens. A
//! subscriber gets no live frame before it has said that its catch-up has ended.

mod channels;
pub mod confirm;
pub mod connection;
pub mod counters;
pub mod frame;
mod hub;
mod registry;
mod session;
pub mod shard;
mod subscription;
mod waiting;
mod watch;

pub use confirm::Confirming;
pub use connection::{ConfirmBy, ConnectionFilter, ConnectionId, ConnectionInfo, Transport};
pub use counters::Counters;
pub use frame::{Format, SharedFrame};
pub use hub::{Added, Batch, Hub, Interest, MayListen, Registration, Tick, Time};
pub use shard::{Adoption, LiveSettings, ShardSocket, Shards};
pub use subscription::{LaterFence, Subscription, Take};
pub use waiting::QueueLimits;
pub use watch::Watch;
