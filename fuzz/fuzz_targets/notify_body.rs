//! No body makes the reader of notifications panic, and one that it accepts can be written as notification
//! JSON again, and reads back equal and with the same fingerprint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{json, value::RawValue};
use tidings_protocol::{
    me::{AckBody, DeviceBody, FollowsBody, MarkBody, PreferencesBody},
    notify::{Notify, NotifyLimits, NotifyTo},
};

const LIMITS: NotifyLimits = NotifyLimits { data_max_bytes: 65536 };

/// The notification JSON of an accepted notification.
fn notification_json(notify: &Notify) -> Vec<u8> {
    let to = match &notify.to {
        NotifyTo::Users(users) => json!({"users": users.iter().map(|user| user.as_str()).collect::<Vec<_>>()}),
        NotifyTo::FollowersOf(channel) => json!({"followers_of": channel.as_str()}),
        NotifyTo::Everyone => json!({"everyone": true}),
    };
    let fields = json!({
        "to": to, "kind": notify.kind.as_str(), "title": notify.title, "body": notify.body, "url": notify.url,
        "key": notify.key, "expires_in": notify.expires_in_secs, "push": notify.push.as_str(),
        "collapse": notify.collapse,
    });
    let mut body = fields.to_string();
    if let Some(data) = &notify.data {
        // As it is: a number of any length stays what it was.
        let data: &RawValue = serde_json::from_str(data.as_json()).expect("accepted data is JSON");
        body.truncate(body.len() - 1);
        body = format!("{body},\"data\":{data}}}");
    }
    body.into_bytes()
}

fuzz_target!(|body: &[u8]| {
    match Notify::parse(body, LIMITS) {
        Ok(notify) => {
            let again = Notify::parse(&notification_json(&notify), LIMITS).expect("what was accepted is accepted");
            assert_eq!(again.fingerprint(), notify.fingerprint());
            assert_eq!(again, notify);
        }
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
    drop(MarkBody::parse(body));
    drop(AckBody::parse(body));
    drop(FollowsBody::parse(body));
    drop(PreferencesBody::parse(body));
    drop(DeviceBody::parse(body));
});
