//! An application with a database of its own, in which there is an outbox.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    AssertSqlSafe, Executor as _, MySqlPool, PgPool, Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tempfile::TempDir;
use tidings_store::outbox::{Database, OutboxConfig, Table};
use tidings_testkit::databases::{DatabaseServer, Engine};

/// An application's database.
pub(super) struct Application {
    pub(super) url: String,
    pool: Pool,
    _dir: Option<TempDir>,
}

enum Pool {
    Postgres(PgPool),
    MySql(MySqlPool),
    Sqlite(SqlitePool),
}

macro_rules! on {
    ($application:expr, $pool:ident => $do:expr) => {
        match &$application.pool {
            Pool::Postgres($pool) => $do,
            Pool::MySql($pool) => $do,
            Pool::Sqlite($pool) => $do,
        }
    };
}

impl Application {
    /// In a new database of the server that all tests share, with the tables of the outbox.
    pub(super) async fn new(database: Database) -> Self {
        match database {
            Database::Postgres => Self::on(DatabaseServer::shared(Engine::Postgres).await.unwrap()).await,
            Database::MySql => Self::on(DatabaseServer::shared(Engine::MariaDb).await.unwrap()).await,
            Database::Sqlite => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("application.sqlite");
                let options = SqliteConnectOptions::from_str(path.to_str().unwrap()).unwrap();
                let options = options.create_if_missing(true).busy_timeout(Duration::from_secs(30));
                let pool = SqlitePoolOptions::new().max_connections(8).connect_with(options).await.unwrap();
                let url = format!("sqlite:{}", path.display());
                Self { url, pool: Pool::Sqlite(pool), _dir: Some(dir) }.with_tables(database).await
            }
        }
    }

    /// In a new database of this server.
    pub(super) async fn on(server: &DatabaseServer) -> Self {
        let url = server.database().await.unwrap();
        let (pool, database) = match server.engine() {
            Engine::Postgres => (Pool::Postgres(PgPool::connect(&url).await.unwrap()), Database::Postgres),
            Engine::MariaDb => (Pool::MySql(MySqlPool::connect(&url).await.unwrap()), Database::MySql),
        };
        Self { url, pool, _dir: None }.with_tables(database).await
    }

    async fn with_tables(self, database: Database) -> Self {
        let ddl = database.ddl(&Table::default());
        self.run(&ddl).await;
        // It may be run again.
        self.run(&ddl).await;
        self
    }

    /// The configuration for its table.
    pub(super) fn config(&self) -> OutboxConfig {
        OutboxConfig {
            name: "test".to_owned(),
            url: self.url.clone(),
            table: Table::default(),
            payload_max_bytes: 100_000,
            poll_max: Duration::from_secs(1),
        }
    }

    /// Runs statements.
    pub(super) async fn run(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        on!(self, pool => sql.execute(pool).await.map(drop)).unwrap();
    }

    /// Runs a query of one row with one number.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        on!(self, pool => sqlx::query(sql).fetch_one(pool).await.unwrap().get_unchecked(0))
    }

    /// Runs a query of texts.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        on!(self, pool => sqlx::query(sql).fetch_all(pool).await.unwrap().iter().map(|row| row.get_unchecked(0)).collect())
    }

    /// Runs statements in a transaction, lets others run before it ends it.
    pub(super) async fn transaction(&self, statements: &[String], is_committed: bool) {
        on!(self, pool => {
            let mut transaction = pool.begin().await.unwrap();
            for statement in statements {
                transaction.execute(AssertSqlSafe(statement.clone())).await.unwrap();
                tokio::task::yield_now().await;
            }
            if is_committed { transaction.commit().await } else { transaction.rollback().await }.unwrap();
        });
    }

    /// How many rows wait.
    pub(super) async fn waiting(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM tidings_outbox").await
    }
}

/// An INSERT of an event.
pub(super) fn event(channel: &str, data: impl std::fmt::Display) -> String {
    row("event", &format!(r#"{{"channel":"{channel}","data":{data}}}"#))
}

/// An INSERT of a row.
pub(super) fn row(target: &str, payload: &str) -> String {
    assert!(!payload.contains('\''));
    format!("INSERT INTO tidings_outbox (target, payload) VALUES ('{target}', '{payload}')")
}
