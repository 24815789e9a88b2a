//! A transport's hold on the hub: what it takes frames from, and what ends with it.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tidings_protocol::{Channel, CloseReason, Cursor};

use crate::{
    Tick,
    connection::ConnectionInfo,
    frame::SharedFrame,
    hub::{Hub, MayListen},
    registry::Since,
    session::{Ready, Session},
    shard::Adoption,
};

/// One subscriber, from its opening to its end. Dropping it removes it and counts its end, once.
pub struct Subscription {
    hub: Arc<Hub>,
    session: Arc<Session>,
    end: Option<CloseReason>,
    is_handed_over: bool,
}

/// More live events came during catch-up than may wait; history has them. Read it up to here too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterFence(pub Cursor);

/// What there is for a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Frames were handed over.
    Frames,
    /// All that was queued has been handed over, and the server ends the stream.
    Closed(CloseReason),
    /// Nothing now. The task will be woken; if a tick is given, it should also look again then.
    Wait(Option<Tick>),
}

impl Subscription {
    pub(crate) fn new(hub: Arc<Hub>, session: Arc<Session>) -> Self {
        Self { hub, session, end: None, is_handed_over: false }
    }

    /// The connection it serves.
    pub fn info(&self) -> &ConnectionInfo {
        &self.session.info
    }

    /// Waits until the feed is known to have all the channels, and says up to where history is to be
    /// read. Closing the connection ends the wait.
    pub async fn fence(&self) -> Result<Cursor, CloseReason> {
        poll_fn(|cx| {
            let mut queue = self.session.queue.lock();
            if let Some(reason) = queue.close_reason() {
                return Poll::Ready(Err(reason));
            }
            if let Some(fence) = queue.fence() {
                return Poll::Ready(Ok(fence.clone()));
            }
            queue.set_waker(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Says that the stream, though it began without a cursor, is sent what its user had been told before and
    /// may lack, before it goes live. So it can confirm that too.
    pub fn has_earlier(&self) {
        *self.session.since.lock() = Since::ALL;
    }

    /// From now on the stream keeps up with what its user follows ([`Hub::add_channels`]), as far as `may_listen`
    /// says and up to `channels_max` channels in all. Of those that it has, the first `named` stay in any case.
    pub fn keep_up(&self, named: usize, channels_max: usize, may_listen: MayListen) {
        self.hub.keep_up(&self.session, named, channels_max, may_listen);
    }

    /// What the stream's user follows, as it was when [`Hub::follow_changes`] was `as_of`. `false` if that may have
    /// changed: it is to be looked up again.
    pub fn set_followed(&self, followed: &[Channel], as_of: u64) -> bool {
        self.hub.set_followed(&self.session, followed, as_of)
    }

    /// What it listens to now: what its [`info`](Self::info) says and what has changed since.
    pub fn channels(&self) -> Vec<Channel> {
        self.hub.channels_of(&self.session)
    }

    /// Whether it listens to the channel of an event that was read for it, or has left that since.
    pub fn listens_to(&self, channel: &Channel) -> bool {
        // Nearly no stream ever leaves a channel. Nobody leaves a personal one, or one of the server's own.
        let is_for_good = || channel.owner().is_some() || channel.is_internal();
        !self.session.has_left.load(Relaxed) || is_for_good() || self.channels().contains(channel)
    }

    /// Says that history has been taken up to the fence. From here on frames come.
    pub fn go_live(&self) -> Result<(), LaterFence> {
        self.hub.go_live(&self.session).map_err(LaterFence)
    }

    /// Takes frames of up to about `max_bytes` bytes, at least one if there is any.
    pub fn take(&self, cx: &mut Context<'_>, now: Tick, max_bytes: usize, frames: &mut Vec<Arc<SharedFrame>>) -> Take {
        let mut queue = self.session.queue.lock();
        let before = frames.len();
        match queue.take(now, max_bytes, frames) {
            Ready::Frames => {
                self.count_delivered(frames.len() - before);
                Take::Frames
            }
            Ready::Closed(reason) => Take::Closed(reason),
            Ready::Nothing(until) => {
                queue.set_waker(cx.waker());
                Take::Wait(until)
            }
        }
    }

    /// Counts events that the transport was given. Those that it takes here are counted already.
    pub fn count_delivered(&self, events: usize) {
        self.hub.counters().delivered[self.session.info.transport as usize].add(events);
    }

    /// Why the server wants it ended, if it does.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.session.queue.lock().close_reason()
    }

    /// Asks for its end, after what is queued.
    pub fn close(&self, reason: CloseReason) {
        self.session.close(reason);
    }

    /// Frames and bytes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        self.session.queue.lock().waiting()
    }

    /// Gives the stream with its socket to a shard, which serves it from now on. It must be live, and
    /// all that was taken must be written. Gives both back if it is not, or there is no shard.
    pub fn hand_over(mut self, adoption: Adoption) -> Result<(), (Self, Adoption)> {
        match self.hub.hand_over(&self.session, adoption) {
            Ok(()) => {
                self.is_handed_over = true;
                Ok(())
            }
            Err(adoption) => Err((self, adoption)),
        }
    }

    /// Says how the connection ended, where the transport knows better than the queue.
    pub fn ended(&mut self, reason: CloseReason) {
        self.end.get_or_insert(reason);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.is_handed_over {
            return;
        }
        self.hub.remove(&self.session);
        let reason = self.end.or(self.close_reason()).unwrap_or(CloseReason::ClientClosed);
        self.hub.counters().on_closed(self.session.info.transport, reason);
    }
}
