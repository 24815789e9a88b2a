//! The comparison suite behind `make bench`: references, a driver that loads them and Tidings in turn, and a renderer
//! that writes `docs/benchmarks.md`.
//!
//! - [`raw`] and [`axum_sse`] are references of our own; Nchan, Redis and NATS are installed.
//! - [`sections`] is the plan, in the words of [`plan`]; [`targets`] is what is to be reached.
//! - [`run`] carries it out: [`servers`] as child processes, [`client`] for each measurement, [`broker`] for those that
//!   speak no HTTP, [`equality`] as the check that the comparison is fair.
//! - [`results`] keeps what came out, with [`machine`]; [`render`] and [`plot`] show it, by [`statistics`].

pub mod axum_sse;
pub mod broker;
pub mod client;
pub mod equality;
pub mod machine;
pub mod plan;
pub mod plot;
pub mod raw;
pub mod render;
pub mod results;
pub mod run;
pub mod sections;
pub mod servers;
pub mod statistics;
pub mod targets;
