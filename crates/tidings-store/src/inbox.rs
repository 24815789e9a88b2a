//! Reading inboxes.

use std::collections::BTreeMap;

use tidings_core::{
    notifications::{Counts, InboxEntry},
    ports::store::{InboxPage, InboxQuery, Missed, MissedQuery, MissedSince},
};
use tidings_protocol::{Millis, UserId};

use crate::{
    codes::{ENTRY, NOTIFICATION, UNREAD, entry_of, is_wished, state_code},
    everyone,
    sql::{Database, Session, SqlError, args, reading},
    telling,
};

pub(crate) async fn page(
    database: &Database,
    user: &UserId,
    query: InboxQuery,
    now: Millis,
) -> Result<InboxPage, SqlError> {
    everyone::settle_in(database, user, now).await?;
    reading!(database, on => {
        let limit = query.limit.max(1);
        let before = query.before.map_or(i64::MAX, |id| id.0);
        // Each state is a range of the index; two of them are merged, so what is archived is not walked over.
        const OF_STATE: &str = "SELECT notification_id FROM tidings_inbox
            WHERE user_id = ? AND state = ? AND notification_id < ? AND expires_at > ?
            ORDER BY notification_id DESC LIMIT ?";
        let of = |state: i64| args![user.as_str(), state, before, now, limit + 1].to_vec();
        let (ids, mut args) = match query.state {
            Some(state) => (OF_STATE.to_owned(), of(state_code(state))),
            None => {
                let both = format!(
                    "SELECT notification_id FROM ({OF_STATE}) AS a UNION ALL SELECT notification_id FROM ({OF_STATE}) AS b"
                );
                (both, [of(UNREAD), of(UNREAD + 1)].concat())
            }
        };
        let join = on.dialect().join();
        let sql = format!(
            "SELECT {NOTIFICATION}, {ENTRY}
             FROM ({ids}) AS page
             {join} tidings_inbox AS i ON i.user_id = ? AND i.notification_id = page.notification_id
             {join} tidings_notifications AS n ON n.id = page.notification_id
             ORDER BY page.notification_id DESC LIMIT ?"
        );
        args.extend(args![user.as_str(), limit + 1]);
        let rows = on.query(&sql, args).await?;
        let entries: Vec<InboxEntry> = rows.iter().take(limit).map(entry_of).collect::<Result<_, _>>()?;
        let next = entries.last().filter(|_| rows.len() > limit).map(|entry| entry.notification.id);
        Ok(InboxPage { entries, next })
    })
}

pub(crate) async fn counts(database: &Database, user: &UserId, now: Millis) -> Result<Counts, SqlError> {
    everyone::settle_in(database, user, now).await?;
    reading!(database, on => { counts_of(on, user, now).await })
}

/// The counts of a user who has what is for everyone: what is stored, less what has expired since. In one
/// statement, so of one moment.
pub(crate) async fn counts_of(on: &mut Session, user: &UserId, now: Millis) -> Result<Counts, SqlError> {
    let unseen = on.dialect().sum("CASE WHEN is_seen = 0 THEN -1 ELSE 0 END");
    let sql = format!(
        "SELECT kind, unread, unseen FROM tidings_counts WHERE user_id = ?
         UNION ALL
         SELECT kind, -COUNT(*), {unseen} FROM tidings_inbox
         WHERE user_id = ? AND expires_at <= ? AND state = {UNREAD} GROUP BY kind"
    );
    let mut kinds: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for row in on.query(&sql, args![user.as_str(), user.as_str(), now]).await? {
        let (unread, unseen) = kinds.entry(row.text(0)?).or_default();
        *unread += row.int(1)?;
        *unseen += row.int(2)?;
    }
    Ok(telling::counts(kinds))
}

/// What a stream missed. First it is asked what is still to be told, and then what was: what is told in between is
/// among the entries or was unsettled, and what is accepted in between lies beyond the range.
pub(crate) async fn missed(database: &Database, query: &MissedQuery, now: Millis) -> Result<Missed, SqlError> {
    everyone::settle_in(database, &query.user, now).await?;
    let is_unsettled = reading!(database, on => { is_unsettled(on, &query.user, now).await })?;
    let limit = query.limit.max(1);
    let mut entries = reading!(database, on => {
        match &query.since {
            MissedSince::Told { .. } => told(on, query, limit + 1, now).await,
            MissedSince::Unread { after } => {
                unread(on, &query.user, after.map_or(0, |id| id.0), limit + 1, now).await
            }
        }
    })?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Missed { entries, has_more, is_unsettled })
}

async fn is_unsettled(on: &mut Session, user: &UserId, now: Millis) -> Result<bool, SqlError> {
    let dialect = on.dialect();
    let (join, one) = (dialect.join(), dialect.int(1));
    let sql = format!(
        "SELECT a.found FROM (
             SELECT {one} AS found FROM tidings_deliveries AS d {join} tidings_notifications AS n ON n.id = d.notification_id
             WHERE d.user_id = ? AND d.due_at = 0 AND d.is_live = 1 AND n.expires_at > ? LIMIT 1) AS a
         UNION ALL
         SELECT b.found FROM (
             SELECT {one} AS found FROM tidings_notifications
             WHERE everyone_untold > 0 AND expires_at > ? LIMIT 1) AS b"
    );
    Ok(on.optional(&sql, args![user.as_str(), now, now]).await?.is_some())
}

async fn told(on: &mut Session, query: &MissedQuery, limit: usize, now: Millis) -> Result<Vec<InboxEntry>, SqlError> {
    let MissedSince::Told { partition, after, through } = &query.since else { return Ok(Vec::new()) };
    let join = on.dialect().join();
    let range = args![partition.index(), i64::from(after.epoch.0), after.position.0, through.0];
    let user = || args![query.user.as_str()].to_vec();
    // Their own, and those for everyone, which were told in one place for all.
    let own = format!(
        "SELECT {NOTIFICATION}, {ENTRY} FROM tidings_inbox AS i
         {join} tidings_notifications AS n ON n.id = i.notification_id
         WHERE i.user_id = ? AND i.told_partition = ? AND i.told_epoch = ? AND i.told_position > ?
             AND i.told_position <= ? AND i.expires_at > ?
         ORDER BY i.told_position LIMIT ?"
    );
    let own = on.query(&own, [user(), range.to_vec(), args![now, limit].to_vec()].concat()).await?;
    let everyone = format!(
        "SELECT {NOTIFICATION}, {ENTRY} FROM tidings_notifications AS n
         {join} tidings_inbox AS i ON i.user_id = ? AND i.notification_id = n.id
         WHERE n.told_partition = ? AND n.told_epoch = ? AND n.told_position > ? AND n.told_position <= ?
             AND n.expires_at > ? AND i.is_live = 1
         ORDER BY n.told_position LIMIT ?"
    );
    let everyone = on.query(&everyone, [user(), range.to_vec(), args![now, limit].to_vec()].concat()).await?;
    let mut entries: Vec<InboxEntry> = own.iter().chain(&everyone).map(entry_of).collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| entry.told_at.map(|at| at.at.position));
    entries.truncate(limit);
    Ok(entries)
}

async fn unread(
    on: &mut Session,
    user: &UserId,
    after: i64,
    limit: usize,
    now: Millis,
) -> Result<Vec<InboxEntry>, SqlError> {
    let dialect = on.dialect();
    let (join, wished) = (dialect.join(), is_wished(dialect, "live"));
    let sql = format!(
        "SELECT {NOTIFICATION}, {ENTRY} FROM tidings_inbox AS i
         {join} tidings_notifications AS n ON n.id = i.notification_id
         LEFT JOIN tidings_preferences AS p ON p.user_id = i.user_id AND p.kind = i.kind
         WHERE i.user_id = ? AND i.state = {UNREAD} AND i.notification_id > ? AND i.expires_at > ? AND {wished}
         ORDER BY i.notification_id LIMIT ?"
    );
    let rows = on.query(&sql, args![user.as_str(), after, now, now, limit]).await?;
    rows.iter().map(entry_of).collect()
}
