//! The domain of Tidings, and the ports it needs.
//!
//! An event passes [`publish`] → [`ports::Broker`] → [`feed`] → the hub → [`stream`]. Nothing here
//! knows HTTP, a database or a broker's protocol; nothing here reads a clock but through
//! [`ports::Clock`].

pub mod access;
pub mod feed;
pub mod follow;
pub mod namespaces;
pub mod notifications;
pub mod ports;
pub mod presence;
pub mod publish;
pub mod stream;

pub use access::{Denied, Grants, Principal};
pub use namespaces::{Namespace, Namespaces, SharedNamespaces, Who};
