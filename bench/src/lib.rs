//! The comparison suite behind `make bench`: references, a driver that loads them and Tidings in turn, and a renderer
//! that writes `docs/benchmarks.md`, `docs/polling.md` and `docs/scaling.md`.
//!
//! - [`raw`] and [`axum_sse`] are references of our own; Nchan, Redis and NATS are installed.
//! - [`sections`] is the plan, in the words of [`plan`]; [`targets`] is what is to be reached.
//! - [`run`] carries it out: [`servers`] as child processes, [`client`] for each measurement, [`broker`] for those that
//!   speak no HTTP, [`equality`] as the check that the comparison is fair.
//! - [`results`] keeps what came out, with [`machine`] and [`statistics`].
//! - [`documents`] writes the pages: [`render`] that of benchmarks, [`polling_page`] that of [`polling`],
//!   [`scaling_page`] what [`scaling`] works out for a million streams, with [`template`]; [`plot`] draws.

pub mod axum_sse;
pub mod broker;
pub mod client;
pub mod documents;
pub mod equality;
pub mod machine;
pub mod plan;
pub mod plot;
pub mod polling;
pub mod polling_page;
pub mod raw;
pub mod render;
pub mod results;
pub mod run;
pub mod scaling;
pub mod scaling_page;
pub mod sections;
pub mod servers;
pub mod statistics;
pub mod targets;
pub mod template;
