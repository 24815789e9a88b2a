//! What is to be told to streams, and where it was.

use std::collections::{BTreeMap, BTreeSet};

use tidings_core::{
    notifications::{Counts, CountsOfKind, Kind},
    ports::store::{Told, Untold},
};
use tidings_protocol::Millis;

use crate::{
    codes::{NEVER, json_rows, notifications, place_values, push_of, user_of},
    everyone,
    rows::{self, ROW},
    sql::{Column, Database, Session, SqlError, Value, args, reading, transaction},
};

/// A row that has not been told.
struct Row {
    id: i64,
    user: Option<String>,
    is_live: bool,
    push: i64,
}

pub(crate) async fn untold(database: &Database, limit: usize, now: Millis) -> Result<Vec<Untold>, SqlError> {
    let (rows, notifications) = reading!(database, on => {
        let rows = untold_rows(on, limit, now).await?;
        let notifications = notifications(on, rows.iter().map(|row| row.id)).await?;
        Ok((rows, notifications))
    })?;
    let users: BTreeSet<&str> = rows.iter().filter_map(|row| row.user.as_deref()).collect();
    let counts = counts_of(database, &users, now).await?;
    let untold = rows.iter().filter_map(|row| Some((row, notifications.get(&row.id)?)));
    untold
        .map(|(row, notification)| {
            Ok(Untold {
                notification: notification.clone(),
                user: row.user.as_deref().map(user_of).transpose()?,
                counts: row.user.as_ref().map(|user| counts.get(user).cloned().unwrap_or_default()),
                is_live: row.is_live,
                push: push_of(row.push)?,
            })
        })
        .collect()
}

async fn untold_rows(on: &mut Session, limit: usize, now: Millis) -> Result<Vec<Row>, SqlError> {
    let sql = "SELECT id, push FROM tidings_notifications WHERE everyone_untold > 0 AND expires_at > ?
               ORDER BY everyone_untold LIMIT ?";
    let everyone = on.query(sql, args![now, limit]).await?;
    let dialect = on.dialect();
    let join = dialect.join();
    let sql = format!(
        "SELECT d.notification_id, d.push, d.user_id, d.is_live
         FROM tidings_deliveries AS d {join} tidings_notifications AS n ON n.id = d.notification_id
         WHERE d.due_at = 0 AND n.expires_at > ? ORDER BY d.notification_id, d.user_id LIMIT ?"
    );
    let users = on.query(&sql, args![now, limit]).await?;
    let mut rows = Vec::with_capacity(everyone.len() + users.len());
    for row in &everyone {
        rows.push(Row { id: row.int(0)?, push: row.int(1)?, user: None, is_live: true });
    }
    for row in &users {
        rows.push(Row { id: row.int(0)?, push: row.int(1)?, user: Some(row.text(2)?), is_live: row.flag(3)? });
    }
    rows.sort_by(|a, b| (a.id, &a.user).cmp(&(b.id, &b.user)));
    rows.truncate(limit);
    Ok(rows)
}

/// The counts of many users. What is pending for everyone is counted without writing it, unless it might
/// take the place of something.
pub(crate) async fn counts_of(
    database: &Database,
    users: &BTreeSet<&str>,
    now: Millis,
) -> Result<BTreeMap<String, Counts>, SqlError> {
    if users.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (mut sums, pending, through) = reading!(database, on => {
        let last = everyone::last(on).await?;
        let (sums, through) = stored_counts_of(on, users, now).await?;
        let lowest = through.values().copied().min().unwrap_or(last);
        let pending = if lowest < last { everyone::pending(on, lowest, last, now).await? } else { Vec::new() };
        Ok((sums, pending, through))
    })?;
    if pending.iter().any(|pending| pending.brief.collapse.is_some()) {
        (sums, _) = transaction!(database, on => {
            let users: Vec<&str> = users.iter().copied().collect();
            let locked = rows::lock_known(on, &users).await?;
            everyone::catch_up(on, &locked, now).await?;
            stored_counts_of(on, &users.into_iter().collect(), now).await
        })?;
    } else {
        for pending in &pending {
            for (user, _) in through.iter().filter(|(_, through)| **through < pending.seq) {
                let kinds: &mut BTreeMap<String, (i64, i64)> = sums.entry(user.clone()).or_default();
                let (unread, unseen) = kinds.entry(pending.brief.kind.clone()).or_default();
                *unread += 1;
                *unseen += 1;
            }
        }
    }
    Ok(sums.into_iter().map(|(user, kinds)| (user, counts(kinds))).collect())
}

/// Counts from sums by kind.
pub(crate) fn counts(kinds: BTreeMap<String, (i64, i64)>) -> Counts {
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    Counts::of(kinds.into_iter().map(|(kind, (unread, unseen))| {
        (Kind::trusted(&kind), CountsOfKind { unread: natural(unread), unseen: natural(unseen) })
    }))
}

type Sums = BTreeMap<String, BTreeMap<String, (i64, i64)>>;

/// What the inboxes of users have, in one statement, so of one moment; and up to where users have what is for
/// everyone.
async fn stored_counts_of(
    on: &mut Session,
    users: &BTreeSet<&str>,
    now: Millis,
) -> Result<(Sums, BTreeMap<String, i64>), SqlError> {
    let dialect = on.dialect();
    let (list, join) = (dialect.list("l", &[Column::Text("user_id")]), dialect.join());
    let (zero, none) = (dialect.int(0), dialect.int(-1));
    let unseen = dialect.sum("CASE WHEN i.is_seen = 0 THEN -1 ELSE 0 END");
    let sql = format!(
        "SELECT l.user_id, '' AS kind, {zero} AS unread, {zero} AS unseen, COALESCE(u.everyone_through, 0) AS through
         FROM {list} LEFT JOIN tidings_users AS u ON u.user_id = l.user_id
         UNION ALL
         SELECT c.user_id, c.kind, c.unread, c.unseen, {none}
         FROM {list} {join} tidings_counts AS c ON c.user_id = l.user_id
         UNION ALL
         SELECT i.user_id, i.kind, -COUNT(*), {unseen}, {none}
         FROM {list} {join} tidings_inbox AS i ON i.user_id = l.user_id
         WHERE i.expires_at <= ? AND i.state = 0 GROUP BY i.user_id, i.kind"
    );
    let named = json_rows(users.iter().map(|user| (user,)));
    let rows = on.query(&sql, args![named.clone(), named.clone(), named, now]).await?;
    let (mut sums, mut through) = (Sums::new(), BTreeMap::new());
    for row in &rows {
        let (user, at) = (row.text(0)?, row.int(4)?);
        if at >= 0 {
            through.insert(user, at);
            continue;
        }
        let (unread, unseen) = sums.entry(user).or_default().entry(row.text(1)?).or_default();
        *unread += row.int(2)?;
        *unseen += row.int(3)?;
    }
    Ok((sums, through))
}

pub(crate) async fn on_told(database: &Database, told: &[Told]) -> Result<(), SqlError> {
    transaction!(database, on => {
        for told in told.iter().filter(|told| told.user.is_none()) {
            everyone_was_told(on, told).await?;
        }
        let told: Vec<&Told> = told.iter().filter(|told| told.user.is_some()).collect();
        if !told.is_empty() {
            users_were_told(on, &told).await?;
        }
        Ok(())
    })
}

async fn everyone_was_told(on: &mut Session, told: &Told) -> Result<(), SqlError> {
    let [partition, epoch, position] = place_values(told.at);
    let escalate_at = told.escalate_at.map(|at| at.max(1) as i64);
    let sql = "UPDATE tidings_notifications SET everyone_untold = NULL, told_partition = ?, told_epoch = ?,
                   told_position = ?, escalate_at = ?
               WHERE id = ? AND everyone_untold > 0";
    let is_first = on.execute(sql, args![partition, epoch, position, escalate_at, told.id.0]).await? > 0;
    if !is_first || escalate_at.is_none() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO tidings_fan_outs (notification_id, reached)
         SELECT id, '' FROM tidings_notifications WHERE id = ? AND push <> {NEVER}"
    );
    on.execute(&sql, args![told.id.0]).await?;
    Ok(())
}

async fn users_were_told(on: &mut Session, told: &[&Told]) -> Result<(), SqlError> {
    let name = |told: &Told| told.user.as_ref().map_or(String::new(), |user| user.as_str().to_owned());
    let users: Vec<String> = told.iter().map(|told| name(told)).collect();
    rows::lock_known(on, &users.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let dialect = on.dialect();
    let placed = told.iter().filter(|told| told.at.is_some());
    let rows: Vec<_> = placed.map(|told| (name(told), told.id.0, place_values(told.at))).collect();
    if !rows.is_empty() {
        let columns =
            [ROW[0], ROW[1], Column::Int("new_partition"), Column::Int("new_epoch"), Column::Int("new_position")];
        let set = "told_partition = l.new_partition, told_epoch = l.new_epoch, told_position = l.new_position";
        let sql = dialect.update_listed("tidings_inbox", &columns, 2, set, "1 = 1");
        let rows = rows.iter().map(|(user, id, [partition, epoch, position])| (user, id, partition, epoch, position));
        on.execute(&sql, [json_rows(rows)]).await?;
    }
    // Not by the index on what is due, where all that is untold stands together: with a hundred thousand of them it
    // was walked, and the list for each.
    let is_untold = "target.due_at + 0 = 0";
    let waiting = told.iter().filter_map(|told| Some((name(told), told.id.0, told.escalate_at?.max(1))));
    let waiting: Vec<_> = waiting.collect();
    if !waiting.is_empty() {
        let columns = [ROW[0], ROW[1], Column::Int("new_due_at")];
        let sql = dialect.update_listed("tidings_deliveries", &columns, 2, "due_at = l.new_due_at", is_untold);
        on.execute(&sql, [json_rows(waiting)]).await?;
    }
    let done: Vec<Value> = match told.iter().filter(|told| told.escalate_at.is_none()).collect::<Vec<_>>() {
        done if done.is_empty() => return Ok(()),
        done => vec![json_rows(done.iter().map(|told| (name(told), told.id.0)))],
    };
    on.execute(&dialect.delete_listed("tidings_deliveries", &ROW, is_untold), done).await?;
    Ok(())
}
