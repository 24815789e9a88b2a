//! The store.

use anyhow::Context as _;
use tidings_protocol::Millis;
use tidings_store::{DatabaseConfig, Schema, SqlStore};

use crate::config::Config;

/// Which database, and how it is spoken to.
pub(crate) fn database(config: &Config) -> DatabaseConfig {
    let store = &config.store;
    DatabaseConfig {
        max_connections: store.max_connections,
        acquire_timeout: store.acquire_timeout,
        ..DatabaseConfig::new(store.url.expose(), &config.data_dir)
    }
}

/// Opens the store, and brings its tables to this version.
pub(crate) async fn open(config: &Config, now: Millis) -> anyhow::Result<SqlStore> {
    let opened = SqlStore::open(&database(config), now).await;
    opened.with_context(|| format!("the store cannot be used (store.url = {:?})", config.store.url))
}

/// The versions of the store's tables; `None` if there is no store yet. Changes nothing.
pub(crate) async fn schema(config: &Config) -> anyhow::Result<Option<Schema>> {
    let database = database(config);
    // Looking for tables in a file that is not there would make it.
    if database.sqlite_file().is_some_and(|file| !file.exists()) {
        return Ok(None);
    }
    let schema = SqlStore::schema(&database).await;
    schema.map(Some).with_context(|| format!("the store cannot be used (store.url = {:?})", config.store.url))
}
