//! One way to speak to three databases.
//!
//! The rest of the crate writes each statement once, with `?` for its parameters. What differs between
//! SQLite, Postgres and MySQL stands in [`Dialect`], as pieces of text. Values are numbers, texts and bytes,
//! for all three mean the same by those.

mod connect;
mod database;
mod dialect;
mod error;
mod row;
mod session;
mod value;

pub use self::connect::{DatabaseConfig, UrlError};
pub(crate) use self::{
    database::{Attempts, Database, reading, transaction, work},
    dialect::{Column, Dialect},
    error::SqlError,
    row::Row,
    session::Session,
    value::{Value, args},
};
