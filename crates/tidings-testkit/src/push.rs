//! Push providers that do as they are told.
//!
//! - [`FakeFcm`]: FCM's HTTP v1 API and Google's token endpoint. It is as strict as they are about what it
//!   is sent, and answers with the bodies that Google documents.
//! - [`PushService`]: the push service of a browser (RFC 8030), and the browsers. What it is sent is read
//!   by a public JavaScript package, so that our encryption is not held against itself.
//!
//! Both listen on loopback, keep what they were sent, and end when they are dropped.

mod fcm;
mod fcm_answer;
mod listener;
mod service;

pub use fcm::{FakeFcm, SentMessage};
pub use fcm_answer::FcmAnswer;
pub use service::{Delivered, PushService, Subscription};
