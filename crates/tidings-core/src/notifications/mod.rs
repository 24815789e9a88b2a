//! Messages to people: kept in each user's inbox until they are read, told live to who is there, and
//! pushed to the devices of who is not.
//!
//! A notification passes [`Notifier::accept`] (durable, with its counters) → `workers::fan_out` (for followers:
//! written out in batches) → `workers::tell` (an event on the user's channel, whose place in the log is noted
//! in the inbox) → `workers::escalate` (not confirmed in time: to the user's devices) → `workers::push` (sent,
//! again if need be). `workers::sweep` takes away what has expired. All that they need to go on is in the
//! store: a process that is killed at any point begins again there.

mod counters;
pub mod events;
mod notifier;
mod stripes;
mod telling;
mod to_its_end;
mod types;
mod workers;

pub use counters::{Counters, PushCount};
pub use notifier::{Ack, Inbox, Notifier, NotifierParts, NotifierSettings};
pub use telling::Telling;
pub use types::{
    Audience, Content, Counts, CountsOfKind, Fingerprint, InboxEntry, Kind, KindError, KindPreference, Notification,
    NotificationId, Preferences, PushMode, Recipients, State,
};
