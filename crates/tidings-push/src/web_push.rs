//! Web Push: RFC 8030 (the request), RFC 8291 (the encryption), RFC 8292 (who we are).

mod address;
mod encrypt;
mod subscription;
mod vapid;

use std::{collections::HashMap, sync::Arc};

use http::{
    HeaderValue, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE},
};
use ipnet::IpNet;
use reqwest::Client;
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_core::{
    notifications::Notification,
    ports::{
        PushError, PushVerdict,
        store::{PushJob, PushTarget},
    },
};
use tidings_hub::Time;
use tidings_protocol::Millis;

use self::{
    address::{CheckedResolver, Forbidden},
    encrypt::PLAINTEXT_MAX_BYTES,
    subscription::{Security, Subscription},
    vapid::Vapid,
};
pub use self::{subscription::validate_target, vapid::VapidKey};
use crate::{
    content::{Shown, TTL_MAX_SECS, fit, tag, topic},
    exchange::{Answer, client, exchange, give_up, in_full, quote, retry},
    trouble::Troubles,
};

/// Idle connections to one push service. There are few services, but anybody may name one.
const IDLE_PER_HOST_MAX: usize = 4;

/// What Web Push needs.
#[derive(Debug, Clone)]
pub struct WebPushConfig {
    /// Who we are, to push services. Subscriptions are made for one key.
    pub key: VapidKey,
    /// How to reach whoever runs the server: `mailto:…` or `https://…`.
    pub subject: String,
    /// Networks that endpoints may lie in although they are not public; plain http is taken there.
    pub allow_private: Vec<IpNet>,
}

/// What a service worker gets. Fields are only added.
#[derive(Serialize)]
struct Payload<'a> {
    id: String,
    kind: &'a str,
    title: &'a str,
    body: Option<&'a str>,
    url: Option<&'a str>,
    data: Option<&'a RawValue>,
    /// For `showNotification`: the same for versions of one notification.
    tag: &'a str,
    /// For a badge.
    unread: u64,
    created_at: Millis,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// Sends to browsers.
pub(crate) struct WebPush {
    /// By what a URL promises: plain http goes to the networks that are allowed, and nowhere else.
    clients: HashMap<Security, Client>,
    allow_private: Arc<[IpNet]>,
    vapid: Vapid,
    troubles: Troubles,
    time: Arc<dyn Time>,
}

impl WebPush {
    pub(crate) fn new(config: WebPushConfig, time: Arc<dyn Time>) -> Result<Self, reqwest::Error> {
        let allow_private: Arc<[IpNet]> = config.allow_private.into();
        let mut clients = HashMap::new();
        for security in [Security::Tls, Security::Plain] {
            let resolver = CheckedResolver { allow_private: allow_private.clone(), security };
            let mut builder = client()
                .dns_resolver(resolver)
                .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
                // A proxy would look the name up itself, where nobody checks what it finds.
                .no_proxy();
            if security == Security::Plain {
                // Without TLS no certificates are needed.
                builder = builder.tls_certs_only([]);
            }
            clients.insert(security, builder.build()?);
        }
        let vapid = Vapid::new(config.key, config.subject);
        Ok(Self { clients, allow_private, vapid, troubles: Troubles::default(), time })
    }

    pub(crate) fn public_key(&self) -> &str {
        self.vapid.public_key()
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.list(self.time.tick())
    }

    pub(crate) async fn send(&self, job: &PushJob) -> Result<(), PushError> {
        let PushTarget::WebPush { endpoint, p256dh, auth } = &job.device.target else {
            return Err(give_up("the device is not a Web Push subscription"));
        };
        // Checked when the device was put, but what is allowed may have changed since.
        let subscription = Subscription::parse(endpoint, p256dh, auth, &self.allow_private)
            .map_err(|text| give_up(format!("the subscription is not accepted: {text}")))?;
        let now = self.time.now();
        let remaining_ms = job.notification.expires_at.saturating_sub(now);
        if remaining_ms == 0 {
            return Err(give_up("the notification has expired"));
        }
        let ttl_secs = remaining_ms.div_ceil(1000).min(TTL_MAX_SECS);
        let body = subscription.encrypt(&payload(&job.notification, job.unread)).map_err(give_up)?;
        let authorization = self.vapid.authorization(&subscription.origin(), now, self.time.tick()).map_err(give_up)?;
        let Some(client) = self.clients.get(&subscription.security()) else {
            return Err(give_up("no client for this endpoint"));
        };
        let mut request = client
            .post(subscription.url().clone())
            .header("ttl", ttl_secs)
            .header("urgency", "normal")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"))
            .header(AUTHORIZATION, &*authorization)
            .body(body);
        if let Some(topic) = topic(&job.notification.content) {
            request = request.header("topic", topic);
        }
        let answer = exchange(request, now).await.map_err(|error| unsent(&error))?;
        self.judge(&subscription.origin(), &answer)
    }

    /// What the push service's answer means (RFC 8030 §5, §7.3, §8.4, and RFC 8292 §2.4).
    fn judge(&self, origin: &str, answer: &Answer) -> Result<(), PushError> {
        if answer.status.is_success() {
            self.troubles.clear(origin);
            return Ok(());
        }
        let said = quote(&String::from_utf8_lossy(&answer.body));
        let cause = if said.is_empty() {
            format!("the push service answered {}", answer.status.as_u16())
        } else {
            format!("the push service answered {}: {said}", answer.status.as_u16())
        };
        let verdict = match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => PushVerdict::DeviceGone,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let text = format!("web_push: {origin} refuses the VAPID key or the subject ({})", answer.status);
                self.troubles.note(origin, text, self.time.tick());
                PushVerdict::Retry { after_ms: answer.retry_after_ms }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                PushVerdict::Retry { after_ms: answer.retry_after_ms }
            }
            status if status.is_server_error() => PushVerdict::Retry { after_ms: answer.retry_after_ms },
            // What is malformed or too large stays so; a redirect leads where nobody has checked.
            _ => PushVerdict::GiveUp,
        };
        Err(PushError { verdict, cause })
    }
}

/// What to do about a request that got no answer.
fn unsent(error: &reqwest::Error) -> PushError {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return give_up(forbidden.to_string());
        }
        source = error.source();
    }
    retry(in_full(error), None)
}

/// The message, as JSON that fits.
fn payload(notification: &Notification, unread: u64) -> Vec<u8> {
    let tag = tag(notification);
    let render = |shown: &Shown<'_>| {
        let payload = Payload {
            id: notification.id.to_string(),
            kind: notification.content.kind.as_str(),
            title: &shown.title,
            body: shown.body.as_deref(),
            url: shown.url,
            // It was checked on the way in; were it not JSON, there is no data.
            data: shown.data.and_then(|json| serde_json::from_str(json).ok()),
            tag: &tag,
            unread,
            created_at: notification.created_at,
            truncated: shown.is_truncated,
        };
        // Text and numbers always serialize.
        serde_json::to_vec(&payload).unwrap_or_default()
    };
    render(&fit(&notification.content, PLAINTEXT_MAX_BYTES, |shown| render(shown).len()))
}
