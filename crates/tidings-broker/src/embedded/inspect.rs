//! A look at a data directory, for the doctor. Changes nothing.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{DATABASE_FILE, disk::SCHEMA_VERSION};

/// What a look at the log on disk shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The database file.
    pub path: PathBuf,
    /// The schema version found.
    pub schema_version: i64,
    /// The schema version that this server writes.
    pub schema_known: i64,
    /// Events on disk, among them those that are about to be deleted.
    pub events: u64,
    /// Used idempotency keys on disk.
    pub used_keys: u64,
    /// Size of the database, in bytes.
    pub database_bytes: u64,
    /// Size of the WAL, in bytes.
    pub wal_bytes: u64,
    /// What `PRAGMA quick_check` found; empty if all is well.
    pub damage: Vec<String>,
    /// The journal mode; `wal` is right.
    pub journal_mode: String,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No server has run here, or not as this user.
    #[error("{} cannot be looked at", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite cannot read it.
    #[error("{} cannot be read as a database of this server", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Looks at the log in a data directory. Reads the whole database; a server may be running on it.
pub fn inspect(dir: &Path) -> Result<Report, InspectError> {
    let path = dir.join(DATABASE_FILE);
    let size = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len());
    let database_bytes = size(&path).map_err(|source| InspectError::File { path: path.clone(), source })?;
    let wal_bytes = size(&dir.join(format!("{DATABASE_FILE}-wal"))).unwrap_or(0);
    read(path.clone(), database_bytes, wal_bytes).map_err(|source| InspectError::Database { path, source })
}

fn read(path: PathBuf, database_bytes: u64, wal_bytes: u64) -> rusqlite::Result<Report> {
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as u64);
    let mut statement = connection.prepare("PRAGMA quick_check(20)")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let damage = lines.filter(|line| !matches!(line, Ok(line) if line == "ok")).collect::<Result<_, _>>()?;
    Ok(Report {
        schema_version: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        schema_known: SCHEMA_VERSION as i64,
        events: count("SELECT count(*) FROM event")?,
        used_keys: count("SELECT count(*) FROM used_key")?,
        journal_mode: connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        path,
        database_bytes,
        wal_bytes,
        damage,
    })
}
