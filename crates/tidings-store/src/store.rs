//! The store as the domain knows it.

use std::time::Duration;

use async_trait::async_trait;
use tidings_core::{
    notifications::{Counts, NotificationId, Preferences},
    ports::{Store, store::*},
};
use tidings_protocol::{Channel, Millis, UserId};

use crate::{
    accept, devices, escalation, fan_out, forgetting, inbox, keeping, mark,
    migrations::{self, MigrationError, SCHEMA_VERSION},
    pushes, report,
    sql::{Database, DatabaseConfig, SqlError, UrlError},
    telling, wishes,
};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A later version of the server wrote it.
    #[error("the store has schema version {found}, and this server knows versions up to {known}; use the newer server")]
    NewerSchema {
        /// Its version.
        found: usize,
        /// What this server writes.
        known: usize,
    },
    /// Another node is changing the tables. Trying again helps.
    #[error("another node is changing the store's tables: {cause}")]
    Locked {
        /// For the operator.
        cause: String,
    },
    /// The database cannot be reached, or refuses.
    #[error("the store cannot be opened: {cause}")]
    Database {
        /// For the operator.
        cause: String,
    },
}

impl From<MigrationError> for OpenError {
    fn from(error: MigrationError) -> Self {
        match error {
            MigrationError::Newer { found, known } => Self::NewerSchema { found, known },
            MigrationError::Locked => Self::Locked { cause: error.to_string() },
            MigrationError::Sql(error) => Self::Database { cause: error.to_string() },
        }
    }
}

/// The versions of a store's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Which version they have; 0 if there are none.
    pub found: usize,
    /// Which version this program writes.
    pub known: usize,
}

/// The store in an SQL database.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Database,
}

impl SqlStore {
    /// Opens a store; makes its tables, or brings them to this version. `now` is noted with them.
    pub async fn open(config: &DatabaseConfig, now: Millis) -> Result<Self, OpenError> {
        let database = Database::connect(config)?;
        if let Err(error) = migrations::migrate(&database, now).await {
            let error = explained(error, &database, config).await;
            database.close().await;
            return Err(error);
        }
        Ok(Self { database })
    }

    /// The versions of a store's tables. Changes nothing, except that it makes an empty file for SQLite.
    pub async fn schema(config: &DatabaseConfig) -> Result<Schema, OpenError> {
        let database = Database::connect(config)?;
        let found = match migrations::version(&database).await {
            Ok(found) => Ok(found),
            Err(error) => Err(explained(error.into(), &database, config).await),
        };
        database.close().await;
        Ok(Schema { found: found?, known: SCHEMA_VERSION })
    }
}

/// The error, with the cause where it has none of its own.
async fn explained(error: MigrationError, database: &Database, config: &DatabaseConfig) -> OpenError {
    let timed_out = matches!(error, MigrationError::Sql(SqlError::Database(sqlx::Error::PoolTimedOut)));
    if timed_out && let Some(cause) = database.why_unreachable(config.acquire_timeout).await {
        return OpenError::Database { cause };
    }
    error.into()
}

/// How long it may take to close the connections in good order. What is committed is committed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl Store for SqlStore {
    async fn accept(&self, new: NewNotification) -> Result<Accepted, AcceptError> {
        accept::accept(&self.database, &new).await
    }

    async fn fan_out(&self, limit: usize, now: Millis) -> Result<FanOut, StoreError> {
        Ok(fan_out::fan_out(&self.database, limit.max(1), now).await?)
    }

    async fn untold(&self, limit: usize, now: Millis) -> Result<Vec<Untold>, StoreError> {
        Ok(telling::untold(&self.database, limit, now).await?)
    }

    async fn on_told(&self, told: &[Told]) -> Result<(), StoreError> {
        Ok(telling::on_told(&self.database, told).await?)
    }

    async fn report(&self, id: NotificationId, now: Millis) -> Result<Option<Report>, StoreError> {
        Ok(report::report(&self.database, id, now).await?)
    }

    async fn sweep(&self, limit: usize, now: Millis) -> Result<usize, StoreError> {
        Ok(forgetting::sweep(&self.database, limit, now).await?)
    }

    async fn inbox(&self, user: &UserId, query: InboxQuery, now: Millis) -> Result<InboxPage, StoreError> {
        Ok(inbox::page(&self.database, user, query, now).await?)
    }

    async fn counts(&self, user: &UserId, now: Millis) -> Result<Counts, StoreError> {
        Ok(inbox::counts(&self.database, user, now).await?)
    }

    async fn mark(&self, user: &UserId, which: &Which, mark: Mark, now: Millis) -> Result<Marked, StoreError> {
        Ok(mark::mark(&self.database, user, which, mark, now).await?)
    }

    async fn missed(&self, query: &MissedQuery, now: Millis) -> Result<Missed, StoreError> {
        Ok(inbox::missed(&self.database, query, now).await?)
    }

    async fn erase_user(&self, user: &UserId) -> Result<usize, StoreError> {
        Ok(forgetting::erase_user(&self.database, user).await?)
    }

    async fn follows(&self, user: &UserId, after: Option<&Channel>, limit: usize) -> Result<Vec<Follow>, StoreError> {
        Ok(wishes::follows(&self.database, user, after, limit).await?)
    }

    async fn follow(
        &self,
        user: &UserId,
        channels: &[Channel],
        max: usize,
        now: Millis,
    ) -> Result<Vec<Channel>, FollowError> {
        wishes::follow(&self.database, user, channels, max, now).await
    }

    async fn unfollow(&self, user: &UserId, channels: &[Channel]) -> Result<Vec<Channel>, StoreError> {
        Ok(wishes::unfollow(&self.database, user, channels).await?)
    }

    async fn change_followers(
        &self,
        channel: &Channel,
        follow: &[UserId],
        unfollow: &[UserId],
        max: usize,
        now: Millis,
    ) -> Result<FollowersChanged, StoreError> {
        Ok(wishes::change_followers(&self.database, channel, follow, unfollow, max, now).await?)
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError> {
        Ok(devices::devices(&self.database, user).await?)
    }

    async fn put_device(&self, user: &UserId, device: Device, max: usize) -> Result<Put, DeviceError> {
        devices::put(&self.database, user, &device, max).await
    }

    async fn remove_device(&self, user: &UserId, device: &str) -> Result<bool, StoreError> {
        Ok(devices::remove(&self.database, user, device).await?)
    }

    async fn preferences(&self, user: &UserId) -> Result<Preferences, StoreError> {
        Ok(wishes::preferences(&self.database, user).await?)
    }

    async fn set_preferences(&self, user: &UserId, preferences: &Preferences) -> Result<(), StoreError> {
        Ok(wishes::set_preferences(&self.database, user, preferences).await?)
    }

    async fn due(&self, limit: usize, now: Millis) -> Result<Vec<Due>, StoreError> {
        Ok(escalation::due(&self.database, limit, now).await?)
    }

    async fn next_due(&self) -> Result<Option<Millis>, StoreError> {
        Ok(escalation::next_due(&self.database).await?)
    }

    async fn settle(&self, settled: &[Settled], now: Millis) -> Result<Vec<Outcome>, StoreError> {
        Ok(escalation::settle(&self.database, settled, now).await?)
    }

    async fn acknowledge(&self, user: &UserId, what: &Acknowledged, now: Millis) -> Result<usize, StoreError> {
        Ok(escalation::acknowledge(&self.database, user, what, now).await?)
    }

    async fn take_pushes(&self, limit: usize, lease_ms: u64, now: Millis) -> Result<Vec<PushJob>, StoreError> {
        Ok(pushes::take(&self.database, limit, lease_ms, now).await?)
    }

    async fn next_push(&self) -> Result<Option<Millis>, StoreError> {
        Ok(pushes::next(&self.database).await?)
    }

    async fn on_pushed(&self, results: &[PushResult], now: Millis) -> Result<(), StoreError> {
        Ok(pushes::on_pushed(&self.database, results, now).await?)
    }

    async fn dead_pushes(&self, before: Option<i64>, limit: usize) -> Result<Vec<DeadPush>, StoreError> {
        Ok(pushes::dead(&self.database, before, limit).await?)
    }

    async fn retry_push(&self, id: i64, now: Millis) -> Result<bool, StoreError> {
        Ok(pushes::retry(&self.database, id, now).await?)
    }

    async fn status(&self) -> StoreStatus {
        keeping::status(&self.database).await
    }

    async fn verify(&self) -> Result<Verification, StoreError> {
        Ok(keeping::verify(&self.database).await?)
    }

    async fn close(&self) {
        // What was given up half-way may keep a connection for longer than a server may take to stop.
        if tokio::time::timeout(CLOSE_TIMEOUT, self.database.close()).await.is_err() {
            tracing::warn!("connections to the database were not all closed in good order");
        }
    }
}
