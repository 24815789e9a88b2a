//! Notifications: what the configuration says of them.

use std::time::Duration;

use tidings_core::notifications::NotifierSettings;

use super::store::database;
use crate::config::Config;

/// Seldom enough that an idle server costs its database nothing, and often enough for what a crash left behind.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// What an operator has set.
pub(crate) fn settings(config: &Config) -> NotifierSettings {
    let (notifications, push) = (&config.notifications, &config.push);
    NotifierSettings {
        retention: notifications.retention,
        follows_max: config.limits.max_follows_per_user,
        push_after: push.after,
        fan_out_rows: notifications.fan_out_rows,
        tell_rows: notifications.tell_rows,
        escalate_rows: notifications.escalate_rows,
        push_concurrency: push.concurrency,
        push_attempts: push.max_attempts,
        sweep_rows: notifications.sweep_rows,
        sweep_every: notifications.sweep_every,
        // The log is this process's own, so no other can tell its streams anything.
        is_shared: false,
        // SQLite's file holds nothing back for processes that are gone.
        poll_every: database(config).sqlite_file().is_none().then_some(POLL_EVERY),
        ..NotifierSettings::default()
    }
}
