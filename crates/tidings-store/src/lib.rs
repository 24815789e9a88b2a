//! Where Tidings keeps notifications, inboxes, follows and devices: the `Store` port on SQLite, Postgres and MySQL.
//!
//! The files in the order in which a notification passes through them:
//!
//! - `sql`: one way to speak to three databases; `migrations`: the tables
//! - `accept`: it is taken; `fan_out`: it is written out to many; `everyone`: what is for all waits until it is looked at;
//!   `rows`: it is put into inboxes, with all that hangs on that
//! - `telling`: streams are told; `inbox`: users read; `mark`: they have read
//! - `escalation`: it did not arrive; `pushes`: it goes to devices
//! - `report`: what became of it; `forgetting`: it expires
//! - `outbox`: an application's own table, from which events are published
//! - `wishes`, `devices`: what users want, and have; `keeping`: whether all is well

mod accept;
mod codes;
mod devices;
mod escalation;
mod everyone;
mod fan_out;
mod forgetting;
mod inbox;
mod keeping;
mod mark;
mod migrations;
pub mod outbox;
#[cfg(test)]
mod plans;
mod pushes;
mod report;
mod rows;
mod sql;
mod store;
mod telling;
mod wishes;

pub use migrations::SCHEMA_VERSION;
pub use sql::{DatabaseConfig, UrlError};
pub use store::{OpenError, Schema, SqlStore};
