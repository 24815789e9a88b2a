//! The store itself: how it fares, and whether its counts are right.

use tidings_core::ports::store::{StoreStatus, Verification};

use crate::{
    migrations,
    sql::{Database, SqlError, args, reading},
};

/// Users that are looked at in one statement.
const VERIFIED_AT_ONCE: usize = 1_000;

/// What is wrong is told so often.
const FINDINGS_MAX: usize = 100;

/// Queues are counted up to here: to count more takes longer than it says.
const COUNTED_MAX: usize = 10_000;

/// Queues, with the condition that leads to an index.
const QUEUES: [(&str, &str); 5] = [
    ("fan_outs", "tidings_fan_outs"),
    ("untold_rows", "tidings_deliveries WHERE due_at = 0"),
    ("unconfirmed_rows", "tidings_deliveries WHERE due_at > 0"),
    ("waiting_pushes", "tidings_pushes WHERE due_at > 0"),
    ("dead_pushes", "tidings_pushes WHERE dead_id > 0"),
];

pub(crate) async fn status(database: &Database) -> StoreStatus {
    let described = match database.describe().await {
        Ok(described) => described,
        Err(error) => return StoreStatus { trouble: Some(error.to_string()), ..StoreStatus::default() },
    };
    let mut status = StoreStatus { database: described, ..StoreStatus::default() };
    match queues(database).await {
        Ok(gauges) => status.gauges = gauges,
        Err(error) => status.trouble = Some(error.to_string()),
    }
    let (connections, idle) = database.connections();
    status.gauges.extend([("connections", connections as u64), ("idle_connections", idle as u64)]);
    status
}

async fn queues(database: &Database) -> Result<Vec<(&'static str, u64)>, SqlError> {
    let version = migrations::version(database).await?;
    if version != migrations::SCHEMA_VERSION {
        let known = migrations::SCHEMA_VERSION;
        return Err(SqlError::Malformed(format!("the store has schema version {version}, and not {known}")));
    }
    reading!(database, on => {
        let mut gauges = Vec::with_capacity(QUEUES.len());
        for (name, rows) in QUEUES {
            let one = on.dialect().int(1);
            let sql = format!("SELECT COUNT(*) FROM (SELECT {one} AS found FROM {rows} LIMIT {COUNTED_MAX}) AS queue");
            gauges.push((name, on.one(&sql, []).await?.natural(0)?));
        }
        Ok(gauges)
    })
}

/// Counts again, a few users at a time, each in one statement and so of one moment.
pub(crate) async fn verify(database: &Database) -> Result<Verification, SqlError> {
    let mut verification = Verification::default();
    let mut after = String::new();
    loop {
        let users = reading!(database, on => {
            let sql = "SELECT user_id FROM tidings_users WHERE user_id > ? ORDER BY user_id LIMIT ?";
            let rows = on.query(sql, args![after.as_str(), VERIFIED_AT_ONCE]).await?;
            rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()
        })?;
        let Some(last) = users.last() else { break };
        verification.users += users.len() as u64;
        let (rows, findings) = count_again(database, &after, last).await?;
        verification.rows += rows;
        verification.findings.extend(findings);
        verification.findings.extend(orphans(database, &after, last).await?);
        verification.findings.truncate(FINDINGS_MAX);
        after.clone_from(last);
    }
    Ok(verification)
}

async fn count_again(database: &Database, after: &str, through: &str) -> Result<(u64, Vec<String>), SqlError> {
    reading!(database, on => {
        let dialect = on.dialect();
        let (zero, sum) = (dialect.int(0), |of: &str| dialect.sum(of));
        let unread = sum("CASE WHEN state = 0 THEN 1 ELSE 0 END");
        let unseen = sum("CASE WHEN state = 0 AND is_seen = 0 THEN 1 ELSE 0 END");
        let sql = format!(
            "SELECT user_id, kind, {}, {}, {}, {}, {} FROM (
                 SELECT user_id, kind, {zero} AS in_inbox, {zero} AS unread, {zero} AS unseen,
                     unread AS counted_unread, unseen AS counted_unseen
                 FROM tidings_counts WHERE user_id > ? AND user_id <= ?
                 UNION ALL
                 SELECT user_id, kind, COUNT(*), {unread}, {unseen}, {zero}, {zero}
                 FROM tidings_inbox WHERE user_id > ? AND user_id <= ? GROUP BY user_id, kind
             ) AS both_counts GROUP BY user_id, kind",
            sum("in_inbox"), sum("unread"), sum("unseen"), sum("counted_unread"), sum("counted_unseen")
        );
        let (mut total, mut findings) = (0, Vec::new());
        for row in on.query(&sql, args![after, through, after, through]).await? {
            total += row.natural(2)?;
            let (unread, unseen) = (row.int(3)?, row.int(4)?);
            let (counted_unread, counted_unseen) = (row.int(5)?, row.int(6)?);
            if (unread, unseen) != (counted_unread, counted_unseen) {
                findings.push(format!(
                    "user {} has {unread} unread and {unseen} unseen of {}, and the counts say {counted_unread} and {counted_unseen}",
                    row.text(0)?, row.text(1)?
                ));
            }
        }
        Ok((total, findings))
    })
}

/// What stands for something that is not there.
async fn orphans(database: &Database, after: &str, through: &str) -> Result<Vec<String>, SqlError> {
    const IN_INBOX: &str =
        "LEFT JOIN tidings_inbox AS i ON i.user_id = x.user_id AND i.notification_id = x.notification_id";
    const CHECKS: [(&str, &str, &str, &str); 5] = [
        (
            "has in the inbox what is no notification",
            "tidings_inbox",
            "LEFT JOIN tidings_notifications AS n ON n.id = x.notification_id",
            "n.id IS NULL",
        ),
        (
            "has something replaceable that is not unread",
            "tidings_inbox",
            "",
            "x.state <> 0 AND x.collapse_slot IS NOT NULL",
        ),
        ("has a delivery of what is not in the inbox", "tidings_deliveries", IN_INBOX, "i.user_id IS NULL"),
        ("has a delivery of what is not unread", "tidings_deliveries", IN_INBOX, "i.state <> 0"),
        (
            "has a push under way of what is not in the inbox",
            "tidings_pushes",
            IN_INBOX,
            "x.due_at IS NOT NULL AND i.user_id IS NULL",
        ),
    ];
    reading!(database, on => {
        let mut findings = Vec::new();
        for (what, table, join, condition) in CHECKS {
            let sql = format!(
                "SELECT x.user_id, x.notification_id FROM {table} AS x {join}
                 WHERE x.user_id > ? AND x.user_id <= ? AND {condition} LIMIT {FINDINGS_MAX}"
            );
            for row in on.query(&sql, args![after, through]).await? {
                findings.push(format!("user {} {what}: {}", row.text(0)?, row.int(1)?));
            }
        }
        Ok(findings)
    })
}
