//! What the domain needs of push providers.

use async_trait::async_trait;

use super::store::{PushJob, PushTarget};

/// Sends to devices. One attempt a call: when to try again is the caller's business.
#[async_trait]
pub trait PushSender: Send + Sync + 'static {
    /// Whether it can reach devices of this provider (`fcm`, `web_push`), i.e. whether that is configured.
    fn serves(&self, provider: &str) -> bool;

    /// Whether a device that is put can be one, by its form alone. The error says what would be accepted,
    /// for whoever put it. Whether it can be reached is found out by sending.
    fn check(&self, target: &PushTarget) -> Result<(), String> {
        let _ = target;
        Ok(())
    }

    /// Sends. `Ok` when the provider has taken it.
    async fn send(&self, job: &PushJob) -> Result<(), PushError>;

    /// How the providers fare: a message for each that cannot be used now, e.g. because its credentials are refused.
    fn troubles(&self) -> Vec<String>;
}

/// Why a push was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct PushError {
    /// What to do about it.
    pub verdict: PushVerdict,
    /// For the operator. It names no secret and no token.
    pub cause: String,
}

/// What to do about a push that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushVerdict {
    /// Try again, not before so many milliseconds if the provider said so.
    Retry {
        /// The provider's word (`Retry-After`).
        after_ms: Option<u64>,
    },
    /// Never: this message cannot be sent (too large, malformed).
    GiveUp,
    /// The device is gone: forget it.
    DeviceGone,
    /// The device is another sender's: do not push to it until it is put again.
    Quarantine,
}
