//! Domain values as numbers and rows, and back.

use std::{collections::BTreeMap, sync::Arc};

use tidings_core::{
    notifications::{Content, InboxEntry, Kind, Notification, NotificationId, PushMode, State},
    ports::store::PushTarget,
};
use tidings_protocol::{Data, Epoch, EventId, Partition, PartitionCursor, Position, UserId};

use crate::sql::{Dialect, Row, Session, SqlError, Value, args};

/// `tidings_notifications.audience`: users that were named.
pub(crate) const AUDIENCE_USERS: i64 = 0;
/// The followers of a channel.
pub(crate) const AUDIENCE_FOLLOWERS: i64 = 1;
/// Everyone.
pub(crate) const AUDIENCE_EVERYONE: i64 = 2;

/// `tidings_inbox.state`: not read.
pub(crate) const UNREAD: i64 = 0;
/// Put away.
pub(crate) const ARCHIVED: i64 = 2;

/// `tidings_inbox.push`: under way.
pub(crate) const PUSH_UNDER_WAY: i64 = 1;
/// A provider has taken one.
pub(crate) const PUSH_SENT: i64 = 2;
/// All were given up.
pub(crate) const PUSH_GIVEN_UP: i64 = 3;

/// `push` of notifications and deliveries: in any case, and in no case.
pub(crate) const ALWAYS: i64 = 1;
pub(crate) const NEVER: i64 = 2;

pub(crate) fn state_code(state: State) -> i64 {
    match state {
        State::Unread => UNREAD,
        State::Read => 1,
        State::Archived => ARCHIVED,
    }
}

fn state_of(code: i64) -> Result<State, SqlError> {
    State::ALL.into_iter().find(|state| state_code(*state) == code).ok_or_else(|| malformed("a state", code))
}

pub(crate) fn push_code(mode: PushMode) -> i64 {
    match mode {
        PushMode::Offline => 0,
        PushMode::Always => ALWAYS,
        PushMode::Never => NEVER,
    }
}

pub(crate) fn push_of(code: i64) -> Result<PushMode, SqlError> {
    PushMode::ALL.into_iter().find(|mode| push_code(*mode) == code).ok_or_else(|| malformed("a push mode", code))
}

pub(crate) fn user_of(text: &str) -> Result<UserId, SqlError> {
    UserId::parse(text).map_err(|_| malformed("a user id", text))
}

/// A target as `target`, `p256dh`, `auth`.
pub(crate) fn target_code(target: &PushTarget) -> (i64, Option<&str>, Option<&str>) {
    match target {
        PushTarget::FcmToken(_) => (0, None, None),
        PushTarget::FcmFid(_) => (1, None, None),
        PushTarget::WebPush { p256dh, auth, .. } => (2, Some(p256dh), Some(auth)),
    }
}

pub(crate) fn target_of(
    code: i64,
    address: String,
    p256dh: Option<String>,
    auth: Option<String>,
) -> Result<PushTarget, SqlError> {
    match (code, p256dh, auth) {
        (0, ..) => Ok(PushTarget::FcmToken(address)),
        (1, ..) => Ok(PushTarget::FcmFid(address)),
        (2, Some(p256dh), Some(auth)) => Ok(PushTarget::WebPush { endpoint: address, p256dh, auth }),
        _ => Err(malformed("a push target", code)),
    }
}

pub(crate) fn malformed(what: &str, found: impl std::fmt::Display) -> SqlError {
    SqlError::Malformed(format!("the store has {found} where {what} should be"))
}

/// A place in the log as three values, absent together.
pub(crate) fn place_values(at: Option<EventId>) -> [Option<i64>; 3] {
    let Some(EventId { partition, at }) = at else { return [None; 3] };
    [Some(partition.index() as i64), Some(i64::from(at.epoch.0)), Some(at.position.0 as i64)]
}

/// A place in the log, from three columns.
pub(crate) fn place_of(row: &Row, first: usize) -> Result<Option<EventId>, SqlError> {
    let Some(position) = row.maybe_int(first + 2)? else { return Ok(None) };
    let (partition, epoch) = (row.natural(first)?, row.natural(first + 1)?);
    let partition = Partition::new(usize::try_from(partition).unwrap_or(usize::MAX))
        .ok_or_else(|| malformed("a partition", partition))?;
    let epoch = u32::try_from(epoch).map_err(|_| malformed("an epoch", epoch))?;
    let position = u64::try_from(position).map_err(|_| malformed("a position", position))?;
    Ok(Some(EventId { partition, at: PartitionCursor { epoch: Epoch(epoch), position: Position(position) } }))
}

/// The columns of a notification `n` that [`notification_of`] reads.
pub(crate) const NOTIFICATION: &str =
    "n.id, n.kind, n.title, n.body, n.url, n.data, n.collapse, n.push, n.created_at, n.expires_at";
/// How many they are.
pub(crate) const NOTIFICATION_COLUMNS: usize = 10;

pub(crate) fn notification_of(row: &Row, first: usize) -> Result<Notification, SqlError> {
    let content = Content {
        kind: Kind::trusted(&row.text(first + 1)?),
        title: row.text(first + 2)?,
        body: row.maybe_text(first + 3)?,
        url: row.maybe_text(first + 4)?,
        data: row.maybe_text(first + 5)?.map(Data::trusted),
        collapse: row.maybe_text(first + 6)?,
    };
    Ok(Notification {
        id: NotificationId(row.int(first)?),
        content,
        push: push_of(row.int(first + 7)?)?,
        created_at: row.natural(first + 8)?,
        expires_at: row.natural(first + 9)?,
    })
}

macro_rules! place {
    () => {
        "CASE WHEN n.audience = 2 AND i.is_live = 1 THEN n.told_partition ELSE i.told_partition END AS at_partition,
    CASE WHEN n.audience = 2 AND i.is_live = 1 THEN n.told_epoch ELSE i.told_epoch END AS at_epoch,
    CASE WHEN n.audience = 2 AND i.is_live = 1 THEN n.told_position ELSE i.told_position END AS at_position"
    };
}

/// The columns that [`place_of`] reads: where a row `i` of the inbox was told. What was for everyone was told in one
/// place for all, which its notification `n` has.
pub(crate) const PLACE: &str = place!();

/// The columns of a row `i` of the inbox that [`entry_of`] reads, after those of its notification.
pub(crate) const ENTRY: &str = concat!("i.state, i.is_seen, ", place!(), ", n.audience");

pub(crate) fn entry_of(row: &Row) -> Result<InboxEntry, SqlError> {
    const FIRST: usize = NOTIFICATION_COLUMNS;
    Ok(InboxEntry {
        notification: Arc::new(notification_of(row, 0)?),
        state: state_of(row.int(FIRST)?)?,
        is_seen: row.flag(FIRST + 1)?,
        is_for_everyone: row.int(FIRST + 5)? == AUDIENCE_EVERYONE,
        told_at: place_of(row, FIRST + 2)?,
    })
}

/// Notifications by their ids, each once however many rows speak of it.
pub(crate) async fn notifications(
    on: &mut Session,
    ids: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Arc<Notification>>, SqlError> {
    let dialect = on.dialect();
    let list = dialect.list("l", &[crate::sql::Column::Int("id")]);
    let join = dialect.join();
    let sql = format!("SELECT {NOTIFICATION} FROM {list} {join} tidings_notifications AS n ON n.id = l.id");
    let mut ids: Vec<i64> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = on.query(&sql, args![json_rows(ids.iter().map(|id| (id,)))]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, Arc::new(notification_of(row, 0)?)))).collect()
}

/// Rows for [`Dialect::list`], each a tuple.
pub(crate) fn json_rows<T: serde::Serialize>(rows: impl IntoIterator<Item = T>) -> Value {
    let rows: Vec<T> = rows.into_iter().collect();
    // Tuples of numbers and texts always have a JSON form.
    Value::from(serde_json::to_string(&rows).unwrap_or_else(|_| "[]".to_owned()))
}

/// That a user's wish `p` lets streams be told, or devices (`column`), at a time that is a parameter.
pub(crate) fn is_wished(dialect: Dialect, column: &str) -> String {
    let now = dialect.int_parameter();
    format!("(COALESCE(p.{column}, 1) = 1 AND COALESCE(p.mute_until, 0) <= {now})")
}
