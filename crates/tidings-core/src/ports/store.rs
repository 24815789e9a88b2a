//! What the domain needs of a database.
//!
//! Every call is one transaction (or a bounded number of them where that is said): it has happened as a
//! whole or not at all, also if the process is killed. Counters are changed in the transaction that changes
//! what they count. `now` is always the caller's.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_protocol::{Channel, EventId, Millis, Partition, PartitionCursor, Position, UserId};

use crate::notifications::{
    Audience, Content, Counts, Fingerprint, InboxEntry, Notification, NotificationId, Preferences, PushMode,
    Recipients, State,
};

/// Notifications, inboxes, follows, devices, and what is still to be told and pushed.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- notifications ---

    /// Takes a notification. Users that are named have it in their inbox then; followers get it by
    /// [`fan_out`](Self::fan_out), everyone when they look. Counters, `collapse` and what is to be told
    /// ([`untold`](Self::untold)) included.
    async fn accept(&self, new: NewNotification) -> Result<Accepted, AcceptError>;

    /// Writes the oldest unfinished notification out to at most so many more recipients: followers of its
    /// channel into their inboxes; for everyone, who has a device, so that the unconfirmed are pushed to.
    /// Each exactly once, however often the process is killed in between.
    async fn fan_out(&self, limit: usize, now: Millis) -> Result<FanOut, StoreError>;

    /// What has been written into inboxes and not been told to streams, oldest notification first, users
    /// in a fixed order. What the user has muted is not among it.
    async fn untold(&self, limit: usize, now: Millis) -> Result<Vec<Untold>, StoreError>;

    /// Those were told: notes where. From `escalate_at` on they are in [`due`](Self::due), unless that is
    /// `None` or they are read before.
    async fn on_told(&self, told: &[Told]) -> Result<(), StoreError>;

    /// The report of one notification.
    async fn report(&self, id: NotificationId, now: Millis) -> Result<Option<Report>, StoreError>;

    /// Takes what has expired out of inboxes and counters, and forgets it: at most about `limit` rows.
    /// Answers how many; 0 when there is no more.
    async fn sweep(&self, limit: usize, now: Millis) -> Result<usize, StoreError>;

    // --- inboxes ---

    /// A page of a user's inbox, newest first, those for everyone included.
    async fn inbox(&self, user: &UserId, query: InboxQuery, now: Millis) -> Result<InboxPage, StoreError>;

    /// A user's counts, those for everyone included.
    async fn counts(&self, user: &UserId, now: Millis) -> Result<Counts, StoreError>;

    /// Changes how a user stands to some of theirs. What is read or archived need not be pushed any more.
    async fn mark(&self, user: &UserId, which: &Which, mark: Mark, now: Millis) -> Result<Marked, StoreError>;

    /// What a stream missed, in the order in which it was (to be) told.
    async fn missed(&self, query: &MissedQuery, now: Millis) -> Result<Missed, StoreError>;

    /// Forgets all of a user: inbox, counts, follows, devices, preferences, what waits to be told or pushed.
    /// Answers how many rows of the inbox went.
    async fn erase_user(&self, user: &UserId) -> Result<usize, StoreError>;

    // --- what users want ---

    /// The channels that a user follows, by name, after one of them.
    async fn follows(&self, user: &UserId, after: Option<&Channel>, limit: usize) -> Result<Vec<Follow>, StoreError>;

    /// Follows channels; those that are followed already stay. Answers which are new. `max` is how many a
    /// user may follow.
    async fn follow(
        &self,
        user: &UserId,
        channels: &[Channel],
        max: usize,
        now: Millis,
    ) -> Result<Vec<Channel>, FollowError>;

    /// Does not follow channels any more. Answers which were followed.
    async fn unfollow(&self, user: &UserId, channels: &[Channel]) -> Result<Vec<Channel>, StoreError>;

    /// Lets users follow a channel, as when an application brings along what its own tables say; and
    /// others not follow it any more. Those who follow `max` channels already are passed over.
    async fn change_followers(
        &self,
        channel: &Channel,
        follow: &[UserId],
        unfollow: &[UserId],
        max: usize,
        now: Millis,
    ) -> Result<FollowersChanged, StoreError>;

    /// A user's devices, by name.
    async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError>;

    /// Adds or replaces a device. A push target (token, fid, endpoint) that was another user's, or another
    /// device's, is no more: a phone has one owner. `max` is how many a user may have.
    async fn put_device(&self, user: &UserId, device: Device, max: usize) -> Result<Put, DeviceError>;

    /// Removes a device. `false` if there was none.
    async fn remove_device(&self, user: &UserId, device: &str) -> Result<bool, StoreError>;

    /// What a user wants.
    async fn preferences(&self, user: &UserId) -> Result<Preferences, StoreError>;

    /// Replaces it.
    async fn set_preferences(&self, user: &UserId, preferences: &Preferences) -> Result<(), StoreError>;

    // --- escalation and push ---

    /// Deliveries whose confirmation is due, oldest first. Asking again gives the same until they are settled.
    async fn due(&self, limit: usize, now: Millis) -> Result<Vec<Due>, StoreError>;

    /// When the next one is due.
    async fn next_due(&self) -> Result<Option<Millis>, StoreError>;

    /// Settles deliveries. [`Settlement::Push`] queues a push to each of the user's devices, unless it was
    /// settled before. Answers the outcome of each that was open.
    async fn settle(&self, settled: &[Settled], now: Millis) -> Result<Vec<Outcome>, StoreError>;

    /// The client says that it has these: they need not be pushed. Answers how many were open.
    async fn acknowledge(&self, user: &UserId, what: &Acknowledged, now: Millis) -> Result<usize, StoreError>;

    /// Takes pushes that are due, each for `lease_ms`: who takes them answers by [`on_pushed`](Self::on_pushed)
    /// before that, or somebody else gets them.
    async fn take_pushes(&self, limit: usize, lease_ms: u64, now: Millis) -> Result<Vec<PushJob>, StoreError>;

    /// When the next one is due.
    async fn next_push(&self) -> Result<Option<Millis>, StoreError>;

    /// What came of them.
    async fn on_pushed(&self, results: &[PushResult], now: Millis) -> Result<(), StoreError>;

    /// Pushes that were given up, newest first, before one of them.
    async fn dead_pushes(&self, before: Option<i64>, limit: usize) -> Result<Vec<DeadPush>, StoreError>;

    /// Tries a push that was given up again. `false` if there is none of this id.
    async fn retry_push(&self, id: i64, now: Millis) -> Result<bool, StoreError>;

    // --- the store itself ---

    /// How it fares, for readiness, metrics and the doctor.
    async fn status(&self) -> StoreStatus;

    /// Counts again and compares, user by user. Changes nothing.
    async fn verify(&self) -> Result<Verification, StoreError>;

    /// Closes it; what is under way ends first, but within seconds: a database that does not say goodbye keeps
    /// nobody waiting.
    async fn close(&self);
}

/// The store cannot do it now, or at all. Whether a write took effect is then unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is unavailable: {cause}")]
pub struct StoreError {
    /// For the log and the operator, not for clients.
    pub cause: String,
}

/// A notification that asks to be taken.
#[derive(Debug, Clone)]
pub struct NewNotification {
    /// For whom.
    pub recipients: Recipients,
    /// What it says.
    pub content: Content,
    /// Whether it also goes to devices.
    pub push: PushMode,
    /// Makes a repeated request harmless, with the digest of its body.
    pub key: Option<(String, Fingerprint)>,
    /// When it was accepted.
    pub created_at: Millis,
    /// When it is of no more use.
    pub expires_at: Millis,
}

/// A notification that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its identity.
    pub id: NotificationId,
    /// Whether an earlier request with the same key put it there.
    pub is_duplicate: bool,
}

/// Why a notification was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// The key was used for another notification.
    #[error("the key was used for another notification")]
    KeyConflict,
    /// Trying again may help, and is safe with a key.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a step of writing out did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanOut {
    /// There was nothing to do.
    Idle,
    /// It wrote so many rows of this notification; there may be more to do.
    Wrote {
        /// Which.
        id: NotificationId,
        /// Rows.
        rows: usize,
        /// Whether that was the last of them.
        is_done: bool,
    },
}

/// A notification that is in an inbox and has not been told.
#[derive(Debug, Clone)]
pub struct Untold {
    /// What it is.
    pub notification: Arc<Notification>,
    /// Whose; `None` is everyone, by one event.
    pub user: Option<UserId>,
    /// The user's counts, this one included; `None` for everyone.
    pub counts: Option<Counts>,
    /// Whether streams are to be told; else only devices.
    pub is_live: bool,
    /// Whether devices are to be told, after the user's preferences.
    pub push: PushMode,
}

/// A notification that was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Which.
    pub id: NotificationId,
    /// Whose; `None` is everyone.
    pub user: Option<UserId>,
    /// Where the event is; `None` if there was none to be.
    pub at: Option<EventId>,
    /// When its confirmation is due; `None` if nothing depends on it.
    pub escalate_at: Option<Millis>,
}

/// Which part of an inbox.
#[derive(Debug, Clone, Copy)]
pub struct InboxQuery {
    /// Only those of this state; `None` is all that are not archived.
    pub state: Option<State>,
    /// Only those older than this one.
    pub before: Option<NotificationId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of an inbox.
#[derive(Debug, Clone)]
pub struct InboxPage {
    /// Newest first.
    pub entries: Vec<InboxEntry>,
    /// Where the next page begins.
    pub next: Option<NotificationId>,
}

/// Which notifications of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// These. Those that are not in the inbox are passed over.
    Ids(Vec<NotificationId>),
    /// This one and all older ones.
    Through(NotificationId),
    /// All.
    All,
}

/// What a user does to a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Reads it.
    Read,
    /// Makes it unread (and seen). An archived one leaves the archive.
    Unread,
    /// Puts it away.
    Archive,
    /// Has had it in a list.
    Seen,
}

/// What a mark did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// How many it changed.
    pub changed: usize,
    /// How many deliveries were open and are so no more: [`Outcome::Read`].
    pub settled: usize,
    /// The user's counts after it.
    pub counts: Counts,
}

/// What a stream may have missed.
#[derive(Debug, Clone)]
pub struct MissedQuery {
    /// Whose.
    pub user: UserId,
    /// Since when.
    pub since: MissedSince,
    /// At most so many.
    pub limit: usize,
}

/// Since when a stream may have missed something.
#[derive(Debug, Clone)]
pub enum MissedSince {
    /// Told after a place in the log and up to another, in the order of the positions. Those of every state:
    /// another device may have read it.
    Told {
        /// The partition.
        partition: Partition,
        /// After this.
        after: PartitionCursor,
        /// Up to and including this, of the same epoch.
        through: Position,
    },
    /// All that are unread and not muted, oldest first, after one of them.
    Unread {
        /// After this one.
        after: Option<NotificationId>,
    },
}

/// What a stream missed.
#[derive(Debug, Clone)]
pub struct Missed {
    /// What it missed.
    pub entries: Vec<InboxEntry>,
    /// Whether more may follow the last one.
    pub has_more: bool,
    /// Whether some of the user's are still to be told, by any node: they may turn out to lie in the range.
    /// Those for everyone included.
    pub is_unsettled: bool,
}

/// A channel that a user follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// Which.
    pub channel: Channel,
    /// Since when.
    pub since: Millis,
}

/// What has changed about a channel's followers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowersChanged {
    /// Who follows it from now on.
    pub followed: Vec<UserId>,
    /// Who does not any more.
    pub unfollowed: Vec<UserId>,
    /// Who was passed over, because they follow too many.
    pub over_limit: Vec<UserId>,
}

/// Why a channel is not followed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FollowError {
    /// The user would follow too many.
    #[error("a user may follow {max} channels")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A user's push target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, of the application's choice, unique for the user.
    pub id: String,
    /// How it is reached.
    pub target: PushTarget,
    /// When it was put last.
    pub updated_at: Millis,
    /// Why it is not pushed to until it is put again, if it is not.
    pub quarantine: Option<String>,
}

/// How a device is reached. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum PushTarget {
    /// Firebase Cloud Messaging, by registration token.
    FcmToken(String),
    /// Firebase Cloud Messaging, by Firebase installation id.
    FcmFid(String),
    /// A Web Push subscription (W3C Push API).
    WebPush {
        /// The push service's URL.
        endpoint: String,
        /// The client's public key: base64url.
        p256dh: String,
        /// The authentication secret: base64url.
        auth: String,
    },
}

impl PushTarget {
    /// The word for its provider: `fcm` or `web_push`.
    pub const fn provider(&self) -> &'static str {
        match self {
            Self::FcmToken(_) | Self::FcmFid(_) => "fcm",
            Self::WebPush { .. } => "web_push",
        }
    }

    /// What no two devices have in common: the token, the fid, or the endpoint.
    pub fn address(&self) -> &str {
        match self {
            Self::FcmToken(text) | Self::FcmFid(text) | Self::WebPush { endpoint: text, .. } => text,
        }
    }
}

impl std::fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PushTarget({})", self.provider())
    }
}

/// Whether a device is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is.
    Created,
    /// There was one of this name.
    Replaced,
}

/// Why a device was not added.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// The user would have too many.
    #[error("a user may have {max} devices")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A delivery whose confirmation is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which notification.
    pub id: NotificationId,
    /// Whose.
    pub user: UserId,
    /// Where it was told; `None` if no stream was.
    pub at: Option<EventId>,
    /// Whether devices are to be told.
    pub push: PushMode,
}

/// How a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// A stream has it.
    Confirmed,
    /// No stream is known to have it: to the devices. (If the mode is [`PushMode::Never`]: nothing more.)
    Push,
    /// A stream has it, and it goes to the devices all the same ([`PushMode::Always`]).
    ConfirmedAndPush,
}

/// A delivery that is settled.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Which notification.
    pub id: NotificationId,
    /// Whose.
    pub user: UserId,
    /// How.
    pub how: Settlement,
}

/// What became of a delivery, for metrics and the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A stream has it, by TCP's or the client's word.
    Confirmed,
    /// It was read before its confirmation was due.
    Read,
    /// Pushes to the user's devices are queued.
    Pushed,
    /// It was to be pushed and the user has no device.
    NoDevice,
    /// No stream is known to have it, and it was not to be pushed: it waits in the inbox.
    Waiting,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Confirmed, Self::Read, Self::Pushed, Self::NoDevice, Self::Waiting];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Read => "read",
            Self::Pushed => "pushed",
            Self::NoDevice => "no_device",
            Self::Waiting => "waiting",
        }
    }
}

/// What a client says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    /// This notification.
    One(NotificationId),
    /// All that was told up to here.
    Through {
        /// The partition.
        partition: Partition,
        /// The place.
        at: PartitionCursor,
    },
}

/// A push that is to be sent.
#[derive(Debug, Clone)]
pub struct PushJob {
    /// Its identity.
    pub id: i64,
    /// To whom.
    pub user: UserId,
    /// To which device.
    pub device: Device,
    /// What.
    pub notification: Arc<Notification>,
    /// The user's unread notifications, for a badge.
    pub unread: u64,
    /// How often it was tried before.
    pub attempts: u32,
}

/// What came of a push.
#[derive(Debug, Clone)]
pub struct PushResult {
    /// Which.
    pub id: i64,
    /// What.
    pub outcome: PushOutcome,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The provider has taken it.
    Sent,
    /// It is tried again then.
    Retry {
        /// When.
        at: Millis,
        /// Why.
        cause: String,
    },
    /// It is given up, and kept among the dead.
    Dead {
        /// Why.
        cause: String,
    },
    /// The provider does not know the device any more: both go. The device only if it is as it was when the
    /// push was taken.
    DeviceGone {
        /// Why.
        cause: String,
    },
    /// The device belongs to another sender: it is kept and not pushed to until it is put again. The push is dead.
    Quarantine {
        /// Why.
        cause: String,
    },
}

/// A push that was given up.
#[derive(Debug, Clone)]
pub struct DeadPush {
    /// Its identity.
    pub id: i64,
    /// Of which notification.
    pub notification: NotificationId,
    /// To whom.
    pub user: UserId,
    /// To which device.
    pub device: String,
    /// By which provider.
    pub provider: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed last.
    pub cause: String,
    /// When it was given up.
    pub died_at: Millis,
}

/// What became of one notification.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it is.
    pub notification: Notification,
    /// For whom it was.
    pub audience: Audience,
    /// Whether it is still being written out.
    pub is_fanning_out: bool,
    /// In how many inboxes it is or was; for everyone, of those who have looked.
    pub recipients: u64,
    /// How many have it by a stream, for certain.
    pub delivered_live: u64,
    /// How many of them have at least one push that a provider has taken.
    pub pushed: u64,
    /// How many have only pushes that were given up.
    pub failed: u64,
    /// How many have read it.
    pub read: u64,
    /// How many deliveries are still open: neither confirmed nor settled otherwise, or with pushes under way.
    pub pending: u64,
}

/// How a store fares.
#[derive(Debug, Clone, Default)]
pub struct StoreStatus {
    /// Which database, e.g. `sqlite 3.50.4`, `postgres 15.18`; empty if it cannot be reached.
    pub database: String,
    /// Why it cannot be used now.
    pub trouble: Option<String>,
    /// Numbers of its own, by name and with a unit as suffix; names are fixed words.
    pub gauges: Vec<(&'static str, u64)>,
}

/// What counting again found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Users that were looked at.
    pub users: u64,
    /// Rows of inboxes that were counted.
    pub rows: u64,
    /// What is wrong, in words, the first 100.
    pub findings: Vec<String>,
}
