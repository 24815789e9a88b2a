//! The log on disk: one SQLite database in WAL mode, written by one thread.
//!
//! The rule of this file: what a transaction says is durable when it returns (`synchronous=FULL`: one
//! sync of the WAL for each commit).

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tidings_core::Namespaces;
use tidings_protocol::{Channel, Epoch, Event, GapReason, LoggedEvent, Millis, Partition, Position, event};

use super::{DATABASE_FILE, EmbeddedConfig, sequence::Batch};
use crate::log::{Change, Gone, KeyRecord, PartitionLog, StoredChannel, StoredLabel};

/// The version that this code writes, as `PRAGMA user_version`.
pub(super) const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The step from each version to the next.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE event (
        position INTEGER PRIMARY KEY,
        previous INTEGER NOT NULL,
        channel TEXT NOT NULL,
        type TEXT,
        data TEXT NOT NULL,
        sent_at INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        key TEXT,
        conflate TEXT,
        expires_in_secs INTEGER
    ) STRICT;
    CREATE TABLE used_key (
        position INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        body BLOB NOT NULL,
        accepted_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE emptied_channel (
        name TEXT PRIMARY KEY,
        gone_through INTEGER NOT NULL,
        gone_reason INTEGER NOT NULL,
        last_position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE label (
        name TEXT PRIMARY KEY,
        is_durable INTEGER NOT NULL,
        floor_through INTEGER NOT NULL,
        floor_reason INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// The lock lies beside the database and not in it, so that the doctor can read while the server runs.
const LOCK_FILE: &str = "tidings.lock";

/// Pages after which the WAL is copied into the database: the WAL stays at about 16 MiB, and the copy
/// takes about as long as twenty commits.
const CHECKPOINT_PAGES: u32 = 4096;

const PAGE_BYTES: u32 = 4096;

/// How long a commit waits for somebody else who holds the database, such as an operator's shell.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two servers would give the same positions twice.
    #[error("another server uses the data directory {}; give each its own data_dir", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A later version of the server wrote it.
    #[error("{} has schema version {found}, and this server knows versions up to {known}; use the newer server", path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// What this server writes.
        known: usize,
    },
    /// The directory or a file in it cannot be made or opened.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("cannot read or write the log in {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The log's thread cannot be started.
    #[error("cannot start the log's thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The database, and the right to write to it.
pub(super) struct Disk {
    connection: Connection,
    path: PathBuf,
    _lock: File,
}

/// What an opened database says about the log as a whole.
pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) epoch: Epoch,
    /// The first position of this process.
    pub(super) start: Position,
    pub(super) key_seed: u64,
    pub(super) labels: Vec<StoredLabel>,
}

/// Opens or makes the database.
pub(super) fn open(config: &EmbeddedConfig) -> Result<Opened, OpenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { path, source }
    };
    let dir = &config.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
    let own_file = |path: &Path| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at(path))
    };
    let lock_path = dir.join(LOCK_FILE);
    let lock = own_file(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: dir.clone() }),
        Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
    }
    let path = dir.join(DATABASE_FILE);
    // SQLite would make it readable for all; the WAL and its index take the mode of the database.
    drop(own_file(&path)?);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
    let database = |source| OpenError::Database { path: path.clone(), source };
    let mut connection = Connection::open(&path).map_err(database)?;
    set_up(&connection, config).map_err(database)?;
    migrate(&mut connection).map_err(|failure| match failure {
        Migration::Newer(found) => OpenError::NewerSchema { path: path.clone(), found, known: SCHEMA_VERSION },
        Migration::Failed(source) => database(source),
    })?;
    let meta = Meta::read_or_make(&mut connection).map_err(database)?;
    let labels = read_labels(&connection).map_err(database)?;
    let disk = Disk { connection, path, _lock: lock };
    Ok(Opened { disk, epoch: meta.epoch, start: meta.start(), key_seed: meta.key_seed, labels })
}

fn set_up(connection: &Connection, config: &EmbeddedConfig) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 4 * CHECKPOINT_PAGES * PAGE_BYTES, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "memory")?;
    if let Some(bytes) = config.database_max_bytes {
        let pages = (bytes / u64::from(PAGE_BYTES)).clamp(1, u64::from(u32::MAX) - 2) as u32;
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

enum Migration {
    Newer(i64),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Migration {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

fn migrate(connection: &mut Connection) -> Result<(), Migration> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Err(Migration::Newer(found));
    };
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION as i64)?;
    Ok(transaction.commit()?)
}

struct Meta {
    epoch: Epoch,
    key_seed: u64,
    reserved_through: Option<Position>,
}

impl Meta {
    fn read_or_make(connection: &mut Connection) -> rusqlite::Result<Self> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let read = |name: &str| {
            let sql = "SELECT value FROM meta WHERE name = ?1";
            transaction.query_row(sql, [name], |row| row.get::<_, i64>(0)).optional()
        };
        let write = |name: &str, value: i64| {
            transaction.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![name, value]).map(|_| value)
        };
        let read_or_make = |name: &str, value: i64| match read(name)? {
            Some(value) => Ok(value),
            None => write(name, value),
        };
        let meta = Self {
            epoch: Epoch(read_or_make("epoch", i64::from(rand::random::<u32>()))? as u32),
            key_seed: read_or_make("key_seed", rand::random::<i64>())? as u64,
            reserved_through: read("reserved_through")?.map(position),
        };
        transaction.commit()?;
        Ok(meta)
    }

    /// Beyond all that an earlier process may have used.
    fn start(&self) -> Position {
        self.reserved_through.unwrap_or_default().next()
    }
}

fn read_labels(connection: &Connection) -> rusqlite::Result<Vec<StoredLabel>> {
    let mut statement = connection.prepare("SELECT name, is_durable, floor_through, floor_reason FROM label")?;
    let rows = statement.query_map([], |row| {
        Ok(StoredLabel {
            label: row.get::<_, Box<str>>(0)?,
            is_durable: row.get(1)?,
            floor: Gone { through: position(row.get(2)?), reason: reason_of(row.get(3)?) },
        })
    })?;
    rows.collect()
}

impl Disk {
    /// Puts everything stored into the log.
    pub(super) fn load(&self, log: &mut PartitionLog, namespaces: &Namespaces, now: Millis) -> Result<(), OpenError> {
        self.load_all(log, namespaces, now).map_err(|source| OpenError::Database { path: self.path.clone(), source })
    }

    fn load_all(&self, log: &mut PartitionLog, namespaces: &Namespaces, now: Millis) -> rusqlite::Result<()> {
        let sql = "SELECT name, gone_through, gone_reason, last_position FROM emptied_channel ORDER BY last_position";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let stored = StoredChannel {
                channel: channel(row, 0)?,
                gone: Gone { through: position(row.get(1)?), reason: reason_of(row.get(2)?) },
                last_position: position(row.get(3)?),
            };
            log.restore_channel(stored, namespaces);
        }
        let (partition, epoch) = (Partition::ZERO, log.head().epoch);
        let sql = "SELECT position, previous, channel, type, data, sent_at, accepted_at, key, conflate, \
                   expires_in_secs FROM event ORDER BY position";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let event = Event {
                channel: channel(row, 2)?,
                event_type: row
                    .get::<_, Option<String>>(3)?
                    .map_or_else(event::EventType::default, |text| event::EventType::trusted(&text)),
                data: event::Data::trusted(row.get::<_, Box<str>>(4)?),
                sent_at: row.get::<_, i64>(5)? as u64,
                key: row.get(7)?,
                conflate: row.get(8)?,
                expires_in_secs: row.get::<_, Option<i64>>(9)?.map(|secs| secs as u64),
                is_ephemeral: false,
            };
            let logged = LoggedEvent {
                partition,
                epoch,
                position: position(row.get(0)?),
                previous: position(row.get(1)?),
                accepted_at: row.get::<_, i64>(6)? as u64,
                event,
            };
            log.restore_event(logged, namespaces, now);
        }
        let mut statement =
            self.connection.prepare("SELECT position, id, body, accepted_at FROM used_key ORDER BY position")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = KeyRecord { id: u128::from_le_bytes(row.get(1)?), body: u128::from_le_bytes(row.get(2)?) };
            log.restore_key(key, position(row.get(0)?), row.get::<_, i64>(3)? as u64);
        }
        Ok(())
    }

    /// Reserves the first positions and says what the namespaces are now, in one transaction.
    pub(super) fn begin(&mut self, reserved_through: Position, labels: &[StoredLabel]) -> Result<(), OpenError> {
        let mut begin = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            reserve(&transaction, reserved_through)?;
            transaction.execute("DELETE FROM label", [])?;
            let mut insert = transaction
                .prepare("INSERT INTO label (name, is_durable, floor_through, floor_reason) VALUES (?1, ?2, ?3, ?4)")?;
            for StoredLabel { label, is_durable, floor } in labels {
                insert.execute(params![label, is_durable, floor.through.0 as i64, reason_code(floor.reason)])?;
            }
            drop(insert);
            transaction.commit()
        };
        begin().map_err(|source| OpenError::Database { path: self.path.clone(), source })
    }

    /// Writes a batch and these changes, and deletes up to so many keys that are of no use any more,
    /// in one transaction. When it returns, they are on disk. `true` if all such keys are deleted.
    pub(super) fn commit<'a>(
        &mut self,
        batch: &Batch,
        changes: impl Iterator<Item = &'a Change>,
        keys_max: usize,
    ) -> rusqlite::Result<bool> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(through) = batch.reserve_through {
            reserve(&transaction, through)?;
        }
        insert_events(&transaction, batch)?;
        apply(&transaction, changes)?;
        let deleted = delete_keys(&transaction, batch.oldest_key, keys_max)?;
        transaction.commit()?;
        Ok(deleted < keys_max)
    }

    /// Writes something, only to see whether that works.
    pub(super) fn probe(&mut self) -> rusqlite::Result<()> {
        self.connection.execute("UPDATE meta SET value = value WHERE name = 'epoch'", []).map(drop)
    }

    /// Sizes of the WAL and of the database, in bytes; zero for one that cannot be looked at.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        (size(Path::new(&wal)), size(&self.path))
    }
}

fn reserve(connection: &Connection, through: Position) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES ('reserved_through', ?1)
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute([through.0 as i64]).map(drop)
}

fn insert_events(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    if batch.events.is_empty() {
        return Ok(());
    }
    let mut insert_event = connection.prepare_cached(
        "INSERT INTO event (position, previous, channel, type, data, sent_at, accepted_at, key, conflate, \
         expires_in_secs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    let mut insert_key =
        connection.prepare_cached("INSERT INTO used_key (position, id, body, accepted_at) VALUES (?1, ?2, ?3, ?4)")?;
    for (logged, key) in &batch.events {
        let event = &logged.event;
        let position = logged.position.0 as i64;
        insert_event.execute(params![
            position,
            logged.previous.0 as i64,
            event.channel.as_str(),
            event.event_type.explicit(),
            event.data.as_json(),
            event.sent_at as i64,
            logged.accepted_at as i64,
            event.key,
            event.conflate,
            event.expires_in_secs.map(|secs| secs as i64),
        ])?;
        if let Some(key) = key {
            let (id, body) = (key.id.to_le_bytes(), key.body.to_le_bytes());
            insert_key.execute(params![position, id, body, logged.accepted_at as i64])?;
        }
    }
    Ok(())
}

fn apply<'a>(connection: &Connection, changes: impl Iterator<Item = &'a Change>) -> rusqlite::Result<()> {
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return Ok(());
    }
    let mut delete_event = connection.prepare_cached("DELETE FROM event WHERE position = ?1")?;
    for change in changes {
        match change {
            Change::Dropped(position) => {
                delete_event.execute([position.0 as i64])?;
            }
            Change::Emptied(StoredChannel { channel, gone, last_position }) => {
                let sql = "INSERT INTO emptied_channel (name, gone_through, gone_reason, last_position)
                           VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET
                           gone_through = excluded.gone_through, gone_reason = excluded.gone_reason,
                           last_position = excluded.last_position";
                let (name, through, last) = (channel.as_str(), gone.through.0 as i64, last_position.0 as i64);
                connection.prepare_cached(sql)?.execute(params![name, through, reason_code(gone.reason), last])?;
            }
            Change::Forgotten { channel, label, floor } => {
                let sql = "INSERT INTO label (name, is_durable, floor_through, floor_reason) VALUES (?1, 1, ?2, ?3)
                           ON CONFLICT (name) DO UPDATE SET
                           floor_through = excluded.floor_through, floor_reason = excluded.floor_reason";
                let (through, reason) = (floor.through.0 as i64, reason_code(floor.reason));
                connection.prepare_cached(sql)?.execute(params![label, through, reason])?;
                let sql = "DELETE FROM emptied_channel WHERE name = ?1";
                connection.prepare_cached(sql)?.execute([channel.as_str()])?;
            }
            Change::Volatile(label) => {
                let sql = "INSERT INTO label (name, is_durable, floor_through, floor_reason) VALUES (?1, 0, 0, 0)
                           ON CONFLICT (name) DO UPDATE SET is_durable = 0";
                connection.prepare_cached(sql)?.execute([label])?;
            }
        }
    }
    Ok(())
}

fn delete_keys(connection: &Connection, before: Position, keys_max: usize) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM used_key WHERE position IN
               (SELECT position FROM used_key WHERE position < ?1 ORDER BY position LIMIT ?2)";
    connection.prepare_cached(sql)?.execute([before.0 as i64, keys_max as i64])
}

fn channel(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Channel> {
    let name: String = row.get(at)?;
    Channel::parse(&name).map_err(|refused| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(refused))
    })
}

fn position(stored: i64) -> Position {
    Position(u64::try_from(stored).unwrap_or_default())
}

/// The numbers under which reasons are stored.
const REASONS: [(i64, GapReason); 5] = [
    (0, GapReason::Evicted),
    (1, GapReason::Expired),
    (2, GapReason::Restart),
    (3, GapReason::Epoch),
    (4, GapReason::Unusable),
];

fn reason_code(reason: GapReason) -> i64 {
    REASONS.iter().find(|(_, known)| *known == reason).map_or(0, |(code, _)| *code)
}

fn reason_of(code: i64) -> GapReason {
    REASONS.iter().find(|(known, _)| *known == code).map_or(GapReason::Evicted, |(_, reason)| *reason)
}
