//! Finds out whether what was told has arrived, and sends to devices what has not.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Failed, Next, Waker, Worker};
use crate::{
    notifications::{Notifier, PushMode},
    ports::store::{Due, Outcome, Settled, Settlement},
};

pub(super) struct Escalate;

#[async_trait]
impl Worker for Escalate {
    const NAME: &'static str = "escalate";

    fn waker<'a>(&self, notifier: &'a Notifier) -> Option<&'a Waker> {
        Some(&notifier.wakers.escalate)
    }

    async fn step(&mut self, notifier: &Notifier, _: &CancellationToken) -> Result<Next, Failed> {
        let due = notifier.store.due(notifier.settings.escalate_rows, notifier.clock.now()).await?;
        if due.is_empty() {
            return Ok(notifier.store.next_due().await?.into());
        }
        let asked: Vec<_> = due.iter().filter_map(|due| Some((due.user.clone(), due.at?))).collect();
        let mut answers = notifier.confirmations.confirmed(&asked).await.into_iter();
        let settled: Vec<_> = due
            .into_iter()
            .map(|due| {
                let is_confirmed = due.at.is_some() && answers.next().unwrap_or(false);
                settlement(due, is_confirmed)
            })
            .collect();
        let outcomes = notifier.store.settle(&settled, notifier.clock.now()).await?;
        let has_pushed =
            outcomes.contains(&Outcome::Pushed) || settled.iter().any(|settled| settled.how != Settlement::Confirmed);
        outcomes.into_iter().for_each(|outcome| notifier.counters.on_outcome(outcome));
        if has_pushed {
            notifier.wakers.push.wake();
        }
        Ok(Next::Now)
    }
}

fn settlement(due: Due, is_confirmed: bool) -> Settled {
    let how = match (is_confirmed, due.push) {
        (true, PushMode::Always) => Settlement::ConfirmedAndPush,
        (true, PushMode::Offline | PushMode::Never) => Settlement::Confirmed,
        (false, _) => Settlement::Push,
    };
    Settled { id: due.id, user: due.user, how }
}
