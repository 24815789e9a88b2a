//! What FCM is sent: `projects.messages.send`, with the parts for Android, Apple and browsers.

use serde_json::{Map, Value, json};
use tidings_core::{
    notifications::Notification,
    ports::store::{PushJob, PushTarget},
};
use tidings_protocol::Millis;

use crate::content::{Shown, TTL_MAX_SECS, fit, tag, topic};

/// FCM takes 4,096 bytes of notification and data, and on the way to Apple adds some of its own.
const CONTENT_MAX_BYTES: usize = 3800;

/// The request's body. `None` if the notification has expired.
pub(super) fn build(job: &PushJob, now: Millis) -> Option<Vec<u8>> {
    let notification = &*job.notification;
    let remaining_ms = notification.expires_at.checked_sub(now).filter(|ms| *ms > 0)?;
    let ttl_secs = remaining_ms.div_ceil(1000).min(TTL_MAX_SECS);
    let contents = |shown: &Shown<'_>| (alert(shown), data(notification, shown, job.unread));
    let shown = fit(&notification.content, CONTENT_MAX_BYTES, |shown| {
        let (alert, data) = contents(shown);
        alert.to_string().len() + data.to_string().len()
    });
    let (alert, data) = contents(&shown);
    let tag = tag(notification);
    let topic = topic(&notification.content);

    // The notification is for somebody to see, so the device is woken.
    let mut android = json!({ "priority": "HIGH", "ttl": format!("{ttl_secs}s") });
    android["notification"] = json!({ "tag": tag, "notification_count": job.unread.min(i32::MAX as u64) });
    let expires_at_secs = now / 1000 + ttl_secs;
    let apns = json!({
        "headers": {
            "apns-collapse-id": tag,
            "apns-expiration": expires_at_secs.to_string(),
            "apns-priority": "10",
        },
        "payload": { "aps": { "badge": job.unread } },
    });
    let mut webpush = json!({
        "headers": { "TTL": ttl_secs.to_string(), "Urgency": "normal" },
        "notification": { "tag": tag },
    });
    if let Some(topic) = topic {
        android["collapse_key"] = json!(topic);
        webpush["headers"]["Topic"] = json!(topic);
    }
    // FCM refuses any other link.
    if let Some(url) = shown.url.filter(|url| url.starts_with("https://")) {
        webpush["fcm_options"] = json!({ "link": url });
    }
    let mut message = json!({
        "notification": alert,
        "data": data,
        "android": android,
        "apns": apns,
        "webpush": webpush,
    });
    let (field, address) = match &job.device.target {
        PushTarget::FcmFid(fid) => ("fid", fid),
        PushTarget::FcmToken(token) | PushTarget::WebPush { endpoint: token, .. } => ("token", token),
    };
    message[field] = json!(address);
    Some(json!({ "message": message }).to_string().into_bytes())
}

/// What the device shows by itself.
fn alert(shown: &Shown<'_>) -> Value {
    let mut alert = json!({ "title": shown.title });
    if let Some(body) = &shown.body {
        alert["body"] = json!(body);
    }
    alert
}

/// What the app gets: nothing but text, as FCM wants it.
fn data(notification: &Notification, shown: &Shown<'_>, unread: u64) -> Value {
    let mut data = Map::new();
    let mut put = |key: &str, value: String| data.insert(key.to_owned(), Value::String(value));
    put("id", notification.id.to_string());
    put("kind", notification.content.kind.as_str().to_owned());
    put("unread", unread.to_string());
    put("created_at", notification.created_at.to_string());
    if let Some(url) = shown.url {
        put("url", url.to_owned());
    }
    if let Some(json) = shown.data {
        put("data", json.to_owned());
    }
    if shown.is_truncated {
        put("truncated", "true".to_owned());
    }
    Value::Object(data)
}
