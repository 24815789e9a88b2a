//! What a query answers.

use sqlx::{Row as _, mysql::MySqlRow, postgres::PgRow, sqlite::SqliteRow};

use super::SqlError;

/// A row. Its columns are read by their number.
pub(crate) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of Postgres.
    Postgres(PgRow),
    /// Of MySQL or MariaDB.
    MySql(MySqlRow),
}

impl Row {
    /// A number that may be absent. In Postgres it is a BIGINT.
    pub(crate) fn maybe_int(&self, at: usize) -> Result<Option<i64>, SqlError> {
        // The types are ours, from the statement; unchecked, because MySQL and SQLite have many for one.
        Ok(match self {
            Self::Sqlite(row) => row.try_get_unchecked(at),
            Self::Postgres(row) => row.try_get_unchecked(at),
            Self::MySql(row) => row.try_get_unchecked(at),
        }?)
    }

    /// A number.
    pub(crate) fn int(&self, at: usize) -> Result<i64, SqlError> {
        self.maybe_int(at)?.ok_or_else(|| absent(at))
    }

    /// A number that is never below zero: a time, a position, a count.
    pub(crate) fn natural(&self, at: usize) -> Result<u64, SqlError> {
        let number = self.int(at)?;
        u64::try_from(number).map_err(|_| SqlError::Malformed(format!("column {at} holds {number}")))
    }

    /// Whether a number is not zero.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, SqlError> {
        Ok(self.int(at)? != 0)
    }

    /// A text that may be absent.
    pub(crate) fn maybe_text(&self, at: usize) -> Result<Option<String>, SqlError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get_unchecked(at),
            Self::Postgres(row) => row.try_get_unchecked(at),
            Self::MySql(row) => row.try_get_unchecked(at),
        }?)
    }

    /// A text.
    pub(crate) fn text(&self, at: usize) -> Result<String, SqlError> {
        self.maybe_text(at)?.ok_or_else(|| absent(at))
    }

    /// Bytes that may be absent.
    pub(crate) fn maybe_bytes(&self, at: usize) -> Result<Option<Vec<u8>>, SqlError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get_unchecked(at),
            Self::Postgres(row) => row.try_get_unchecked(at),
            Self::MySql(row) => row.try_get_unchecked(at),
        }?)
    }
}

fn absent(at: usize) -> SqlError {
    SqlError::Malformed(format!("column {at} is NULL"))
}
