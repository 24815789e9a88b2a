//! What the hub has for a shard, in order.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    task::{Context, Waker},
};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::Message;
use crate::frame::SharedFrame;

/// Events that may lie in an inbox before the feed waits. The feed hands over some hundreds at a time,
/// so there may be that many more.
const EVENTS_MAX: usize = 8192;

/// Bytes of them, for the same reason.
const BYTES_MAX: usize = 32 << 20;

pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Wakes the shard's thread. A shard without a thread has none.
    bell: Option<OwnedFd>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    events: usize,
    bytes: usize,
    /// Whether the shard will look here by itself before it sleeps.
    is_awake: bool,
    /// The feed, while it waits for room.
    feed: Option<Waker>,
    /// Whether nobody will look here any more.
    is_closed: bool,
}

impl Inbox {
    pub(crate) fn new(has_bell: bool) -> io::Result<Self> {
        let bell = has_bell.then(|| eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)).transpose()?;
        Ok(Self { state: Mutex::default(), bell })
    }

    pub(crate) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }

    /// Puts an event in, for which somebody will ring. Answers whether there is room for more.
    pub(crate) fn push_event(&self, channel: u32, frame: Arc<SharedFrame>) -> bool {
        let mut state = self.state.lock();
        if state.is_closed {
            return true;
        }
        state.events += 1;
        state.bytes += frame.logged.event.cost_bytes();
        state.messages.push_back(Message::Event { channel, frame });
        state.has_room()
    }

    /// Puts something else in, and rings.
    pub(crate) fn push(&self, message: Message) {
        let mut state = self.state.lock();
        if !state.is_closed {
            state.messages.push_back(message);
            drop(state);
            self.ring();
        }
    }

    /// Nobody will look here any more: what is there is dropped, and the feed need not wait.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        let mut messages = VecDeque::new();
        self.take(&mut messages);
    }

    /// Wakes the shard if it sleeps.
    pub(crate) fn ring(&self) {
        let was_awake = std::mem::replace(&mut self.state.lock().is_awake, true);
        if !was_awake && let Some(bell) = &self.bell {
            // It cannot fail but by being full, and then it rings already.
            let _rings = rustix::io::write(bell, &1_u64.to_ne_bytes());
        }
    }

    /// Takes all there is: swaps it for `messages`, which is empty.
    pub(crate) fn take(&self, messages: &mut VecDeque<Message>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.messages, messages);
        state.events = 0;
        state.bytes = 0;
        let feed = state.feed.take();
        drop(state);
        if let Some(feed) = feed {
            feed.wake();
        }
    }

    /// Whether the shard may sleep until the bell rings. If not, there is something.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut state = self.state.lock();
        state.is_awake = !state.messages.is_empty();
        !state.is_awake
    }

    /// The bell has rung.
    pub(crate) fn silence(&self) {
        if let Some(bell) = &self.bell {
            let _silent = rustix::io::read(bell, &mut [0; 8]);
        }
    }

    /// Whether the feed may go on; if not, it is woken when it may.
    pub(crate) fn has_room(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.state.lock();
        if !state.has_room() {
            state.feed = Some(cx.waker().clone());
        }
        state.has_room()
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.events < EVENTS_MAX && self.bytes < BYTES_MAX
    }
}
