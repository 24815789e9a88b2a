//! Forgetting: what has expired, and users who want to be forgotten.

use tidings_protocol::{Millis, UserId};

use crate::{
    codes::json_rows,
    rows::{self, REMOVED, Removed},
    sql::{Column, Database, Session, SqlError, args, reading, transaction},
};

/// Rows of an inbox that go at a time when a user is erased.
const ERASED_AT_ONCE: usize = 2_000;

/// Removes rows of what has expired, and then the notifications that nobody has any more. Answers how many rows of
/// inboxes and notifications went.
pub(crate) async fn sweep(database: &Database, limit: usize, now: Millis) -> Result<usize, SqlError> {
    let limit = limit.max(1);
    // Looking costs no lock.
    let sql = "SELECT id FROM tidings_notifications WHERE expires_at <= ? ORDER BY expires_at LIMIT 1";
    if reading!(database, on => { Ok(on.optional(sql, args![now]).await?.is_none()) })? {
        return Ok(0);
    }
    transaction!(database, on => {
        let expired = expired(on, limit, now).await?;
        let join = on.dialect().join();
        let list = on.dialect().list("l", &[Column::Int("id")]);
        let ids = json_rows(expired.iter().map(|id| (id,)));
        let sql = format!(
            "SELECT i.user_id, i.notification_id FROM {list}
             {join} tidings_inbox AS i ON i.notification_id = l.id LIMIT ?"
        );
        let keys = on.query(&sql, args![ids.clone(), limit]).await?;
        let mut users = Vec::with_capacity(keys.len());
        let mut named = Vec::with_capacity(keys.len());
        for row in &keys {
            users.push(row.text(0)?);
            named.push((row.text(0)?, row.int(1)?));
        }
        rows::lock_known(on, &users.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        // Now that nobody else changes them, what they are.
        let pairs = on.dialect().list("l", &rows::ROW);
        let sql = format!(
            "SELECT {REMOVED} FROM {pairs}
             {join} tidings_inbox AS i ON i.user_id = l.user_id AND i.notification_id = l.notification_id"
        );
        let removed = on.query(&sql, args![json_rows(&named)]).await?;
        let removed: Vec<Removed> = removed.iter().map(Removed::of).collect::<Result<_, _>>()?;
        rows::remove(on, &removed, false).await?;
        if keys.len() == limit {
            return Ok(limit);
        }
        let forgotten = forget(on, &expired).await?;
        Ok(keys.len() + forgotten)
    })
}

/// The oldest of what has expired.
async fn expired(on: &mut Session, limit: usize, now: Millis) -> Result<Vec<i64>, SqlError> {
    let lock = on.dialect().skip_locked();
    let sql =
        format!("SELECT id FROM tidings_notifications WHERE expires_at <= ? ORDER BY expires_at, id LIMIT ?{lock}");
    let rows = on.query(&sql, args![now, limit]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Forgets notifications that nobody has any more. One that was being written out when it expired is forgotten
/// by that first.
async fn forget(on: &mut Session, expired: &[i64]) -> Result<usize, SqlError> {
    let dialect = on.dialect();
    let ids = || args![json_rows(expired.iter().map(|id| (id,)))];
    const ID: [Column; 1] = [Column::Int("notification_id")];
    on.execute(&dialect.delete_listed("tidings_fan_outs", &ID, "1 = 1"), ids()).await?;
    on.execute(&dialect.delete_listed("tidings_gone", &ID, "1 = 1"), ids()).await?;
    // A row that came in between, from a transaction that began before it expired, is for the next time.
    let unused = "NOT EXISTS (SELECT 1 FROM tidings_inbox AS i WHERE i.notification_id = target.id)";
    let sql = dialect.delete_listed("tidings_notifications", &[Column::Int("id")], unused);
    on.execute(&sql, ids()).await
}

/// Forgets all of a user. Answers how many rows of the inbox went.
pub(crate) async fn erase_user(database: &Database, user: &UserId) -> Result<usize, SqlError> {
    transaction!(database, on => {
        let user = user.as_str();
        if rows::lock_known(on, &[user]).await?.is_empty() {
            return Ok(0);
        }
        let mut erased = 0;
        loop {
            let sql = format!("SELECT {REMOVED} FROM tidings_inbox AS i WHERE i.user_id = ? LIMIT ?");
            let removed = on.query(&sql, args![user, ERASED_AT_ONCE]).await?;
            let removed: Vec<Removed> = removed.iter().map(Removed::of).collect::<Result<_, _>>()?;
            if removed.is_empty() {
                break;
            }
            rows::remove(on, &removed, true).await?;
            erased += removed.len();
        }
        for table in ["counts", "follows", "preferences", "devices", "deliveries", "pushes", "users"] {
            on.execute(&format!("DELETE FROM tidings_{table} WHERE user_id = ?"), args![user]).await?;
        }
        Ok(erased)
    })
}
