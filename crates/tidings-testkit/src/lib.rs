//! Test equipment for Tidings: the server as a child process, a proxy that cuts connections, clients,
//! and what must be true of what they received.
//!
//! Only ever a dev-dependency. It knows the formats (`tidings-protocol`) and speaks to the server over
//! TCP like everybody else, so that a test written with it is a test of the contract.
//!
//! - [`process`]: `tidings serve` on a free port, in a directory of its own, killed on drop.
//! - [`endpoint`]: the ways to it, cleartext or TLS, HTTP/1.1 or HTTP/2; [`certificates`]: whom to trust.
//! - [`proxy`]: loses connections on purpose, at any byte.
//! - [`client`]: one event stream; [`resuming`]: one that comes back for ever; [`publisher`]: a backend
//!   that repeats until it is acknowledged.
//! - [`model`]: every acknowledged event, once, in order.
//! - [`stress`]: all of it together, while the server is being killed.
//! - [`node`] and [`browsers`]: the public JavaScript clients.
//! - [`push`]: push providers that do as they are told, and read what they get by code that is not ours.
//! - [`databases`]: Postgres and MariaDB, one of each for a test process, with a database for each test.
//! - [`port`]: free ports that stay free.
//! - [`wait`]: the only place that sleeps.

pub mod browsers;
pub mod certificates;
pub mod client;
pub mod databases;
pub mod endpoint;
pub mod host;
pub mod http;
mod leash;
pub mod model;
pub mod node;
pub mod port;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod push;
pub mod resuming;
pub mod stress;
pub mod wait;
