//! The tables, as each database wants them written.

use std::str::FromStr;

use super::Table;

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Database {
    /// Postgres, from version 12.
    Postgres,
    /// MySQL, from version 8.0.16, and MariaDB, from version 10.6.
    MySql,
    /// SQLite, from version 3.38.
    Sqlite,
}

/// Why a name or URL is of no database. It shows nothing of a URL but its scheme: the rest may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no database; accepted are postgres, mysql and sqlite, and as URLs postgres://…, mysql://… and sqlite:PATH"
)]
pub struct UnknownDatabase(String);

impl FromStr for Database {
    type Err = UnknownDatabase;

    fn from_str(text: &str) -> Result<Self, UnknownDatabase> {
        match text {
            "postgres" | "postgresql" => Ok(Self::Postgres),
            "mysql" | "mariadb" => Ok(Self::MySql),
            "sqlite" => Ok(Self::Sqlite),
            other => Err(UnknownDatabase(other.chars().take(20).collect())),
        }
    }
}

impl Database {
    /// Every database.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::Sqlite];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Sqlite => "sqlite",
        }
    }

    /// That of a URL.
    ///
    /// # Errors
    ///
    /// When its scheme is another.
    pub fn of_url(url: &str) -> Result<Self, UnknownDatabase> {
        match url.split_once(':') {
            Some((scheme, _)) => scheme.parse(),
            // Without a scheme it may be anything, a password too.
            None => Err(UnknownDatabase(String::new())),
        }
    }

    /// The statements that make the tables, to be run once in the application's database, by its own means.
    /// Running them again changes nothing.
    pub fn ddl(self, table: &Table) -> String {
        let template = match self {
            Self::Postgres => POSTGRES,
            Self::MySql => MYSQL,
            Self::Sqlite => SQLITE,
        };
        let name = table.as_str();
        // A trigger lies in its table's schema and takes none in its name.
        let bare = name.rsplit_once('.').map_or(name, |(_, bare)| bare);
        template.replace("{table}", name).replace("{bare}", bare)
    }
}

/// `payload` is text, so that a driver needs no cast for it. It stays as it was written.
const POSTGRES: &str = "\
-- What is to be sent. Rows are deleted when they have been. The database has to count the ids itself.
CREATE TABLE IF NOT EXISTS {table} (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target     TEXT NOT NULL DEFAULT 'event' CHECK (target IN ('event', 'notification')),
    payload    TEXT NOT NULL CHECK (payload::json IS NOT NULL),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- What was refused, and why.
CREATE TABLE IF NOT EXISTS {table}_failed (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    outbox_id  BIGINT NOT NULL,
    target     TEXT,
    payload    TEXT,
    created_at TIMESTAMPTZ,
    failed_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    error      TEXT NOT NULL
);

-- Wakes the reader, so that it need not wait for its next look. It can be left out.
CREATE OR REPLACE FUNCTION {table}_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{table}', '');
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS {bare}_wake ON {table};
CREATE TRIGGER {bare}_wake AFTER INSERT ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {table}_wake();
";

const MYSQL: &str = "\
-- What is to be sent. Rows are deleted when they have been. The database has to count the ids itself.
CREATE TABLE IF NOT EXISTS {table} (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    target     VARCHAR(16) NOT NULL DEFAULT 'event' CHECK (target IN ('event', 'notification')),
    payload    LONGTEXT NOT NULL CHECK (JSON_VALID(payload)),
    created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE = InnoDB, CHARACTER SET utf8mb4;

-- What was refused, and why.
CREATE TABLE IF NOT EXISTS {table}_failed (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    outbox_id  BIGINT NOT NULL,
    target     VARCHAR(255),
    payload    LONGTEXT,
    created_at TIMESTAMP(6) NULL,
    failed_at  TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    error      TEXT NOT NULL
) ENGINE = InnoDB, CHARACTER SET utf8mb4;
";

/// Without `AUTOINCREMENT` the id of a row that is gone would be given to another.
const SQLITE: &str = "\
-- What is to be sent. Rows are deleted when they have been. The database has to count the ids itself.
CREATE TABLE IF NOT EXISTS {table} (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    target     TEXT NOT NULL DEFAULT 'event' CHECK (target IN ('event', 'notification')),
    payload    TEXT NOT NULL CHECK (json_valid(payload)),
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

-- What was refused, and why.
CREATE TABLE IF NOT EXISTS {table}_failed (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    outbox_id  INTEGER NOT NULL,
    target     TEXT,
    payload    TEXT,
    created_at TEXT,
    failed_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    error      TEXT NOT NULL
);
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_is_found_by_its_name_and_by_a_url() {
        for database in Database::ALL {
            assert_eq!(database.as_str().parse(), Ok(database));
            assert_eq!(Database::of_url(&format!("{}:x", database.as_str())), Ok(database));
        }
        let error = Database::of_url("oracle://me:secret@host/x").unwrap_err().to_string();
        assert!(error.contains("oracle") && !error.contains("secret"), "{error}");
        assert!(!Database::of_url("secret").unwrap_err().to_string().contains("secret"));
    }
}
