//! The one thread that writes the log to disk.

use std::{collections::VecDeque, io, sync::Arc, thread::JoinHandle, time::Duration};

use tidings_protocol::Position;
use tokio::sync::oneshot;

use super::{
    disk::Disk,
    sequence::{Batch, Figures, Sequence},
    unavailable,
};
use crate::log::Change;

/// How often it looks for what is past its time, and for a disk that works again. An idle thread that
/// wakes once a second costs nothing that can be measured.
const TICK: Duration = Duration::from_secs(1);

/// How long it leaves the disk alone between deletions when there is nothing else to write.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Deletions that a commit does besides, at least. With two for each event it writes they keep pace
/// with any load, and none waits for more than the next commits.
const CHANGES_MIN: usize = 256;

/// Deletions of a commit that does nothing else. An append that comes meanwhile waits for them, some
/// twenty milliseconds.
const CHANGES_ALONE: usize = 8192;

pub(super) fn start(disk: Disk, sequence: Arc<Sequence>) -> io::Result<(JoinHandle<()>, oneshot::Receiver<()>)> {
    let (on_end, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("tidings-log".to_owned()).spawn(move || {
        let gone = Gone(sequence.clone());
        let (changes, figures) = (VecDeque::new(), Figures::default());
        Writer { disk, sequence, changes, keys_deleted: Position::ZERO, figures }.run();
        drop(gone);
        // Nobody may be waiting.
        let _nobody_waits = on_end.send(());
    })?;
    Ok((thread, ended))
}

/// Lets nobody wait for a thread that is gone, however it went.
struct Gone(Arc<Sequence>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.on_writer_gone();
    }
}

struct Writer {
    disk: Disk,
    sequence: Arc<Sequence>,
    /// What is yet to be taken off the disk. Never more than what is on it.
    changes: VecDeque<Change>,
    /// Stored keys of positions before this are deleted.
    keys_deleted: Position,
    figures: Figures,
}

impl Writer {
    fn run(mut self) {
        let mut is_troubled = false;
        let mut has_backlog = false;
        let patience = |has_backlog| if has_backlog { BACKLOG_PAUSE } else { TICK };
        while let Some(batch) = self.sequence.take_batch(patience(has_backlog), &mut self.changes) {
            let is_tick = batch.events.is_empty() && batch.reserve_through.is_none() && !batch.is_flush;
            if is_tick {
                self.sequence.sweep();
            }
            let oldest_key = batch.oldest_key;
            is_troubled = !self.write(batch, is_troubled);
            has_backlog = !is_troubled && (!self.changes.is_empty() || self.keys_deleted < oldest_key);
        }
        while !self.changes.is_empty() && self.write(Batch::default(), false) {}
    }

    /// Writes a batch and has it released. `false` if that failed.
    fn write(&mut self, batch: Batch, is_troubled: bool) -> bool {
        let Batch { reserve_through, oldest_key, .. } = batch;
        let budget = if batch.events.is_empty() { CHANGES_ALONE } else { CHANGES_MIN + 2 * batch.events.len() };
        let count = if batch.is_flush { self.changes.len() } else { self.changes.len().min(budget) };
        let keys_max = if self.keys_deleted < oldest_key { budget } else { 0 };
        let has_work = !batch.events.is_empty() || reserve_through.is_some() || count > 0 || keys_max > 0;
        let written = match has_work {
            true => self.disk.commit(&batch, self.changes.iter().take(count), keys_max),
            false if is_troubled => self.disk.probe().map(|()| false),
            false => Ok(false),
        };
        match &written {
            Ok(are_keys_deleted) => {
                if *are_keys_deleted {
                    self.keys_deleted = oldest_key;
                }
                self.changes.drain(..count);
                self.figures.commits += u64::from(has_work);
                self.figures.events_committed += batch.events.len() as u64;
                if is_troubled {
                    tracing::info!("the log can be written again");
                }
            }
            Err(error) => {
                self.figures.commit_failures += 1;
                if !is_troubled {
                    tracing::error!(%error, events = batch.events.len(), "the log cannot be written");
                }
            }
        }
        // The events are shared with nobody when they are released.
        drop(batch);
        (self.figures.wal_bytes, self.figures.database_bytes) = self.disk.sizes();
        let outcome = match written {
            Ok(_) => Ok(()),
            Err(error) => Err(unavailable(format_args!("the log cannot be written: {error}"))),
        };
        let is_written = outcome.is_ok();
        self.sequence.on_written(reserve_through, outcome, self.figures);
        is_written
    }
}
