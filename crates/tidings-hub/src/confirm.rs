//! Whether what users were sent has reached them, as far as the kernel knows.
//!
//! It has when the node's feed has brought the event, nothing up to it waits in the connection's queue, and the
//! peer's TCP has acknowledged all that the socket was given by then. On a silent stream that is when the kernel
//! has nothing left that is unacknowledged. On a busy one that moment may never come, so the first look leaves a
//! mark: how many bytes the socket had been given; a later one sees whether as many are acknowledged. So nobody
//! counts bytes unless somebody asks.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidings_protocol::{EventId, UserId};

use crate::{connection::ConnectionId, shard::Progress};

/// Events of which somebody wants to know whether they have arrived, and what is known so far.
#[derive(Debug)]
pub struct Confirming {
    /// Those that may still turn out to have.
    pub(crate) open: Vec<Open>,
    pub(crate) is_confirmed: Vec<bool>,
}

/// An event that may still turn out to have arrived.
#[derive(Debug)]
pub(crate) struct Open {
    /// Its place among those that were asked for.
    pub(crate) index: usize,
    pub(crate) user: UserId,
    pub(crate) event: EventId,
    /// The marks of the user's connections.
    pub(crate) marks: SmallVec<[(ConnectionId, u64); 1]>,
}

impl Confirming {
    /// Begins to ask for these.
    pub fn new(deliveries: &[(UserId, EventId)]) -> Self {
        let open = deliveries.iter().enumerate().map(|(index, (user, event))| Open {
            index,
            user: user.clone(),
            event: *event,
            marks: SmallVec::new(),
        });
        Self { open: open.collect(), is_confirmed: vec![false; deliveries.len()] }
    }

    /// Whether another look would change nothing.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// For each, in order: whether it is known to have arrived.
    pub fn into_answers(self) -> Vec<bool> {
        self.is_confirmed
    }
}

/// What a look at a connection shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// There is no such connection, or nothing more will be known of it.
    Gone,
    /// The socket has not been given all up to the event.
    Unwritten,
    /// It has, and the peer has not acknowledged it: it will have when it has so many bytes, if that is known.
    Unacknowledged(Option<u64>),
    /// The peer has acknowledged it.
    Arrived,
}

impl Sight {
    /// What the progress of a socket shows that has been given all up to the event.
    pub(crate) fn of(progress: Option<Progress>, mark: Option<u64>) -> Self {
        let Some(Progress { acknowledged_bytes, unacknowledged_bytes }) = progress else { return Self::Gone };
        if unacknowledged_bytes == 0 || mark.is_some_and(|mark| acknowledged_bytes.is_some_and(|bytes| bytes >= mark)) {
            return Self::Arrived;
        }
        Self::Unacknowledged(mark.or(acknowledged_bytes.map(|bytes| bytes + unacknowledged_bytes)))
    }
}

/// One connection that is to be looked at.
#[derive(Debug)]
pub(crate) struct Look {
    /// The place in [`Confirming::open`].
    pub(crate) open: usize,
    pub(crate) connection: ConnectionId,
    pub(crate) event: EventId,
    pub(crate) slot: u32,
    pub(crate) mark: Option<u64>,
    pub(crate) sight: Sight,
}

/// Looks that a shard is asked for. However they are dropped, they go back to who waits for them.
#[derive(Debug)]
pub(crate) struct Looks {
    looks: Vec<Look>,
    answers: Arc<Mutex<Answers>>,
}

#[derive(Debug, Default)]
struct Answers {
    looks: Vec<Look>,
    awaited: usize,
    waker: Option<Waker>,
}

impl Looks {
    /// Looks at each.
    pub(crate) fn answer(mut self, look: impl Fn(u32, EventId, Option<u64>) -> Sight) {
        for asked in &mut self.looks {
            asked.sight = look(asked.slot, asked.event, asked.mark);
        }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        let mut answers = self.answers.lock();
        answers.looks.append(&mut self.looks);
        answers.awaited -= 1;
        let waker = if answers.awaited == 0 { answers.waker.take() } else { None };
        drop(answers);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Where shards put what they have seen.
#[derive(Debug, Default)]
pub(crate) struct Asking(Arc<Mutex<Answers>>);

impl Asking {
    /// To be sent to a shard.
    pub(crate) fn looks(&self, looks: Vec<Look>) -> Looks {
        self.0.lock().awaited += 1;
        Looks { looks, answers: self.0.clone() }
    }

    /// Waits for all of them.
    pub(crate) async fn answers(self) -> Vec<Look> {
        poll_fn(|cx| {
            let mut answers = self.0.lock();
            if answers.awaited == 0 {
                return Poll::Ready(std::mem::take(&mut answers.looks));
            }
            answers.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(acknowledged: u64, unacknowledged: u64) -> Option<Progress> {
        Some(Progress { acknowledged_bytes: Some(acknowledged), unacknowledged_bytes: unacknowledged })
    }

    #[test]
    fn a_busy_stream_is_measured_by_its_mark() {
        assert_eq!(Sight::of(None, None), Sight::Gone);
        assert_eq!(Sight::of(progress(500, 0), None), Sight::Arrived);
        assert_eq!(Sight::of(progress(500, 100), None), Sight::Unacknowledged(Some(600)));
        // More has been written since, which says nothing of what was before.
        assert_eq!(Sight::of(progress(599, 4000), Some(600)), Sight::Unacknowledged(Some(600)));
        assert_eq!(Sight::of(progress(600, 4000), Some(600)), Sight::Arrived);
        let old_kernel = Progress { acknowledged_bytes: None, unacknowledged_bytes: 1 };
        assert_eq!(Sight::of(Some(old_kernel), None), Sight::Unacknowledged(None));
    }
}
