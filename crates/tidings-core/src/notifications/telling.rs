//! What is being told at this moment: appended to the log, and its place not yet noted in the inbox.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, Default)]
struct Batches {
    finished: u64,
    is_one_under_way: bool,
}

/// Where the teller is, for streams that read the inbox.
///
/// A stream has chosen its fence and asks the inbox what was told up to there. What the teller appended
/// before the fence and has not noted yet, the inbox does not know. The teller says so here before it
/// appends, so a stream that looks here after it has chosen its fence can wait for that batch. What is
/// appended after that look lies beyond the fence, and comes live.
#[derive(Debug)]
pub struct Telling {
    batches: watch::Sender<Batches>,
}

impl Default for Telling {
    fn default() -> Self {
        Self { batches: watch::Sender::new(Batches::default()) }
    }
}

impl Telling {
    /// Events are about to be appended.
    pub fn begin(&self) {
        self.batches.send_modify(|batches| batches.is_one_under_way = true);
    }

    /// The inbox knows where they are.
    pub fn end(&self) {
        self.batches.send_modify(|batches| {
            batches.finished += u64::from(std::mem::take(&mut batches.is_one_under_way));
        });
    }

    /// Waits until the inbox knows all that this node had appended when it was called. That lasts as long
    /// as the store is in trouble.
    pub async fn settled(&self) {
        let before = *self.batches.borrow();
        if before.is_one_under_way {
            let mut batches = self.batches.subscribe();
            // It fails when the sender is gone, which is here.
            let _finished = batches.wait_for(|batches| batches.finished > before.finished).await;
        }
    }
}
