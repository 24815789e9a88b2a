//! A stand-in for the push service of a browser, and for the browsers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use super::listener::{Listener, Reply, Request};
use crate::{node::Script, wait};

/// How long the JavaScript may take to read a message.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// Longest message that is taken: no longer one needs to be (RFC 8291 §4).
const MESSAGE_MAX_BYTES: usize = 4096;

/// What a browser gives its application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    id: u64,
    /// Where messages are sent to.
    pub endpoint: String,
    /// The browser's key.
    pub p256dh: String,
    /// Its secret.
    pub auth: String,
}

impl Subscription {
    /// As `PushSubscription.toJSON()` has it.
    pub fn to_json(&self) -> Value {
        json!({ "endpoint": self.endpoint, "keys": { "p256dh": self.p256dh, "auth": self.auth } })
    }
}

/// A message that came and could be read, whatever was answered.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Its headers.
    pub headers: HeaderMap,
    /// What it says.
    pub payload: Value,
    /// The claims of its VAPID token, whose signature was right.
    pub claims: Value,
    /// The sender's public key: base64url.
    pub key: String,
    /// How long it was, in bytes, encrypted.
    pub message_bytes: usize,
    /// What was answered; 201 is that it was taken.
    pub status: u16,
}

impl Delivered {
    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The stand-in.
#[derive(Debug)]
pub struct PushService {
    listener: Listener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    origin: String,
    browser: AsyncMutex<Script>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<u64, VecDeque<Reply>>,
    delivered: HashMap<u64, Vec<Delivered>>,
    requests: usize,
    complaints: Vec<String>,
}

impl PushService {
    /// Starts it.
    pub async fn start() -> anyhow::Result<Self> {
        let (listener, addr) = Listener::bind().await?;
        let shared = Arc::new(Shared {
            origin: format!("http://{addr}"),
            browser: AsyncMutex::new(Script::start("push.mjs")?),
            state: Mutex::default(),
        });
        let handler = shared.clone();
        let listener = Listener::serve(listener, addr, None, move |request| {
            let shared = handler.clone();
            // A task, because a client that gives up must not leave an answer of the script to the next one.
            let answering = tokio::spawn(async move { shared.answer(request).await });
            async move { answering.await.unwrap_or(Reply { status: 500, ..Reply::default() }) }
        });
        Ok(Self { listener, shared })
    }

    /// A new subscription.
    pub async fn subscribe(&self) -> anyhow::Result<Subscription> {
        let made = self.shared.browser.lock().await.ask(&json!({ "op": "subscribe" }), READ_LIMIT).await?;
        let text = |key: &str| made[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {made}"));
        let id = made["id"].as_u64().context("no id")?;
        let endpoint = format!("{}/push/{id}", self.shared.origin);
        Ok(Subscription { id, endpoint, p256dh: text("p256dh")?, auth: text("auth")? })
    }

    /// Gives this answer to the next message to a subscription, after those that were asked for before. A
    /// message for which there is none is taken.
    pub fn answer(&self, subscription: &Subscription, status: u16, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let reply = Reply { status, headers, body: Bytes::new() };
        self.shared.state.lock().answers.entry(subscription.id).or_default().push_back(reply);
    }

    /// What came to a subscription, in order, whatever was answered.
    pub fn delivered(&self, subscription: &Subscription) -> Vec<Delivered> {
        self.shared.state.lock().delivered.get(&subscription.id).cloned().unwrap_or_default()
    }

    /// Waits until so many messages were taken for a subscription.
    pub async fn until_taken(
        &self,
        subscription: &Subscription,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<Delivered>> {
        let what = format!("{count} messages to {}", subscription.endpoint);
        let taken = || self.delivered(subscription).into_iter().filter(|sent| sent.status == 201).collect::<Vec<_>>();
        wait::until(&what, limit, async || Some(taken()).filter(|taken| taken.len() >= count)).await
    }

    /// How many requests came, those included that no push service would take.
    pub fn requests(&self) -> usize {
        self.shared.state.lock().requests
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.listener.connections()
    }

    /// What a push service would not have taken, and why.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.state.lock().complaints.clone()
    }
}

impl Shared {
    async fn answer(&self, request: Request) -> Reply {
        self.state.lock().requests += 1;
        match self.take(request).await {
            Ok(reply) => reply,
            Err((status, detail)) => {
                self.state.lock().complaints.push(format!("{status}: {detail}"));
                Reply { status, body: detail.into(), ..Reply::default() }
            }
        }
    }

    /// RFC 8030 §5, RFC 8291 §4, RFC 8292 §2.
    async fn take(&self, request: Request) -> Result<Reply, (u16, String)> {
        let refused = |status: u16, detail: &str| Err((status, detail.to_owned()));
        let Some(id) = request.path.strip_prefix("/push/").and_then(|id| id.parse::<u64>().ok()) else {
            return refused(404, "no such subscription");
        };
        if request.method != Method::POST {
            return refused(405, "only POST");
        }
        if request.header("ttl").is_none_or(|ttl| ttl.parse::<u32>().is_err()) {
            return refused(400, "no TTL");
        }
        if request.header("content-encoding") != Some("aes128gcm") {
            return refused(400, "no aes128gcm");
        }
        if !request.header("urgency").is_none_or(|text| ["very-low", "low", "normal", "high"].contains(&text)) {
            return refused(400, "the urgency");
        }
        let is_base64url = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !request.header("topic").is_none_or(|topic| topic.len() <= 32 && is_base64url(topic)) {
            return refused(400, "the topic");
        }
        if request.body.len() > MESSAGE_MAX_BYTES {
            return refused(413, "too long");
        }
        let command = json!({
            "op": "receive",
            "id": id,
            "body": BASE64_STANDARD.encode(&request.body),
            "authorization": request.header("authorization"),
            "audience": self.origin,
        });
        let read = self.browser.lock().await.ask(&command, READ_LIMIT).await;
        let mut read = read.map_err(|error| (500, format!("{error:#}")))?;
        if let Some(status) = read["status"].as_u64() {
            return refused(status as u16, read["detail"].as_str().unwrap_or_default());
        }
        let payload = serde_json::from_str(read["text"].as_str().unwrap_or_default())
            .map_err(|error| (400, format!("not JSON: {error}")))?;
        let mut state = self.state.lock();
        let scripted = state.answers.get_mut(&id).and_then(VecDeque::pop_front);
        let reply = scripted.unwrap_or_else(|| Reply {
            status: 201,
            headers: vec![("location".to_owned(), format!("{}/message/{id}", self.origin))],
            ..Reply::default()
        });
        state.delivered.entry(id).or_default().push(Delivered {
            headers: request.headers,
            payload,
            claims: read["claims"].take(),
            key: read["key"].as_str().unwrap_or_default().to_owned(),
            message_bytes: request.body.len(),
            status: reply.status,
        });
        Ok(reply)
    }
}
