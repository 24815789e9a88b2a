//! What `POST /v1/notifications` and the calls of an inbox take: read, written and read again it is the same,
//! and nothing that is sent makes a reader panic.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use tidings_protocol::{
    me::{AckBody, DeviceBody, FollowsBody, MarkBody, PreferencesBody},
    notify::{Notify, NotifyLimits, NotifyTo},
};

use crate::arbitrary::{texts, values};

const LIMITS: NotifyLimits = NotifyLimits { data_max_bytes: 1 << 20 };

/// The notification JSON of a notification, with its fields in another order than they are read in.
fn json_of(notify: &Notify) -> String {
    let to = match &notify.to {
        NotifyTo::Users(users) => json!({"users": users.iter().rev().map(|user| user.as_str()).collect::<Vec<_>>()}),
        NotifyTo::FollowersOf(channel) => json!({"followers_of": channel.as_str()}),
        NotifyTo::Everyone => json!({"everyone": true}),
    };
    let fields = json!({
        "push": notify.push.as_str(), "collapse": notify.collapse, "key": notify.key, "url": notify.url, "body": notify.body,
        "title": notify.title, "kind": notify.kind.as_str(),
        "expires_in": notify.expires_in_secs, "to": to,
    })
    .to_string();
    // As it is: a number of any length stays what it was.
    let data = notify.data.as_ref().map_or("null", |data| data.as_json());
    format!("{{ \"data\" :\n {data} , {}", &fields[1..])
}

fn recipients() -> impl Strategy<Value = Value> {
    let id = "[A-Za-z0-9_.:/@-]{1,12}";
    prop_oneof![
        id.prop_map(|user| json!({"user": user})),
        vec(id, 1..5).prop_map(|users| json!({"users": users})),
        "[a-t][A-Za-z0-9_.@/-]{0,9}".prop_map(|channel| json!({"followers_of": channel})),
        Just(json!({"everyone": true})),
    ]
}

/// Something that looks like a body of one of these calls.
fn bodies() -> impl Strategy<Value = String> {
    let names = select(
        &[
            "to",
            "user",
            "users",
            "everyone",
            "followers_of",
            "kind",
            "title",
            "body",
            "url",
            "data",
            "key",
            "push",
            "collapse",
            "expires_in",
            "ids",
            "through",
            "all",
            "id",
            "cursor",
            "follow",
            "unfollow",
            "kinds",
            "live",
            "mute_until",
            "provider",
            "token",
            "fid",
            "subscription",
            "endpoint",
            "keys",
            "p256dh",
            "auth",
            "x",
        ][..],
    );
    let words = select(&["fcm", "web_push", "17", "a:b", "user:1", "always", "https://a", ""][..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        words.prop_map(Into::into),
        texts().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..4).prop_map(Into::into),
            3 => vec((names.clone(), inner), 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
    .prop_map(|value| value.to_string())
}

proptest! {
    #[test]
    fn a_notification_reads_back_equal_and_has_one_fingerprint(
        to in recipients(),
        title in texts(),
        body in option::of(texts()),
        data in option::of(values()),
        expires_in in option::of(1..1_000_000_u64),
        push in select(&["offline", "always", "never"][..]),
    ) {
        let shown: String = title.chars().filter(|c| !c.is_control()).take(80).collect();
        let shown = if shown.is_empty() { "-".to_owned() } else { shown };
        let body = body.map(|body| body.chars().filter(|c| !c.is_control()).collect::<String>());
        let json = json!({"to": to, "title": shown, "body": body, "data": data, "expires_in": expires_in, "push": push});
        let notify = Notify::parse(json.to_string().as_bytes(), LIMITS).unwrap();
        prop_assert_eq!(&notify.title, &shown);
        let mut again = Notify::parse(json_of(&notify).as_bytes(), LIMITS).unwrap();
        prop_assert_eq!(again.fingerprint(), notify.fingerprint());
        if let NotifyTo::Users(users) = &mut again.to {
            users.reverse();
        }
        prop_assert_eq!(again, notify);
    }

    #[test]
    fn no_body_panics_a_reader(body in bodies()) {
        let body = body.as_bytes();
        drop(Notify::parse(body, LIMITS));
        drop(MarkBody::parse(body));
        drop(AckBody::parse(body));
        drop(FollowsBody::parse(body));
        drop(PreferencesBody::parse(body));
        drop(DeviceBody::parse(body));
    }

    #[test]
    fn no_bytes_panic_a_reader(body in vec(any::<u8>(), 0..64)) {
        drop(Notify::parse(&body, LIMITS));
        drop(MarkBody::parse(&body));
        drop(DeviceBody::parse(&body));
    }
}
