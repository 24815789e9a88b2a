//! Where Tidings keeps notifications, inboxes, follows and devices.

mod sql;

pub use sql::{DatabaseConfig, UrlError};
