//! Messages to people: kept in each user's inbox until they are read, told live to who is there, and
//! pushed to the devices of who is not.
//!
//! A notification passes `accept` (durable, with its counters) → `fan_out` (for followers: written out in
//! batches) → `deliver` (an event on the user's channel, whose place in the log is noted in the inbox) →
//! `escalate` (not confirmed in time: to the user's devices) → `push` (sent, again if need be).

mod notifier;
mod types;

pub use notifier::{Ack, Notifier};

pub use types::{
    Audience, Content, Counts, CountsOfKind, Fingerprint, InboxEntry, Kind, KindError, KindPreference, Notification,
    NotificationId, Preferences, PushMode, Recipients, State,
};
