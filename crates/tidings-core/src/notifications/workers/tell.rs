//! Tells streams what is new in inboxes, and notes in the inbox where it was told.
//!
//! Between the append and the note the inbox does not know the event's place: [`Telling`](super::super::Telling)
//! says so to streams that ask. A process that is killed just then tells again: the event has then passed
//! twice, at two places. Nothing else doubles.

use async_trait::async_trait;
use tidings_protocol::Millis;
use tokio_util::sync::CancellationToken;

use super::{Failed, Next, Pauses, Waker, Worker, pause};
use crate::{
    notifications::{Notifier, PushMode, events::notification_event},
    ports::{
        AppendError,
        store::{StoreError, Told, Untold},
    },
};

/// How often a place is noted anew, once the server stops, before it is left to be told again.
const TRIES_WHEN_STOPPED: usize = 3;

pub(super) struct Tell;

#[async_trait]
impl Worker for Tell {
    const NAME: &'static str = "tell";

    fn waker<'a>(&self, notifier: &'a Notifier) -> Option<&'a Waker> {
        Some(&notifier.wakers.tell)
    }

    async fn step(&mut self, notifier: &Notifier, stop: &CancellationToken) -> Result<Next, Failed> {
        let (told, failure) = {
            let _order = notifier.counts_order.write().await;
            let untold = notifier.store.untold(notifier.settings.tell_rows, notifier.clock.now()).await?;
            if untold.is_empty() {
                return Ok(Next::WhenWoken);
            }
            // If this future is dropped from here on, then because the process ends.
            notifier.telling.begin();
            append(notifier, untold).await
        };
        note(notifier, &told, stop).await?;
        notifier.counters.on_told(told.iter().filter(|told| told.at.is_some()).count());
        if let Some(at) = told.iter().filter_map(|told| told.escalate_at).min() {
            notifier.wakers.escalate.wake_by(at);
        }
        // Not if it could not be noted: then streams wait, and come back.
        notifier.telling.end();
        if told.iter().any(|told| told.user.is_none()) {
            notifier.wakers.fan_out.wake();
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Next::Now),
        }
    }
}

/// Appends the events. Answers what is told, and why the rest is not: that is tried again.
async fn append(notifier: &Notifier, untold: Vec<Untold>) -> (Vec<Told>, Option<Failed>) {
    let (mut told, mut live, mut events) = (Vec::with_capacity(untold.len()), Vec::new(), Vec::new());
    for untold in untold {
        let event = untold
            .is_live
            .then(|| notification_event(untold.user.as_ref(), &untold.notification, untold.counts.as_ref()));
        match event {
            Some(Ok(event)) => {
                events.push(event);
                live.push(untold);
            }
            // What has no form cannot be told by any number of attempts; the inbox has it.
            Some(Err(_)) | None => told.push(Told {
                id: untold.notification.id,
                user: untold.user,
                at: None,
                escalate_at: (untold.push != PushMode::Never).then(|| notifier.clock.now()),
            }),
        }
    }
    if events.is_empty() {
        return (told, None);
    }
    let answers = notifier.broker.append(events).await;
    let now = notifier.clock.now();
    let mut failure = None;
    for (untold, answer) in live.into_iter().zip(answers) {
        match answer {
            Ok(appended) => told.push(Told {
                id: untold.notification.id,
                user: untold.user,
                at: Some(appended.id),
                escalate_at: Some(escalate_at(notifier, untold.push, now)),
            }),
            Err(AppendError::Unavailable(unavailable)) => failure = Some(unavailable.into()),
            // These events have no keys.
            Err(error @ AppendError::KeyConflict) => failure = Some(Failed(error.to_string())),
        }
    }
    (told, failure)
}

/// What is to be pushed in any case does not wait to be confirmed.
fn escalate_at(notifier: &Notifier, push: PushMode, now: Millis) -> Millis {
    match push {
        PushMode::Always => now,
        PushMode::Offline | PushMode::Never => now + notifier.settings.push_after.as_millis() as Millis,
    }
}

/// Notes where they were told. Until that is done nothing else is told, or streams would not know what
/// they have.
async fn note(notifier: &Notifier, told: &[Told], stop: &CancellationToken) -> Result<(), StoreError> {
    if told.is_empty() {
        return Ok(());
    }
    let (mut pauses, mut tries_left) = (Pauses::default(), TRIES_WHEN_STOPPED);
    loop {
        let Err(error) = notifier.store.on_told(told).await else {
            notifier.set_trouble(Tell::NAME, None);
            return Ok(());
        };
        notifier.counters.on_store_error();
        if stop.is_cancelled() {
            tries_left -= 1;
            if tries_left == 0 {
                return Err(error);
            }
        }
        notifier.set_trouble(Tell::NAME, Some(error.to_string()));
        pause(&*notifier.clock, pauses.next(), stop).await;
    }
}
