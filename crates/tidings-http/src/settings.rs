//! What an operator may set of the HTTP side, as plain values. Replaced as a whole on reload.

use std::{sync::Arc, time::Duration};

use tidings_hub::LiveSettings;

/// All of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Streams.
    pub stream: StreamSettings,
    /// Limits on what clients can make large.
    pub limits: Limits,
    /// Origins of pages that may call the API, as in `https://app.example.com`; `*` for all.
    pub cors_origins: Vec<String>,
    /// Whether those pages may send cookies along, as `auth.cookie` needs.
    pub allows_cookies: bool,
    /// Development: causes of refusals stand in the answers, pages on loopback may call the API.
    pub dev: bool,
    /// How long a request's head may take to arrive, counted from the end of the one before.
    pub header_timeout: Duration,
    /// How long its body may take.
    pub body_timeout: Duration,
    /// Over what time streams are closed on shutdown.
    pub drain_window: Duration,
}

/// Whose word it takes for a notification to have reached a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confirm {
    /// TCP's on connections of clients' own, the client's on those of proxies.
    #[default]
    Auto,
    /// TCP's, also where the peer looks like a proxy.
    Tcp,
    /// The client's.
    Client,
}

/// How streams behave.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// What holds while they are live.
    pub live: Arc<LiveSettings>,
    /// How old a stream may become; zero is no limit.
    pub max_age: Duration,
    /// By what part of it the maximum age varies, so that streams opened together do not end together.
    pub max_age_jitter: f64,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482).
    pub tcp_user_timeout: Duration,
    /// How long a long-poll is held.
    pub long_poll: Duration,
    /// What confirms that a stream has received a notification.
    pub confirm: Confirm,
}

/// Limits on what clients can make large.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `data` of one event, as compact JSON.
    pub data_max_bytes: usize,
    /// Events of one NDJSON publish.
    pub batch_max_events: usize,
    /// Bytes of one NDJSON publish.
    pub batch_max_bytes: usize,
    /// Channels of one stream.
    pub channels_per_stream: usize,
    /// Channels of one publish.
    pub channels_per_publish: usize,
    /// A request's target: path and query.
    pub url_max_bytes: usize,
    /// A request's head, URL included.
    pub head_max_bytes: usize,
    /// Streams on this node; more are told to come back later.
    pub connections: usize,
    /// Streams of one user on this node; zero is no limit.
    pub connections_per_user: usize,
    /// Streams from one address on this node; zero is no limit.
    pub connections_per_address: usize,
    /// Devices of one user.
    pub devices_per_user: usize,
    /// Events of one page of history.
    pub history_page: usize,
}

impl StreamSettings {
    /// A reconnection time between the bounds.
    pub fn random_retry_ms(&self) -> u64 {
        let (low, high) = self.live.retry_millis;
        rand::random_range(low..=high.max(low))
    }

    /// The age at which a new stream ends, if it has one.
    pub fn random_max_age(&self) -> Option<Duration> {
        let jitter = self.max_age_jitter.clamp(0.0, 1.0);
        (!self.max_age.is_zero()).then(|| self.max_age.mul_f64(1.0 - jitter * rand::random::<f64>()))
    }
}
