//! The threads of the shards, and what wakes them.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};

use super::{
    inbox::Inbox,
    turn::{Readiness, Shard},
};
use crate::hub::{Hub, Time};

/// Sockets that are looked at before events are written: enough to make the call cheap.
const EVENTS_AT_ONCE: usize = 1024;

/// Stands for the inbox's bell where a slot is expected.
const BELL: u64 = u64::MAX;

/// An epoll instance. Sockets are watched by edge, once and for all: no call is needed when one that
/// took nothing is to be waited for, nor when it takes bytes again.
pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn add(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.0, socket, epoll::EventData::new_u64(slot.into()), flags)?)
    }

    fn add_bell(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.0, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?)
    }
}

/// The shards of one hub, each with a thread. They end when this is stopped or dropped. One that panics is
/// forgotten with what it holds, and others serve the clients that come back.
pub struct Shards {
    hub: Arc<Hub>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shards {
    /// Starts so many shards for the hub.
    ///
    /// # Errors
    ///
    /// When the system has no more descriptors or threads.
    pub fn start(hub: &Arc<Hub>, count: usize, time: &Arc<dyn Time>) -> io::Result<Self> {
        let shards = Self { hub: hub.clone(), threads: Mutex::default() };
        for number in 0..count {
            let inbox = Arc::new(Inbox::new(true)?);
            let watched = Epoll(epoll::create(epoll::CreateFlags::CLOEXEC)?);
            if let Some(bell) = inbox.bell() {
                watched.add_bell(bell)?;
            }
            let (hub, time) = (hub.clone(), time.clone());
            let shard = Shard::new(&hub, time, inbox, Some(watched));
            let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || run(shard))?;
            shards.threads.lock().push(thread);
        }
        Ok(shards)
    }

    /// Ends the shards, and with them what they still hold; waits for their threads. To be called when
    /// the streams have been drained, and not from a thread that must not block.
    pub fn stop(&self) {
        self.hub.stop_shards();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a shard's thread had panicked");
            }
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut shard: Shard) {
    let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
    while shard.turn() {
        let may_sleep = !shard.is_busy() && shard.inbox.may_sleep();
        if let Err(error) = wait(&mut shard, may_sleep, &mut events) {
            tracing::error!(%error, "a shard cannot wait for its sockets; it ends, and its clients come back");
            break;
        }
    }
    shard.end();
}

fn wait(shard: &mut Shard, may_sleep: bool, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    let timeout = match may_sleep {
        false => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
        true => shard.wheel.next().map(|due| {
            let wait = due.saturating_sub(shard.time.tick());
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
        }),
    };
    let Some(watched) = &shard.epoll else { return Ok(()) };
    events.clear();
    match epoll::wait(watched.0.as_fd(), rustix::buffer::spare_capacity(events), timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    for event in events.iter() {
        match event.data.u64() {
            BELL => shard.inbox.silence(),
            slot => {
                let flags = event.flags;
                let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                let readiness = Readiness {
                    readable: flags.intersects(epoll::EventFlags::IN | ended),
                    writable: flags.contains(epoll::EventFlags::OUT),
                };
                shard.on_ready(slot as u32, readiness);
            }
        }
    }
    Ok(())
}
