//! What notifications are.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use tidings_protocol::{Channel, Data, EventId, Millis, UserId};

/// Longest kind, in bytes. Kinds are keys of preferences and of every user's counts.
const KIND_MAX_BYTES: usize = 100;

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

/// Whom a notification is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// These users, each once, at least one.
    Users(Vec<UserId>),
    /// Who follows the channel when the notification is written out to them.
    FollowersOf(Channel),
    /// Every user that there is or will be, until it expires.
    Everyone,
}

/// Whom a notification was for, as its report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// So many users that were named.
    Users,
    /// The followers of a channel.
    FollowersOf(Channel),
    /// Everyone.
    Everyone,
}

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What sort it is.
    pub kind: Kind,
    /// One line.
    pub title: String,
    /// More than one line.
    pub body: Option<String>,
    /// Where a click leads.
    pub url: Option<String>,
    /// What the application makes of it.
    pub data: Option<Data>,
    /// Replaces an unread one of the same user with the same value.
    pub collapse: Option<String>,
}

/// A digest (SHA-256) of a request's body, by which a repeated request is told from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// A notification that has been accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its identity.
    pub id: NotificationId,
    /// What it says.
    pub content: Content,
    /// Whether it also goes to devices.
    pub push: PushMode,
    /// When it was accepted.
    pub created_at: Millis,
    /// When it is of no more use; it then leaves every inbox.
    pub expires_at: Millis,
}

/// How a user stands to a notification in their inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not read.
    Unread,
    /// Read.
    Read,
    /// Put away: in no list but that of the archive.
    Archived,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Unread, Self::Read, Self::Archived];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Read => "read",
            Self::Archived => "archived",
        }
    }
}

/// A notification in a user's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The notification.
    pub notification: Arc<Notification>,
    /// How the user stands to it.
    pub state: State,
    /// Whether it was in a list that the user has looked at. What is read or archived is seen.
    pub is_seen: bool,
    /// Where the event that told of it is in the log. `None` until it has been told; nothing is told of
    /// what the user has muted.
    pub told_at: Option<EventId>,
}

/// How many notifications of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountsOfKind {
    /// Not read (and not archived).
    pub unread: u64,
    /// Not read and not seen either.
    pub unseen: u64,
}

/// How many notifications a user has, exactly. Kinds without any are not listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// All kinds together.
    pub total: CountsOfKind,
    /// By kind.
    pub kinds: BTreeMap<Kind, CountsOfKind>,
}

impl Counts {
    /// Adds up the kinds; those without any are left out.
    pub fn of(kinds: impl IntoIterator<Item = (Kind, CountsOfKind)>) -> Self {
        let kinds: BTreeMap<_, _> = kinds.into_iter().filter(|(_, counts)| counts.unread + counts.unseen > 0).collect();
        let add = |a: CountsOfKind, b: &CountsOfKind| CountsOfKind {
            unread: a.unread + b.unread,
            unseen: a.unseen + b.unseen,
        };
        Self { total: kinds.values().fold(CountsOfKind::default(), add), kinds }
    }
}

/// What a user wants of one kind. The inbox has it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindPreference {
    /// Whether open streams are told.
    pub live: bool,
    /// Whether devices are.
    pub push: bool,
    /// Neither is, until then.
    pub mute_until: Option<Millis>,
}

impl Default for KindPreference {
    fn default() -> Self {
        Self { live: true, push: true, mute_until: None }
    }
}

/// What a user wants, by kind. Kinds that are not listed are as [`KindPreference::default`].
pub type Preferences = BTreeMap<Kind, KindPreference>;

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

    #[test]
    fn counts_are_the_sum_of_their_kinds() {
        let of = |unread, unseen| CountsOfKind { unread, unseen };
        let counts = Counts::of([
            (Kind::trusted("a"), of(2, 1)),
            (Kind::trusted("b"), of(0, 0)),
            (Kind::trusted("c"), of(1, 0)),
        ]);
        assert_eq!(counts.total, of(3, 1));
        assert_eq!(counts.kinds.keys().map(Kind::as_str).collect::<Vec<_>>(), ["a", "c"]);
    }
}
