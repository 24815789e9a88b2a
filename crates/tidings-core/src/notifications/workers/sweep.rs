//! Takes away what has expired.

use async_trait::async_trait;
use tidings_protocol::Millis;
use tokio_util::sync::CancellationToken;

use super::{Failed, Next, Waker, Worker};
use crate::notifications::Notifier;

pub(super) struct Sweep;

#[async_trait]
impl Worker for Sweep {
    const NAME: &'static str = "sweep";

    fn waker<'a>(&self, _: &'a Notifier) -> Option<&'a Waker> {
        None
    }

    async fn step(&mut self, notifier: &Notifier, _: &CancellationToken) -> Result<Next, Failed> {
        let swept = notifier.store.sweep(notifier.settings.sweep_rows, notifier.clock.now()).await?;
        notifier.counters.on_swept(swept);
        match swept {
            // What has expired shows nowhere any more, so there is no hurry.
            0 => Ok(Next::At(notifier.clock.now() + notifier.settings.sweep_every.as_millis() as Millis)),
            _ => Ok(Next::Now),
        }
    }
}
