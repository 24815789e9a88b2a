//! What notifications are.

use std::{collections::BTreeMap, sync::Arc};

use tidings_protocol::{Channel, Data, EventId, Millis, UserId};

pub use tidings_protocol::notification::{Kind, KindError, NotificationId, PushMode};

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
    /// Whether it was for everyone, who were told of it by one event.
    pub is_for_everyone: bool,
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
