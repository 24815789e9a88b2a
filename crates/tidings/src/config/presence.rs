//! `[presence]`: who is there, and who is told of it.

use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use tidings_push::WebhookSecret;

use super::{
    Secret,
    validate::{Findings, HOUR},
    values::human_duration,
};

/// Whom to tell of those who come and go, and after how long they are gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceConfig {
    /// How long somebody may have no connection before they have left.
    #[serde(with = "human_duration")]
    pub grace: Duration,
    /// What is told of users who come and go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
    /// What that is signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<Secret>,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), webhook_url: None, webhook_secret: None }
    }
}

impl PresenceConfig {
    /// The webhook, if one is configured. Or the key whose value is not accepted, and what would be.
    pub fn webhook(&self) -> Result<Option<(Url, WebhookSecret)>, (&'static str, String)> {
        const URL: &str = "presence.webhook_url";
        const SECRET: &str = "presence.webhook_secret";
        let (url, secret) = match (&self.webhook_url, &self.webhook_secret) {
            (None, None) => return Ok(None),
            (Some(url), Some(secret)) => (url, secret),
            (Some(_), None) => {
                let text =
                    "a webhook needs it: `whsec_` and the base64 of 24 to 64 random bytes, which its receiver knows";
                return Err((SECRET, text.to_owned()));
            }
            (None, Some(_)) => return Err((URL, "a secret alone does nothing; accepted is https://…".to_owned())),
        };
        let is_fit = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
        let refused = || (URL, "not accepted; accepted is https://… or http://…".to_owned());
        let url = Url::parse(url).ok().filter(is_fit).ok_or_else(refused)?;
        // The text of the error has nothing of the secret.
        let secret = WebhookSecret::parse(secret.expose()).map_err(|error| (SECRET, error.to_string()))?;
        Ok(Some((url, secret)))
    }
}

/// What is wrong with the section.
pub(super) fn validate(presence: &PresenceConfig, found: &mut Findings) {
    found.duration("presence.grace", presence.grace, Duration::ZERO, HOUR);
    if let Err((key, text)) = presence.webhook() {
        found.add(key, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_webhook_has_a_url_and_a_secret() {
        let of = |url: Option<&str>, secret: Option<&str>| PresenceConfig {
            webhook_url: url.map(str::to_owned),
            webhook_secret: secret.map(Secret::new),
            ..PresenceConfig::default()
        };
        assert!(of(None, None).webhook().unwrap().is_none());
        assert!(of(Some("https://example.com/hook"), Some(FIT)).webhook().unwrap().is_some());
        for (presence, key) in [
            (of(Some("https://example.com"), None), "presence.webhook_secret"),
            (of(None, Some(FIT)), "presence.webhook_url"),
            (of(Some("example.com"), Some(FIT)), "presence.webhook_url"),
            (of(Some("file:///etc/passwd"), Some(FIT)), "presence.webhook_url"),
            (of(Some("https://example.com"), Some("hunter2")), "presence.webhook_secret"),
        ] {
            let (refused, text) = presence.webhook().unwrap_err();
            assert_eq!(refused, key);
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
