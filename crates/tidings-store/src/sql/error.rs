//! What goes wrong in a database, and what to do about it.

use sqlx::error::ErrorKind;
use tidings_core::ports::store::StoreError;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The database, or the way to it.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A value in the database is not what this program writes.
    #[error("{0}")]
    Malformed(String),
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The transaction lost a race and is undone: the same again may succeed.
    RunAgain,
    /// The connection is gone, and with it the transaction, unless it was being committed.
    Reconnect,
    /// None.
    GiveUp,
}

impl SqlError {
    pub(crate) fn remedy(&self) -> Remedy {
        let Self::Database(error) = self else { return Remedy::GiveUp };
        match error {
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => Remedy::Reconnect,
            sqlx::Error::Database(refusal) => match refusal.code().as_deref() {
                // Postgres: serialization failure, deadlock; a server that is going away.
                // MySQL gives 40001 for a deadlock too, and HY000 for a lock that took too long.
                Some("40001" | "40P01") => Remedy::RunAgain,
                Some("57P01" | "57P02" | "57P03") => Remedy::Reconnect,
                _ if refusal.kind() == ErrorKind::UniqueViolation => Remedy::RunAgain,
                // SQLITE_BUSY and SQLITE_LOCKED, with what extends them.
                Some("5" | "6" | "261" | "517" | "262") => Remedy::RunAgain,
                _ => Remedy::GiveUp,
            },
            _ => Remedy::GiveUp,
        }
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        Self { cause: error.to_string() }
    }
}
