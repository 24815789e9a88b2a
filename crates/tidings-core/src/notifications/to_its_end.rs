//! Work that does not stop half-way.

use std::panic::resume_unwind;

/// Does the work to its end, also if whoever waits for it goes away: of what stands in the store then, somebody still
/// has to be told.
pub(super) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is ending, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_any_more() {
        let (has_begun, begun) = oneshot::channel();
        let (go_on, goes_on) = oneshot::channel::<()>();
        let (has_ended, ended) = oneshot::channel();
        let work = to_its_end(async move {
            has_begun.send(()).unwrap();
            goes_on.await.unwrap();
            has_ended.send(()).unwrap();
        });
        tokio::select! {
            () = work => panic!("it cannot have ended"),
            begun = begun => begun.unwrap(),
        }
        go_on.send(()).unwrap();
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_of_it_is_answered() {
        assert_eq!(to_its_end(async { 7 }).await, 7);
    }
}
