//! A connection in use: within a transaction, or for reading.

use sqlx::{
    AssertSqlSafe, MySql, MySqlConnection, Postgres, Sqlite, Transaction, pool::PoolConnection, query::Query,
    sqlite::SqliteArguments,
};

use super::{Dialect, Row, SqlError, Value};

/// A connection in use. A transaction that is dropped without [`commit`](Self::commit) is undone.
pub(crate) enum Session {
    /// A transaction of SQLite.
    Sqlite(Transaction<'static, Sqlite>),
    /// A transaction of Postgres.
    Postgres(Transaction<'static, Postgres>),
    /// MySQL: a transaction, or for reading, each statement by itself.
    MySql(MySqlLease),
    /// For reading, each statement by itself.
    SqliteRead(PoolConnection<Sqlite>),
    /// For reading, each statement by itself.
    PostgresRead(PoolConnection<Postgres>),
}

/// A connection to MySQL that is closed when it is dropped, unless all that was begun on it has ended. sqlx puts such
/// a one back into the pool, where it has been seen to wait for ever for an answer to what was never sent: each call
/// that was given up half-way could take a connection with it.
pub(crate) struct MySqlLease {
    connection: Option<PoolConnection<MySql>>,
    is_transaction: bool,
    is_at_rest: bool,
}

impl MySqlLease {
    /// For reading.
    pub(super) fn reading(connection: PoolConnection<MySql>) -> Self {
        Self { connection: Some(connection), is_transaction: false, is_at_rest: true }
    }

    /// A transaction.
    pub(super) async fn transaction(connection: PoolConnection<MySql>) -> Result<Self, sqlx::Error> {
        let mut lease = Self { connection: Some(connection), is_transaction: true, is_at_rest: true };
        sqlx::raw_sql("START TRANSACTION").execute(lease.begin()?).await?;
        Ok(lease)
    }

    /// Something is begun on it.
    fn begin(&mut self) -> Result<&mut MySqlConnection, sqlx::Error> {
        self.is_at_rest = false;
        self.connection.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// It has ended.
    fn end(&mut self) {
        self.is_at_rest = !self.is_transaction;
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(self.begin()?).await?;
        self.is_at_rest = true;
        Ok(())
    }
}

impl Drop for MySqlLease {
    fn drop(&mut self) {
        if !self.is_at_rest {
            drop(self.connection.take().map(PoolConnection::detach));
        }
    }
}

/// Gives the parameters to the statement.
macro_rules! bind {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for value in $args {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Runs a statement on whatever connection it is.
macro_rules! run {
    ($session:expr, $sql:expr, $args:expr, $method:ident, $sqlite:expr, $postgres:expr, $my_sql:expr) => {{
        let sql = AssertSqlSafe($session.dialect().parameters($sql));
        match $session {
            Session::Sqlite(on) => bind!(sqlx::query::<Sqlite>(sql), $args).$method(&mut **on).await.map($sqlite),
            Session::SqliteRead(on) => bind!(sqlx::query::<Sqlite>(sql), $args).$method(&mut **on).await.map($sqlite),
            Session::Postgres(on) => bind!(sqlx::query::<Postgres>(sql), $args).$method(&mut **on).await.map($postgres),
            Session::PostgresRead(on) => {
                bind!(sqlx::query::<Postgres>(sql), $args).$method(&mut **on).await.map($postgres)
            }
            Session::MySql(on) => {
                let done = bind!(sqlx::query::<MySql>(sql), $args).$method(on.begin()?).await.map($my_sql);
                on.end();
                done
            }
        }
    }};
}

impl Session {
    /// How to speak to it.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) | Self::SqliteRead(_) => Dialect::Sqlite,
            Self::Postgres(_) | Self::PostgresRead(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// Runs a statement. Answers how many rows it touched: for an UPDATE, those that it found.
    pub(crate) async fn execute(&mut self, sql: &str, args: impl AsRef<[Value]> + Send) -> Result<usize, SqlError> {
        let args = args.as_ref().to_vec();
        #[cfg(test)]
        crate::plans::note(self.dialect(), sql, &args);
        let touched =
            run!(self, sql, args, execute, |done| done.rows_affected(), |done| done.rows_affected(), |done| done
                .rows_affected())?;
        Ok(usize::try_from(touched).unwrap_or(usize::MAX))
    }

    /// Runs an INSERT of one row into a table whose key is a number named `id`. Answers that number.
    pub(crate) async fn insert(&mut self, sql: &str, args: impl AsRef<[Value]> + Send) -> Result<i64, SqlError> {
        if self.dialect() == Dialect::Postgres {
            return self.one(&format!("{sql} RETURNING id"), args).await?.int(0);
        }
        let args = args.as_ref().to_vec();
        match self {
            Self::Sqlite(on) => {
                let query: Query<'_, Sqlite, SqliteArguments> = sqlx::query(AssertSqlSafe(sql.to_owned()));
                Ok(bind!(query, args).execute(&mut **on).await?.last_insert_rowid())
            }
            Self::MySql(on) => {
                let query = sqlx::query::<MySql>(AssertSqlSafe(sql.to_owned()));
                let done = bind!(query, args).execute(on.begin()?).await?;
                on.end();
                i64::try_from(done.last_insert_id()).map_err(|_| SqlError::Malformed("an id is too great".into()))
            }
            _ => Err(SqlError::Malformed("an INSERT needs a transaction".into())),
        }
    }

    /// Runs a query.
    pub(crate) async fn query(&mut self, sql: &str, args: impl AsRef<[Value]> + Send) -> Result<Vec<Row>, SqlError> {
        let args = args.as_ref().to_vec();
        #[cfg(test)]
        crate::plans::note(self.dialect(), sql, &args);
        Ok(run!(
            self,
            sql,
            args,
            fetch_all,
            |rows| rows.into_iter().map(Row::Sqlite).collect(),
            |rows| rows.into_iter().map(Row::Postgres).collect(),
            |rows| rows.into_iter().map(Row::MySql).collect()
        )?)
    }

    /// Runs a query that answers at most one row.
    pub(crate) async fn optional(
        &mut self,
        sql: &str,
        args: impl AsRef<[Value]> + Send,
    ) -> Result<Option<Row>, SqlError> {
        Ok(self.query(sql, args).await?.into_iter().next())
    }

    /// Runs a query that answers one row.
    pub(crate) async fn one(&mut self, sql: &str, args: impl AsRef<[Value]> + Send) -> Result<Row, SqlError> {
        self.optional(sql, args).await?.ok_or_else(|| SqlError::Database(sqlx::Error::RowNotFound))
    }

    /// Runs statements as they are, several at once, without parameters.
    pub(crate) async fn script(&mut self, sql: &str) -> Result<(), SqlError> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(on) => sql.execute(&mut **on).await.map(drop),
            Self::SqliteRead(on) => sql.execute(&mut **on).await.map(drop),
            Self::Postgres(on) => sql.execute(&mut **on).await.map(drop),
            Self::PostgresRead(on) => sql.execute(&mut **on).await.map(drop),
            Self::MySql(on) => {
                let done = sql.execute(on.begin()?).await.map(drop);
                on.end();
                done
            }
        }?;
        Ok(())
    }

    /// Makes it durable.
    pub(crate) async fn commit(self) -> Result<(), SqlError> {
        match self {
            Self::Sqlite(on) => on.commit().await?,
            Self::Postgres(on) => on.commit().await?,
            Self::MySql(on) => on.commit().await?,
            Self::SqliteRead(_) | Self::PostgresRead(_) => {}
        }
        Ok(())
    }
}
