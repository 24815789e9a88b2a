//! `[[outbox]]`: tables of the application's own databases, which events and notifications are taken from.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_store::outbox::DEFAULT_TABLE;

use super::values::{Secret, human_duration};

/// One table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxConfig {
    /// The database; its password may stand in it.
    pub url: Secret,
    /// The table in it.
    #[serde(default = "default_table")]
    pub table: String,
    /// The longest that a row waits to be seen where the database does not tell of it.
    #[serde(with = "human_duration", default = "default_poll")]
    pub poll: Duration,
}

fn default_table() -> String {
    DEFAULT_TABLE.to_owned()
}

fn default_poll() -> Duration {
    Duration::from_secs(1)
}
