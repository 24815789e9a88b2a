//! From a URL to connections.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    pool::{PoolConnectionMetadata, PoolOptions},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{Database, SqlError};

/// Where SQLite's file is in the data directory. Not the log's: SQLite has one writer a file.
const SQLITE_FILE: &str = "store.sqlite";

/// How long SQLite waits for another process that writes, such as an operator's shell.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements that a connection keeps. The store has about a hundred.
const STATEMENTS_MAX: usize = 256;

/// A connection that has waited so long is asked whether it is still there before it is used.
const IDLE_BEFORE_PING: Duration = Duration::from_secs(1);

/// After so long a server gives up waiting for a lock, or running a statement: what holds one that long is broken.
const LOCK_TIMEOUT_SECS: u64 = 10;
const STATEMENT_TIMEOUT_SECS: u64 = 300;

/// Which database, and how many connections it may take.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `sqlite` (a file in `data_dir`), `sqlite:PATH`, `postgres://…`, `mysql://…`.
    pub url: String,
    /// For SQLite's file.
    pub data_dir: PathBuf,
    /// Most connections at once. SQLite takes one more, for writing.
    pub max_connections: u32,
    /// How long a call waits for one of them.
    pub acquire_timeout: Duration,
}

impl DatabaseConfig {
    /// The configuration for a URL, with what suits most.
    pub fn new(url: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        let acquire_timeout = Duration::from_secs(10);
        Self { url: url.into(), data_dir: data_dir.into(), max_connections: 16, acquire_timeout }
    }

    /// The file, if it is SQLite's.
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        match self.url.split_once(':') {
            None if self.url == "sqlite" => Some(self.data_dir.join(SQLITE_FILE)),
            Some(("sqlite", path)) => Some(path.strip_prefix("//").unwrap_or(path).into()),
            _ => None,
        }
    }
}

/// Why a URL leads to no database.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It names none that we know. The URL itself may hold a password.
    #[error("a database's URL is `sqlite`, `sqlite:PATH`, `postgres://…` or `mysql://…`, not `{0}…`")]
    Scheme(String),
    /// It cannot be read.
    #[error("the URL of the {database} database cannot be read: {cause}")]
    Malformed {
        /// Which database it is for.
        database: &'static str,
        /// What is wrong with it, without the URL.
        cause: String,
    },
    /// SQLite's file cannot be made.
    #[error("cannot make {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Database {
    /// Makes ready to connect. Connections are made when they are needed.
    pub(crate) fn connect(config: &DatabaseConfig) -> Result<Self, UrlError> {
        if let Some(file) = config.sqlite_file() {
            return sqlite(&file, config);
        }
        let url = config.url.as_str();
        match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => postgres(config),
            Some(("mysql" | "mariadb", _)) => my_sql(config),
            Some((scheme, _)) => Err(UrlError::Scheme(scheme.chars().take(20).collect())),
            None => Err(UrlError::Scheme(url.chars().take(20).collect())),
        }
    }

    /// Why no connection can be made, if so. A pool says only that it has waited long enough.
    pub(crate) async fn why_unreachable(&self, patience: Duration) -> Option<String> {
        let attempt = async {
            match self {
                Self::Sqlite { writer, .. } => writer.connect_options().connect().await.err(),
                Self::Postgres(pool) => pool.connect_options().connect().await.err(),
                Self::MySql(pool) => pool.connect_options().connect().await.err(),
            }
        };
        match tokio::time::timeout(patience, attempt).await {
            Ok(error) => error.map(|error| error.to_string()),
            Err(_elapsed) => Some(format!("no answer within {patience:?}")),
        }
    }

    /// The database and its version, e.g. `sqlite 3.50.4`.
    pub(crate) async fn describe(&self) -> Result<String, SqlError> {
        let (name, sql) = match self {
            Self::Sqlite { .. } => ("sqlite", "SELECT sqlite_version()"),
            Self::Postgres(_) => ("postgres", "SELECT current_setting('server_version')"),
            Self::MySql(_) => ("mysql", "SELECT VERSION()"),
        };
        let version = self.reader().await?.one(sql, []).await?.text(0)?;
        let name = if version.contains("MariaDB") { "mariadb" } else { name };
        // What follows is the distribution's.
        Ok(format!("{name} {}", version.split([' ', '-']).next().unwrap_or_default()))
    }
}

fn pool<DB: sqlx::Database>(config: &DatabaseConfig, max_connections: u32) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection: &mut DB::Connection, about: PoolConnectionMetadata| {
            Box::pin(async move {
                if about.idle_for > IDLE_BEFORE_PING {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

fn sqlite(path: &Path, config: &DatabaseConfig) -> Result<Database, UrlError> {
    let made = |at: &Path| {
        let path = at.to_owned();
        move |source| UrlError::File { path, source }
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(made(dir))?;
    }
    // SQLite would make it readable for all; the WAL and its index take the mode of the database.
    let mut own_file = OpenOptions::new();
    own_file.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(made(path))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(SQLITE_BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_MAX)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-65536")
        // The WAL is copied into the database after 16 MiB, which takes about as long as twenty commits.
        .pragma("wal_autocheckpoint", "4096")
        .pragma("journal_size_limit", "67108864");
    // A connection of a file is never lost, so it need not be made anew.
    let settle = |pool: SqlitePoolOptions| pool.idle_timeout(None).max_lifetime(None);
    let reader = options.clone().pragma("query_only", "true").pragma("cache_size", "-16384");
    Ok(Database::Sqlite {
        writer: settle(pool(config, 1)).connect_lazy_with(options),
        readers: settle(pool(config, config.max_connections)).connect_lazy_with(reader),
    })
}

fn postgres(config: &DatabaseConfig) -> Result<Database, UrlError> {
    let malformed = |error: sqlx::Error| UrlError::Malformed { database: "Postgres", cause: error.to_string() };
    let options = PgConnectOptions::from_str(&config.url)
        .map_err(malformed)?
        .application_name("tidings")
        .statement_cache_capacity(STATEMENTS_MAX)
        .options([
            ("default_transaction_isolation", "read committed".to_owned()),
            ("lock_timeout", format!("{LOCK_TIMEOUT_SECS}s")),
            ("statement_timeout", format!("{STATEMENT_TIMEOUT_SECS}s")),
            // Every statement goes from a few rows to others by an index. Statistics that lag behind tables which
            // grow quickly must not lead the planner elsewhere.
            ("enable_seqscan", "off".to_owned()),
            ("enable_hashjoin", "off".to_owned()),
            ("enable_mergejoin", "off".to_owned()),
            ("join_collapse_limit", "1".to_owned()),
            ("jit", "off".to_owned()),
        ]);
    let pool: PgPoolOptions = pool(config, config.max_connections);
    Ok(Database::Postgres(pool.connect_lazy_with(options)))
}

fn my_sql(config: &DatabaseConfig) -> Result<Database, UrlError> {
    let malformed = |error: sqlx::Error| UrlError::Malformed { database: "MySQL", cause: error.to_string() };
    let url = config.url.replacen("mariadb:", "mysql:", 1);
    let options = MySqlConnectOptions::from_str(&url)
        .map_err(malformed)?
        .charset("utf8mb4")
        .collation("utf8mb4_bin")
        .statement_cache_capacity(STATEMENTS_MAX);
    let pool: MySqlPoolOptions = pool(config, config.max_connections);
    let pool = pool.after_connect(|connection, _| {
        Box::pin(async move {
            // Without gap locks, writers of neighbouring users do not wait for each other.
            connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
            connection
                .execute(sqlx::AssertSqlSafe(format!("SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT_SECS}")))
                .await?;
            Ok(())
        })
    });
    Ok(Database::MySql(pool.connect_lazy_with(options)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_no_password() {
        for url in ["oracle://u:secret@h/d", "postgres://u:secret@[bad/d", "mysql://u:secret@h:port/d", "no"] {
            let error = Database::connect(&DatabaseConfig::new(url, "unused")).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
