//! What is to be sent to devices.

use std::collections::BTreeSet;

use tidings_core::{
    notifications::NotificationId,
    ports::store::{DeadPush, PushJob, PushOutcome, PushResult},
};
use tidings_protocol::Millis;

use crate::{
    codes::{PUSH_GIVEN_UP, PUSH_SENT, PUSH_UNDER_WAY, json_rows, notifications, user_of},
    devices::{DEVICE, device_of, remove_of},
    escalation::set,
    rows,
    sql::{Column, Database, Session, SqlError, args, reading, transaction},
    telling,
};

/// Longest cause that is kept, in bytes: providers answer with pages at times.
const CAUSE_MAX_BYTES: usize = 500;

/// A push that has been taken.
struct Taken {
    id: i64,
    user: String,
    notification: i64,
    attempts: u32,
    is_expired: bool,
    device: Option<tidings_core::ports::store::Device>,
}

pub(crate) async fn take(
    database: &Database,
    limit: usize,
    lease_ms: u64,
    now: Millis,
) -> Result<Vec<PushJob>, SqlError> {
    // Looking costs no lock.
    if reading!(database, on => { Ok(next_due(on).await?.is_none_or(|at| at > now)) })? {
        return Ok(Vec::new());
    }
    let (taken, notifications) = transaction!(database, on => {
        let taken = lease(on, limit, lease_ms, now).await?;
        let notifications = notifications(on, taken.iter().map(|taken| taken.notification)).await?;
        Ok((taken, notifications))
    })?;
    let (mut useful, mut useless) = (Vec::with_capacity(taken.len()), Vec::new());
    for taken in taken {
        let cause = match &taken.device {
            _ if taken.is_expired => "it expired before it was sent",
            None => "the device was removed",
            Some(device) if device.quarantine.is_some() => "the device is in quarantine",
            Some(_) => {
                useful.push(taken);
                continue;
            }
        };
        useless.push(PushResult { id: taken.id, outcome: PushOutcome::Dead { cause: cause.to_owned() } });
    }
    // Not while they are being leased: their users would be locked after them, and not before.
    if !useless.is_empty() {
        on_pushed(database, &useless, now).await?;
    }
    let taken = useful;
    let users: BTreeSet<&str> = taken.iter().map(|taken| taken.user.as_str()).collect();
    let counts = telling::counts_of(database, &users, now).await?;
    let mut jobs = Vec::with_capacity(taken.len());
    for taken in taken {
        let (Some(device), Some(notification)) = (taken.device, notifications.get(&taken.notification)) else {
            continue;
        };
        jobs.push(PushJob {
            id: taken.id,
            user: user_of(&taken.user)?,
            device,
            notification: notification.clone(),
            unread: counts.get(&taken.user).map_or(0, |counts| counts.total.unread),
            attempts: taken.attempts,
        });
    }
    Ok(jobs)
}

/// Leases what is due. It is counted as an attempt now: so that one that kills its worker does not live for ever.
async fn lease(on: &mut Session, limit: usize, lease_ms: u64, now: Millis) -> Result<Vec<Taken>, SqlError> {
    let dialect = on.dialect();
    let (join, lock) = (dialect.join(), dialect.skip_locked());
    let sql = format!("SELECT id FROM tidings_pushes WHERE due_at <= ? ORDER BY due_at, id LIMIT ?{lock}");
    let ids = on.query(&sql, args![now, limit]).await?;
    let ids: Vec<i64> = ids.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // The revision is that of the device as it is now.
    let list = dialect.list("l", &[Column::Int("id")]);
    let sql = format!(
        "SELECT p.id, p.user_id, p.notification_id, p.attempts, n.expires_at, d.revision, {DEVICE}
         FROM {list} {join} tidings_pushes AS p ON p.id = l.id
         {join} tidings_notifications AS n ON n.id = p.notification_id
         LEFT JOIN tidings_devices AS d ON d.user_id = p.user_id AND d.device_id = p.device_id
         ORDER BY p.due_at, p.id"
    );
    let named = json_rows(ids.iter().map(|id| (id,)));
    let rows = on.query(&sql, args![named]).await?;
    let (mut taken, mut leases) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in &rows {
        let revision = row.maybe_int(5)?;
        taken.push(Taken {
            id: row.int(0)?,
            user: row.text(1)?,
            notification: row.int(2)?,
            attempts: u32::try_from(row.int(3)?).unwrap_or(0),
            is_expired: row.natural(4)? <= now,
            device: revision.map(|_| device_of(row, 6)).transpose()?,
        });
        leases.push((row.int(0)?, now.saturating_add(lease_ms).min(i64::MAX as u64), revision.unwrap_or(0)));
    }
    let columns = [Column::Int("id"), Column::Int("new_due_at"), Column::Int("new_revision")];
    let set = "due_at = l.new_due_at, is_leased = 1, attempts = attempts + 1, revision = l.new_revision";
    let sql = dialect.update_listed("tidings_pushes", &columns, 1, set, "1 = 1");
    on.execute(&sql, args![json_rows(leases)]).await?;
    Ok(taken)
}

async fn next_due(on: &mut Session) -> Result<Option<Millis>, SqlError> {
    let sql = "SELECT due_at FROM tidings_pushes WHERE due_at > 0 ORDER BY due_at LIMIT 1";
    on.optional(sql, []).await?.map(|row| row.natural(0)).transpose()
}

pub(crate) async fn next(database: &Database) -> Result<Option<Millis>, SqlError> {
    reading!(database, on => { next_due(on).await })
}

pub(crate) async fn on_pushed(database: &Database, results: &[PushResult], now: Millis) -> Result<(), SqlError> {
    transaction!(database, on => {
        let ids = json_rows(results.iter().map(|result| (result.id,)));
        let list = on.dialect().list("l", &[Column::Int("id")]);
        let join = on.dialect().join();
        let sql = format!("SELECT p.id, p.user_id FROM {list} {join} tidings_pushes AS p ON p.id = l.id");
        let users = on.query(&sql, args![ids]).await?;
        let users: Vec<String> = users.iter().map(|row| row.text(1)).collect::<Result<_, _>>()?;
        rows::lock_known(on, &users.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        for result in results {
            on_result(on, result, now).await?;
        }
        Ok(())
    })
}

/// What came of one. Of one that is not there any more nothing comes; one that was called off while it was being
/// sent is forgotten now.
async fn on_result(on: &mut Session, result: &PushResult, now: Millis) -> Result<(), SqlError> {
    let sql = "SELECT user_id, notification_id, device_id, revision, due_at, dead_id FROM tidings_pushes WHERE id = ?";
    let Some(row) = on.optional(sql, args![result.id]).await? else { return Ok(()) };
    let (user, notification, device) = (row.text(0)?, row.int(1)?, row.text(2)?);
    let (revision, is_called_off) = (row.int(3)?, row.maybe_int(4)?.is_none());
    if row.maybe_int(5)?.is_some() {
        return Ok(());
    }
    let same_device = "user_id = ? AND device_id = ? AND revision = ?";
    let same_args = args![user.as_str(), device.as_str(), revision];
    match &result.outcome {
        PushOutcome::Sent => {
            forget(on, result.id).await?;
            set(on, &format!("push = {PUSH_SENT}"), [(user.as_str(), notification)].into_iter()).await?;
            return Ok(());
        }
        PushOutcome::Retry { .. } | PushOutcome::Dead { .. } if is_called_off => forget(on, result.id).await?,
        PushOutcome::Retry { at, cause } => {
            let sql = "UPDATE tidings_pushes SET due_at = ?, is_leased = 0, cause = ? WHERE id = ?";
            on.execute(sql, args![(*at).max(1), cut(cause), result.id]).await?;
        }
        PushOutcome::Dead { cause } => die(on, result.id, cause, now).await?,
        PushOutcome::DeviceGone { .. } => {
            forget(on, result.id).await?;
            let sql = format!("SELECT COUNT(*) FROM tidings_devices WHERE {same_device}");
            if on.one(&sql, same_args).await?.flag(0)? {
                remove_of(on, &user, &device).await?;
            }
        }
        PushOutcome::Quarantine { cause } => {
            die(on, result.id, cause, now).await?;
            let sql = format!("UPDATE tidings_devices SET quarantine = ? WHERE {same_device}");
            on.execute(&sql, [args![cut(cause)].to_vec(), same_args.to_vec()].concat()).await?;
        }
    }
    conclude(on, &user, notification).await
}

async fn forget(on: &mut Session, id: i64) -> Result<(), SqlError> {
    on.execute("DELETE FROM tidings_pushes WHERE id = ?", args![id]).await?;
    Ok(())
}

async fn die(on: &mut Session, id: i64, cause: &str, now: Millis) -> Result<(), SqlError> {
    let sql =
        "UPDATE tidings_pushes SET due_at = NULL, is_leased = 0, cause = ?, died_at = ?, dead_id = id WHERE id = ?";
    on.execute(sql, args![cut(cause), now, id]).await?;
    Ok(())
}

/// Once none is under way and none was sent, a notification's pushes have failed.
async fn conclude(on: &mut Session, user: &str, notification: i64) -> Result<(), SqlError> {
    let sql = "SELECT COUNT(*) FROM tidings_pushes WHERE user_id = ? AND notification_id = ? AND due_at IS NOT NULL";
    if on.one(sql, args![user, notification]).await?.flag(0)? {
        return Ok(());
    }
    let sql = format!(
        "UPDATE tidings_inbox SET push = {PUSH_GIVEN_UP}
         WHERE user_id = ? AND notification_id = ? AND push = {PUSH_UNDER_WAY}"
    );
    on.execute(&sql, args![user, notification]).await?;
    Ok(())
}

/// As much of a cause as is kept.
fn cut(cause: &str) -> &str {
    let mut end = cause.len().min(CAUSE_MAX_BYTES);
    while !cause.is_char_boundary(end) {
        end -= 1;
    }
    &cause[..end]
}

pub(crate) async fn dead(database: &Database, before: Option<i64>, limit: usize) -> Result<Vec<DeadPush>, SqlError> {
    reading!(database, on => {
        let sql = "SELECT id, notification_id, user_id, device_id, provider, attempts, cause, died_at
                   FROM tidings_pushes WHERE dead_id < ? ORDER BY dead_id DESC LIMIT ?";
        let rows = on.query(sql, args![before.unwrap_or(i64::MAX), limit]).await?;
        let dead = |row: &crate::sql::Row| {
            Ok(DeadPush {
                id: row.int(0)?,
                notification: NotificationId(row.int(1)?),
                user: user_of(&row.text(2)?)?,
                device: row.text(3)?,
                provider: row.text(4)?,
                attempts: u32::try_from(row.int(5)?).unwrap_or(0),
                cause: row.maybe_text(6)?.unwrap_or_default(),
                died_at: row.maybe_int(7)?.and_then(|at| Millis::try_from(at).ok()).unwrap_or(0),
            })
        };
        rows.iter().map(dead).collect()
    })
}

pub(crate) async fn retry(database: &Database, id: i64, now: Millis) -> Result<bool, SqlError> {
    transaction!(database, on => {
        let sql = "SELECT p.user_id, p.notification_id FROM tidings_pushes AS p WHERE p.dead_id = ?";
        let Some(row) = on.optional(sql, args![id]).await? else { return Ok(false) };
        let (user, notification) = (row.text(0)?, row.int(1)?);
        rows::lock_known(on, &[&user]).await?;
        let sql = "UPDATE tidings_pushes SET due_at = ?, attempts = 0, died_at = NULL, dead_id = NULL WHERE dead_id = ?";
        if on.execute(sql, args![now.max(1), id]).await? == 0 {
            return Ok(false);
        }
        let sql = format!(
            "UPDATE tidings_inbox SET push = {PUSH_UNDER_WAY}
             WHERE user_id = ? AND notification_id = ? AND push = {PUSH_GIVEN_UP}"
        );
        on.execute(&sql, args![user.as_str(), notification]).await?;
        Ok(true)
    })
}
