//! Brokers: adapters of the domain's [`Broker`](tidings_core::ports::Broker) port.
//!
//! [`log`] is one partition in memory, without I/O: order, history, gaps, idempotency. [`embedded`]
//! is the broker inside the server process: that log, on disk where a namespace is durable.

pub mod embedded;
pub mod log;

pub use embedded::{EmbeddedBroker, EmbeddedConfig, EmbeddedFeed, OpenError};
