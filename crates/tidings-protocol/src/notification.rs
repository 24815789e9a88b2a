//! The JSON forms in which a client sees notifications: in the inbox and in events.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::Millis;

/// The type of the event that tells of a notification. Its data is a [`NotificationEvent`].
pub const NOTIFICATION: &str = "notification";

/// The type of the event that tells of changed counts. Its data is an [`UnreadEvent`].
pub const UNREAD: &str = "unread";

/// A notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationBody<'a> {
    /// Its id. Later ones have greater ids, as numbers.
    pub id: Cow<'a, str>,
    /// What sort it is.
    pub kind: Cow<'a, str>,
    /// One line.
    pub title: Cow<'a, str>,
    /// More than one line.
    pub body: Option<Cow<'a, str>>,
    /// Where a click leads.
    pub url: Option<Cow<'a, str>>,
    /// What the application makes of it.
    pub data: Option<Cow<'a, RawValue>>,
    /// `unread`, `read` or `archived`.
    pub state: Cow<'a, str>,
    /// Whether it was in a list that the user has looked at.
    pub seen: bool,
    /// Replaces an unread one with the same value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub collapse: Option<Cow<'a, str>>,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: Millis,
    /// When it leaves the inbox.
    pub expires_at: Millis,
}

/// How many notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct CountsBody {
    /// Not read.
    pub unread: u64,
    /// Not read and not seen either.
    pub unseen: u64,
    /// By kind; kinds without any are left out.
    pub kinds: BTreeMap<String, KindCountsBody>,
}

/// How many notifications of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct KindCountsBody {
    /// Not read.
    pub unread: u64,
    /// Not read and not seen either.
    pub unseen: u64,
}

/// The data of `event: notification`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationEvent<'a> {
    /// The notification.
    #[serde(borrow)]
    pub notification: NotificationBody<'a>,
    /// The user's counts, this one included; null for one to everyone.
    pub counts: Option<CountsBody>,
}

/// The data of `event: unread`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadEvent {
    /// The user's counts.
    pub counts: CountsBody,
}
