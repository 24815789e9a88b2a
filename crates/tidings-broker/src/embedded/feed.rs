//! From the log to the node's hub, in order.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidings_core::ports::{Feed, FeedItem};
use tidings_hub::Registration;
use tidings_protocol::{Channel, Cursor, Event, EventId, LoggedEvent, Partition, PartitionCursor};

use super::sequence::Sequence;

/// Most items handed over at a time, so that other tasks of the runtime get their turn: a quarter of what may
/// wait for one stream by default, for a task that serves a stream takes from its queue only in between.
const ITEMS_AT_ONCE: usize = 256;

/// Events that have been released and not yet taken. Bounded by what the appenders had to acquire;
/// markers are bounded by the hub's registrations between two readings.
#[derive(Debug)]
pub(super) struct FeedQueue {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Debug)]
struct State {
    items: VecDeque<FeedItem>,
    /// The last position that was put in.
    head: PartitionCursor,
    waker: Option<Waker>,
    has_reader: bool,
    is_ended: bool,
}

impl FeedQueue {
    pub(super) fn new(head: PartitionCursor, max_bytes: usize) -> Self {
        let state = State { items: VecDeque::new(), head, waker: None, has_reader: true, is_ended: false };
        Self { state: Mutex::new(state), max_bytes }
    }

    /// What an event takes of the queue, from its append until it is taken. One that is larger than
    /// the queue takes all of it.
    pub(super) fn charge(&self, event: &Event) -> usize {
        event.cost_bytes().min(self.max_bytes)
    }

    fn charge_of_all<'a>(&self, items: impl IntoIterator<Item = &'a FeedItem>) -> usize {
        let charge = |item: &FeedItem| match item {
            FeedItem::Event(logged) => self.charge(&logged.event),
            FeedItem::Marker { .. } | FeedItem::Head { .. } => 0,
        };
        items.into_iter().map(charge).sum()
    }

    /// Puts events in, in order. Returns the charge of those that nobody will take.
    pub(super) fn push(&self, events: impl IntoIterator<Item = Arc<LoggedEvent>>) -> usize {
        let mut unwanted = 0;
        let mut state = self.state.lock();
        for logged in events {
            state.head = logged.id().at;
            match state.has_reader {
                true => state.items.push_back(FeedItem::Event(logged)),
                false => unwanted += self.charge(&logged.event),
            }
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        unwanted
    }

    pub(super) fn mark(&self, channel: &Channel, registration: Registration) {
        let channel = channel.clone();
        self.answer(|head| FeedItem::Marker { channel, registration, partition: Partition::ZERO, head });
    }

    pub(super) fn answer_probe(&self, registration: Registration) {
        self.answer(|head| FeedItem::Head { registration, partition: Partition::ZERO, head });
    }

    fn answer(&self, item: impl FnOnce(PartitionCursor) -> FeedItem) {
        let mut state = self.state.lock();
        if !state.has_reader {
            return;
        }
        let item = item(state.head);
        state.items.push_back(item);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn take_all(&self) -> VecDeque<FeedItem> {
        std::mem::take(&mut self.state.lock().items)
    }

    /// Nothing more will be put in.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.is_ended = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The node's reading of the embedded log.
pub struct EmbeddedFeed {
    sequence: Arc<Sequence>,
    start: Cursor,
}

impl EmbeddedFeed {
    pub(super) fn new(sequence: Arc<Sequence>) -> Self {
        let at = sequence.feed().state.lock().head;
        Self { sequence, start: EventId { partition: Partition::ZERO, at }.into() }
    }
}

#[async_trait]
impl Feed for EmbeddedFeed {
    fn start(&self) -> Cursor {
        self.start.clone()
    }

    async fn next(&mut self, items: &mut Vec<FeedItem>) -> bool {
        let before = items.len();
        let has_more = poll_fn(|cx| {
            let mut state = self.sequence.feed().state.lock();
            if state.items.is_empty() {
                if state.is_ended {
                    return Poll::Ready(false);
                }
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            let count = state.items.len().min(ITEMS_AT_ONCE);
            items.extend(state.items.drain(..count));
            Poll::Ready(true)
        })
        .await;
        self.sequence.release_bytes(self.sequence.feed().charge_of_all(&items[before..]));
        has_more
    }
}

impl Drop for EmbeddedFeed {
    fn drop(&mut self) {
        let mut state = self.sequence.feed().state.lock();
        state.has_reader = false;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.sequence.release_bytes(self.sequence.feed().charge_of_all(&items));
    }
}

impl std::fmt::Debug for EmbeddedFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedFeed").field("start", &self.start).finish_non_exhaustive()
    }
}
