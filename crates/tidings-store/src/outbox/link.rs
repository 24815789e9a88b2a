//! A connection to the application's database, and all that is ever said on it.

use std::{future::Future, path::Path, str::FromStr as _, time::Duration};

use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, MySqlConnection, PgConnection, Row as _, SqliteConnection,
    mysql::MySqlConnectOptions, postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};
use tokio::time::timeout;

use super::{Database, OutboxConfig, Table, lane::Lanes, row::RawRow};

/// Rows of one reading. A commit of the log takes milliseconds, whatever it holds: so many rows of an event
/// each are tens of thousands a second.
const BATCH_MAX_ROWS: usize = 500;

/// Payloads of one reading, but at least one row.
const BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long anything that is said may take. Longer, and the connection is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The server ends the session of a node that says nothing for so long, and with it its lock: a machine that
/// is lost says nothing. A leader that waits looks at the table every few seconds at least.
const SESSION_TIMEOUT_SECS: u64 = 60;

/// How long another writer of SQLite's file is waited for.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest reason that is kept with a row.
const REASON_MAX_BYTES: usize = 2000;

/// Why the database could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It, or the way to it.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// It took too long.
    #[error("the database does not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// The tables are not there, or not as they should be.
    #[error(
        "{table} cannot be read ({cause}); `tidings outbox ddl --database {database}` prints what makes the tables"
    )]
    Tables {
        table: String,
        database: &'static str,
        #[source]
        cause: sqlx::Error,
    },
}

/// A connection.
pub(super) struct Link {
    connection: Connection,
    table: Table,
    payload_max_bytes: usize,
    source: String,
}

enum Connection {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// Says the same on whatever connection it is.
macro_rules! on {
    ($link:expr, $connection:ident => $say:expr) => {
        match &mut $link.connection {
            Connection::Postgres($connection) => within($say).await,
            Connection::MySql($connection) => within($say).await,
            Connection::Sqlite($connection) => within($say).await,
        }
    };
}

async fn within<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LinkError> {
    Ok(timeout(CALL_TIMEOUT, call).await.map_err(|_elapsed| LinkError::Timeout)??)
}

impl Link {
    /// Connects, and sees whether the tables are there.
    pub(super) async fn connect(config: &OutboxConfig, database: Database) -> Result<Self, LinkError> {
        let connection = match database {
            Database::Postgres => Connection::Postgres(within(postgres_options(&config.url)?.connect()).await?),
            Database::MySql => Connection::MySql(within(mysql_options(&config.url)?.connect()).await?),
            Database::Sqlite => Connection::Sqlite(within(sqlite_options(&config.url).connect()).await?),
        };
        let (table, payload_max_bytes) = (config.table.clone(), config.payload_max_bytes);
        let mut link = Self { connection, table, payload_max_bytes, source: String::new() };
        link.limit_session().await?;
        link.source = link.name().await?;
        for table in [link.table.as_str().to_owned(), link.table.failed()] {
            match link.say(&format!("SELECT id FROM {table} WHERE 1 = 0")).await {
                Err(LinkError::Database(cause @ sqlx::Error::Database(_))) => {
                    return Err(LinkError::Tables { table, database: database.as_str(), cause });
                }
                answer => answer?,
            }
        }
        Ok(link)
    }

    /// The database's name and the table's: the same on every node, and after the database has moved.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    async fn name(&mut self) -> Result<String, LinkError> {
        let sql = match &self.connection {
            Connection::Postgres(_) => "SELECT current_database()::text",
            Connection::MySql(_) => "SELECT COALESCE(DATABASE(), '')",
            Connection::Sqlite(_) => "SELECT file FROM pragma_database_list WHERE name = 'main'",
        };
        let name: String = on!(self, connection => async {
            sqlx::query(sql).fetch_one(connection).await?.try_get_unchecked(0)
        })?;
        let name = Path::new(&name).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(format!("{name}.{}", self.table.as_str()))
    }

    /// Has the server end the session, if this node is lost.
    async fn limit_session(&mut self) -> Result<(), LinkError> {
        match self.connection {
            Connection::Postgres(_) => {
                for setting in [
                    // Postgres has it from version 14; before, the next ones have to do.
                    format!("idle_session_timeout = '{SESSION_TIMEOUT_SECS}s'"),
                    "tcp_keepalives_idle = 30".to_owned(),
                    "tcp_keepalives_interval = 10".to_owned(),
                    "tcp_keepalives_count = 3".to_owned(),
                ] {
                    match self.say(&format!("SET {setting}")).await {
                        Err(LinkError::Database(sqlx::Error::Database(refusal))) => {
                            tracing::debug!(setting, %refusal, "the database does not know a setting");
                        }
                        answer => answer?,
                    }
                }
                Ok(())
            }
            Connection::MySql(_) => self.say(&format!("SET SESSION wait_timeout = {SESSION_TIMEOUT_SECS}")).await,
            Connection::Sqlite(_) => Ok(()),
        }
    }

    /// Tries to become the one who drains the table, until the connection ends.
    pub(super) async fn lead(&mut self) -> Result<bool, LinkError> {
        let digest = Sha256::digest(self.source.as_bytes());
        let number = digest.iter().take(8).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
        let sql = match &self.connection {
            Connection::Postgres(_) => format!("SELECT pg_try_advisory_lock({number})::int::bigint"),
            // Locks have one namespace in the whole server, and names of up to 64 characters.
            Connection::MySql(_) => format!("SELECT CAST(COALESCE(GET_LOCK('tidings:{number:x}', 0), 0) AS SIGNED)"),
            // It has no such locks; whoever shares a file is on one machine.
            Connection::Sqlite(_) => return Ok(true),
        };
        let held: i64 = on!(self, connection => async {
            sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get_unchecked(0)
        })?;
        Ok(held != 0)
    }

    /// The oldest rows, in the order of their ids, as they stand at one moment.
    pub(super) async fn rows(&mut self, lanes: Lanes) -> Result<Vec<RawRow>, LinkError> {
        // Bytes everywhere, so that text in a wrong encoding is a row that is refused, not a failure.
        let columns = match &self.connection {
            Connection::Postgres(_) => {
                "id, convert_to(target, 'UTF8') AS target, convert_to(created_at::text, 'UTF8') AS created, \
                 COALESCE((EXTRACT(EPOCH FROM clock_timestamp() - created_at) * 1000)::bigint, 0) AS age, \
                 COALESCE(octet_length(payload::text), 0)::bigint AS length, \
                 convert_to(payload::text, 'UTF8') AS payload"
            }
            Connection::MySql(_) => {
                "CAST(id AS SIGNED) AS id, CAST(target AS CHAR) AS target, CAST(created_at AS CHAR) AS created, \
                 CAST(COALESCE(TIMESTAMPDIFF(MICROSECOND, created_at, NOW(6)) DIV 1000, 0) AS SIGNED) AS age, \
                 CAST(COALESCE(OCTET_LENGTH(payload), 0) AS SIGNED) AS length, \
                 CAST(payload AS CHAR CHARACTER SET utf8mb4) AS payload"
            }
            Connection::Sqlite(_) => {
                "id, CAST(target AS BLOB) AS target, CAST(created_at AS BLOB) AS created, \
                 COALESCE(CAST((julianday('now') - julianday(created_at)) * 86400000 AS INTEGER), 0) AS age, \
                 COALESCE(length(CAST(payload AS BLOB)), 0) AS length, CAST(payload AS BLOB) AS payload"
            }
        };
        let sql = format!(
            "SELECT id, target, created, age, length, CASE WHEN length <= {payload_max} THEN payload END \
             FROM (SELECT head.*, SUM(length) OVER (ORDER BY id) AS total \
                   FROM (SELECT {columns} FROM {table} WHERE {which} ORDER BY id LIMIT {BATCH_MAX_ROWS}) AS head) \
                  AS batch \
             WHERE total - length < {BATCH_MAX_BYTES} ORDER BY id",
            payload_max = self.payload_max_bytes,
            table = self.table.as_str(),
            which = lanes.condition(),
        );
        on!(self, connection => async {
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
            rows.iter()
                .map(|row| {
                    Ok(RawRow {
                        id: row.try_get_unchecked(0)?,
                        target: row.try_get_unchecked(1)?,
                        created_at: row.try_get_unchecked(2)?,
                        age_ms: row.try_get_unchecked(3)?,
                        length: row.try_get_unchecked(4)?,
                        payload: row.try_get_unchecked(5)?,
                    })
                })
                .collect()
        })
    }

    /// How many rows wait.
    pub(super) async fn waiting(&mut self) -> Result<u64, LinkError> {
        let sql = format!("SELECT COUNT(*) FROM {}", self.table.as_str());
        let waiting: i64 = on!(self, connection => async {
            sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get_unchecked(0)
        })?;
        Ok(waiting.unsigned_abs())
    }

    /// Deletes rows; those that are refused are put aside with their reasons. All of it or nothing.
    pub(super) async fn settle(&mut self, done: &[i64], refused: &[(i64, String)]) -> Result<(), LinkError> {
        let ids: Vec<_> = done.iter().chain(refused.iter().map(|(id, _)| id)).map(i64::to_string).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let (table, failed) = (self.table.as_str().to_owned(), self.table.failed());
        let delete = format!("DELETE FROM {table} WHERE id IN ({})", ids.join(", "));
        if refused.is_empty() {
            return self.say(&delete).await;
        }
        let parameter = if matches!(self.connection, Connection::Postgres(_)) { "$1" } else { "?" };
        on!(self, connection => async {
            let mut transaction = connection.begin().await?;
            for (id, reason) in refused {
                let insert = format!(
                    "INSERT INTO {failed} (outbox_id, target, payload, created_at, error) \
                     SELECT id, target, payload, created_at, {parameter} FROM {table} WHERE id = {id}"
                );
                sqlx::query(AssertSqlSafe(insert)).persistent(false).bind(shown(reason)).execute(&mut *transaction).await?;
            }
            sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut *transaction).await?;
            transaction.commit().await
        })
    }

    /// Ends the session in good order, and so releases its lock at once.
    pub(super) async fn close(self) {
        let closed = match self.connection {
            Connection::Postgres(connection) => within(connection.close()).await,
            Connection::MySql(connection) => within(connection.close()).await,
            Connection::Sqlite(connection) => within(connection.close()).await,
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "a connection could not be closed in good order");
        }
    }

    async fn say(&mut self, sql: &str) -> Result<(), LinkError> {
        let sql = AssertSqlSafe(sql.to_owned());
        on!(self, connection => async { sqlx::raw_sql(sql).execute(connection).await.map(drop) })
    }
}

pub(super) fn postgres_options(url: &str) -> Result<PgConnectOptions, LinkError> {
    Ok(PgConnectOptions::from_str(url)?.application_name("tidings-outbox"))
}

fn mysql_options(url: &str) -> Result<MySqlConnectOptions, LinkError> {
    Ok(MySqlConnectOptions::from_str(&url.replacen("mariadb:", "mysql:", 1))?.charset("utf8mb4"))
}

/// The application's file, as the application has set it up.
fn sqlite_options(url: &str) -> SqliteConnectOptions {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    SqliteConnectOptions::new().filename(path).create_if_missing(false).busy_timeout(SQLITE_BUSY_TIMEOUT)
}

/// A reason as every database takes it.
fn shown(reason: &str) -> String {
    reason[..reason.floor_char_boundary(REASON_MAX_BYTES)].replace('\0', "\u{fffd}")
}
