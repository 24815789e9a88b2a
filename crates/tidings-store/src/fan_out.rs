//! Writing a notification out to many, a batch at a time.

use tidings_core::{notifications::NotificationId, ports::store::FanOut};
use tidings_protocol::Millis;

use crate::{
    codes::{AUDIENCE_EVERYONE, NEVER, UNREAD, is_wished, json_rows},
    everyone,
    rows::{self, Brief, ROW},
    sql::{Database, Session, SqlError, args, transaction},
};

/// A notification that is being written out.
struct Job {
    brief: Brief,
    is_everyone: bool,
    channel: String,
    /// Up to which user it has been.
    reached: String,
    is_expired: bool,
    escalate_at: Option<i64>,
}

/// Takes the oldest notification that is not written out, and takes it further. How far it has come is committed
/// with the rows, so each user gets it once, whatever happens in between; another node takes the next one meanwhile.
pub(crate) async fn fan_out(database: &Database, limit: usize, now: Millis) -> Result<FanOut, SqlError> {
    transaction!(database, on => {
        let Some(job) = take(on, now).await? else { return Ok(FanOut::Idle) };
        let id = NotificationId(job.brief.id);
        let users = if job.is_expired { Vec::new() } else { batch(on, &job, limit).await? };
        let is_done = users.len() < limit;
        let rows = match job.is_everyone {
            _ if users.is_empty() => 0,
            true => to_devices_of(on, &job, &users, now).await?,
            false => to_followers(on, &job, &users, now).await?,
        };
        match users.last().filter(|_| !is_done) {
            Some(reached) => {
                let sql = "UPDATE tidings_fan_outs SET reached = ? WHERE notification_id = ?";
                on.execute(sql, args![reached.as_str(), job.brief.id]).await?;
            }
            None => {
                on.execute("DELETE FROM tidings_fan_outs WHERE notification_id = ?", args![job.brief.id]).await?;
            }
        }
        Ok(FanOut::Wrote { id, rows, is_done })
    })
}

async fn take(on: &mut Session, now: Millis) -> Result<Option<Job>, SqlError> {
    let lock = on.dialect().skip_locked();
    let sql = format!("SELECT notification_id, reached FROM tidings_fan_outs ORDER BY notification_id LIMIT 1{lock}");
    let Some(job) = on.optional(&sql, []).await? else { return Ok(None) };
    let id = job.int(0)?;
    let sql =
        "SELECT kind, collapse, audience, channel, expires_at, escalate_at FROM tidings_notifications WHERE id = ?";
    let row = on.one(sql, args![id]).await?;
    Ok(Some(Job {
        brief: Brief { id, kind: row.text(0)?, collapse: row.maybe_text(1)? },
        is_everyone: row.int(2)? == AUDIENCE_EVERYONE,
        channel: row.maybe_text(3)?.unwrap_or_default(),
        reached: job.text(1)?,
        is_expired: row.natural(4)? <= now,
        escalate_at: row.maybe_int(5)?,
    }))
}

/// The next users: followers of the channel, or who has a device.
async fn batch(on: &mut Session, job: &Job, limit: usize) -> Result<Vec<String>, SqlError> {
    let rows = if job.is_everyone {
        let sql = "SELECT DISTINCT user_id FROM tidings_devices WHERE user_id > ? ORDER BY user_id LIMIT ?";
        on.query(sql, args![job.reached.as_str(), limit]).await?
    } else {
        let sql = "SELECT user_id FROM tidings_follows WHERE channel = ? AND user_id > ? ORDER BY user_id LIMIT ?";
        on.query(sql, args![job.channel.as_str(), job.reached.as_str(), limit]).await?
    };
    rows.iter().map(|row| row.text(0)).collect()
}

async fn to_followers(on: &mut Session, job: &Job, users: &[String], now: Millis) -> Result<usize, SqlError> {
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    // Whoever has been erased meanwhile is not among them.
    let locked = rows::lock_known(on, &users).await?;
    let rows: Vec<_> = locked.iter().map(|user| (user.user.as_str(), &job.brief)).collect();
    rows::put(on, &rows, true, now).await
}

/// All have been told, by one event; what is written out is whose confirmation is waited for.
async fn to_devices_of(on: &mut Session, job: &Job, users: &[String], now: Millis) -> Result<usize, SqlError> {
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let locked = rows::lock_known(on, &users).await?;
    everyone::catch_up(on, &locked, now).await?;
    let dialect = on.dialect();
    let (list, join, wished) = (dialect.list("l", &ROW), dialect.join(), is_wished(dialect, "push"));
    let due_at = dialect.int_parameter();
    let sql = format!(
        "INSERT INTO tidings_deliveries (user_id, notification_id, due_at, is_live, push)
         SELECT i.user_id, i.notification_id, {due_at}, i.is_live, n.push
         FROM {list} {join} tidings_inbox AS i ON i.user_id = l.user_id AND i.notification_id = l.notification_id
         {join} tidings_notifications AS n ON n.id = l.notification_id
         LEFT JOIN tidings_preferences AS p ON p.user_id = l.user_id AND p.kind = n.kind
         WHERE i.state = {UNREAD} AND i.is_delivered = 0 AND n.push <> {NEVER} AND {wished}"
    );
    let named = json_rows(locked.iter().map(|user| (&user.user, job.brief.id)));
    on.execute(&sql, args![job.escalate_at.unwrap_or(1).max(1), named, now]).await
}
