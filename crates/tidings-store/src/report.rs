//! What became of a notification.

use tidings_core::{
    notifications::{Audience, NotificationId},
    ports::store::Report,
};
use tidings_protocol::{Channel, Millis};

use crate::{
    codes::{
        AUDIENCE_EVERYONE, AUDIENCE_FOLLOWERS, NEVER, NOTIFICATION, NOTIFICATION_COLUMNS, PUSH_GIVEN_UP, PUSH_SENT,
        malformed, notification_of,
    },
    sql::{Database, SqlError, args, reading},
};

/// It counts the rows of the inboxes that have it, so it takes as long as they are many.
pub(crate) async fn report(database: &Database, id: NotificationId, now: Millis) -> Result<Option<Report>, SqlError> {
    reading!(database, on => {
        let sql = format!(
            "SELECT {NOTIFICATION}, n.audience, n.channel, n.everyone_untold, f.notification_id
             FROM tidings_notifications AS n LEFT JOIN tidings_fan_outs AS f ON f.notification_id = n.id
             WHERE n.id = ? AND n.expires_at > ?"
        );
        let Some(row) = on.optional(&sql, args![id.0, now]).await? else { return Ok(None) };
        const FIRST: usize = NOTIFICATION_COLUMNS;
        let audience = match row.int(FIRST)? {
            AUDIENCE_EVERYONE => Audience::Everyone,
            AUDIENCE_FOLLOWERS => {
                let name = row.text(FIRST + 1)?;
                Audience::FollowersOf(Channel::parse(&name).map_err(|_| malformed("a channel", name))?)
            }
            _ => Audience::Users,
        };
        let notification = notification_of(&row, 0)?;
        let is_untold = row.maybe_int(FIRST + 2)?.is_some() && row.int(7)? != NEVER;
        let is_fanning_out = row.maybe_int(FIRST + 3)?.is_some() || is_untold;
        let dialect = on.dialect();
        // First what is open and then what came of it: each is read by itself, and who is told that nothing is open
        // any more must find all of it.
        let join = dialect.join();
        let row = "i.user_id AND o.notification_id = i.notification_id WHERE i.notification_id = ?";
        let sql = format!(
            "SELECT COUNT(*) FROM tidings_inbox AS i {join} tidings_deliveries AS o ON o.user_id = {row}
             UNION ALL
             SELECT COUNT(DISTINCT o.user_id)
             FROM tidings_inbox AS i {join} tidings_pushes AS o ON o.user_id = {row} AND o.due_at IS NOT NULL"
        );
        let mut pending = 0;
        for row in on.query(&sql, args![id.0, id.0]).await? {
            pending += row.natural(0)?;
        }
        let count_if = |condition: &str| dialect.sum(&format!("CASE WHEN {condition} THEN 1 ELSE 0 END"));
        let sql = format!(
            "SELECT COUNT(*), {}, {}, {}, {} FROM tidings_inbox WHERE notification_id = ?",
            count_if("is_delivered = 1"),
            count_if(&format!("push = {PUSH_SENT}")),
            count_if(&format!("push = {PUSH_GIVEN_UP}")),
            count_if("was_read = 1"),
        );
        let mut sums = [0; 5];
        let here = on.one(&sql, args![id.0]).await?;
        let sql = "SELECT recipients, delivered, pushed, failed, was_read FROM tidings_gone WHERE notification_id = ?";
        let gone = on.optional(sql, args![id.0]).await?;
        for row in std::iter::once(&here).chain(&gone) {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum += row.maybe_int(at)?.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
            }
        }
        let [recipients, delivered_live, pushed, failed, read] = sums;
        Ok(Some(Report {
            notification,
            audience,
            is_fanning_out,
            recipients,
            delivered_live,
            pushed,
            failed,
            read,
            pending,
        }))
    })
}
