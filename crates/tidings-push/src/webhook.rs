//! Tells an application's backend of users that come and go: webhooks, signed as <https://www.standardwebhooks.com>
//! says.
//!
//! A queue is bounded, and what does not fit is counted; a message is tried a few times, and given up. Messages of
//! one user stay in their order, so one that is tried again holds up those behind it.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::{hmac, rand};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use reqwest::{Client, Url};
use serde::Serialize;
use tidings_core::ports::{UserListener, presence::UserEvent};
use tidings_hub::Time;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exchange::{ATTEMPT_TIMEOUT, client, exchange, in_full};

/// What the secret begins with, in the text that both sides are configured with.
pub const SECRET_PREFIX: &str = "whsec_";

/// What a secret may have, in bytes: what the specification says.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Messages under way at a time. Each lane keeps the order of its users.
const LANES: usize = 4;

/// Messages that wait in one lane: a reconnecting crowd's, while the backend takes a breath.
const LANE_MAX: usize = 4096;

/// How often a message is tried.
const ATTEMPTS_MAX: u32 = 5;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, also if the backend asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a webhook's messages are signed with. `Debug` does not show it.
#[derive(Clone)]
pub struct WebhookSecret(hmac::Key);

/// Why a text is not a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a webhook's secret; accepted is `{SECRET_PREFIX}` and 24 to 64 random bytes in base64")]
pub struct SecretError;

impl WebhookSecret {
    /// Reads `whsec_` and base64.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.trim().strip_prefix(SECRET_PREFIX).ok_or(SecretError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(SecretError);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The signature of a message, as it stands in the header.
    fn sign(&self, id: &str, timestamp_secs: u64, body: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{id}.{timestamp_secs}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// A message, as its receiver gets it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    user: &'a str,
    node: &'a str,
    at: u64,
}

/// What became of messages.
#[derive(Debug, Default)]
struct Outcomes {
    sent: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// A webhook for users that come and go.
pub struct Webhook {
    lanes: Vec<mpsc::Sender<UserEvent>>,
    hasher: RandomState,
    outcomes: Arc<Outcomes>,
}

/// What a lane sends with.
struct Lane {
    client: Client,
    url: Url,
    secret: WebhookSecret,
    time: Arc<dyn Time>,
    outcomes: Arc<Outcomes>,
    first_pause: Duration,
}

/// What came of an attempt that failed.
struct Failed {
    cause: String,
    is_final: bool,
    retry_after: Option<Duration>,
}

impl Webhook {
    /// Begins to send to the URL, until it is stopped; what waits then is not sent.
    ///
    /// # Errors
    ///
    /// When the system's certificates cannot be used.
    pub fn start(
        url: Url,
        secret: WebhookSecret,
        time: &Arc<dyn Time>,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, reqwest::Error> {
        Self::start_with(url, secret, time, stop, FIRST_PAUSE)
    }

    fn start_with(
        url: Url,
        secret: WebhookSecret,
        time: &Arc<dyn Time>,
        stop: &CancellationToken,
        first_pause: Duration,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let client = client().timeout(ATTEMPT_TIMEOUT).build()?;
        let outcomes = Arc::new(Outcomes::default());
        let lanes = (0..LANES).map(|_| {
            let (sender, receiver) = mpsc::channel(LANE_MAX);
            let lane = Lane {
                client: client.clone(),
                url: url.clone(),
                secret: secret.clone(),
                time: time.clone(),
                outcomes: outcomes.clone(),
                first_pause,
            };
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = lane.run(receiver) => {}
                }
            });
            sender
        });
        Ok(Arc::new(Self { lanes: lanes.collect(), hasher: RandomState::new(), outcomes }))
    }
}

impl UserListener for Webhook {
    fn on_user(&self, event: UserEvent) {
        let lane = self.hasher.hash_one(&event.user) as usize % self.lanes.len();
        if self.lanes[lane].try_send(event).is_err() {
            self.outcomes.dropped.fetch_add(1, Relaxed);
        }
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let Outcomes { sent, retried, failed, dropped } = &*self.outcomes;
        [("sent", sent), ("retried", retried), ("failed", failed), ("dropped", dropped)]
            .map(|(outcome, count)| (outcome, count.load(Relaxed)))
            .into()
    }
}

impl Lane {
    async fn run(self, mut events: mpsc::Receiver<UserEvent>) {
        while let Some(event) = events.recv().await {
            self.deliver(&event).await;
        }
    }

    async fn deliver(&self, event: &UserEvent) {
        let body = Body {
            kind: if event.is_connected { "user.connected" } else { "user.disconnected" },
            user: event.user.as_str(),
            node: &event.node,
            at: event.at,
        };
        let Ok(body) = serde_json::to_string(&body) else { return };
        // The same for every attempt, so that the receiver can tell a repeated message.
        let id = message_id();
        let mut pause = self.first_pause;
        for attempt in 1..=ATTEMPTS_MAX {
            let Err(Failed { cause, is_final, retry_after }) = self.attempt(&id, &body).await else {
                self.outcomes.sent.fetch_add(1, Relaxed);
                return;
            };
            if is_final || attempt == ATTEMPTS_MAX {
                self.outcomes.failed.fetch_add(1, Relaxed);
                return tracing::warn!(cause, attempt, "a webhook's message is given up");
            }
            self.outcomes.retried.fetch_add(1, Relaxed);
            tracing::debug!(cause, attempt, "a webhook's message is tried again");
            tokio::time::sleep(pause.max(retry_after.unwrap_or_default()).min(PAUSE_MAX)).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, id: &str, body: &str) -> Result<(), Failed> {
        let now = self.time.now();
        let timestamp_secs = now / 1000;
        let signature = self.secret.sign(id, timestamp_secs, body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let ours =
            [("webhook-id", id), ("webhook-timestamp", &timestamp_secs.to_string()), ("webhook-signature", &signature)];
        for (name, value) in ours {
            let value = HeaderValue::from_str(value).map_err(|error| Failed {
                cause: error.to_string(),
                is_final: true,
                retry_after: None,
            })?;
            headers.insert(name, value);
        }
        let request = self.client.post(self.url.clone()).headers(headers).body(body.to_owned());
        let answer = exchange(request, now).await.map_err(|error| Failed {
            cause: in_full(&error),
            is_final: false,
            retry_after: None,
        })?;
        if answer.status.is_success() {
            return Ok(());
        }
        let may_help = answer.status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&answer.status);
        Err(Failed {
            cause: format!("the answer is {}", answer.status),
            is_final: !may_help,
            retry_after: answer.retry_after_ms.map(Duration::from_millis),
        })
    }
}

fn message_id() -> String {
    let mut bytes = [0; 16];
    // It fails on no system that has a source of randomness, and without one there would be no TLS either.
    let _filled = rand::fill(&mut bytes);
    format!("msg_{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        sync::mpsc as std_mpsc,
    };

    use tidings_protocol::{Millis, UserId};
    use tidings_testkit::wait;

    use super::*;

    /// The example of the specification, with the signature that its own libraries give.
    #[test]
    fn a_message_is_signed_as_the_specification_says() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_of_the_form_that_both_sides_know() {
        for refused in
            ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64 at all!!!!!!!!"]
        {
            assert_eq!(WebhookSecret::parse(refused).unwrap_err(), SecretError, "{refused}");
        }
        let text = format!("{:?}", WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        assert_eq!(text, "WebhookSecret");
    }

    struct SystemTime;

    impl Time for SystemTime {
        fn now(&self) -> Millis {
            1_700_000_000_500
        }

        fn tick(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// A server that gives these answers, a connection each, and tells what it was sent: headers and body.
    fn server(answers: Vec<&'static str>) -> (Url, std_mpsc::Receiver<(Vec<String>, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap()).parse().unwrap();
        let (sender, received) = std_mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let head: Vec<String> =
                    reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let length = head
                    .iter()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).unwrap();
                write!(stream, "HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
                if sender.send((head, String::from_utf8(body).unwrap())).is_err() {
                    return;
                }
            }
        });
        (url, received)
    }

    fn header<'a>(head: &'a [String], name: &str) -> &'a str {
        let found = head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("{name} is missing in {head:?}"))
    }

    fn event(is_connected: bool) -> UserEvent {
        UserEvent { user: UserId::parse("42").unwrap(), is_connected, node: "n1".into(), at: 17 }
    }

    async fn outcome_is(webhook: &Webhook, outcome: &'static str, count: u64) {
        let counted = async || webhook.outcomes().contains(&(outcome, count)).then_some(());
        let waited = wait::until(&format!("{count} {outcome}"), Duration::from_secs(30), counted).await;
        waited.unwrap_or_else(|error| panic!("{error}, but {:?}", webhook.outcomes()));
    }

    fn start(url: Url) -> Arc<Webhook> {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let time: Arc<dyn Time> = Arc::new(SystemTime);
        Webhook::start_with(url, secret, &time, &CancellationToken::new(), Duration::from_millis(1)).unwrap()
    }

    #[tokio::test]
    async fn messages_come_signed_in_order_and_again_if_need_be() {
        let (url, received) = server(vec!["200 OK", "503 Service Unavailable", "204 No Content"]);
        let webhook = start(url);
        webhook.on_user(event(true));
        webhook.on_user(event(false));
        outcome_is(&webhook, "sent", 2).await;
        assert!(webhook.outcomes().contains(&("retried", 1)));
        let requests: Vec<_> = received.iter().take(3).collect();
        let bodies: Vec<_> = requests.iter().map(|(_, body)| body.as_str()).collect();
        let gone = r#"{"type":"user.disconnected","user":"42","node":"n1","at":17}"#;
        assert_eq!(bodies, [r#"{"type":"user.connected","user":"42","node":"n1","at":17}"#, gone, gone]);
        let ids: Vec<_> = requests.iter().map(|(head, _)| header(head, "webhook-id")).collect();
        assert!(ids[0] != ids[1] && ids[1] == ids[2], "{ids:?}");
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        for (head, body) in &requests {
            assert_eq!(header(head, "webhook-timestamp"), "1700000000");
            let signature = secret.sign(header(head, "webhook-id"), 1_700_000_000, body);
            assert_eq!(header(head, "webhook-signature"), signature);
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_not_tried_again() {
        let (url, received) = server(vec!["400 Bad Request", "200 OK"]);
        let webhook = start(url);
        webhook.on_user(event(true));
        outcome_is(&webhook, "failed", 1).await;
        webhook.on_user(event(false));
        outcome_is(&webhook, "sent", 1).await;
        assert!(received.iter().take(2).last().unwrap().1.contains("user.disconnected"));
    }

    #[tokio::test]
    async fn tries_and_queues_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        // It accepts, and never answers.
        let webhook = start(url.clone());
        for _ in 0..LANE_MAX + 10 {
            webhook.on_user(event(true));
        }
        let dropped = webhook.outcomes().iter().find(|(outcome, _)| *outcome == "dropped").unwrap().1;
        assert!((9..=10).contains(&dropped), "{dropped}");
        drop(listener);
        let refused = start(url);
        refused.on_user(event(true));
        outcome_is(&refused, "failed", 1).await;
        assert!(refused.outcomes().contains(&("retried", u64::from(ATTEMPTS_MAX) - 1)));
    }
}
