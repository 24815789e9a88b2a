//! A few connections, each with no more requests at a time than FCM takes on one.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Client;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many connections. FCM advises few that are long-lived.
const LANES: usize = 4;

/// Requests at a time on each: FCM's limit of streams on a connection.
const STREAMS_MAX: usize = 100;

/// Clients with a connection each.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Which line is joined next.
    next: AtomicUsize,
}

struct Lane {
    client: Client,
    room: Semaphore,
}

/// Room for one request.
pub(super) struct Slot<'a> {
    client: &'a Client,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Slot<'_> {
    pub(super) fn client(&self) -> &Client {
        self.client
    }
}

impl Lanes {
    pub(super) fn new(client: impl Fn() -> Result<Client, reqwest::Error>) -> Result<Self, reqwest::Error> {
        let lane = || Ok(Lane { client: client()?, room: Semaphore::new(STREAMS_MAX) });
        Ok(Self { lanes: (0..LANES).map(|_| lane()).collect::<Result<_, _>>()?, next: AtomicUsize::new(0) })
    }

    /// The first that has room, so that few pushes need one connection only; waits if none has.
    pub(super) async fn free(&self) -> Slot<'_> {
        for lane in &self.lanes {
            if let Ok(permit) = lane.room.try_acquire() {
                return Slot { client: &lane.client, _permit: Some(permit) };
            }
        }
        // All are full: each waits in the line of the next one, and they are emptied alike.
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % LANES];
        // It is never closed, so there is a permit.
        Slot { client: &lane.client, _permit: lane.room.acquire().await.ok() }
    }
}
