//! The words of notifications, and the JSON forms in which a client sees them: in the inbox and in events.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{event::Millis, limits::KIND_MAX_BYTES};

/// The type of the event that tells of a notification. Its data is a [`NotificationEvent`].
pub const NOTIFICATION: &str = "notification";

/// The type of the event that tells of changed counts. Its data is an [`UnreadEvent`].
pub const UNREAD: &str = "unread";

/// A notification's identity. Later ones have greater ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId(pub i64);

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NotificationId {
    type Err = ();

    /// Reads what `Display` writes, and nothing else.
    fn from_str(text: &str) -> Result<Self, ()> {
        let id = text.parse::<i64>().ok().filter(|id| *id > 0).map(Self).ok_or(())?;
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

/// What sort of notification it is, e.g. `festival.added`: preferences and counts go by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(Arc<str>);

/// Why a text is not a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a kind is 1 to 100 bytes of `A-Z a-z 0-9 _ - . : /`, e.g. `festival.added`")]
pub struct KindError;

impl Kind {
    /// The kind of a notification that names none.
    pub fn default_kind() -> Self {
        Self("default".into())
    }

    /// Checks a name and takes it.
    pub fn parse(text: &str) -> Result<Self, KindError> {
        let is_kind_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        if text.is_empty() || text.len() > KIND_MAX_BYTES || !text.chars().all(is_kind_char) {
            return Err(KindError);
        }
        Ok(Self(text.into()))
    }

    /// Takes a name that has been checked before, such as one read back from the store.
    pub fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a notification also goes to devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PushMode {
    /// If its delivery to an open stream is not confirmed in time.
    #[default]
    Offline,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

impl PushMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Offline, Self::Always, Self::Never];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        assert_eq!("17".parse(), Ok(NotificationId(17)));
        for text in ["", "0", "-1", "+1", "01", " 1", "1 ", "x", "9223372036854775808"] {
            assert_eq!(text.parse::<NotificationId>(), Err(()), "{text}");
        }
    }
}
