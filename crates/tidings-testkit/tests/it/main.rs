//! The equipment is tested too: what cannot fail proves nothing.

mod client;
mod databases;
mod model;
mod process;
mod proxy;
mod readers;
