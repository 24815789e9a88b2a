//! Rows of inboxes, and all that hangs on them: counts, deliveries, pushes, and what reports say.
//!
//! The rule of this file: whoever changes something of a user's has locked the user's row, in the order of the
//! users' ids. Then nothing else of theirs can change in between, and nobody waits in a circle.

use std::collections::{BTreeMap, BTreeSet};

use tidings_protocol::Millis;

use crate::{
    codes::{NEVER, PUSH_GIVEN_UP, PUSH_SENT, UNREAD, is_wished, json_rows},
    sql::{Column, Row, Session, SqlError, args},
};

/// Rows that one statement takes. More of them are several statements.
const CHUNK: usize = 2_000;

/// The keys of a row of an inbox, as lists name them.
pub(crate) const ROW: [Column; 2] = [Column::Text("user_id"), Column::Int("notification_id")];

/// A user whose row is locked, and up to where they have what is for everyone.
#[derive(Debug, Clone)]
pub(crate) struct Locked {
    pub(crate) user: String,
    pub(crate) everyone_through: i64,
}

/// Locks users that have something here already, by their ids.
pub(crate) async fn lock_known(on: &mut Session, users: &[&str]) -> Result<Vec<Locked>, SqlError> {
    let dialect = on.dialect();
    let list = dialect.list("l", &[Column::Text("user_id")]);
    let mut locked = Vec::with_capacity(users.len());
    let users: BTreeSet<&str> = users.iter().copied().collect();
    let users: Vec<&str> = users.into_iter().collect();
    for users in users.chunks(CHUNK) {
        let rows = match users {
            // Most often it is one.
            [user] => {
                let lock = dialect.for_update();
                let sql = format!("SELECT user_id, everyone_through FROM tidings_users WHERE user_id = ?{lock}");
                on.query(&sql, args![*user]).await?
            }
            _ => {
                let (join, lock) = (dialect.join(), dialect.for_update());
                let of = if dialect == crate::sql::Dialect::Postgres { " OF u" } else { "" };
                let sql = format!(
                    "SELECT u.user_id, u.everyone_through
                     FROM {list} {join} tidings_users AS u ON u.user_id = l.user_id ORDER BY u.user_id{lock}{of}"
                );
                on.query(&sql, args![json_rows(users.iter().map(|user| (user,)))]).await?
            }
        };
        for row in rows {
            locked.push(Locked { user: row.text(0)?, everyone_through: row.int(1)? });
        }
    }
    Ok(locked)
}

/// Locks users, who may be new.
pub(crate) async fn lock(on: &mut Session, users: &[&str]) -> Result<Vec<Locked>, SqlError> {
    let dialect = on.dialect();
    let users: BTreeSet<&str> = users.iter().copied().collect();
    let users: Vec<&str> = users.into_iter().collect();
    // Somebody may erase a user in between.
    for _ in 0..3 {
        let locked = lock_known(on, &users).await?;
        if locked.len() == users.len() {
            return Ok(locked);
        }
        let known: BTreeSet<&str> = locked.iter().map(|locked| locked.user.as_str()).collect();
        let new: Vec<&str> = users.iter().copied().filter(|user| !known.contains(user)).collect();
        let list = dialect.list("l", &[Column::Text("user_id")]);
        let sql = format!(
            "{} INTO tidings_users (user_id, everyone_through) SELECT l.user_id, 0 FROM {list} WHERE l.user_id <> ''{}",
            dialect.insert_ignore(),
            dialect.or_ignore()
        );
        for new in new.chunks(CHUNK) {
            on.execute(&sql, args![json_rows(new.iter().map(|user| (user,)))]).await?;
        }
    }
    Err(SqlError::Malformed("users come and go too quickly to be locked".into()))
}

/// What has to be known of a notification to put it into inboxes.
#[derive(Debug, Clone)]
pub(crate) struct Brief {
    pub(crate) id: i64,
    pub(crate) kind: String,
    pub(crate) collapse: Option<String>,
}

/// Puts notifications into inboxes of locked users, older ones first: rows, counts, and, if asked for, what is to
/// be told. An unread one with the same `collapse` goes; a newer one stays, and the older does not come.
pub(crate) async fn put(
    on: &mut Session,
    rows: &[(&str, &Brief)],
    is_told: bool,
    now: Millis,
) -> Result<usize, SqlError> {
    let mut put = 0;
    for rows in rows.chunks(CHUNK) {
        put += put_chunk(on, rows, is_told, now).await?;
    }
    Ok(put)
}

async fn put_chunk(on: &mut Session, rows: &[(&str, &Brief)], is_told: bool, now: Millis) -> Result<usize, SqlError> {
    let dialect = on.dialect();
    let superseded = make_room(on, rows, now).await?;
    let rows: Vec<(&str, &Brief)> =
        rows.iter().copied().filter(|(user, brief)| !superseded.contains(&(*user, brief.id))).collect();
    if !superseded.is_empty() {
        // They were in the inbox for no time at all.
        add_gone(on, superseded.iter().map(|(_, id)| (*id, Gone { recipients: 1, ..Gone::default() }))).await?;
    }
    if rows.is_empty() {
        return Ok(0);
    }
    let (list, join) = (dialect.list("l", &ROW), dialect.join());
    let named = json_rows(rows.iter().map(|(user, brief)| (user, brief.id)));
    let (live, push) = (is_wished(dialect, "live"), is_wished(dialect, "push"));
    let source = format!(
        "FROM {list} {join} tidings_notifications AS n ON n.id = l.notification_id
         LEFT JOIN tidings_preferences AS p ON p.user_id = l.user_id AND p.kind = n.kind"
    );
    let sql = format!(
        "INSERT INTO tidings_inbox (user_id, notification_id, kind, expires_at, state, is_seen, was_read, is_live,
             is_delivered, push, collapse_slot)
         SELECT l.user_id, n.id, n.kind, n.expires_at, {UNREAD}, 0, 0, CASE WHEN {live} THEN 1 ELSE 0 END,
             0, 0, n.collapse {source}"
    );
    let put = on.execute(&sql, args![now, named.clone()]).await?;
    let mut counts = BTreeMap::new();
    for (user, brief) in &rows {
        let (unread, unseen) = counts.entry((*user, brief.kind.as_str())).or_insert((0, 0));
        *unread += 1;
        *unseen += 1;
    }
    add_counts(on, counts).await?;
    if is_told {
        // What neither streams nor devices are told of has nothing to wait for.
        let sql = format!(
            "INSERT INTO tidings_deliveries (user_id, notification_id, due_at, is_live, push)
             SELECT l.user_id, n.id, 0, CASE WHEN {live} THEN 1 ELSE 0 END, CASE WHEN {push} THEN n.push ELSE {NEVER} END
             {source} WHERE {live} OR ({push} AND n.push <> {NEVER})"
        );
        on.execute(&sql, args![now, now, named, now, now]).await?;
    }
    Ok(put)
}

/// Removes the unread ones whose place is taken, and answers which of the new ones have been superseded.
async fn make_room<'a>(
    on: &mut Session,
    rows: &[(&'a str, &'a Brief)],
    now: Millis,
) -> Result<BTreeSet<(&'a str, i64)>, SqlError> {
    let mut superseded = BTreeSet::new();
    let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (user, brief) in rows {
        let Some(collapse) = brief.collapse.as_deref() else { continue };
        if let Some(older) = newest.insert((user, collapse), brief.id) {
            superseded.insert((*user, older));
        }
    }
    if newest.is_empty() {
        return Ok(superseded);
    }
    let dialect = on.dialect();
    let list = dialect.list("l", &[Column::Text("user_id"), Column::Text("slot"), Column::Int("id")]);
    let join = dialect.join();
    let sql = format!(
        "SELECT {REMOVED}, l.id, i.expires_at FROM {list}
         {join} tidings_inbox AS i ON i.user_id = l.user_id AND i.collapse_slot = l.slot"
    );
    let taken = on.query(&sql, args![json_rows(newest.iter().map(|((user, slot), id)| (user, slot, id)))]).await?;
    let mut removed = Vec::new();
    for row in &taken {
        let old = Removed::of(row)?;
        let new = row.int(REMOVED_COLUMNS)?;
        // What has expired stands in nobody's way.
        if old.id < new || row.natural(REMOVED_COLUMNS + 1)? <= now {
            removed.push(old);
            continue;
        }
        let user = rows.iter().find(|(user, brief)| brief.id == new && *user == old.user).map(|(user, _)| *user);
        superseded.extend(user.map(|user| (user, new)));
    }
    remove(on, &removed, true).await?;
    Ok(superseded)
}

/// The columns of a row `i` that is to be removed.
pub(crate) const REMOVED: &str =
    "i.user_id, i.notification_id, i.kind, i.state, i.is_seen, i.was_read, i.is_delivered, i.push";
/// How many they are.
pub(crate) const REMOVED_COLUMNS: usize = 8;

/// A row that is to be removed.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) user: String,
    pub(crate) id: i64,
    kind: String,
    is_unread: bool,
    is_seen: bool,
    was_read: bool,
    is_delivered: bool,
    push: i64,
}

impl Removed {
    pub(crate) fn of(row: &Row) -> Result<Self, SqlError> {
        Ok(Self {
            user: row.text(0)?,
            id: row.int(1)?,
            kind: row.text(2)?,
            is_unread: row.int(3)? == UNREAD,
            is_seen: row.flag(4)?,
            was_read: row.flag(5)?,
            is_delivered: row.flag(6)?,
            push: row.int(7)?,
        })
    }
}

/// Removes rows of locked users, with what hangs on them, and counts them among what is gone if the notification
/// itself lives on.
pub(crate) async fn remove(on: &mut Session, removed: &[Removed], is_reported: bool) -> Result<(), SqlError> {
    let dialect = on.dialect();
    for removed in removed.chunks(CHUNK) {
        let named = json_rows(removed.iter().map(|row| (&row.user, row.id)));
        on.execute(&dialect.delete_listed("tidings_inbox", &ROW, "1 = 1"), args![named.clone()]).await?;
        on.execute(&dialect.delete_listed("tidings_deliveries", &ROW, "1 = 1"), args![named.clone()]).await?;
        on.execute(&dialect.delete_listed("tidings_pushes", &ROW, "1 = 1"), args![named]).await?;
        let mut counts = BTreeMap::new();
        for row in removed.iter().filter(|row| row.is_unread) {
            let (unread, unseen) = counts.entry((row.user.as_str(), row.kind.as_str())).or_insert((0, 0));
            *unread -= 1;
            *unseen -= i64::from(!row.is_seen);
        }
        add_counts(on, counts).await?;
        if is_reported {
            let gone = |row: &Removed| Gone {
                recipients: 1,
                delivered: i64::from(row.is_delivered),
                pushed: i64::from(row.push == PUSH_SENT),
                failed: i64::from(row.push == PUSH_GIVEN_UP),
                was_read: i64::from(row.was_read),
            };
            add_gone(on, removed.iter().map(|row| (row.id, gone(row)))).await?;
        }
    }
    Ok(())
}

/// Adds to counts of locked users, or takes away: unread and unseen by user and kind.
pub(crate) async fn add_counts(on: &mut Session, counts: BTreeMap<(&str, &str), (i64, i64)>) -> Result<(), SqlError> {
    let counts: Vec<_> = counts.into_iter().filter(|(_, change)| *change != (0, 0)).collect();
    if counts.is_empty() {
        return Ok(());
    }
    let dialect = on.dialect();
    const KEYS: [Column; 2] = [Column::Text("user_id"), Column::Text("kind")];
    let list = dialect.list("l", &[KEYS[0], KEYS[1], Column::Int("unread"), Column::Int("unseen")]);
    let sql = format!(
        "INSERT INTO tidings_counts (user_id, kind, unread, unseen)
         SELECT l.user_id, l.kind, l.unread, l.unseen FROM {list} WHERE l.user_id <> ''{}
         unread = tidings_counts.unread + {}, unseen = tidings_counts.unseen + {}",
        dialect.on_conflict("user_id, kind"),
        dialect.excluded("unread"),
        dialect.excluded("unseen")
    );
    let rows = counts.iter().map(|((user, kind), (unread, unseen))| (user, kind, unread, unseen));
    on.execute(&sql, args![json_rows(rows)]).await?;
    let lesser: Vec<_> = counts.iter().filter(|(_, (unread, _))| *unread < 0).map(|(key, _)| *key).collect();
    if !lesser.is_empty() {
        // A kind that a user has nothing of any more takes no room.
        let sql = dialect.delete_listed("tidings_counts", &KEYS, "target.unread = 0 AND target.unseen = 0");
        on.execute(&sql, args![json_rows(lesser)]).await?;
    }
    Ok(())
}

/// What the report of a notification counts of rows that are gone.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Gone {
    recipients: i64,
    delivered: i64,
    pushed: i64,
    failed: i64,
    was_read: i64,
}

async fn add_gone(on: &mut Session, rows: impl Iterator<Item = (i64, Gone)>) -> Result<(), SqlError> {
    let mut gone: BTreeMap<i64, Gone> = BTreeMap::new();
    for (id, row) in rows {
        let sum = gone.entry(id).or_default();
        sum.recipients += row.recipients;
        sum.delivered += row.delivered;
        sum.pushed += row.pushed;
        sum.failed += row.failed;
        sum.was_read += row.was_read;
    }
    if gone.is_empty() {
        return Ok(());
    }
    let dialect = on.dialect();
    const COLUMNS: [&str; 5] = ["recipients", "delivered", "pushed", "failed", "was_read"];
    let mut columns = vec![Column::Int("notification_id")];
    columns.extend(COLUMNS.map(Column::Int));
    let list = dialect.list("l", &columns);
    let sums = COLUMNS.map(|column| format!("{column} = tidings_gone.{column} + {}", dialect.excluded(column)));
    let sql = format!(
        "INSERT INTO tidings_gone (notification_id, recipients, delivered, pushed, failed, was_read)
         SELECT l.notification_id, l.recipients, l.delivered, l.pushed, l.failed, l.was_read
         FROM {list} WHERE l.notification_id > 0{}{}",
        dialect.on_conflict("notification_id"),
        sums.join(", ")
    );
    let rows = gone.iter().map(|(id, sum)| (id, sum.recipients, sum.delivered, sum.pushed, sum.failed, sum.was_read));
    on.execute(&sql, args![json_rows(rows)]).await?;
    Ok(())
}

/// Calls off pushes that match a condition and are not sent: those that a worker has at the moment are forgotten
/// when it answers.
pub(crate) async fn call_off_pushes(
    on: &mut Session,
    condition: &str,
    condition_args: &[crate::sql::Value],
) -> Result<(), SqlError> {
    let sql = format!("DELETE FROM tidings_pushes WHERE {condition} AND due_at IS NOT NULL AND is_leased = 0");
    on.execute(&sql, condition_args).await?;
    let sql = format!("UPDATE tidings_pushes SET due_at = NULL WHERE {condition} AND due_at IS NOT NULL");
    on.execute(&sql, condition_args).await?;
    Ok(())
}
