//! Positions, and which events wait for the disk.
//!
//! The rule of this file: events are released in the order of positions, each when it is as durable
//! as its namespace promises. While nothing durable waits, a volatile event is released within its
//! own append. Behind a durable one it waits too.

use std::{
    collections::{HashMap, VecDeque},
    iter::Peekable,
    sync::Arc,
    vec,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tidings_core::{
    Namespaces, SharedNamespaces,
    ports::{AppendError, Appended, BrokerStatus, ChannelState, Clock, HistoryPage, HistoryRequest, Unavailable},
};
use tidings_protocol::{Channel, Event, LoggedEvent, Position};
use tokio::sync::{Semaphore, oneshot};

use super::{feed::FeedQueue, unavailable};
use crate::log::{Admission, Change, KeyRecord, PartitionLog};

/// Positions that are reserved on disk at a time: so many that reserving costs nothing, so few that
/// a restart, which skips the rest of them, never uses up what a cursor can hold.
pub(super) const RESERVED_AT_ONCE: u64 = 1 << 20;

/// When fewer than this are left, the writer reserves the next.
const RESERVED_MIN: u64 = RESERVED_AT_ONCE / 2;

/// Most events of one piece of an append.
const CHUNK_EVENTS: usize = 1024;

/// How many releases are made at a time, so that appenders and readers get the lock in between.
const RELEASED_AT_ONCE: usize = 512;

pub(super) type Waiter = oneshot::Sender<Result<(), Unavailable>>;
pub(super) type Wait = oneshot::Receiver<Result<(), Unavailable>>;

/// The log, what waits for the disk, and the way to the feed.
pub(super) struct Sequence {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    feed: FeedQueue,
    /// Bytes that may yet be appended before the feed takes some.
    queue: Semaphore,
    queue_max_bytes: usize,
    namespaces: SharedNamespaces,
    clock: Arc<dyn Clock>,
}

struct State {
    log: PartitionLog,
    /// The rules of the last append.
    rules: Arc<Namespaces>,
    /// Admitted and not yet released. Empty, or its first is a durable one.
    pending: VecDeque<Pending>,
    /// Durable events that the writer has not taken yet.
    waiting_events: usize,
    reserved_through: Position,
    is_reservation_asked: bool,
    is_flush_asked: bool,
    /// The number of the batch that the writer will take next.
    batch: u64,
    /// Who waits for that batch.
    waiters: Vec<Waiter>,
    /// The last position of the batch that the writer is at.
    writing_through: Position,
    /// Who waits for the batch that the writer is at.
    writing_waiters: Vec<Waiter>,
    is_writer_idle: bool,
    is_stopping: bool,
    trouble: Option<String>,
    figures: Figures,
}

struct Pending {
    logged: Arc<LoggedEvent>,
    is_durable: bool,
    key: Option<KeyRecord>,
}

/// What the writer counts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Figures {
    pub(super) commits: u64,
    pub(super) commit_failures: u64,
    pub(super) events_committed: u64,
    pub(super) wal_bytes: u64,
    pub(super) database_bytes: u64,
}

/// What the writer is to do in one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<(Arc<LoggedEvent>, Option<KeyRecord>)>,
    pub(super) reserve_through: Option<Position>,
    /// Stored keys of positions before this are of no use any more.
    pub(super) oldest_key: Position,
    /// Whether somebody waits for all changes so far.
    pub(super) is_flush: bool,
}

/// What a submitted event has to wait for, if anything.
pub(super) enum Answer {
    Ready(Result<Appended, AppendError>),
    Waiting { batch: u64, appended: Appended },
}

/// What became of a piece of an append.
pub(super) struct Submitted {
    pub(super) answers: Vec<Answer>,
    /// The batches that answers wait for.
    pub(super) batches: Vec<(u64, Wait)>,
    /// Given if positions ran out before the events did.
    pub(super) reservation: Option<Wait>,
}

impl Sequence {
    pub(super) fn new(
        log: PartitionLog,
        reserved_through: Position,
        queue_max_bytes: usize,
        namespaces: SharedNamespaces,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // Semaphores count to less than usize does; more would be no limit anyway.
        let queue_max_bytes = queue_max_bytes.clamp(1, u32::MAX as usize / 8);
        Self {
            feed: FeedQueue::new(log.head(), queue_max_bytes),
            queue: Semaphore::new(queue_max_bytes),
            queue_max_bytes,
            state: Mutex::new(State {
                writing_through: log.head().position,
                log,
                rules: namespaces.load_full(),
                pending: VecDeque::new(),
                waiting_events: 0,
                reserved_through,
                is_reservation_asked: false,
                is_flush_asked: false,
                batch: 0,
                waiters: Vec::new(),
                writing_waiters: Vec::new(),
                is_writer_idle: false,
                is_stopping: false,
                trouble: None,
                figures: Figures::default(),
            }),
            work: Condvar::new(),
            namespaces,
            clock,
        }
    }

    pub(super) fn feed(&self) -> &FeedQueue {
        &self.feed
    }

    /// Waits until the queue has room for some of the events, and takes those.
    pub(super) async fn acquire(&self, events: &mut Peekable<vec::IntoIter<Event>>) -> VecDeque<Event> {
        let mut chunk = VecDeque::new();
        let mut bytes = 0;
        while chunk.len() < CHUNK_EVENTS
            && let Some(event) =
                events.next_if(|event| bytes == 0 || bytes + self.feed.charge(event) <= self.queue_max_bytes / 4)
        {
            bytes += self.feed.charge(&event);
            chunk.push_back(event);
        }
        // Never closed. Forgotten, because the feed gives them back and not this call, which its
        // caller may drop at any time.
        if let Ok(permits) = self.queue.acquire_many(bytes as u32).await {
            permits.forget();
        }
        chunk
    }

    pub(super) fn release_bytes(&self, bytes: usize) {
        self.queue.add_permits(bytes);
    }

    /// Gives back the room that was acquired for events, and says how many they were.
    pub(super) fn give_back(&self, events: VecDeque<Event>) -> usize {
        self.release_bytes(events.iter().map(|event| self.feed.charge(event)).sum());
        events.len()
    }

    /// Gives the events their places, as far as positions are reserved.
    pub(super) fn submit(&self, events: &mut VecDeque<Event>) -> Submitted {
        let namespaces = self.namespaces.load_full();
        let now = self.clock.now();
        let mut submitted =
            Submitted { answers: Vec::with_capacity(events.len()), batches: Vec::new(), reservation: None };
        let mut released = Vec::new();
        let mut unused = 0;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !Arc::ptr_eq(&state.rules, &namespaces) {
            state.log.on_new_rules(&state.rules, &namespaces);
            state.rules = namespaces.clone();
            // Soon on disk, though a crash within these milliseconds forgets what was just turned.
            state.is_flush_asked = true;
        }
        while let Some(event) = events.pop_front() {
            if state.is_stopping {
                unused += self.feed.charge(&event);
                submitted.answers.push(Answer::Ready(Err(unavailable("the server is stopping").into())));
                continue;
            }
            if state.log.next_position() > state.reserved_through {
                events.push_front(event);
                submitted.reservation = Some(state.wait_for_batch());
                break;
            }
            let (position, key) = match state.log.admit(&event, now) {
                Admission::New { position, key } => (position, key),
                Admission::Duplicate(position) => {
                    unused += self.feed.charge(&event);
                    let appended = Appended { id: state.log.id(position), is_duplicate: true };
                    submitted.answers.push(state.answer(position, appended, &mut submitted.batches));
                    continue;
                }
                Admission::Conflict => {
                    unused += self.feed.charge(&event);
                    submitted.answers.push(Answer::Ready(Err(AppendError::KeyConflict)));
                    continue;
                }
            };
            let is_durable = namespaces.of(&event.channel).durable && !event.is_ephemeral;
            let logged = Arc::new(state.log.place(event, position, now));
            let appended = Appended { id: logged.id(), is_duplicate: false };
            if is_durable || !state.pending.is_empty() {
                state.pending.push_back(Pending { logged, is_durable, key });
                state.waiting_events += usize::from(is_durable);
                submitted.answers.push(match is_durable {
                    true => state.answer(position, appended, &mut submitted.batches),
                    false => Answer::Ready(Ok(appended)),
                });
            } else {
                released.push(state.log.release(logged, false, &namespaces, now));
                submitted.answers.push(Answer::Ready(Ok(appended)));
            }
        }
        state.is_reservation_asked |= state.log.next_position().0 + RESERVED_MIN > state.reserved_through.0;
        if !released.is_empty() {
            unused += self.feed.push(released);
        }
        self.wake_writer(guard);
        self.release_bytes(unused);
        submitted
    }

    fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        if state.has_work() && std::mem::replace(&mut state.is_writer_idle, false) {
            drop(state);
            self.work.notify_one();
        }
    }

    pub(super) fn history(&self, request: &HistoryRequest) -> HistoryPage {
        let namespaces = self.namespaces.load();
        let now = self.clock.now();
        self.state.lock().log.history(request, &namespaces, now)
    }

    pub(super) fn channel(&self, channel: &Channel) -> ChannelState {
        let namespaces = self.namespaces.load();
        let now = self.clock.now();
        self.state.lock().log.channel(channel, &namespaces, now)
    }

    /// Forgets a channel's history in memory, and has it taken off the disk.
    pub(super) fn purge(&self, channel: &Channel) -> Result<(usize, Wait), Unavailable> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.is_stopping {
            return Err(unavailable("the server is stopping"));
        }
        let count = state.log.purge(channel, now);
        // Even if nothing was held: what was dropped earlier may still be on disk.
        state.is_flush_asked = true;
        let wait = state.wait_for_batch();
        self.wake_writer(state);
        Ok((count, wait))
    }

    /// Takes no more. The writer ends when it has written what was taken.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopping = true;
        drop(state);
        self.work.notify_one();
    }

    /// Waits for something to write, at most so long. `false` when there is nothing left to do, ever.
    pub(super) fn take_batch(&self, patience: std::time::Duration, changes: &mut VecDeque<Change>) -> Option<Batch> {
        let mut state = self.state.lock();
        if !state.has_work() && !state.is_stopping {
            state.is_writer_idle = true;
            let _timed_out = self.work.wait_for(&mut state, patience);
            state.is_writer_idle = false;
        }
        changes.extend(state.log.take_changes());
        if state.is_stopping && !state.has_work() {
            return None;
        }
        let namespaces = self.namespaces.load();
        let mut events = Vec::with_capacity(state.waiting_events);
        let State { log, pending, .. } = &mut *state;
        // Everything before these has been released, so the log knows what precedes them.
        let mut previous: HashMap<Channel, Position> = HashMap::new();
        for Pending { logged, is_durable, key } in pending.iter_mut() {
            let at = previous.entry(logged.event.channel.clone());
            let before = at.or_insert_with(|| log.last_position(&logged.event.channel, &namespaces));
            // Not shared yet, so this copies nothing.
            Arc::make_mut(logged).previous = *before;
            if !logged.event.is_ephemeral {
                *before = logged.position;
            }
            if *is_durable {
                events.push((logged.clone(), *key));
            }
        }
        let reserve = std::mem::take(&mut state.is_reservation_asked);
        state.waiting_events = 0;
        state.writing_through = state.pending.back().map_or(state.writing_through, |last| last.logged.position);
        state.writing_waiters = std::mem::take(&mut state.waiters);
        state.batch += 1;
        Some(Batch {
            events,
            reserve_through: reserve.then(|| Position(state.reserved_through.0 + RESERVED_AT_ONCE)),
            oldest_key: state.log.oldest_key(),
            is_flush: std::mem::take(&mut state.is_flush_asked),
        })
    }

    /// The batch is on disk, or it is not: its events are released, or withdrawn.
    pub(super) fn on_written(&self, reserved: Option<Position>, outcome: Result<(), Unavailable>, figures: Figures) {
        let namespaces = self.namespaces.load();
        let mut released = Vec::with_capacity(RELEASED_AT_ONCE);
        loop {
            let now = self.clock.now();
            let mut unused = 0;
            let mut state = self.state.lock();
            let through = state.writing_through;
            while released.len() < RELEASED_AT_ONCE
                && let Some(pending) = state.pop_resolved(through)
            {
                let Pending { logged, is_durable, key } = pending;
                if is_durable && outcome.is_err() {
                    unused += self.feed.charge(&logged.event);
                    state.log.withdraw(logged.position, key);
                    state.log.pass_over(logged.position);
                } else {
                    released.push(state.log.release(logged, is_durable, &namespaces, now));
                }
            }
            let is_done = released.len() < RELEASED_AT_ONCE;
            // Under the lock, so that appends which release at once come behind.
            unused += self.feed.push(released.drain(..));
            if is_done {
                state.figures = figures;
                state.trouble = outcome.as_ref().err().map(|unavailable| unavailable.cause.clone());
                if let (Some(reserved), Ok(())) = (reserved, &outcome) {
                    state.reserved_through = reserved;
                }
                let waiters = std::mem::take(&mut state.writing_waiters);
                drop(state);
                self.release_bytes(unused);
                for waiter in waiters {
                    // Whoever asked may be gone.
                    let _asker_is_gone = waiter.send(outcome.clone());
                }
                return;
            }
            drop(state);
            self.release_bytes(unused);
        }
    }

    /// Drops what is past its time, in pieces that leave the lock free in between.
    pub(super) fn sweep(&self) {
        const SWEPT_AT_ONCE: usize = 4096;
        let namespaces = self.namespaces.load();
        while self.state.lock().log.sweep(&namespaces, self.clock.now(), SWEPT_AT_ONCE) {}
    }

    /// The writer is gone, in order or not. Nobody may wait for it any more.
    pub(super) fn on_writer_gone(&self) {
        let mut state = self.state.lock();
        state.is_stopping = true;
        state.waiters.clear();
        state.writing_waiters.clear();
        drop(state);
        self.feed.end();
    }

    pub(super) fn status(&self) -> BrokerStatus {
        let state = self.state.lock();
        let (log, figures, trouble) = (state.log.stats(), state.figures, state.trouble.clone());
        let (head, pending) = (state.log.head().position, state.pending.len());
        drop(state);
        let queue_bytes = self.queue_max_bytes.saturating_sub(self.queue.available_permits());
        BrokerStatus {
            trouble,
            gauges: vec![
                ("history_events", log.history_events as u64),
                ("history_bytes", log.history_bytes as u64),
                ("channels", log.channels as u64),
                ("idempotency_keys", log.keys as u64),
                ("append_queue_bytes", queue_bytes as u64),
                ("pending_events", pending as u64),
                ("wal_bytes", figures.wal_bytes),
                ("database_bytes", figures.database_bytes),
                ("head_position", head.0),
            ],
            counters: vec![
                ("commits", figures.commits),
                ("commit_failures", figures.commit_failures),
                ("events_committed", figures.events_committed),
                ("history_evicted", log.evicted),
                ("history_expired", log.expired),
                ("idempotency_keys_forgotten", log.keys_forgotten),
            ],
        }
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.waiting_events > 0 || self.is_reservation_asked || self.is_flush_asked || !self.waiters.is_empty()
    }

    /// The next event that need not wait: one of the batch that was written, or a volatile one with
    /// nothing durable before it.
    fn pop_resolved(&mut self, through: Position) -> Option<Pending> {
        let front = self.pending.front()?;
        match front.logged.position <= through || !front.is_durable {
            true => self.pending.pop_front(),
            false => None,
        }
    }

    /// The answer for an event at a position: now, or when its batch is written.
    fn answer(&mut self, position: Position, appended: Appended, batches: &mut Vec<(u64, Wait)>) -> Answer {
        let at = self.pending.binary_search_by_key(&position, |pending| pending.logged.position);
        if !at.is_ok_and(|at| self.pending[at].is_durable) {
            return Answer::Ready(Ok(appended));
        }
        let is_writing = position <= self.writing_through;
        let batch = if is_writing { self.batch - 1 } else { self.batch };
        if !batches.iter().any(|(waited, _)| *waited == batch) {
            let (waiter, wait) = oneshot::channel();
            if is_writing {
                self.writing_waiters.push(waiter)
            } else {
                self.waiters.push(waiter)
            }
            batches.push((batch, wait));
        }
        Answer::Waiting { batch, appended }
    }

    /// Waits for the batch that the writer takes next.
    fn wait_for_batch(&mut self) -> Wait {
        let (waiter, wait) = oneshot::channel();
        self.waiters.push(waiter);
        wait
    }
}

#[cfg(test)]
mod tests;
