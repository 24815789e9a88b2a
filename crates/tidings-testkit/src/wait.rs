//! Waiting for a condition, for a bounded time.

use std::time::Duration;

use anyhow::bail;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

/// How often a condition is looked at. Short, because tests wait for little things.
const POLL: Duration = Duration::from_millis(10);

/// Looks at a condition until it gives a value, and fails with `what` when it has not within `limit`.
///
/// The limit is there to end a test that would hang, so it may be generous: nobody waits for it when
/// all is well.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for this in vain: {what}");
        }
        sleep(POLL).await;
    }
}

/// Gives up on a future after `limit`, with `what` in the error.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("waited {limit:?} for this in vain: {what}"),
    }
}

/// Waits a moment before another attempt: up to `most`, so that many clients do not come back at once.
pub async fn back_off(most: Duration) {
    let fraction = rand::rng().random::<f64>();
    sleep(most.mul_f64(fraction)).await;
}
