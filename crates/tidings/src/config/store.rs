//! `[store]` and `[notifications]`: inboxes, and what is done with notifications.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use tidings_store::outbox::Database;

use super::{
    validate::{DAY, Findings, HOUR, SECOND},
    values::human_duration,
};

/// What stands in the place of a password.
const REDACTED: &str = "[redacted]";

/// The database of a store. Where it is shown, its password is left out.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn redacted(&self) -> String {
        // The password is what stands between the first colon of the authority and its last `@`; anything may
        // follow in parameters.
        let Some((scheme, rest)) = self.0.split_once("://") else { return self.0.clone() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let rest = match rest[..end].rsplit_once('@') {
            Some((who, host)) => {
                let user = who.split(':').next().unwrap_or_default();
                format!("{user}:{REDACTED}@{host}{}", &rest[end..])
            }
            // What cannot be taken apart may be a password with a `/` in it.
            None if rest.contains('@') => REDACTED.to_owned(),
            None => rest.to_owned(),
        };
        match rest.split_once('?') {
            Some((place, _)) => format!("{scheme}://{place}?{REDACTED}"),
            None => format!("{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// `[store]`: where inboxes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which database.
    pub url: StoreUrl,
    /// Most connections to it at once.
    pub max_connections: u32,
    /// How long a call waits for one of them.
    #[serde(with = "human_duration")]
    pub acquire_timeout: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: StoreUrl("sqlite".to_owned()), max_connections: 16, acquire_timeout: Duration::from_secs(10) }
    }
}

/// `[notifications]`: how they are dealt with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationsConfig {
    /// How long one is kept that says nothing of it.
    #[serde(with = "human_duration")]
    pub retention: Duration,
    /// Most rows that are written out to recipients in one transaction.
    pub fan_out_rows: usize,
    /// Most that streams are told of together.
    pub tell_rows: usize,
    /// Most deliveries that are looked at together, when their confirmation is due.
    pub escalate_rows: usize,
    /// Most rows that are taken away in one transaction when they have expired.
    pub sweep_rows: usize,
    /// How often it is looked for those.
    #[serde(with = "human_duration")]
    pub sweep_every: Duration,
    /// Another path of the stream of `GET /v1/subscribe`.
    pub alarm_path: Option<String>,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        Self {
            retention: 90 * DAY,
            fan_out_rows: 2000,
            tell_rows: 1000,
            escalate_rows: 5000,
            sweep_rows: 1000,
            sweep_every: Duration::from_secs(60),
            alarm_path: None,
        }
    }
}

/// What is wrong with the sections.
pub(super) fn validate(store: &StoreConfig, notifications: &NotificationsConfig, found: &mut Findings) {
    if store.url.expose() != "sqlite"
        && let Err(error) = Database::of_url(store.url.expose())
    {
        found.add("store.url", format!("{error}; accepted are sqlite, sqlite:PATH, postgres://… and mysql://…"));
    }
    found.number("store.max_connections", store.max_connections as usize, 1, 1000);
    found.duration("store.acquire_timeout", store.acquire_timeout, Duration::from_millis(100), 60 * SECOND);
    // Ten years: an inbox is no archive.
    found.duration("notifications.retention", notifications.retention, 60 * SECOND, 3650 * DAY);
    for (key, rows) in [
        ("notifications.fan_out_rows", notifications.fan_out_rows),
        ("notifications.tell_rows", notifications.tell_rows),
        ("notifications.escalate_rows", notifications.escalate_rows),
        ("notifications.sweep_rows", notifications.sweep_rows),
    ] {
        // All of them are in memory at once, and other writers wait for them.
        found.number(key, rows, 1, 100_000);
    }
    found.duration("notifications.sweep_every", notifications.sweep_every, SECOND, 24 * HOUR);
    if let Some(path) = &notifications.alarm_path
        && !is_free_path(path)
    {
        let taken = OWN_PATHS.join(", ");
        let accepted = format!(
            "accepted are paths of `A-Z a-z 0-9 _ - . ~`, as in \"/api/alarms\", that do not begin with any of {taken}"
        );
        found.add("notifications.alarm_path", accepted);
    }
}

/// The first parts of the paths that the server has.
const OWN_PATHS: [&str; 8] = ["/v1", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/admin", "/stomp"];

/// Whether a path leads nowhere yet, and is no pattern.
fn is_free_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.chars().all(|c| c == '.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '~'))
    };
    rest.split('/').all(is_part) && !OWN_PATHS.iter().any(|own| own[1..] == *rest.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_path_of_the_stream_is_one_that_is_free() {
        for path in ["/api/v1/users/alarm/subscribe", "/alarms", "/v1x/a"] {
            assert!(is_free_path(path), "{path}");
        }
        for path in
            ["", "/", "alarms", "//a", "/a/", "/v1/alarms", "/docs", "/docs/x", "/{id}", "/a?b", "/a b", "/../a", "/é"]
        {
            assert!(!is_free_path(path), "{path}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            ("sqlite", "sqlite"),
            ("sqlite:/var/lib/store", "sqlite:/var/lib/store"),
            ("postgres://u:hunter2@db/shop", "postgres://u:[redacted]@db/shop"),
            ("postgres://u:hun@ter2@db:1/shop", "postgres://u:[redacted]@db:1/shop"),
            ("mysql://u@db/shop", "mysql://u:[redacted]@db/shop"),
            ("mysql://db/shop", "mysql://db/shop"),
            ("postgres://db/shop?password=hunter2", "postgres://db/shop?[redacted]"),
            ("postgres://u:hunt/er2@db/shop", "postgres://[redacted]"),
        ] {
            assert_eq!(format!("{:?}", StoreUrl(url.to_owned())), shown);
        }
    }
}
