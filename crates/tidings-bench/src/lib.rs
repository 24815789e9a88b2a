//! The load generator behind `tidings bench`.
//!
//! Each scenario is a function from its parameters to a report that can be shown or serialized. The
//! generator knows of the server only what any client does: HTTP, and the event stream format.

pub mod churn;
mod client;
mod process;
pub mod publish;
pub mod streams;

pub use client::Target;
