use super::*;

fn said<T: fmt::Debug>(parsed: Result<T, BodyError>) -> String {
    parsed.unwrap_err().to_string()
}

#[test]
fn a_mark_says_which() {
    let parse = |json: &str| MarkBody::parse(json.as_bytes());
    let ids = [NotificationId(17), NotificationId(18)];
    assert_eq!(parse(r#"{"ids":["17",18]}"#).unwrap(), MarkBody::Ids(ids.to_vec()));
    assert_eq!(parse(r#"{"ids":[]}"#).unwrap(), MarkBody::Ids(Vec::new()));
    assert_eq!(parse(r#"{"through":"17"}"#).unwrap(), MarkBody::Through(ids[0]));
    assert_eq!(parse(r#"{"all":true}"#).unwrap(), MarkBody::All);
    let many = format!(r#"{{"ids":[{}]}}"#, vec!["1"; 1001].join(","));
    for (json, named) in [
        ("[]", "one JSON object"),
        ("{}", "exactly one of"),
        (r#"{"all":false}"#, "exactly one of"),
        (r#"{"ids":["1"],"all":true}"#, "exactly one of"),
        (r#"{"ids":["0"]}"#, "the id of a notification"),
        (r#"{"ids":["01"]}"#, "the id of a notification"),
        (r#"{"ids":[0]}"#, "the id of a notification"),
        (r#"{"ids":[1.5]}"#, "the id of a notification"),
        (r#"{"through":-1}"#, "the id of a notification"),
        (r#"{"through":9223372036854775808}"#, "the id of a notification"),
        (r#"{"id":["1"]}"#, "unknown field `id`"),
        (&many, "ids: 1001 given"),
    ] {
        let said = said(parse(json));
        assert!(said.contains(named), "{json}: {said}");
    }
}

#[test]
fn an_acknowledgement_is_of_one_or_up_to_a_cursor() {
    let parse = |json: &str| AckBody::parse(json.as_bytes());
    assert_eq!(parse(r#"{"id":"17"}"#).unwrap(), AckBody::Id(NotificationId(17)));
    let mut cursor = Cursor::default();
    let at = crate::PartitionCursor { epoch: crate::Epoch(7), position: crate::Position(9) };
    cursor.set(crate::Partition::new(0).unwrap(), at);
    let json = format!(r#"{{"cursor":"{cursor}"}}"#);
    assert_eq!(parse(&json).unwrap(), AckBody::Cursor(cursor));
    for (json, named) in [
        ("{}", "exactly one of"),
        (r#"{"id":"1","cursor":"x"}"#, "exactly one of"),
        (r#"{"cursor":"?"}"#, "cursor: accepted is"),
        (r#"{"cursor":7}"#, "expected a string"),
    ] {
        let said = said(parse(json));
        assert!(said.contains(named), "{json}: {said}");
    }
}

#[test]
fn follows_are_channels_that_have_followers() {
    let parse = |json: &str| FollowsBody::parse(json.as_bytes());
    let of = |names: &[&str]| names.iter().map(|name| Channel::parse(name).unwrap()).collect::<Vec<_>>();
    let both = parse(r#"{"follow":["a","b","a"],"unfollow":["c","c","user:1"]}"#).unwrap();
    assert_eq!((both.follow, both.unfollow), (of(&["a", "b"]), of(&["c", "user:1"])));
    for (json, named) in [
        ("{}", "0 channels given"),
        (r#"{"follow":["user:42"]}"#, "follow: \"user:42\" has no followers"),
        (r#"{"follow":["tidings:everyone"]}"#, "has no followers"),
        (r#"{"follow":["a b"]}"#, "follow: the channel name"),
        (r#"{"unfollow":[""]}"#, "unfollow: a channel name is empty"),
        (r#"{"follow":["a"],"unfollow":["a"]}"#, "unfollow: a is in `follow` too"),
        (r#"{"follow":"a"}"#, "expected a sequence"),
    ] {
        let said = said(parse(json));
        assert!(said.contains(named), "{json}: {said}");
    }
}

#[test]
fn preferences_say_what_holds_for_a_kind() {
    let parse = |json: &str| PreferencesBody::parse(json.as_bytes());
    let read = parse(r#"{"kinds":{"a.b":{"push":false,"mute_until":1764000000000},"c":{}}}"#).unwrap();
    let wanted = |kind| read.kinds[&Kind::trusted(kind)];
    assert_eq!(wanted("a.b"), PreferenceBody { live: true, push: false, mute_until: Some(1_764_000_000_000) });
    assert_eq!(wanted("c"), PreferenceBody { live: true, push: true, mute_until: None });
    let many: BTreeMap<_, _> = (0..201).map(|number| (number.to_string(), serde_json::json!({}))).collect();
    for (json, named) in [
        ("{}", "kinds: missing"),
        (r#"{"kinds":[]}"#, "expected a map"),
        (r#"{"kinds":{"a":[true]}}"#, "kinds.a: accepted is an object"),
        (r#"{"kinds":{"a":{"mail":true}}}"#, "kinds.a: unknown field `mail`"),
        (r#"{"kinds":{"a":{"live":1}}}"#, "kinds.a: invalid type"),
        (r#"{"kinds":{"a b":{}}}"#, "kinds: a kind is"),
        (r#"{"kinds":{"a":{"mute_until":253402300800000}}}"#, "kinds.a.mute_until: "),
        (&serde_json::json!({ "kinds": many }).to_string(), "kinds: 201 given"),
    ] {
        let said = said(parse(json));
        assert!(said.contains(named), "{json}: {said}");
    }
}

#[test]
fn a_device_is_a_target_of_a_known_provider() {
    let parse = |json: &str| DeviceBody::parse(json.as_bytes());
    assert_eq!(parse(r#"{"provider":"fcm","token":"t"}"#).unwrap(), DeviceBody::FcmToken("t".to_owned()));
    assert_eq!(parse(r#"{"provider":"fcm","fid":"f"}"#).unwrap(), DeviceBody::FcmFid("f".to_owned()));
    // As a browser's `JSON.stringify(subscription)` writes it.
    let subscription =
        r#"{"endpoint":"https://push.example/1","expirationTime":null,"keys":{"p256dh":"p","auth":"a"}}"#;
    let web_push = parse(&format!(r#"{{"provider":"web_push","subscription":{subscription}}}"#)).unwrap();
    let DeviceBody::WebPush { endpoint, p256dh, auth } = &web_push else { panic!("{web_push:?}") };
    assert_eq!((&**endpoint, &**p256dh, &**auth), ("https://push.example/1", "p", "a"));
    assert!(!format!("{web_push:?}").contains("push.example"));
    let secret = "s3cret".repeat(800);
    for (json, named) in [
        ("{}", "provider: missing"),
        (r#"{"provider":"apns","token":"t"}"#, "provider: accepted are fcm and web_push"),
        (r#"{"provider":"fcm"}"#, "exactly one of `token` and `fid`"),
        (r#"{"provider":"fcm","token":"t","fid":"f"}"#, "exactly one of `token` and `fid`"),
        (r#"{"provider":"fcm","token":""}"#, "token: 0 bytes"),
        (r#"{"provider":"web_push","token":"t"}"#, "web_push takes `subscription`"),
        (r#"{"provider":"web_push","subscription":[]}"#, "subscription: accepted is an object"),
        (r#"{"provider":"web_push","subscription":{"endpoint":"e"}}"#, "missing field `keys`"),
        (
            r#"{"provider":"web_push","subscription":{"endpoint":"e","keys":{"auth":"a"}}}"#,
            "subscription.keys: missing field",
        ),
        (&format!(r#"{{"provider":"fcm","token":"{secret}"}}"#), "token: 4800 bytes"),
    ] {
        let said = said(parse(json));
        assert!(said.contains(named), "{json}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    assert_eq!(device_id("phone-1").unwrap(), "phone-1");
    for name in ["", "a b", "제", &"x".repeat(201)] {
        assert!(device_id(name).is_err(), "{name}");
    }
}
