//! Writes notifications out to who follows a channel, and for everyone to who has a device.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Failed, Next, Waker, Worker};
use crate::{notifications::Notifier, ports::store};

pub(super) struct FanOut;

#[async_trait]
impl Worker for FanOut {
    const NAME: &'static str = "fan_out";

    fn waker<'a>(&self, notifier: &'a Notifier) -> Option<&'a Waker> {
        Some(&notifier.wakers.fan_out)
    }

    async fn step(&mut self, notifier: &Notifier, _: &CancellationToken) -> Result<Next, Failed> {
        match notifier.store.fan_out(notifier.settings.fan_out_rows, notifier.clock.now()).await? {
            store::FanOut::Idle => Ok(Next::WhenWoken),
            store::FanOut::Wrote { rows, .. } => {
                notifier.counters.on_fan_out(rows);
                if rows > 0 {
                    notifier.wakers.tell.wake();
                    // For everyone it is deliveries that were written.
                    notifier.wakers.escalate.wake();
                }
                Ok(Next::Now)
            }
        }
    }
}
