//! The load generator behind `tidings bench`.
//!
//! Each scenario is a function from its parameters to a report that can be shown or serialized. The
//! generator knows of a server only what any client does: HTTP/1.1, and the event stream format.
//!
//! It has to be much cheaper than what it measures, so a client is one thread with an epoll loop, a table
//! of sockets and one buffer; no event costs an allocation. Read in the order in which a message passes:
//! [`payload`] (what it carries) → `exchange` (how it is published) → `streams` with [`response`] and
//! [`events`] (how it arrives) → [`sequence`] (whether it was its turn) → `tally` and the reports.

mod account;
mod clock;
mod connection;
mod crew;
mod epoll;
mod exchange;
mod holding;
mod latency;
mod link;
mod process;
mod report;
mod scenario;
mod streams;
mod tally;
mod target;

pub mod broadcast;
pub mod churn;
pub mod events;
pub mod idle;
pub mod payload;
pub mod plot;
pub mod poll;
pub mod publish;
pub mod response;
pub mod sequence;
pub mod storm;
pub mod unicast;

pub use crew::{Common, member};
pub use latency::LatencyReport;
pub use report::{Progress, ServerUse};
pub use target::{ServerKind, Target, Url, check_channel_prefix};
