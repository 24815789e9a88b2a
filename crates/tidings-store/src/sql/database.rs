//! A database: its connections, and transactions that are run again when they lose a race.

use std::time::Duration;

use rand::Rng as _;
use sqlx::{MySqlPool, PgPool, Postgres, SqlitePool, Transaction};

use super::{Dialect, Session, SqlError, error::Remedy, session::MySqlLease};

/// How often a transaction is run in all. Deadlocks end by themselves; what still fails then is another trouble.
const ATTEMPTS_MAX: u32 = 8;

/// The first wait before another attempt is at most so long, each further one twice as long.
const BACKOFF_MS: u64 = 4;

/// Connections to a database.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// SQLite has one writer. It waits for its turn here, not in the file's lock.
    Sqlite {
        /// One connection.
        writer: SqlitePool,
        /// The others.
        readers: SqlitePool,
    },
    /// Postgres.
    Postgres(PgPool),
    /// MySQL or MariaDB.
    MySql(MySqlPool),
}

impl Database {
    /// How to speak to it.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite { .. } => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Session, SqlError> {
        Ok(match self {
            // Were it to begin by reading, it could find that it may not write any more.
            Self::Sqlite { writer, .. } => Session::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Session::Postgres(begin_whole(pool).await?),
            Self::MySql(pool) => Session::MySql(MySqlLease::transaction(pool.acquire().await?).await?),
        })
    }

    /// Takes a connection for reading.
    pub(crate) async fn reader(&self) -> Result<Session, SqlError> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Session::SqliteRead(readers.acquire().await?),
            Self::Postgres(pool) => Session::PostgresRead(pool.acquire().await?),
            Self::MySql(pool) => Session::MySql(MySqlLease::reading(pool.acquire().await?)),
        })
    }

    /// Closes the connections; what is under way ends first.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                // The last one to close writes the WAL into the database.
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
            Self::MySql(pool) => pool.close().await,
        }
    }

    /// How many connections there are, and how many of them wait for work.
    pub(crate) fn connections(&self) -> (usize, usize) {
        match self {
            Self::Sqlite { writer, readers } => {
                ((writer.size() + readers.size()) as usize, writer.num_idle() + readers.num_idle())
            }
            Self::Postgres(pool) => (pool.size() as usize, pool.num_idle()),
            Self::MySql(pool) => (pool.size() as usize, pool.num_idle()),
        }
    }
}

/// Begins a transaction of Postgres, to the end also if the caller gives up meanwhile. sqlx undoes what it knows to
/// have begun, and would put back into the pool, within a transaction that nobody ends, a connection whose `BEGIN`
/// was on its way.
async fn begin_whole(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let connection = pool.acquire().await?;
    let begun = tokio::spawn(Transaction::begin(connection, None));
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// The attempts of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    made: u32,
}

impl Attempts {
    /// After an attempt that failed: waits, and the next one may begin; or it is for naught. `is_in_doubt` says
    /// that the database may have committed all the same.
    pub(crate) async fn next(&mut self, error: SqlError, is_in_doubt: bool) -> Result<(), SqlError> {
        self.made += 1;
        let may_run_again = match error.remedy() {
            // A database that says so has undone it.
            Remedy::RunAgain => true,
            Remedy::Reconnect => !is_in_doubt,
            Remedy::GiveUp => false,
        };
        if !may_run_again || self.made == ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::debug!(%error, attempt = self.made, "a transaction is run again");
        // A little, each time for longer, and not as long as the others who lost the same race.
        let most = BACKOFF_MS << self.made.min(8);
        let wait = Duration::from_millis(rand::rng().random_range(0..=most));
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Tells the compiler how the block of a [`transaction`] fails.
pub(crate) fn work<T, F: Future<Output = Result<T, SqlError>>>(work: F) -> F {
    work
}

/// Runs a transaction and commits it; again, from its beginning, if it loses a race. The block is that of an
/// async function: it ends with a `Result<_, SqlError>`. (A function with a closure would do, were the compiler
/// able to see that its future may be sent to another thread.)
macro_rules! transaction {
    ($database:expr, $session:ident => $work:block) => {{
        let database: &$crate::sql::Database = $database;
        let mut attempts = $crate::sql::Attempts::default();
        loop {
            let mut is_in_doubt = false;
            let done: Result<_, $crate::sql::SqlError> = async {
                let mut session = database.begin().await?;
                let done = {
                    let $session = &mut session;
                    $crate::sql::work(async { $work }).await?
                };
                is_in_doubt = true;
                session.commit().await?;
                Ok(done)
            }
            .await;
            match done {
                Ok(done) => break Ok(done),
                Err(error) => {
                    if let Err(error) = attempts.next(error, is_in_doubt).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

/// The same for reading: on one connection, without a transaction, so that each statement is of its own moment.
macro_rules! reading {
    ($database:expr, $session:ident => $work:block) => {{
        let database: &$crate::sql::Database = $database;
        let mut attempts = $crate::sql::Attempts::default();
        loop {
            let done: Result<_, $crate::sql::SqlError> = async {
                let mut session = database.reader().await?;
                let $session = &mut session;
                $crate::sql::work(async { $work }).await
            }
            .await;
            match done {
                Ok(done) => break Ok(done),
                Err(error) => {
                    if let Err(error) = attempts.next(error, false).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

pub(crate) use {reading, transaction};

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use tidings_testkit::databases::{DatabaseServer, Engine};

    use super::*;
    use crate::sql::DatabaseConfig;

    /// Gives up while the transaction is being begun; then the only connection is as good as new.
    async fn a_beginning_that_is_given_up_leaves_nothing(url: String) {
        let dir = tempfile::tempdir().unwrap();
        let config = DatabaseConfig { max_connections: 1, ..DatabaseConfig::new(url, dir.path()) };
        let database = Database::connect(&config).unwrap();
        // So that there is a connection, and its beginning is what is given up.
        database.begin().await.unwrap().commit().await.unwrap();
        for round in 0..20 {
            let mut beginning = Box::pin(database.begin());
            let mut polls = round % 4;
            // Sometimes when it has only been sent, and sometimes when it has been answered.
            poll_fn(|context| match beginning.as_mut().poll(context) {
                Poll::Pending if polls > 0 => {
                    polls -= 1;
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            })
            .await;
            drop(beginning);
            // Within a transaction, whatever comes after a failure would fail too.
            assert!(database.reader().await.unwrap().query("SELECT no_such_column", []).await.is_err());
            let one = database.reader().await.unwrap().one("SELECT 1", []).await;
            assert!(one.is_ok(), "{:?}", one.err());
        }
        database.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_beginning_that_is_given_up_leaves_nothing_on_postgres() {
        let server = DatabaseServer::shared(Engine::Postgres).await.unwrap();
        a_beginning_that_is_given_up_leaves_nothing(server.database().await.unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_beginning_that_is_given_up_leaves_nothing_on_mariadb() {
        let server = DatabaseServer::shared(Engine::MariaDb).await.unwrap();
        a_beginning_that_is_given_up_leaves_nothing(server.database().await.unwrap()).await;
    }
}
