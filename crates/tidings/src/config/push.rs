//! `[push]`: notifications that no stream is known to have, to devices.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use tidings_hub::Time;
use tidings_push::{FcmConfig, Senders, ServiceAccount, VapidKey, WebPushConfig};

use super::{
    Network, Secret,
    validate::{Findings, MINUTE},
    values::human_duration,
};

/// Largest file that is read as a service account's: Google's have some 2.4 KiB.
const SERVICE_ACCOUNT_MAX_BYTES: usize = 64 * 1024;

/// When to push, and by what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// How long a notification waits for its confirmation.
    #[serde(with = "human_duration")]
    pub after: Duration,
    /// What counts as one.
    pub confirm: Confirm,
    /// How often a push is tried.
    pub max_attempts: u32,
    /// Pushes that are under way at the same time.
    pub concurrency: usize,
    /// Firebase Cloud Messaging.
    pub fcm: FcmSection,
    /// Web Push.
    pub web_push: WebPushSection,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(5),
            confirm: Confirm::Auto,
            max_attempts: 8,
            concurrency: 64,
            fcm: FcmSection::default(),
            web_push: WebPushSection::default(),
        }
    }
}

/// Whose word is taken for it that a stream has a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confirm {
    /// TCP's on direct connections, the client's behind trusted proxies.
    Auto,
    /// TCP's.
    Tcp,
    /// The client's.
    Client,
}

/// `[push.fcm]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FcmSection {
    /// The Firebase project; that of the service account if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Google's JSON file. Without it, there is no FCM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<PathBuf>,
    /// Where FCM is.
    pub base_url: String,
    /// Where access tokens are issued; where the service account says if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
}

impl Default for FcmSection {
    fn default() -> Self {
        Self {
            project_id: None,
            service_account: None,
            base_url: tidings_push::fcm::BASE_URL.to_owned(),
            token_url: None,
        }
    }
}

/// `[push.web_push]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebPushSection {
    /// Who the server is to push services. Without it, there is no Web Push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vapid_private_key: Option<Secret>,
    /// How they reach whoever runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Networks that endpoints may lie in although they are not public.
    pub allow_private: Vec<Network>,
}

/// A key whose value is not accepted, and what would be.
type Refused = (&'static str, String);

impl PushConfig {
    /// Sets up the providers that are configured. Whatever could be wrong with the configuration has been
    /// found by `validate`, unless the file of the service account has changed since.
    pub fn senders(&self, time: &Arc<dyn Time>) -> anyhow::Result<Senders> {
        let refused = |(key, text): Refused| anyhow::anyhow!("{key}: {text}");
        let fcm = self.fcm.settings().map_err(refused)?;
        let web_push = self.web_push.settings().map_err(refused)?;
        Ok(Senders::new(fcm, web_push, time)?)
    }
}

impl FcmSection {
    /// What the sender needs, if FCM is configured.
    fn settings(&self) -> Result<Option<FcmConfig>, Refused> {
        let base_url = url("push.fcm.base_url", &self.base_url)?;
        let token_url = self.token_url.as_deref().map(|text| url("push.fcm.token_url", text)).transpose()?;
        if self.project_id.as_deref().is_some_and(|id| !is_project_id(id)) {
            return Err((
                "push.fcm.project_id",
                "not a project's id; accepted are letters, digits, `-`, `:` and `.`".into(),
            ));
        }
        let Some(path) = &self.service_account else {
            if self.project_id.is_some() || self.token_url.is_some() {
                let text = "FCM needs it; accepted is the path of the JSON file that the Firebase console gives";
                return Err(("push.fcm.service_account", text.into()));
            }
            return Ok(None);
        };
        let refused = |error: &dyn std::fmt::Display| {
            ("push.fcm.service_account", format!("the file {}: {error}", path.display()))
        };
        let json = super::read_text(path, SERVICE_ACCOUNT_MAX_BYTES).map_err(|error| refused(&error))?;
        let service_account = ServiceAccount::parse(&json).map_err(|error| refused(&error))?;
        if self.project_id.is_none() && !is_project_id(service_account.project_id()) {
            return Err(refused(&"its `project_id` is none"));
        }
        let project_id = self.project_id.clone();
        Ok(Some(FcmConfig { project_id, service_account, base_url, token_url, trusted: Vec::new() }))
    }
}

impl WebPushSection {
    /// What the sender needs, if Web Push is configured.
    fn settings(&self) -> Result<Option<WebPushConfig>, Refused> {
        if let Some(subject) = &self.subject
            && !is_subject(subject)
        {
            let text =
                "not accepted; accepted is \"mailto:…\" or \"https://…\", where push services find whoever runs this";
            return Err(("push.web_push.subject", text.into()));
        }
        let key = match (&self.vapid_private_key, &self.subject) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err((
                    "push.web_push.vapid_private_key",
                    "Web Push needs it; `tidings push keys` makes one".into(),
                ));
            }
            // The text of an error has nothing of the key.
            (Some(key), _) => {
                VapidKey::parse(key.expose()).map_err(|text| ("push.web_push.vapid_private_key", text))?
            }
        };
        let Some(subject) = self.subject.clone() else {
            let text = "Web Push needs it: \"mailto:…\" or \"https://…\", where push services find whoever runs this";
            return Err(("push.web_push.subject", text.into()));
        };
        let allow_private = self.allow_private.iter().map(Network::as_ip_net).collect();
        Ok(Some(WebPushConfig { key, subject, allow_private }))
    }

    /// What browsers take as `applicationServerKey`, if a key is configured and one.
    pub fn public_key(&self) -> Option<String> {
        let key = self.vapid_private_key.as_ref()?;
        VapidKey::parse(key.expose()).ok().map(|key| key.public_key().to_owned())
    }
}

/// What is wrong with the section.
pub(super) fn validate(push: &PushConfig, found: &mut Findings) {
    // Sooner than a round trip, every notification would go to the devices of those who look at it.
    found.duration("push.after", push.after, Duration::from_millis(100), 60 * MINUTE);
    // With the pauses between, twenty take a day and more.
    found.number("push.max_attempts", push.max_attempts as usize, 1, 20);
    found.number("push.concurrency", push.concurrency, 1, 1000);
    for refused in [push.fcm.settings().err(), push.web_push.settings().err()].into_iter().flatten() {
        found.add(refused.0, refused.1);
    }
}

/// A URL of Google's, or of a stand-in on this machine, which alone may do without TLS: access tokens go
/// there.
fn url(key: &'static str, text: &str) -> Result<Url, Refused> {
    let refused = || (key, "not accepted; accepted is https://…, and http://… on this machine".to_owned());
    let url = Url::parse(text).map_err(|_| refused())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_fit = !host.is_empty() && (url.scheme() == "https" || (url.scheme() == "http" && is_here));
    if is_fit { Ok(url) } else { Err(refused()) }
}

/// It is part of a path. Old projects have the domain of their organisation before them.
fn is_project_id(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:.".contains(&b))
}

/// RFC 8292 §2.1.
fn is_subject(text: &str) -> bool {
    match text.strip_prefix("mailto:") {
        Some(address) => address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()),
        None => Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.has_host()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(push: PushConfig) -> Vec<String> {
        let mut found = Findings::default();
        validate(&push, &mut found);
        found.0.into_iter().map(|(key, text)| format!("{key}: {text}")).collect()
    }

    fn fcm(change: impl FnOnce(&mut FcmSection)) -> PushConfig {
        let mut push = PushConfig::default();
        change(&mut push.fcm);
        push
    }

    fn web_push(key: Option<&str>, subject: Option<&str>) -> PushConfig {
        let mut push = PushConfig::default();
        push.web_push.vapid_private_key = key.map(Secret::new);
        push.web_push.subject = subject.map(str::to_owned);
        push
    }

    #[test]
    fn a_provider_is_configured_as_a_whole_or_not_at_all() {
        let key = VapidKey::generate().unwrap();
        assert_eq!(refused(PushConfig::default()), Vec::<String>::new());
        assert_eq!(refused(web_push(Some(key.private_key()), Some("mailto:a@b"))), Vec::<String>::new());
        assert_eq!(refused(web_push(Some(key.private_key()), Some("https://b.example"))), Vec::<String>::new());
        for (push, key) in [
            (web_push(Some(key.private_key()), None), "push.web_push.subject: "),
            (web_push(None, Some("mailto:a@b")), "push.web_push.vapid_private_key: "),
            (web_push(Some(key.private_key()), Some("a@b")), "push.web_push.subject: "),
            (web_push(Some("hunter2"), Some("mailto:a@b")), "push.web_push.vapid_private_key: "),
            (fcm(|fcm| fcm.project_id = Some("p".into())), "push.fcm.service_account: "),
            (fcm(|fcm| fcm.project_id = Some("p/../q".into())), "push.fcm.project_id: "),
            (
                fcm(|fcm| fcm.service_account = Some("no/such/file".into())),
                "push.fcm.service_account: the file no/such/file: ",
            ),
            (fcm(|fcm| fcm.base_url = "http://fcm.example".into()), "push.fcm.base_url: "),
            (fcm(|fcm| fcm.token_url = Some("nonsense".into())), "push.fcm.token_url: "),
        ] {
            let said = refused(push);
            assert!(said.len() == 1 && said[0].starts_with(key) && !said[0].contains("hunter2"), "{key}: {said:?}");
        }
    }

    #[test]
    fn access_tokens_go_over_tls_or_stay_on_this_machine() {
        for text in ["https://fcm.googleapis.com", "http://127.0.0.1:9", "http://[::1]:9/", "http://localhost"] {
            assert!(url("push.fcm.base_url", text).is_ok(), "{text}");
        }
        for text in ["http://10.0.0.1", "http://localhost.example", "ftp://127.0.0.1", ""] {
            assert!(url("push.fcm.base_url", text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let key = VapidKey::generate().unwrap();
        let push = web_push(Some(key.private_key()), Some("mailto:a@b"));
        assert!(!format!("{push:?}").contains(key.private_key()));
        assert_eq!(push.web_push.public_key().as_deref(), Some(key.public_key()));
    }
}
