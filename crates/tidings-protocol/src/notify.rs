//! The notification JSON: the body of `POST /v1/notifications`, and of a row of an outbox.

use std::{borrow::Cow, collections::HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    body::{BodyError, nested, object, refused, text},
    channel::{Channel, INTERNAL_NAMESPACE, USER_NAMESPACE, UserId},
    event::Data,
    limits::{BODY_MAX_BYTES, EXPIRES_IN_MAX_SECS, KEY_MAX_BYTES, TITLE_MAX_BYTES, URL_MAX_BYTES, USERS_MAX},
    notification::{Kind, PushMode},
};

const EXAMPLE: &str = r#"{"to":{"user":"42"},"title":"Hello"}"#;

/// The forms of `to`, in the words of an error.
const TO_EXAMPLE: &str = r#"{"user":"42"}, {"users":["42","43"]}, {"followers_of":"region:jeju"} or {"everyone":true}"#;

/// The fields as they are written. Unknown ones are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow, default)]
    to: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(borrow, default)]
    push: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    collapse: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    users: Option<Vec<String>>,
    #[serde(default)]
    followers_of: Option<String>,
    #[serde(default)]
    everyone: Option<bool>,
}

/// What an operator allows a notification to be.
#[derive(Debug, Clone, Copy)]
pub struct NotifyLimits {
    /// Longest `data`, as compact JSON, in bytes.
    pub data_max_bytes: usize,
}

/// Whom a notification is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyTo {
    /// These users, each once, at least one, in the order in which they were named.
    Users(Vec<UserId>),
    /// Who follows the channel.
    FollowersOf(Channel),
    /// Everyone.
    Everyone,
}

/// A notification that is well-formed. Whether it is permitted is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Whom it is for.
    pub to: NotifyTo,
    /// What sort it is.
    pub kind: Kind,
    /// One line.
    pub title: String,
    /// More than one line.
    pub body: Option<String>,
    /// Where a click leads.
    pub url: Option<String>,
    /// What the application makes of it.
    pub data: Option<Data>,
    /// Makes a repeated request harmless.
    pub key: Option<String>,
    /// How long it is of use, in seconds; as long as the server keeps notifications if left out.
    pub expires_in_secs: Option<u64>,
    /// Whether it also goes to devices.
    pub push: PushMode,
    /// Replaces an unread one of the same user with the same value.
    pub collapse: Option<String>,
}

/// Why a notification JSON is refused. `Display` names the field and says what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Not a notification.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// `data` over the limit.
    #[error("data: {bytes} bytes as compact JSON; accepted are up to {max} (limits.max_data_bytes)")]
    DataTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl Notify {
    /// Reads one notification JSON.
    pub fn parse(json: &[u8], limits: NotifyLimits) -> Result<Self, NotifyError> {
        let fields: Fields<'_> = object(json, EXAMPLE)?;
        let to = fields.to.ok_or_else(|| refused("to", format!("missing; accepted is {TO_EXAMPLE}")))?;
        let title = fields.title.ok_or_else(|| refused("title", "missing; accepted is one line of text"))?;
        let data = fields.data.map(|raw| Data::from_raw(raw).map_err(|error| refused("data", error))).transpose()?;
        if let Some(bytes) =
            data.as_ref().map(|data| data.as_json().len()).filter(|bytes| *bytes > limits.data_max_bytes)
        {
            return Err(NotifyError::DataTooLarge { bytes, max: limits.data_max_bytes });
        }
        Ok(Self {
            to: recipients(nested("to", to, TO_EXAMPLE)?)?,
            kind: match &fields.kind {
                Some(kind) => Kind::parse(kind).map_err(|error| refused("kind", error))?,
                None => Kind::default_kind(),
            },
            title: text("title", title, 1..=TITLE_MAX_BYTES, &[])?,
            body: fields.body.map(|body| text("body", body, 0..=BODY_MAX_BYTES, &['\n', '\r', '\t'])).transpose()?,
            url: fields.url.map(url).transpose()?,
            data,
            key: fields.key.map(|key| text("key", key, 1..=KEY_MAX_BYTES, &[])).transpose()?,
            expires_in_secs: match fields.expires_in {
                None => None,
                Some(secs @ 1..=EXPIRES_IN_MAX_SECS) => Some(secs),
                Some(secs) => {
                    let accepted = format!("{secs}; accepted are 1 to {EXPIRES_IN_MAX_SECS} seconds");
                    return Err(refused("expires_in", accepted).into());
                }
            },
            push: match fields.push.as_deref() {
                None => PushMode::default(),
                Some(word) => {
                    let found = PushMode::ALL.into_iter().find(|mode| mode.as_str() == word);
                    found.ok_or_else(|| refused("push", "accepted are offline, always and never"))?
                }
            },
            collapse: fields.collapse.map(|value| text("collapse", value, 1..=KEY_MAX_BYTES, &[])).transpose()?,
        })
    }

    /// A digest (SHA-256) of what was asked for, by which a repeated request is told from another one. White
    /// space, the order of fields and of users, and what is written that holds anyway make no difference.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        // Each part with its length before it, so that none can pass for the end of another.
        let mut part = |name: &str, value: &str| {
            for text in [name, value] {
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
        };
        match &self.to {
            NotifyTo::Users(users) => {
                let mut users: Vec<_> = users.iter().map(UserId::as_str).collect();
                users.sort_unstable();
                users.into_iter().for_each(|user| part("user", user));
            }
            NotifyTo::FollowersOf(channel) => part("followers_of", channel.as_str()),
            NotifyTo::Everyone => part("everyone", ""),
        }
        part("kind", self.kind.as_str());
        part("title", &self.title);
        let texts = [("body", &self.body), ("url", &self.url), ("collapse", &self.collapse)];
        for (name, text) in texts {
            text.iter().for_each(|text| part(name, text));
        }
        self.data.iter().for_each(|data| part("data", data.as_json()));
        self.expires_in_secs.iter().for_each(|secs| part("expires_in", &secs.to_string()));
        part("push", self.push.as_str());
        digest.finalize().into()
    }
}

fn recipients(to: To) -> Result<NotifyTo, BodyError> {
    let user = |field: &'static str, id: &str| UserId::parse(id).map_err(|error| refused(field, error));
    match to {
        To { user: Some(id), users: None, followers_of: None, everyone: None } => {
            Ok(NotifyTo::Users(vec![user("to.user", &id)?]))
        }
        To { user: None, users: Some(ids), followers_of: None, everyone: None } => {
            if ids.is_empty() || ids.len() > USERS_MAX {
                return Err(refused("to.users", format!("{} given; accepted are 1 to {USERS_MAX}", ids.len())));
            }
            let mut users = ids.iter().map(|id| user("to.users", id)).collect::<Result<Vec<_>, _>>()?;
            let mut seen = HashSet::with_capacity(users.len());
            users.retain(|user| seen.insert(user.clone()));
            Ok(NotifyTo::Users(users))
        }
        To { user: None, users: None, followers_of: Some(channel), everyone: None } => {
            Ok(NotifyTo::FollowersOf(followable("to.followers_of", &channel)?))
        }
        To { user: None, users: None, followers_of: None, everyone: Some(true) } => Ok(NotifyTo::Everyone),
        _ => Err(refused("to", format!("accepted is exactly one of {TO_EXAMPLE}"))),
    }
}

/// A channel that may have followers.
pub(crate) fn followable(field: &'static str, name: &str) -> Result<Channel, BodyError> {
    let channel = Channel::parse(name).map_err(|error| refused(field, error))?;
    match channel.namespace() {
        USER_NAMESPACE | INTERNAL_NAMESPACE => {
            let accepted =
                format!("{name:?} has no followers; accepted are channels outside the namespaces user and tidings");
            Err(refused(field, accepted))
        }
        _ => Ok(channel),
    }
}

/// Where a click may lead: to a page, never to a script.
fn url(url: Cow<'_, str>) -> Result<String, BodyError> {
    const ACCEPTED: &str = "accepted are http://… and https://… and paths that begin with one /, without spaces";
    let url = text("url", url, 1..=URL_MAX_BYTES, &[])?;
    // Browsers read a backslash as a slash, so that `/\host` leads to a host.
    let is_plain = !url.chars().any(|c| c.is_whitespace() || c == '\\');
    let after_scheme = |scheme: &str| {
        url.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|_| &url[scheme.len()..])
    };
    let is_absolute = ["http://", "https://"]
        .into_iter()
        .find_map(after_scheme)
        .is_some_and(|rest| !rest.split(['/', '?', '#']).next().unwrap_or_default().is_empty());
    let is_path = url.starts_with('/') && !url.starts_with("//");
    if is_plain && (is_absolute || is_path) { Ok(url) } else { Err(refused("url", ACCEPTED)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Notify, String> {
        Notify::parse(json.as_bytes(), NotifyLimits { data_max_bytes: 32 }).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_is_taken() {
        let notify = parse(
            r#"{"to":{"users":["42","43","42"]},"kind":"festival.added","title":"Fire \"7\"","body":"two\nlines",
                "url":"https://example.com/f?x=1#y","data":{ "id": 7 },"key":"k","expires_in":60,"push":"always",
                "collapse":"c"}"#,
        )
        .unwrap();
        let NotifyTo::Users(users) = &notify.to else { panic!("{notify:?}") };
        assert_eq!(users.iter().map(UserId::as_str).collect::<Vec<_>>(), ["42", "43"]);
        assert_eq!((notify.kind.as_str(), notify.title.as_str()), ("festival.added", "Fire \"7\""));
        assert_eq!(
            (notify.body.as_deref(), notify.url.as_deref()),
            (Some("two\nlines"), Some("https://example.com/f?x=1#y"))
        );
        assert_eq!(notify.data.as_ref().map(Data::as_json), Some(r#"{"id":7}"#));
        assert_eq!((notify.key.as_deref(), notify.collapse.as_deref()), (Some("k"), Some("c")));
        assert_eq!((notify.expires_in_secs, notify.push), (Some(60), PushMode::Always));

        let least = parse(r#"{"to":{"everyone":true},"title":"t","data":null}"#).unwrap();
        assert_eq!((&least.to, least.kind.as_str(), least.push), (&NotifyTo::Everyone, "default", PushMode::Offline));
        assert_eq!((&least.body, &least.url, &least.data, &least.key), (&None, &None, &None, &None));
        let followers = parse(r#"{"to":{"followers_of":"region:jeju"},"title":"t","url":"/f/7"}"#).unwrap();
        assert_eq!(followers.to, NotifyTo::FollowersOf(Channel::parse("region:jeju").unwrap()));
    }

    #[test]
    fn a_refusal_names_the_field() {
        let long = "x".repeat(501);
        for (json, named) in [
            ("", "one JSON object"),
            ("[]", "one JSON object"),
            ("{", "EOF"),
            (r#"{"to":{"user":"1"},"title":"t","colour":1}"#, "unknown field `colour`"),
            (r#"{"title":"t"}"#, "to: missing"),
            (r#"{"to":{"user":"1"}}"#, "title: missing"),
            (r#"{"to":["1"],"title":"t"}"#, "to: accepted is an object"),
            (r#"{"to":"1","title":"t"}"#, "to: accepted is an object"),
            (r#"{"to":{},"title":"t"}"#, "to: accepted is exactly one of"),
            (r#"{"to":{"user":"1","everyone":true},"title":"t"}"#, "to: accepted is exactly one of"),
            (r#"{"to":{"everyone":false},"title":"t"}"#, "to: accepted is exactly one of"),
            (r#"{"to":{"group":"1"},"title":"t"}"#, "to: unknown field `group`"),
            (r#"{"to":{"user":1},"title":"t"}"#, "to: invalid type: integer"),
            (r#"{"to":{"user":"a b"},"title":"t"}"#, "to.user: the user id"),
            (r#"{"to":{"users":[]},"title":"t"}"#, "to.users: 0 given"),
            (r#"{"to":{"users":["1",""]},"title":"t"}"#, "to.users: the user id"),
            (r#"{"to":{"followers_of":"user:1"},"title":"t"}"#, "to.followers_of: \"user:1\" has no followers"),
            (r#"{"to":{"followers_of":"tidings:everyone"},"title":"t"}"#, "to.followers_of: "),
            (r#"{"to":{"followers_of":"a b"},"title":"t"}"#, "to.followers_of: the channel name"),
            (r#"{"to":{"user":"1"},"title":""}"#, "title: 0 bytes; accepted are 1 to 500"),
            (&format!(r#"{{"to":{{"user":"1"}},"title":"{long}"}}"#), "title: 501 bytes"),
            (r#"{"to":{"user":"1"},"title":"a\nb"}"#, "title: accepted is text without control"),
            (r#"{"to":{"user":"1"},"title":"t","body":"a\u0000b"}"#, "body: accepted is text"),
            (&format!(r#"{{"to":{{"user":"1"}},"title":"t","body":"{}"}}"#, "x".repeat(4097)), "body: 4097 bytes"),
            (r#"{"to":{"user":"1"},"title":"t","kind":"a b"}"#, "kind: a kind is"),
            (r#"{"to":{"user":"1"},"title":"t","data":"\ud800"}"#, "data: "),
            (r#"{"to":{"user":"1"},"title":"t","data":"0123456789012345678901234567890123456789"}"#, "data: 42 bytes"),
            (r#"{"to":{"user":"1"},"title":"t","key":""}"#, "key: 0 bytes"),
            (r#"{"to":{"user":"1"},"title":"t","collapse":""}"#, "collapse: 0 bytes"),
            (r#"{"to":{"user":"1"},"title":"t","expires_in":0}"#, "expires_in: 0"),
            (r#"{"to":{"user":"1"},"title":"t","expires_in":-1}"#, "invalid value"),
            (r#"{"to":{"user":"1"},"title":"t","push":"yes"}"#, "push: accepted are offline"),
        ] {
            let said = parse(json).unwrap_err();
            assert!(said.contains(named), "{json}: {said}");
        }
    }

    #[test]
    fn a_url_leads_to_a_page() {
        let is_taken =
            |url: &str| parse(&serde_json::json!({"to": {"user": "1"}, "title": "t", "url": url}).to_string()).is_ok();
        for url in ["http://a", "https://a/b?c#d", "HTTPS://A/", "/", "/a/b?c=제주", "https://제주.kr/"] {
            assert!(is_taken(url), "{url}");
        }
        for url in [
            "",
            "a",
            "a/b",
            "//a",
            "/\\a",
            "javascript:alert(1)",
            "JavaScript:x",
            " https://a",
            "https://",
            "https:///a",
            "https://?a",
            "ftp://a",
            "data:text/html,x",
            "https://a b",
            "/a\tb",
            "https:\\\\a",
        ] {
            assert!(!is_taken(url), "{url:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_that_of_the_meaning() {
        let of = |json: &str| parse(json).unwrap().fingerprint();
        let one = of(r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":1}}"#);
        for same in [
            r#" { "data" : {"a" : 1}, "title":"\u0074", "to": {"users": ["2","1","2"]}, "push":"offline" } "#,
            r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":1},"kind":"default","key":"k"}"#,
        ] {
            assert_eq!(of(same), one, "{same}");
        }
        assert_eq!(of(r#"{"to":{"user":"1"},"title":"t"}"#), of(r#"{"to":{"users":["1"]},"title":"t"}"#));
        for other in [
            r#"{"to":{"users":["1"]},"title":"t","data":{"a":1}}"#,
            r#"{"to":{"users":["1","2"]},"title":"u","data":{"a":1}}"#,
            r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":2}}"#,
            r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":1},"push":"never"}"#,
            r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":1},"expires_in":60}"#,
            r#"{"to":{"users":["1","2"]},"title":"t","data":{"a":1},"body":""}"#,
        ] {
            assert_ne!(of(other), one, "{other}");
        }
    }
}
