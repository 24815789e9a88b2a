//! What users want: whom they follow, and which kinds reach them how.

use std::collections::{BTreeMap, BTreeSet};

use tidings_core::{
    notifications::{Kind, KindPreference, Preferences},
    ports::store::{Follow, FollowError, FollowersChanged, StoreError},
};
use tidings_protocol::{Channel, Millis, UserId};

use crate::{
    codes::{json_rows, malformed},
    rows,
    sql::{Column, Database, Session, SqlError, args, reading, transaction},
};

const FOLLOW: [Column; 2] = [Column::Text("user_id"), Column::Text("channel")];

pub(crate) async fn follows(
    database: &Database,
    user: &UserId,
    after: Option<&Channel>,
    limit: usize,
) -> Result<Vec<Follow>, SqlError> {
    let sql = "SELECT channel, since FROM tidings_follows WHERE user_id = ? AND channel > ? ORDER BY channel LIMIT ?";
    reading!(database, on => {
        let after = after.map_or("", |channel| channel.as_str());
        let rows = on.query(sql, args![user.as_str(), after, limit]).await?;
        let follow = |row: &crate::sql::Row| {
            let name = row.text(0)?;
            let channel = Channel::parse(&name).map_err(|_| malformed("a channel", name))?;
            Ok(Follow { channel, since: row.natural(1)? })
        };
        rows.iter().map(follow).collect()
    })
}

pub(crate) async fn follow(
    database: &Database,
    user: &UserId,
    channels: &[Channel],
    max: usize,
    now: Millis,
) -> Result<Vec<Channel>, FollowError> {
    let followed = transaction!(database, on => {
        rows::lock(on, &[user.as_str()]).await?;
        let known = followed_of(on, user, channels).await?;
        let mut new: Vec<Channel> = Vec::new();
        for channel in channels {
            if !known.contains(channel.as_str()) && !new.contains(channel) {
                new.push(channel.clone());
            }
        }
        let sql = "SELECT COUNT(*) FROM tidings_follows WHERE user_id = ?";
        let count = on.one(sql, args![user.as_str()]).await?.natural(0)?;
        if count.saturating_add(new.len() as u64) > max as u64 && !new.is_empty() {
            return Ok(Err(FollowError::TooMany { max }));
        }
        let list = on.dialect().list("l", &FOLLOW);
        let since = on.dialect().int_parameter();
        let sql = format!(
            "INSERT INTO tidings_follows (user_id, channel, since) SELECT l.user_id, l.channel, {since} FROM {list}"
        );
        if !new.is_empty() {
            let rows = json_rows(new.iter().map(|channel| (user.as_str(), channel.as_str())));
            on.execute(&sql, args![now, rows]).await?;
        }
        Ok(Ok(new))
    });
    followed.map_err(StoreError::from)?
}

pub(crate) async fn unfollow(
    database: &Database,
    user: &UserId,
    channels: &[Channel],
) -> Result<Vec<Channel>, SqlError> {
    transaction!(database, on => {
        rows::lock_known(on, &[user.as_str()]).await?;
        let known = followed_of(on, user, channels).await?;
        let rows = json_rows(known.iter().map(|channel| (user.as_str(), channel)));
        on.execute(&on.dialect().delete_listed("tidings_follows", &FOLLOW, "1 = 1"), args![rows]).await?;
        let mut gone: Vec<Channel> = Vec::new();
        for channel in channels {
            if known.contains(channel.as_str()) && !gone.contains(channel) {
                gone.push(channel.clone());
            }
        }
        Ok(gone)
    })
}

pub(crate) async fn change_followers(
    database: &Database,
    channel: &Channel,
    follow: &[UserId],
    unfollow: &[UserId],
    max: usize,
    now: Millis,
) -> Result<FollowersChanged, SqlError> {
    transaction!(database, on => {
        let mut changed = FollowersChanged::default();
        let names = |users: &[UserId]| users.iter().map(|user| user.as_str().to_owned()).collect::<Vec<_>>();
        let (new, old) = (names(follow), names(unfollow));
        // All at once, or two such changes could wait for each other.
        let everybody: Vec<&str> = new.iter().chain(&old).map(String::as_str).collect();
        rows::lock(on, &everybody).await?;
        let dialect = on.dialect();
        let list = dialect.list("l", &[Column::Text("user_id")]);
        let sql = format!(
            "SELECT l.user_id,
                (SELECT COUNT(*) FROM tidings_follows AS f WHERE f.user_id = l.user_id),
                (SELECT COUNT(*) FROM tidings_follows AS f WHERE f.user_id = l.user_id AND f.channel = ?)
             FROM {list}"
        );
        let rows = json_rows(everybody.iter().map(|user| (user,)));
        let mut known = BTreeMap::new();
        for row in on.query(&sql, args![channel.as_str(), rows]).await? {
            known.insert(row.text(0)?, (row.natural(1)?, row.natural(2)? > 0));
        }
        let is_following = |user: &UserId| known.get(user.as_str()).is_some_and(|(_, follows_it)| *follows_it);
        for user in follow.iter().filter(|user| !is_following(user)) {
            match known.get(user.as_str()) {
                Some((count, _)) if *count >= max as u64 => changed.over_limit.push(user.clone()),
                _ => changed.followed.push(user.clone()),
            }
        }
        changed.unfollowed = unfollow.iter().filter(|user| is_following(user)).cloned().collect();
        let both = |users: &[UserId]| json_rows(users.iter().map(|user| (user.as_str(), channel.as_str())));
        if !changed.followed.is_empty() {
            let (list, since) = (dialect.list("l", &FOLLOW), dialect.int_parameter());
            let sql = format!(
                "INSERT INTO tidings_follows (user_id, channel, since) SELECT l.user_id, l.channel, {since} FROM {list}"
            );
            on.execute(&sql, args![now, both(&changed.followed)]).await?;
        }
        if !changed.unfollowed.is_empty() {
            let sql = dialect.delete_listed("tidings_follows", &FOLLOW, "1 = 1");
            on.execute(&sql, args![both(&changed.unfollowed)]).await?;
        }
        Ok(changed)
    })
}

/// Which of the channels the user follows.
async fn followed_of(on: &mut Session, user: &UserId, channels: &[Channel]) -> Result<BTreeSet<String>, SqlError> {
    let dialect = on.dialect();
    let (list, join) = (dialect.list("l", &[Column::Text("channel")]), dialect.join());
    let sql =
        format!("SELECT f.channel FROM {list} {join} tidings_follows AS f ON f.user_id = ? AND f.channel = l.channel");
    let rows = json_rows(channels.iter().map(|channel| (channel.as_str(),)));
    let rows = on.query(&sql, args![rows, user.as_str()]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

pub(crate) async fn preferences(database: &Database, user: &UserId) -> Result<Preferences, SqlError> {
    reading!(database, on => {
        let sql = "SELECT kind, live, push, mute_until FROM tidings_preferences WHERE user_id = ?";
        let mut preferences = BTreeMap::new();
        for row in on.query(sql, args![user.as_str()]).await? {
            let mute_until = row.maybe_int(3)?.and_then(|until| Millis::try_from(until).ok());
            let preference = KindPreference { live: row.flag(1)?, push: row.flag(2)?, mute_until };
            preferences.insert(Kind::trusted(&row.text(0)?), preference);
        }
        Ok(preferences)
    })
}

pub(crate) async fn set_preferences(
    database: &Database,
    user: &UserId,
    preferences: &Preferences,
) -> Result<(), SqlError> {
    transaction!(database, on => {
        rows::lock(on, &[user.as_str()]).await?;
        on.execute("DELETE FROM tidings_preferences WHERE user_id = ?", args![user.as_str()]).await?;
        let columns = [
            Column::Text("user_id"), Column::Text("kind"), Column::Int("live"), Column::Int("push"), Column::Int("until"),
        ];
        let list = on.dialect().list("l", &columns);
        // A mute until the beginning of time is none.
        let sql = format!(
            "INSERT INTO tidings_preferences (user_id, kind, live, push, mute_until)
             SELECT l.user_id, l.kind, l.live, l.push, NULLIF(l.until, 0) FROM {list}"
        );
        let rows = preferences.iter().map(|(kind, wish)| {
            let until = wish.mute_until.unwrap_or(0).min(i64::MAX as u64);
            (user.as_str(), kind.as_str(), i64::from(wish.live), i64::from(wish.push), until)
        });
        if !preferences.is_empty() {
            on.execute(&sql, args![json_rows(rows)]).await?;
        }
        Ok(())
    })
}
