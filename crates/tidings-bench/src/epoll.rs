//! Readiness of many sockets, to one thread: epoll, edge-triggered, with a timer that is exact.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};

use crate::clock::now_nanos;

/// Events taken from the kernel at a time: few enough that what is due meanwhile waits less than a
/// millisecond.
const EVENTS_MAX: usize = 256;

/// What is due within this is waited for without sleeping: waking up takes about as long.
const SPIN_NANOS: u64 = 50_000;

/// What kind of thing became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A stream.
    Stream,
    /// A stream whose client never reads.
    Slow,
    /// A connection that publishes.
    Publisher,
    /// A connection that polls an API.
    Poller,
    /// The timer or the waker of the loop itself.
    Own,
}

const KINDS: [Kind; 5] = [Kind::Stream, Kind::Slow, Kind::Publisher, Kind::Poller, Kind::Own];

const TIMER: usize = 0;
const WAKER: usize = 1;

/// Something that became ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// What it is.
    pub(crate) kind: Kind,
    /// Which of its kind.
    pub(crate) index: usize,
    /// Something can be read, or the peer has closed.
    pub(crate) is_readable: bool,
    /// A connection was made, or there is room to write again.
    pub(crate) is_writable: bool,
    /// Nothing will come after what can be read now.
    pub(crate) is_closed: bool,
}

/// Wakes a loop from another thread.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes the loop's next wait, or the one under way, return.
    pub(crate) fn wake(&self) {
        // A counter that is full wakes all the same.
        let _full = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// The loop's view of the kernel.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed_for: u64,
    waker: Waker,
    events: Vec<epoll::Event>,
    ready: usize,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // The kernel gathers timers that lie within 50 µs by default, which would show in latencies.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
        let events =
            vec![epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS_MAX];
        let this = Self { epoll, timer, armed_for: 0, waker: Waker(Arc::new(waker)), events, ready: 0 };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&this.epoll, &this.timer, data(Kind::Own, TIMER), flags)?;
        epoll::add(&this.epoll, &*this.waker.0, data(Kind::Own, WAKER), flags)?;
        Ok(this)
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on the socket is reported when it becomes readable, writable or closed. It is
    /// forgotten when it is closed.
    pub(crate) fn add(&self, socket: impl AsFd, kind: Kind, index: usize) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, data(kind, index), flags)?)
    }

    /// Waits until something is ready, or until the deadline, in nanoseconds of the clock. Answers
    /// how many are ready.
    pub(crate) fn wait(&mut self, deadline: Option<u64>) -> io::Result<usize> {
        let mut timeout = None;
        if let Some(deadline) = deadline {
            if deadline <= now_nanos() + SPIN_NANOS {
                timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
            } else if deadline != self.armed_for {
                // `epoll_pwait` counts in milliseconds; the timer does not.
                let at = Timespec {
                    tv_sec: (deadline / 1_000_000_000).cast_signed(),
                    tv_nsec: (deadline % 1_000_000_000).cast_signed(),
                };
                let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
                timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
                self.armed_for = deadline;
            }
        }
        self.ready = loop {
            match epoll::wait(&self.epoll, &mut self.events[..], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        Ok(self.ready)
    }

    /// One of those that the last wait found.
    pub(crate) fn ready(&mut self, at: usize) -> Ready {
        let event = self.events[at];
        let number = { event.data }.u64();
        let flags = event.flags;
        let ready = Ready {
            kind: KINDS.get((number >> 56) as usize).copied().unwrap_or(Kind::Own),
            index: (number & ((1 << 56) - 1)) as usize,
            is_readable: flags.intersects(epoll::EventFlags::IN | CLOSED),
            is_writable: flags.contains(epoll::EventFlags::OUT),
            is_closed: flags.intersects(CLOSED),
        };
        if ready.kind == Kind::Own {
            if ready.index == TIMER {
                self.armed_for = 0;
            }
            let fd = if ready.index == TIMER { &self.timer } else { &*self.waker.0 };
            // Only to have the next edge: what it says is not asked for.
            let _drained = rustix::io::read(fd, &mut [0_u8; 8]);
        }
        ready
    }
}

const CLOSED: epoll::EventFlags = epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

fn data(kind: Kind, index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(((kind as u64) << 56) | index as u64)
}
