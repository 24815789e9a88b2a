//! Time that passes when the simulation says so.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Poll, Waker},
};

use parking_lot::Mutex;
use tidings_core::ports::Clock;
use tidings_hub::{Tick, Time};
use tidings_protocol::Millis;

#[derive(Default)]
pub(crate) struct SimClock(Mutex<State>);

#[derive(Default)]
struct State {
    now: Millis,
    sleepers: Vec<(Tick, Waker)>,
}

impl SimClock {
    pub(crate) fn advance(&self, millis: Millis) {
        let mut time = self.0.lock();
        time.now += millis;
        let tick = Tick::from_millis(time.now);
        let (due, asleep) = std::mem::take(&mut time.sleepers).into_iter().partition(|(at, _)| *at <= tick);
        time.sleepers = asleep;
        drop(time);
        due.into_iter().for_each(|(_, waker): (Tick, Waker)| waker.wake());
    }
}

impl Time for SimClock {
    fn now(&self) -> Millis {
        self.0.lock().now
    }

    fn tick(&self) -> Tick {
        Tick::from_millis(self.now())
    }
}

impl Clock for SimClock {
    fn sleep_until(&self, tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(poll_fn(move |cx| {
            let mut time = self.0.lock();
            if Tick::from_millis(time.now) >= tick {
                return Poll::Ready(());
            }
            time.sleepers.push((tick, cx.waker().clone()));
            Poll::Pending
        }))
    }
}
