//! Looks now and then how the store fares.

use std::time::Duration;

use async_trait::async_trait;
use tidings_protocol::Millis;
use tokio_util::sync::CancellationToken;

use super::{Failed, Next, Waker, Worker};
use crate::{notifications::Notifier, ports::store::StoreStatus};

/// How often. A load balancer asks about as often whether the node is ready.
const EVERY: Duration = Duration::from_secs(5);

/// A store that does not answer for so long cannot be used.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Health;

#[async_trait]
impl Worker for Health {
    const NAME: &'static str = "health";

    fn waker<'a>(&self, _: &'a Notifier) -> Option<&'a Waker> {
        None
    }

    async fn step(&mut self, notifier: &Notifier, _: &CancellationToken) -> Result<Next, Failed> {
        let clock = &*notifier.clock;
        let status = tokio::select! {
            status = notifier.store.status() => status,
            () = clock.sleep_until(clock.tick() + PATIENCE) => {
                StoreStatus { trouble: Some("it does not answer".to_owned()), ..notifier.status() }
            }
        };
        notifier.set_status(status);
        Ok(Next::At(clock.now() + EVERY.as_millis() as Millis))
    }
}
