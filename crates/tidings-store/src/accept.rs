//! Taking notifications.

use tidings_core::{
    notifications::{NotificationId, Recipients},
    ports::store::{AcceptError, Accepted, NewNotification},
};

use crate::{
    codes::{AUDIENCE_EVERYONE, AUDIENCE_FOLLOWERS, AUDIENCE_USERS, push_code},
    everyone,
    rows::{self, Brief},
    sql::{Database, Session, SqlError, args, transaction},
};

/// Takes a notification. Two that come with the same key at once: the second one's insert fails, and its
/// transaction, run again, finds the first.
pub(crate) async fn accept(database: &Database, new: &NewNotification) -> Result<Accepted, AcceptError> {
    let accepted = transaction!(database, on => {
        if let Some(earlier) = earlier(on, new).await? {
            return Ok(earlier);
        }
        let id = insert(on, new).await?;
        match &new.recipients {
            Recipients::Users(users) => {
                let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
                let locked = rows::lock(on, &users).await?;
                let brief = Brief {
                    id,
                    kind: new.content.kind.as_str().to_owned(),
                    collapse: new.content.collapse.clone(),
                };
                let rows: Vec<_> = locked.iter().map(|user| (user.user.as_str(), &brief)).collect();
                rows::put(on, &rows, true, new.created_at).await?;
            }
            Recipients::FollowersOf(_) => {
                let sql = "INSERT INTO tidings_fan_outs (notification_id, reached) VALUES (?, '')";
                on.execute(sql, args![id]).await?;
            }
            // Who has a device is pushed to once all have been told.
            Recipients::Everyone => {}
        }
        Ok(Ok(Accepted { id: NotificationId(id), is_duplicate: false }))
    });
    accepted.map_err(tidings_core::ports::store::StoreError::from)?
}

/// What an earlier request with the same key was answered. A key lives as long as its notification.
async fn earlier(on: &mut Session, new: &NewNotification) -> Result<Option<Result<Accepted, AcceptError>>, SqlError> {
    let Some((key, fingerprint)) = &new.key else { return Ok(None) };
    let sql = "SELECT id, fingerprint, expires_at FROM tidings_notifications WHERE idempotency_key = ?";
    let Some(row) = on.optional(sql, args![key.as_str()]).await? else { return Ok(None) };
    let id = row.int(0)?;
    if row.natural(2)? <= new.created_at {
        let sql = "UPDATE tidings_notifications SET idempotency_key = NULL WHERE id = ?";
        on.execute(sql, args![id]).await?;
        return Ok(None);
    }
    if row.maybe_bytes(1)?.as_deref() != Some(&fingerprint.0[..]) {
        return Ok(Some(Err(AcceptError::KeyConflict)));
    }
    Ok(Some(Ok(Accepted { id: NotificationId(id), is_duplicate: true })))
}

async fn insert(on: &mut Session, new: &NewNotification) -> Result<i64, SqlError> {
    let (audience, channel, seq) = match &new.recipients {
        Recipients::Users(_) => (AUDIENCE_USERS, None, None),
        Recipients::FollowersOf(channel) => (AUDIENCE_FOLLOWERS, Some(channel.as_str()), None),
        Recipients::Everyone => (AUDIENCE_EVERYONE, None, Some(everyone::next(on).await?)),
    };
    let content = &new.content;
    on.insert(
        "INSERT INTO tidings_notifications (kind, title, body, url, data, collapse, push, created_at, expires_at,
             audience, channel, idempotency_key, fingerprint, everyone_seq, everyone_untold)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        args![
            content.kind.as_str(),
            content.title.as_str(),
            content.body.as_deref(),
            content.url.as_deref(),
            content.data.as_ref().map(|data| data.as_json()),
            content.collapse.as_deref(),
            push_code(new.push),
            new.created_at,
            new.expires_at,
            audience,
            channel,
            new.key.as_ref().map(|(key, _)| key.as_str()),
            new.key.as_ref().map(|(_, fingerprint)| &fingerprint.0[..]),
            seq,
            seq,
        ],
    )
    .await
}
