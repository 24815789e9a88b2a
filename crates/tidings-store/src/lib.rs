//! Where Tidings keeps notifications, inboxes, follows and devices.

pub mod outbox;
mod sql;

pub use sql::{DatabaseConfig, UrlError};
