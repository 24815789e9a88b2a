//! Deliveries whose arrival is uncertain, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use tidings_core::{
    notifications::NotificationId,
    ports::store::{Acknowledged, Due, Outcome, Settled, Settlement},
};
use tidings_protocol::{Millis, UserId};

use crate::{
    codes::{ALWAYS, NEVER, PLACE, PUSH_UNDER_WAY, json_rows, place_of, push_of, user_of},
    rows::{self, ROW},
    sql::{Database, Session, SqlError, Value, args, reading, transaction},
};

pub(crate) async fn due(database: &Database, limit: usize, now: Millis) -> Result<Vec<Due>, SqlError> {
    reading!(database, on => {
        let join = on.dialect().join();
        let sql = format!(
            "SELECT w.notification_id, w.user_id, w.push, {PLACE}
             FROM (SELECT notification_id, user_id, push, due_at FROM tidings_deliveries
                   WHERE due_at > 0 AND due_at <= ? ORDER BY due_at, notification_id, user_id LIMIT ?) AS w
             {join} tidings_inbox AS i ON i.user_id = w.user_id AND i.notification_id = w.notification_id
             {join} tidings_notifications AS n ON n.id = w.notification_id
             ORDER BY w.due_at, w.notification_id, w.user_id"
        );
        let rows = on.query(&sql, args![now, limit]).await?;
        let due = |row: &crate::sql::Row| {
            Ok(Due {
                id: NotificationId(row.int(0)?),
                user: user_of(&row.text(1)?)?,
                at: place_of(row, 3)?,
                push: push_of(row.int(2)?)?,
            })
        };
        rows.iter().map(due).collect()
    })
}

pub(crate) async fn next_due(database: &Database) -> Result<Option<Millis>, SqlError> {
    reading!(database, on => {
        let sql = "SELECT due_at FROM tidings_deliveries WHERE due_at > 0 ORDER BY due_at LIMIT 1";
        on.optional(sql, []).await?.map(|row| row.natural(0)).transpose()
    })
}

/// A delivery that is open.
struct Open {
    user: String,
    id: i64,
    how: Settlement,
    may_push: bool,
}

pub(crate) async fn settle(database: &Database, settled: &[Settled], now: Millis) -> Result<Vec<Outcome>, SqlError> {
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    transaction!(database, on => {
        let users: Vec<&str> = settled.iter().map(|settled| settled.user.as_str()).collect();
        rows::lock_known(on, &users).await?;
        let open = open(on, settled, now).await?;
        let named = json_rows(open.iter().map(|open| (&open.user, open.id)));
        on.execute(&on.dialect().delete_listed("tidings_deliveries", &ROW, "1 = 1"), args![named]).await?;
        let confirmed = open.iter().filter(|open| open.how != Settlement::Push);
        set(on, "is_delivered = 1", confirmed.map(|open| (open.user.as_str(), open.id))).await?;
        let reachable = push(on, &open, now).await?;
        let outcome = |open: &Open| match open.how {
            Settlement::Push | Settlement::ConfirmedAndPush if open.may_push && reachable.contains(&open.user) => {
                Outcome::Pushed
            }
            Settlement::Confirmed | Settlement::ConfirmedAndPush => Outcome::Confirmed,
            Settlement::Push if open.may_push => Outcome::NoDevice,
            Settlement::Push => Outcome::Waiting,
        };
        Ok(open.iter().map(outcome).collect())
    })
}

async fn open(on: &mut Session, settled: &[Settled], now: Millis) -> Result<Vec<Open>, SqlError> {
    let dialect = on.dialect();
    let (list, join) = (dialect.list("l", &ROW), dialect.join());
    let sql = format!(
        "SELECT d.user_id, d.notification_id, d.push, n.expires_at FROM {list}
         {join} tidings_deliveries AS d ON d.user_id = l.user_id AND d.notification_id = l.notification_id
         {join} tidings_notifications AS n ON n.id = d.notification_id"
    );
    let how: BTreeMap<_, _> =
        settled.iter().map(|settled| ((settled.user.as_str().to_owned(), settled.id.0), settled.how)).collect();
    let rows = on.query(&sql, args![json_rows(how.keys())]).await?;
    let mut open = Vec::with_capacity(rows.len());
    for row in &rows {
        let key = (row.text(0)?, row.int(1)?);
        let Some(how) = how.get(&key).copied() else { continue };
        // What has expired meanwhile is of no use on a device either.
        let may_push = row.int(2)? != NEVER && row.natural(3)? > now;
        open.push(Open { user: key.0, id: key.1, how, may_push });
    }
    Ok(open)
}

/// Queues pushes to the devices of the users of these, and answers who has devices.
async fn push(on: &mut Session, open: &[Open], now: Millis) -> Result<BTreeSet<String>, SqlError> {
    let pushed = open.iter().filter(|open| open.how != Settlement::Confirmed && open.may_push);
    let pushed: Vec<_> = pushed.map(|open| (open.user.as_str(), open.id)).collect();
    if pushed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let dialect = on.dialect();
    let (list, join, due_at) = (dialect.list("l", &ROW), dialect.join(), dialect.int_parameter());
    let devices =
        format!("FROM {list} {join} tidings_devices AS d ON d.user_id = l.user_id WHERE d.quarantine IS NULL");
    let named = json_rows(&pushed);
    let rows = on.query(&format!("SELECT DISTINCT d.user_id {devices}"), args![named.clone()]).await?;
    let reachable: BTreeSet<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
    let sql = format!(
        "INSERT INTO tidings_pushes (user_id, notification_id, device_id, provider, due_at, is_leased, attempts, revision)
         SELECT d.user_id, l.notification_id, d.device_id, CASE WHEN d.target = 2 THEN 'web_push' ELSE 'fcm' END,
             {due_at}, 0, 0, d.revision {devices}"
    );
    if !reachable.is_empty() {
        on.execute(&sql, args![now, named]).await?;
    }
    let under_way = pushed.into_iter().filter(|(user, _)| reachable.contains(*user));
    set(on, &format!("push = {PUSH_UNDER_WAY}"), under_way).await?;
    Ok(reachable)
}

/// Changes rows of inboxes.
pub(crate) async fn set<'a>(
    on: &mut Session,
    set: &str,
    rows: impl Iterator<Item = (&'a str, i64)>,
) -> Result<(), SqlError> {
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        let sql = on.dialect().update_listed("tidings_inbox", &ROW, 2, set, "1 = 1");
        on.execute(&sql, args![json_rows(rows)]).await?;
    }
    Ok(())
}

/// Marks what the client has as delivered, and calls off what was to be pushed, unless that is so in any case.
pub(crate) async fn acknowledge(
    database: &Database,
    user: &UserId,
    what: &Acknowledged,
    now: Millis,
) -> Result<usize, SqlError> {
    // Most often nothing is open: then nothing is locked.
    if reading!(database, on => { unacknowledged(on, user, what, now).await })?.is_empty() {
        return Ok(0);
    }
    transaction!(database, on => {
        rows::lock_known(on, &[user.as_str()]).await?;
        let rows = unacknowledged(on, user, what, now).await?;
        set(on, "is_delivered = 1", rows.iter().map(|row| (user.as_str(), row.id))).await?;
        let condition = "user_id = ? AND notification_id = ?";
        for row in rows.iter().filter(|row| !row.is_always) {
            let args = args![user.as_str(), row.id];
            on.execute(&format!("DELETE FROM tidings_deliveries WHERE {condition}"), &args).await?;
            rows::call_off_pushes(on, condition, &args).await?;
        }
        Ok(rows.iter().filter(|row| row.is_open).count())
    })
}

struct Unacknowledged {
    id: i64,
    /// Whether a delivery was waiting for this.
    is_open: bool,
    is_always: bool,
}

/// Those of what the client has that are not known to have arrived: by the delivery that is open, or by the
/// pushes that are not sent.
async fn unacknowledged(
    on: &mut Session,
    user: &UserId,
    what: &Acknowledged,
    now: Millis,
) -> Result<Vec<Unacknowledged>, SqlError> {
    let dialect = on.dialect();
    let (join, yes, no) = (dialect.join(), dialect.int(1), dialect.int(0));
    let row = "ON i.user_id = w.user_id AND i.notification_id = w.notification_id AND i.is_delivered = 0";
    let rows = match what {
        Acknowledged::One(id) => {
            let sql = format!(
                "SELECT i.notification_id, CASE WHEN d.user_id IS NULL THEN {no} ELSE {yes} END, n.push
                 FROM tidings_inbox AS i {join} tidings_notifications AS n ON n.id = i.notification_id
                 LEFT JOIN tidings_deliveries AS d ON d.user_id = i.user_id AND d.notification_id = i.notification_id
                 WHERE i.user_id = ? AND i.notification_id = ? AND i.is_delivered = 0 AND i.expires_at > ?"
            );
            on.query(&sql, args![user.as_str(), id.0, now]).await?
        }
        Acknowledged::Through { partition, at } => {
            let sql = format!(
                "SELECT i.notification_id, w.is_open, n.push
                 FROM (SELECT user_id, notification_id, {yes} AS is_open FROM tidings_deliveries
                       WHERE user_id = ? AND due_at > 0
                       UNION ALL
                       SELECT DISTINCT user_id, notification_id, {no} FROM tidings_pushes
                       WHERE user_id = ? AND due_at IS NOT NULL) AS w
                 {join} tidings_inbox AS i {row}
                 {join} tidings_notifications AS n ON n.id = i.notification_id
                 WHERE i.expires_at > ? AND ((i.told_partition = ? AND i.told_epoch = ? AND i.told_position <= ?)
                     OR (n.audience = 2 AND i.is_live = 1 AND n.told_partition = ? AND n.told_epoch = ?
                         AND n.told_position <= ?))"
            );
            let user = user.as_str();
            let place: [Value; 3] = args![partition.index(), i64::from(at.epoch.0), at.position.0];
            let args = [args![user, user, now].to_vec(), place.to_vec(), place.to_vec()].concat();
            on.query(&sql, args).await?
        }
    };
    let row = |row: &crate::sql::Row| {
        Ok(Unacknowledged { id: row.int(0)?, is_open: row.flag(1)?, is_always: row.int(2)? == ALWAYS })
    };
    rows.iter().map(row).collect()
}
