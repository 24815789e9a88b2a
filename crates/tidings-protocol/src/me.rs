//! The bodies by which users, or backends on behalf of them, change inboxes and say what they want.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    hash::Hash,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use crate::{
    body::{BodyError, nested, object, refused, text},
    channel::{Channel, UserId},
    cursor::Cursor,
    event::Millis,
    limits::{DEVICE_ID_MAX_BYTES, ITEMS_MAX, MILLIS_MAX, PREFERENCES_MAX, PUSH_ADDRESS_MAX_BYTES},
    notification::{Kind, NotificationId},
    notify::followable,
};

/// An id as it is written: text, or a number for those who take it from a column of a database.
struct Id(NotificationId);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a notification, as in \"17\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map(Id).map_err(|()| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                let id = i64::try_from(number).ok().filter(|id| *id > 0);
                id.map(|id| Id(NotificationId(id)))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Which notifications a mark is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkBody {
    /// These.
    Ids(Vec<NotificationId>),
    /// This one and all older ones.
    Through(NotificationId),
    /// All.
    All,
}

impl MarkBody {
    /// Reads the body of `POST /v1/me/notifications/read` and the like.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"ids":["17","18"]}, {"through":"17"} or {"all":true}"#;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default)]
            ids: Option<Vec<Id>>,
            #[serde(default)]
            through: Option<Id>,
            #[serde(default)]
            all: Option<bool>,
        }
        match object(json, ACCEPTED)? {
            Fields { ids: Some(ids), through: None, all: None } if ids.len() <= ITEMS_MAX => {
                Ok(Self::Ids(ids.into_iter().map(|Id(id)| id).collect()))
            }
            Fields { ids: Some(ids), through: None, all: None } => {
                Err(refused("ids", format!("{} given; accepted are up to {ITEMS_MAX}", ids.len())))
            }
            Fields { ids: None, through: Some(Id(id)), all: None } => Ok(Self::Through(id)),
            Fields { ids: None, through: None, all: Some(true) } => Ok(Self::All),
            _ => Err(refused("ids", format!("accepted is exactly one of {ACCEPTED}"))),
        }
    }
}

/// What a client says that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckBody {
    /// This notification.
    Id(NotificationId),
    /// All that its stream brought up to here.
    Cursor(Cursor),
}

impl AckBody {
    /// Reads the body of `POST /v1/me/ack`.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"id":"17"} or {"cursor":"…"}"#;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            #[serde(default)]
            id: Option<Id>,
            #[serde(borrow, default)]
            cursor: Option<Cow<'a, str>>,
        }
        match object(json, ACCEPTED)? {
            Fields { id: Some(Id(id)), cursor: None } => Ok(Self::Id(id)),
            Fields { id: None, cursor: Some(text) } => text
                .parse()
                .map(Self::Cursor)
                .map_err(|_| refused("cursor", "accepted is the `id:` of a stream's event, as this server wrote it")),
            _ => Err(refused("id", format!("accepted is exactly one of {ACCEPTED}"))),
        }
    }
}

/// Which channels a user begins and ceases to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowsBody {
    /// To be followed from now on, each once.
    pub follow: Vec<Channel>,
    /// Not to be followed any more, each once. None of them is in `follow`.
    pub unfollow: Vec<Channel>,
}

impl FollowsBody {
    /// Reads the body of `POST /v1/me/follows`.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"follow":["region:jeju"],"unfollow":["region:seoul"]}"#;
        let unfollowable = |name: &str| Channel::parse(name).map_err(|error| refused("unfollow", error));
        let (follow, unfollow) = changes(json, ACCEPTED, "channels", |name| followable("follow", name), unfollowable)?;
        Ok(Self { follow, unfollow })
    }

    /// Reads a channel that stands in a path, to be followed.
    pub fn followable(name: &str) -> Result<Channel, BodyError> {
        followable("channel", name)
    }
}

/// Who begins and ceases to follow a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowersBody {
    /// Who follows it from now on, each once.
    pub follow: Vec<UserId>,
    /// Who does not any more, each once. None of them is in `follow`.
    pub unfollow: Vec<UserId>,
}

impl FollowersBody {
    /// Reads the body of `POST /v1/channels/{channel}/followers`.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"follow":["42","43"],"unfollow":["44"]}"#;
        let user = |field| move |name: &str| UserId::parse(name).map_err(|error| refused(field, error));
        let (follow, unfollow) = changes(json, ACCEPTED, "users", user("follow"), user("unfollow"))?;
        Ok(Self { follow, unfollow })
    }
}

/// Reads what is to be followed or to follow, and what is not any more: up to [`ITEMS_MAX`] names in all,
/// each of which comes out once and on one side.
fn changes<T: Clone + Eq + Hash + fmt::Display>(
    json: &[u8],
    example: &'static str,
    items: &str,
    follow: impl Fn(&str) -> Result<T, BodyError>,
    unfollow: impl Fn(&str) -> Result<T, BodyError>,
) -> Result<(Vec<T>, Vec<T>), BodyError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        follow: Vec<Cow<'a, str>>,
        #[serde(borrow, default)]
        unfollow: Vec<Cow<'a, str>>,
    }
    let fields: Fields<'_> = object(json, example)?;
    let count = fields.follow.len() + fields.unfollow.len();
    if count == 0 || count > ITEMS_MAX {
        return Err(refused("follow", format!("{count} {items} given in all; accepted are 1 to {ITEMS_MAX}")));
    }
    let (follow, followed) = each_once(&fields.follow, follow)?;
    let (unfollow, _) = each_once(&fields.unfollow, unfollow)?;
    match unfollow.iter().find(|item| followed.contains(item)) {
        Some(both) => Err(refused("unfollow", format!("{both} is in `follow` too"))),
        None => Ok((follow, unfollow)),
    }
}

/// What the names stand for, in their order, without repetitions; and all of it, to look things up in.
fn each_once<T: Clone + Eq + Hash>(
    names: &[Cow<'_, str>],
    read: impl Fn(&str) -> Result<T, BodyError>,
) -> Result<(Vec<T>, HashSet<T>), BodyError> {
    let mut seen = HashSet::with_capacity(names.len());
    let mut items = Vec::with_capacity(names.len());
    for name in names {
        let item = read(name)?;
        if seen.insert(item.clone()) {
            items.push(item);
        }
    }
    Ok((items, seen))
}

/// What a user wants of one kind, as it is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceBody {
    /// Whether open streams are told; `true` if left out.
    #[serde(default = "yes")]
    pub live: bool,
    /// Whether devices are; `true` if left out.
    #[serde(default = "yes")]
    pub push: bool,
    /// Neither is, until then, in milliseconds since the epoch.
    #[serde(default)]
    pub mute_until: Option<Millis>,
}

fn yes() -> bool {
    true
}

/// What a user wants, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencesBody {
    /// By kind.
    pub kinds: BTreeMap<Kind, PreferenceBody>,
}

impl PreferencesBody {
    /// Reads the body of `PUT /v1/me/preferences`.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"kinds":{"festival.added":{"live":true,"push":false,"mute_until":null}}}"#;
        const KIND_ACCEPTED: &str = r#"{"live":true,"push":false,"mute_until":1764000000000}"#;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            kinds: Option<BTreeMap<Cow<'a, str>, &'a RawValue>>,
        }
        let fields: Fields<'_> = object(json, ACCEPTED)?;
        let kinds = fields.kinds.ok_or_else(|| refused("kinds", format!("missing; accepted is {ACCEPTED}")))?;
        if kinds.len() > PREFERENCES_MAX {
            return Err(refused("kinds", format!("{} given; accepted are up to {PREFERENCES_MAX}", kinds.len())));
        }
        let read = |(name, raw): (Cow<'_, str>, &RawValue)| {
            let kind = Kind::parse(&name).map_err(|error| refused("kinds", error))?;
            let wanted: PreferenceBody = nested(format!("kinds.{kind}", kind = kind.as_str()), raw, KIND_ACCEPTED)?;
            if wanted.mute_until.is_some_and(|until| until > MILLIS_MAX) {
                let field = format!("kinds.{}.mute_until", kind.as_str());
                return Err(refused(field, format!("accepted are milliseconds since the epoch, up to {MILLIS_MAX}")));
            }
            Ok((kind, wanted))
        };
        Ok(Self { kinds: kinds.into_iter().map(read).collect::<Result<_, _>>()? })
    }
}

/// A push target. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum DeviceBody {
    /// Firebase Cloud Messaging, by registration token.
    FcmToken(String),
    /// Firebase Cloud Messaging, by Firebase installation id.
    FcmFid(String),
    /// A Web Push subscription (W3C Push API).
    WebPush {
        /// The push service's URL.
        endpoint: String,
        /// The client's public key: base64url.
        p256dh: String,
        /// The authentication secret: base64url.
        auth: String,
    },
}

impl fmt::Debug for DeviceBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FcmToken(_) => "DeviceBody::FcmToken",
            Self::FcmFid(_) => "DeviceBody::FcmFid",
            Self::WebPush { .. } => "DeviceBody::WebPush",
        })
    }
}

impl DeviceBody {
    /// Reads the body of `PUT /v1/me/devices/{device}`. Whether the provider could use it is another
    /// question. No error repeats a token.
    pub fn parse(json: &[u8]) -> Result<Self, BodyError> {
        const ACCEPTED: &str = r#"{"provider":"fcm","token":"…"}, {"provider":"fcm","fid":"…"} or {"provider":"web_push","subscription":{"endpoint":"…","keys":{"p256dh":"…","auth":"…"}}}"#;
        const SUBSCRIPTION: &str = r#"{"endpoint":"…","keys":{"p256dh":"…","auth":"…"}}"#;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            provider: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            token: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            fid: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            subscription: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Subscription {
            endpoint: String,
            /// What `PushSubscription.toJSON()` says besides; push services do not use it.
            #[serde(default, rename = "expirationTime")]
            _expiration_time: de::IgnoredAny,
            keys: Box<RawValue>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Keys {
            p256dh: String,
            auth: String,
        }
        let mut fields: Fields<'_> = object(json, ACCEPTED)?;
        let provider = fields.provider.take();
        let address = |field, value: Cow<'_, str>| text(field, value, 1..=PUSH_ADDRESS_MAX_BYTES, &[]);
        match (provider.as_deref(), fields) {
            (Some("fcm"), Fields { token: Some(token), fid: None, subscription: None, .. }) => {
                Ok(Self::FcmToken(address("token", token)?))
            }
            (Some("fcm"), Fields { token: None, fid: Some(fid), subscription: None, .. }) => {
                Ok(Self::FcmFid(address("fid", fid)?))
            }
            (Some("fcm"), _) => Err(refused("provider", "fcm takes exactly one of `token` and `fid`")),
            (Some("web_push"), Fields { token: None, fid: None, subscription: Some(raw), .. }) => {
                let subscription: Subscription = nested("subscription", raw, SUBSCRIPTION)?;
                let keys: Keys = nested("subscription.keys", &subscription.keys, r#"{"p256dh":"…","auth":"…"}"#)?;
                Ok(Self::WebPush {
                    endpoint: address("subscription.endpoint", subscription.endpoint.into())?,
                    p256dh: address("subscription.keys.p256dh", keys.p256dh.into())?,
                    auth: address("subscription.keys.auth", keys.auth.into())?,
                })
            }
            (Some("web_push"), _) => Err(refused("provider", "web_push takes `subscription` and nothing else")),
            (Some(_), _) => Err(refused("provider", "accepted are fcm and web_push")),
            (None, _) => Err(refused("provider", format!("missing; accepted is {ACCEPTED}"))),
        }
    }
}

/// Checks the name of a device, which is of the application's choice.
pub fn device_id(name: &str) -> Result<String, BodyError> {
    let is_accepted = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '@');
    if name.is_empty() || name.len() > DEVICE_ID_MAX_BYTES || !name.chars().all(is_accepted) {
        return Err(refused(
            "device",
            format!("accepted are 1 to {DEVICE_ID_MAX_BYTES} bytes of `A-Z a-z 0-9 _ - . : / @`"),
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
