//! Sends notifications to devices: the adapters of the port
//! [`PushSender`](tidings_core::ports::PushSender).
//!
//! [`Senders`] finds the provider of a device and makes one attempt. Read in the order in which a push
//! passes: `senders` → [`fcm`] or [`web_push`] → `content` (what it says is cut to the provider's limit) →
//! `exchange` (a request and its answer, within bounds) → the provider's table of answers.
//!
//! [`webhook`] tells an application's backend of users that come and go.
//!
//! What never happens to a push here: a second attempt at a message (that is the caller's), a redirect that is
//! followed, an answer that is read without a limit, a token or an endpoint in an error or a log.

mod content;
mod exchange;
pub mod fcm;
mod retry_after;
mod senders;
mod trouble;
pub mod web_push;
pub mod webhook;

pub use fcm::{FcmConfig, ServiceAccount};
pub use senders::{Senders, SetupError};
pub use web_push::{VapidKey, WebPushConfig};
pub use webhook::{Webhook, WebhookSecret};
