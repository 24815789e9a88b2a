//! What goes on by itself. Each worker takes a step while there is something to do, and then waits until
//! somebody wakes it or something is due. All that it needs to know is in the store, so a step that failed
//! or was cut off is taken again.

mod escalate;
mod fan_out;
mod health;
mod push;
mod sweep;
mod tell;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::Rng as _;
use tidings_protocol::Millis;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Notifier;
use crate::ports::{Clock, Unavailable, store::StoreError};

/// First and longest pause after failures.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// How long a step that has begun may take to end when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// It is not planned when the worker goes on: it is at work, and must hear of anything new.
const AT_WORK: Millis = Millis::MAX;

/// It is planned that it waits until somebody wakes it, or that it looks whether there is something after all.
const IDLE: Millis = Millis::MAX - 1;

/// By which a worker is woken.
#[derive(Debug)]
pub(super) struct Waker {
    notify: Notify,
    planned_at: AtomicU64,
}

impl Default for Waker {
    fn default() -> Self {
        Self { notify: Notify::new(), planned_at: AtomicU64::new(AT_WORK) }
    }
}

impl Waker {
    /// There is something to do.
    pub(super) fn wake(&self) {
        self.planned_at.store(AT_WORK, SeqCst);
        self.notify.notify_one();
    }

    /// There is something to do then. Wakes it only if it had planned to come later.
    pub(super) fn wake_by(&self, at: Millis) {
        if at < self.planned_at.load(SeqCst) {
            self.wake();
        }
    }

    fn plan(&self, at: Millis) {
        self.planned_at.store(at, SeqCst);
    }

    async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Whether it waits for nothing but to be woken.
    pub(super) fn is_idle(&self) -> bool {
        self.planned_at.load(SeqCst) == IDLE
    }
}

/// One for each worker that can be woken.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) fan_out: Waker,
    pub(super) tell: Waker,
    pub(super) escalate: Waker,
    pub(super) push: Waker,
}

/// What a step says of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There may be more to do.
    Now,
    /// There is nothing to do until then.
    At(Millis),
    /// There is nothing to do until somebody says so.
    WhenWoken,
}

impl From<Option<Millis>> for Next {
    fn from(at: Option<Millis>) -> Self {
        at.map_or(Self::WhenWoken, Self::At)
    }
}

/// Why a step failed: it is taken again.
struct Failed(String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<Unavailable> for Failed {
    fn from(error: Unavailable) -> Self {
        Self(error.to_string())
    }
}

#[async_trait]
trait Worker: Send + Sync + 'static {
    /// What it is called in the log.
    const NAME: &'static str;

    /// By what it is woken.
    fn waker<'a>(&self, notifier: &'a Notifier) -> Option<&'a Waker>;

    /// Does some of what there is to do.
    async fn step(&mut self, notifier: &Notifier, stop: &CancellationToken) -> Result<Next, Failed>;
}

pub(super) fn start(notifier: &Arc<Notifier>, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(run(fan_out::FanOut, notifier.clone(), stop.clone())),
        tokio::spawn(run(tell::Tell, notifier.clone(), stop.clone())),
        tokio::spawn(run(escalate::Escalate, notifier.clone(), stop.clone())),
        tokio::spawn(push::run(notifier.clone(), stop.clone())),
        tokio::spawn(run(sweep::Sweep, notifier.clone(), stop.clone())),
        tokio::spawn(run(health::Health, notifier.clone(), stop.clone())),
    ]
}

async fn run<W: Worker>(mut worker: W, notifier: Arc<Notifier>, stop: CancellationToken) {
    let mut pauses = Pauses::default();
    while !stop.is_cancelled() {
        let waker = worker.waker(&notifier);
        if let Some(waker) = waker {
            waker.plan(AT_WORK);
        }
        let next = {
            let step = worker.step(&notifier, &stop);
            tokio::pin!(step);
            tokio::select! {
                next = &mut step => next,
                // What has begun ends, unless something hangs.
                () = stopped_for(&*notifier.clock, &stop, STOP_PATIENCE) => return,
            }
        };
        match next {
            Ok(next) => {
                pauses = Pauses::default();
                notifier.set_trouble(W::NAME, None);
                wait(&notifier, waker, next, &stop).await;
            }
            Err(Failed(cause)) => {
                notifier.counters.on_store_error();
                notifier.set_trouble(W::NAME, Some(cause));
                pause(&*notifier.clock, pauses.next(), &stop).await;
            }
        }
    }
}

/// Waits until there is something to do.
async fn wait(notifier: &Notifier, waker: Option<&Waker>, next: Next, stop: &CancellationToken) {
    let clock = &*notifier.clock;
    // Those that nobody wakes come by themselves often enough.
    let poll_every = notifier.settings.poll_every.filter(|_| waker.is_some());
    let poll_at = poll_every.map(|every| clock.now() + every.as_millis() as Millis);
    let (planned, at) = match next {
        // Others have their turn too.
        Next::Now => return tokio::task::yield_now().await,
        Next::At(at) => (at, Some(poll_at.map_or(at, |poll_at| poll_at.min(at)))),
        Next::WhenWoken => (IDLE, poll_at),
    };
    if let Some(waker) = waker {
        waker.plan(planned);
    }
    let notified = async {
        match waker {
            Some(waker) => waker.woken().await,
            None => std::future::pending().await,
        }
    };
    let due = async {
        match at {
            Some(at) => until(clock, at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = notified => {}
        () = due => {}
        () = stop.cancelled() => {}
    }
}

/// Waits until the wall clock says so, as far as it can be foreseen.
async fn until(clock: &dyn Clock, at: Millis) {
    // One more, for what is due at a millisecond is due when it has come.
    let left = Duration::from_millis(at.saturating_sub(clock.now()).saturating_add(1));
    clock.sleep_until(clock.tick() + left).await;
}

async fn pause(clock: &dyn Clock, pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = clock.sleep_until(clock.tick() + pause) => {}
        () = stop.cancelled() => {}
    }
}

/// Waits until the stop was so long ago.
async fn stopped_for(clock: &dyn Clock, stop: &CancellationToken, patience: Duration) {
    stop.cancelled().await;
    clock.sleep_until(clock.tick() + patience).await;
}

/// Ever longer pauses, each at random between its half and its whole, so that nodes do not try in step.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(16)).min(PAUSES.1);
        self.failures += 1;
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::default();
        let lengths: Vec<_> = (0..40).map(|_| pauses.next()).collect();
        assert!(lengths[0] <= PAUSES.0 && lengths[0] >= PAUSES.0 / 2, "{:?}", lengths[0]);
        assert!(lengths[39] <= PAUSES.1 && lengths[39] >= PAUSES.1 / 2, "{:?}", lengths[39]);
    }

    #[tokio::test]
    async fn who_has_planned_to_come_earlier_is_not_woken() {
        let waker = Waker::default();
        let is_woken = async || {
            tokio::select! {
                biased;
                () = waker.woken() => true,
                () = std::future::ready(()) => false,
            }
        };
        waker.wake_by(5);
        assert!(is_woken().await, "it is at work, and may just have looked");
        waker.plan(10);
        waker.wake_by(10);
        assert!(!is_woken().await);
        waker.wake_by(9);
        assert!(is_woken().await);
        waker.plan(IDLE);
        assert!(waker.is_idle());
        waker.wake_by(9);
        assert!(is_woken().await && !waker.is_idle());
    }
}
