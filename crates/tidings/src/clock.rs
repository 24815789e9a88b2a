//! The system's time, behind the domain's port.

use std::{
    future::Future,
    pin::Pin,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tidings_core::ports::Clock;
use tidings_hub::{Tick, Time};
use tidings_protocol::Millis;

/// The clock of a running server.
#[derive(Debug)]
pub(crate) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Time for SystemClock {
    fn now(&self) -> Millis {
        // A clock set before 1970 is the epoch to us.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
    }

    fn tick(&self) -> Tick {
        self.start.elapsed()
    }
}

impl Clock for SystemClock {
    fn sleep_until(&self, tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep_until((self.start + tick).into()))
    }
}
