//! How users stand to their notifications.

use std::collections::{BTreeMap, BTreeSet};

use tidings_core::ports::store::{Mark, Marked, Which};
use tidings_protocol::{Millis, UserId};

use crate::{
    codes::{ARCHIVED, UNREAD, json_rows},
    everyone, inbox,
    rows::{self, ROW},
    sql::{Column, Database, Session, SqlError, Value, args, transaction},
};

/// Ids that one statement takes.
const IDS_MAX: usize = 512;

/// Which of a user's rows, as a condition on `notification_id`.
struct Condition {
    sql: String,
    args: Vec<Value>,
}

impl Condition {
    /// The conditions that together name these rows.
    fn of(which: &Which) -> Vec<Self> {
        match which {
            Which::All => vec![Self { sql: "1 = 1".into(), args: Vec::new() }],
            Which::Through(id) => vec![Self { sql: "notification_id <= ?".into(), args: args![id.0].to_vec() }],
            Which::Ids(ids) => {
                let ids: BTreeSet<i64> = ids.iter().map(|id| id.0).collect();
                let ids: Vec<i64> = ids.into_iter().collect();
                ids.chunks(IDS_MAX).map(Self::of_ids).collect()
            }
        }
    }

    /// As few different statements as possible, for they are prepared: the last id stands several times.
    fn of_ids(ids: &[i64]) -> Self {
        let length = ids.len().next_power_of_two();
        let args = ids.iter().chain(std::iter::repeat(&ids[ids.len() - 1])).take(length).map(|id| Value::from(*id));
        Self { sql: format!("notification_id IN ({})", vec!["?"; length].join(", ")), args: args.collect() }
    }
}

/// What a mark does to a row of the inbox.
struct Change {
    /// Which rows it changes.
    changes: String,
    /// How.
    set: &'static str,
    /// By how much it changes the counts of such a row: unread and unseen.
    unread: String,
    unseen: String,
    /// Whether devices need not be told any more.
    is_settling: bool,
}

impl Change {
    fn of(mark: Mark) -> Self {
        let was_unread = format!("CASE WHEN state = {UNREAD} THEN 1 ELSE 0 END");
        let was_unseen = format!("CASE WHEN state = {UNREAD} AND is_seen = 0 THEN 1 ELSE 0 END");
        match mark {
            Mark::Read => Self {
                changes: format!("state = {UNREAD}"),
                set: "state = 1, is_seen = 1, was_read = 1, collapse_slot = NULL",
                unread: format!("-({was_unread})"),
                unseen: format!("-({was_unseen})"),
                is_settling: true,
            },
            Mark::Archive => Self {
                changes: format!("state <> {ARCHIVED}"),
                set: "state = 2, is_seen = 1, collapse_slot = NULL",
                unread: format!("-({was_unread})"),
                unseen: format!("-({was_unseen})"),
                is_settling: true,
            },
            Mark::Unread => Self {
                changes: format!("(state <> {UNREAD} OR is_seen = 0)"),
                set: "state = 0, is_seen = 1",
                unread: format!("1 - ({was_unread})"),
                unseen: format!("-({was_unseen})"),
                is_settling: false,
            },
            Mark::Seen => Self {
                changes: format!("state = {UNREAD} AND is_seen = 0"),
                set: "is_seen = 1",
                unread: "0".into(),
                unseen: "-1".into(),
                is_settling: false,
            },
        }
    }
}

pub(crate) async fn mark(
    database: &Database,
    user: &UserId,
    which: &Which,
    mark: Mark,
    now: Millis,
) -> Result<Marked, SqlError> {
    transaction!(database, on => {
        everyone::lock(on, user, now).await?;
        let change = Change::of(mark);
        let (mut changed, mut settled) = (0, 0);
        for condition in Condition::of(which) {
            changed += apply(on, user, &condition, &change, mark, now).await?;
            if change.is_settling {
                settled += settle(on, user, &condition).await?;
            }
        }
        Ok(Marked { changed, settled, counts: inbox::counts_of(on, user, now).await? })
    })
}

async fn apply(
    on: &mut Session,
    user: &UserId,
    condition: &Condition,
    change: &Change,
    mark: Mark,
    now: Millis,
) -> Result<usize, SqlError> {
    let dialect = on.dialect();
    // Not by the index on what expires: nearly all of an inbox has not, and a few ids of it may be meant.
    let rows = format!("user_id = ? AND expires_at + 0 > ? AND {} AND {}", change.changes, condition.sql);
    let args = [args![user.as_str(), now].to_vec(), condition.args.clone()].concat();
    let (unread, unseen) = (dialect.sum(&change.unread), dialect.sum(&change.unseen));
    let sql = format!("SELECT kind, {unread}, {unseen} FROM tidings_inbox WHERE {rows} GROUP BY kind");
    let mut kinds = Vec::new();
    for row in on.query(&sql, args.clone()).await? {
        kinds.push((row.text(0)?, (row.int(1)?, row.int(2)?)));
    }
    if kinds.is_empty() {
        return Ok(0);
    }
    let slots = if mark == Mark::Unread { free_slots(on, user, &rows, &args, now).await? } else { Vec::new() };
    let sql = format!("UPDATE tidings_inbox SET {} WHERE {rows}", change.set);
    let changed = on.execute(&sql, args).await?;
    if !slots.is_empty() {
        let columns = [ROW[0], ROW[1], Column::Text("slot")];
        let sql = dialect.update_listed("tidings_inbox", &columns, 2, "collapse_slot = l.slot", "1 = 1");
        on.execute(&sql, args![json_rows(slots.iter().map(|(slot, id)| (user.as_str(), id, slot)))]).await?;
    }
    let counts: BTreeMap<_, _> = kinds.iter().map(|(kind, change)| ((user.as_str(), kind.as_str()), *change)).collect();
    rows::add_counts(on, counts).await?;
    Ok(changed)
}

/// What becomes unread can be replaced again, unless something newer stands for the same: the values of `collapse`
/// that are free, each with the newest notification that is to have it.
async fn free_slots(
    on: &mut Session,
    user: &UserId,
    rows: &str,
    args: &[Value],
    now: Millis,
) -> Result<Vec<(String, i64)>, SqlError> {
    // What has expired stands in nobody's way.
    let sql = "UPDATE tidings_inbox SET collapse_slot = NULL
               WHERE user_id = ? AND expires_at <= ? AND collapse_slot IS NOT NULL";
    on.execute(sql, args![user.as_str(), now]).await?;
    let join = on.dialect().join();
    let sql = format!(
        "SELECT n.collapse, MAX(n.id)
         FROM (SELECT notification_id FROM tidings_inbox WHERE {rows}) AS i
         {join} tidings_notifications AS n ON n.id = i.notification_id
         LEFT JOIN tidings_inbox AS other ON other.user_id = ? AND other.collapse_slot = n.collapse
         WHERE n.collapse IS NOT NULL AND other.user_id IS NULL GROUP BY n.collapse"
    );
    let args = [args, &args![user.as_str()]].concat();
    let rows = on.query(&sql, args).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}

/// What has been read or put away need not be told, nor pushed. Answers how many deliveries were open.
async fn settle(on: &mut Session, user: &UserId, condition: &Condition) -> Result<usize, SqlError> {
    let rows = format!("user_id = ? AND {}", condition.sql);
    let args = [args![user.as_str()].to_vec(), condition.args.clone()].concat();
    let settled = on.execute(&format!("DELETE FROM tidings_deliveries WHERE {rows}"), args.clone()).await?;
    rows::call_off_pushes(on, &rows, &args).await?;
    Ok(settled)
}
