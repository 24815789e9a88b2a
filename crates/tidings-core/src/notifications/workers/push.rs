//! Sends to devices, several at a time, and again what failed.

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use tidings_protocol::Millis;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{AT_WORK, Failed, IDLE, Next, Pauses, STOP_PATIENCE, pause, until};
use crate::{
    notifications::{Notifier, PushCount},
    ports::{
        PushVerdict,
        store::{PushJob, PushOutcome, PushResult},
    },
};

const NAME: &str = "push";

/// Pauses between attempts, from the first to the longest: an outage of an hour is outlived by 8 attempts.
const PAUSES_MS: (u64, u64) = (1000, 3_600_000);

/// By how much each is longer than the one before.
const PAUSE_FACTOR: u64 = 4;

/// How much longer than an attempt may take it is nobody else's: time to note what came of it. The longer, the later
/// are those tried again whose worker was killed.
const LEASE_SPARE: Duration = Duration::from_secs(15);

/// How often results are noted anew, once the server stops, before the leases are left to lapse.
const TRIES_WHEN_STOPPED: usize = 3;

struct Pusher {
    notifier: Arc<Notifier>,
    stop: CancellationToken,
    under_way: JoinSet<(&'static str, PushResult)>,
}

pub(super) async fn run(notifier: Arc<Notifier>, stop: CancellationToken) {
    let mut pusher = Pusher { notifier, stop: stop.clone(), under_way: JoinSet::new() };
    let (mut next, mut pauses) = (Next::Now, Pauses::default());
    while !stop.is_cancelled() {
        match pusher.take(next).await {
            Ok(later) => {
                next = later;
                pauses = Pauses::default();
                pusher.notifier.set_trouble(NAME, None);
                if next == Next::Now && pusher.room() > 0 {
                    continue;
                }
                next = pusher.wait(next).await;
            }
            Err(Failed(cause)) => {
                pusher.notifier.counters.on_store_error();
                pusher.notifier.set_trouble(NAME, Some(cause));
                pause(&*pusher.notifier.clock, pauses.next(), &stop).await;
                next = Next::Now;
            }
        }
    }
    pusher.end().await;
}

impl Pusher {
    fn room(&self) -> usize {
        self.notifier.settings.push_concurrency.saturating_sub(self.under_way.len())
    }

    /// Takes what is due, as much as there is room for.
    async fn take(&mut self, next: Next) -> Result<Next, Failed> {
        let room = self.room();
        if next != Next::Now || room == 0 {
            return Ok(next);
        }
        let notifier = self.notifier.clone();
        notifier.wakers.push.plan(AT_WORK);
        let lease = notifier.settings.push_timeout + LEASE_SPARE;
        let jobs = notifier.store.take_pushes(room, lease.as_millis() as u64, notifier.clock.now()).await?;
        let is_all = jobs.len() < room;
        for job in jobs {
            self.under_way.spawn(send(notifier.clone(), job));
        }
        match is_all {
            true => Ok(notifier.store.next_push().await?.into()),
            false => Ok(Next::Now),
        }
    }

    /// Waits until there is something to take, and notes what came of what is under way.
    async fn wait(&mut self, next: Next) -> Next {
        let (notifier, stop) = (self.notifier.clone(), self.stop.clone());
        let poll_at = notifier.settings.poll_every.map(|every| notifier.clock.now() + every.as_millis() as Millis);
        let (planned, at) = match next {
            Next::At(at) => (at, Some(poll_at.map_or(at, |poll_at| poll_at.min(at)))),
            Next::WhenWoken => (IDLE, poll_at),
            // There is no room.
            Next::Now => (AT_WORK, None),
        };
        notifier.wakers.push.plan(planned);
        let due = async {
            match at {
                Some(at) => until(&*notifier.clock, at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(result) = self.under_way.join_next() => {
                let mut results: Vec<_> = result.into_iter().collect();
                while let Some(result) = self.under_way.try_join_next() {
                    results.extend(result);
                }
                let is_again = results.iter().any(|(_, result)| matches!(result.outcome, PushOutcome::Retry { .. }));
                self.note(results).await;
                if is_again { Next::Now } else { next }
            }
            () = notifier.wakers.push.woken() => Next::Now,
            () = due => Next::Now,
            () = stop.cancelled() => next,
        }
    }

    /// Notes what came of pushes. Until that is done no others are taken, or these would be sent again.
    async fn note(&self, results: Vec<(&'static str, PushResult)>) {
        let notifier = &self.notifier;
        let (providers, results): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        let (mut pauses, mut tries_left) = (Pauses::default(), TRIES_WHEN_STOPPED);
        while let Err(error) = notifier.store.on_pushed(&results, notifier.clock.now()).await {
            notifier.counters.on_store_error();
            notifier.set_trouble(NAME, Some(error.to_string()));
            if self.stop.is_cancelled() {
                tries_left -= 1;
                if tries_left == 0 {
                    return;
                }
            }
            pause(&*notifier.clock, pauses.next(), &self.stop).await;
        }
        for (provider, result) in providers.into_iter().zip(&results) {
            let count = match result.outcome {
                PushOutcome::Sent => PushCount::Sent,
                PushOutcome::Retry { .. } => PushCount::Retry,
                PushOutcome::Dead { .. } => PushCount::Dead,
                PushOutcome::DeviceGone { .. } => PushCount::Gone,
                PushOutcome::Quarantine { .. } => PushCount::Quarantined,
            };
            notifier.counters.on_push(provider, count);
        }
    }

    /// Lets what is under way end, for a while. What does not is sent again when its lease has lapsed.
    async fn end(mut self) {
        let clock = self.notifier.clock.clone();
        let mut too_long = clock.sleep_until(clock.tick() + STOP_PATIENCE);
        let mut results = Vec::new();
        loop {
            tokio::select! {
                result = self.under_way.join_next() => match result {
                    Some(result) => results.extend(result),
                    None => break,
                },
                () = &mut too_long => break,
            }
        }
        if !results.is_empty() {
            self.note(results).await;
        }
    }
}

/// One attempt.
async fn send(notifier: Arc<Notifier>, job: PushJob) -> (&'static str, PushResult) {
    let provider = job.device.target.provider();
    let outcome = attempt(&notifier, &job).await;
    (provider, PushResult { id: job.id, outcome })
}

async fn attempt(notifier: &Notifier, job: &PushJob) -> PushOutcome {
    let dead = |cause: &str| PushOutcome::Dead { cause: cause.to_owned() };
    let (clock, provider) = (&*notifier.clock, job.device.target.provider());
    if job.notification.expires_at <= clock.now() {
        return dead("the notification has expired");
    }
    if !notifier.push.serves(provider) {
        return PushOutcome::Dead { cause: format!("{provider} is not configured") };
    }
    let sent = tokio::select! {
        sent = notifier.push.send(job) => sent,
        () = clock.sleep_until(clock.tick() + notifier.settings.push_timeout) => {
            return again(notifier, job, None, "the provider took too long".to_owned());
        }
    };
    match sent {
        Ok(()) => PushOutcome::Sent,
        Err(error) => match error.verdict {
            PushVerdict::Retry { after_ms } => again(notifier, job, after_ms, error.cause),
            PushVerdict::GiveUp => PushOutcome::Dead { cause: error.cause },
            PushVerdict::DeviceGone => PushOutcome::DeviceGone { cause: error.cause },
            PushVerdict::Quarantine => PushOutcome::Quarantine { cause: error.cause },
        },
    }
}

/// Tries again later, unless it was tried often enough or would come too late.
fn again(notifier: &Notifier, job: &PushJob, after_ms: Option<u64>, cause: String) -> PushOutcome {
    if job.attempts + 1 >= notifier.settings.push_attempts {
        return PushOutcome::Dead { cause };
    }
    // A provider's word is law; it may be sooner than ours too, but not at once.
    let pause_ms = after_ms.map_or_else(|| pause_ms(job.attempts), |after_ms| after_ms.clamp(PAUSES_MS.0, u64::MAX));
    let at = notifier.clock.now().saturating_add(pause_ms);
    if at >= job.notification.expires_at {
        return PushOutcome::Dead { cause: format!("{cause}; the notification expires before the next attempt") };
    }
    PushOutcome::Retry { at, cause }
}

/// At random between the half and the whole, so that what failed together does not come back together.
fn pause_ms(attempts: u32) -> u64 {
    let whole = PAUSES_MS.0.saturating_mul(PAUSE_FACTOR.saturating_pow(attempts)).min(PAUSES_MS.1);
    rand::rng().random_range(whole / 2..=whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_ever_further_apart_up_to_an_hour() {
        for (attempts, whole) in [(0, 1000), (1, 4000), (5, 1_024_000), (6, 3_600_000), (100, 3_600_000)] {
            assert!((whole / 2..=whole).contains(&pause_ms(attempts)), "after {attempts}");
        }
    }
}
