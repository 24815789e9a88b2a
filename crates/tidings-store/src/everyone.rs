//! What is for everyone: stored once, and written into a user's inbox when it is next looked at.
//!
//! Such notifications are numbered in the order in which they are committed. A user has what is up to a number,
//! their watermark; what lies between that and the last number is pending.

use tidings_protocol::{Millis, UserId};

use crate::{
    codes::json_rows,
    rows::{self, Brief, Locked},
    sql::{Column, Database, Session, SqlError, args, reading, transaction},
};

/// Most pending ones that a user gets, the newest. One who has been away for longer has enough to read.
const PENDING_MAX: usize = 1_000;

/// A notification that some users have not got yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) brief: Brief,
    pub(crate) seq: i64,
}

/// The last number.
pub(crate) async fn last(on: &mut Session) -> Result<i64, SqlError> {
    on.one("SELECT value FROM tidings_meta WHERE name = 'everyone'", []).await?.int(0)
}

/// Takes the next number, and the lock on it until the transaction ends.
pub(crate) async fn next(on: &mut Session) -> Result<i64, SqlError> {
    on.execute("UPDATE tidings_meta SET value = value + 1 WHERE name = 'everyone'", []).await?;
    last(on).await
}

/// What lies between two numbers and has not expired, oldest first.
pub(crate) async fn pending(on: &mut Session, after: i64, through: i64, now: Millis) -> Result<Vec<Pending>, SqlError> {
    let sql = "SELECT id, kind, collapse, everyone_seq FROM tidings_notifications
               WHERE everyone_seq > ? AND everyone_seq <= ? AND expires_at > ? ORDER BY everyone_seq DESC LIMIT ?";
    let rows = on.query(sql, args![after, through, now, PENDING_MAX]).await?;
    let pending = rows.iter().rev().map(|row| {
        let brief = Brief { id: row.int(0)?, kind: row.text(1)?, collapse: row.maybe_text(2)? };
        Ok(Pending { brief, seq: row.int(3)? })
    });
    pending.collect()
}

/// Gives locked users what is pending for them.
pub(crate) async fn catch_up(on: &mut Session, users: &[Locked], now: Millis) -> Result<(), SqlError> {
    let last = last(on).await?;
    let behind: Vec<&Locked> = users.iter().filter(|user| user.everyone_through < last).collect();
    let Some(after) = behind.iter().map(|user| user.everyone_through).min() else { return Ok(()) };
    let pending = pending(on, after, last, now).await?;
    for user in &behind {
        let rows: Vec<(&str, &Brief)> = pending
            .iter()
            .filter(|pending| pending.seq > user.everyone_through)
            .map(|pending| (user.user.as_str(), &pending.brief))
            .collect();
        rows::put(on, &rows, false, now).await?;
    }
    let dialect = on.dialect();
    let list = [Column::Text("user_id"), Column::Int("through")];
    let sql = dialect.update_listed("tidings_users", &list, 1, "everyone_through = l.through", "1 = 1");
    on.execute(&sql, args![json_rows(behind.iter().map(|user| (&user.user, last)))]).await?;
    Ok(())
}

/// Locks a user, who may be new, and gives them what is pending.
pub(crate) async fn lock(on: &mut Session, user: &UserId, now: Millis) -> Result<(), SqlError> {
    let locked = rows::lock(on, &[user.as_str()]).await?;
    catch_up(on, &locked, now).await
}

/// Makes sure, before a user's inbox is read, that what is for everyone is in it.
pub(crate) async fn settle_in(database: &Database, user: &UserId, now: Millis) -> Result<(), SqlError> {
    let sql = "SELECT m.value, u.everyone_through FROM tidings_meta AS m
               LEFT JOIN tidings_users AS u ON u.user_id = ? WHERE m.name = 'everyone'";
    let is_behind = reading!(database, on => {
        let row = on.one(sql, args![user.as_str()]).await?;
        Ok(row.maybe_int(1)?.unwrap_or(0) < row.int(0)?)
    })?;
    if is_behind {
        transaction!(database, on => { lock(on, user, now).await })?;
    }
    Ok(())
}
