//! The sections and their defaults.
//!
//! What each key means stands in `config/reference.toml`, which a test holds against these types;
//! here it is said only what code that uses a field must know.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidings_protocol::publish::PublishLimits;

use super::values::{BrokerUrl, Network, RetryRange, human_duration};

/// `[broker]`: the log of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Which broker.
    pub url: BrokerUrl,
    /// How long a `key` makes a repeated publish harmless.
    #[serde(with = "human_duration")]
    pub idempotency_window: Duration,
    /// Most keys remembered at a time.
    pub idempotency_max_keys: usize,
    /// Most memory that the histories of all channels may take.
    pub history_max_bytes: usize,
    /// Most channels that are remembered at a time.
    pub max_channels: usize,
    /// Most bytes of publishes that wait to be written to the log.
    pub append_queue_max_bytes: usize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            url: BrokerUrl::Embedded,
            idempotency_window: Duration::from_secs(10 * 60),
            idempotency_max_keys: 2_000_000,
            history_max_bytes: 256 * 1024 * 1024,
            max_channels: 1_000_000,
            append_queue_max_bytes: 64 * 1024 * 1024,
        }
    }
}

/// `[stream]`: what clients hold open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// The silence after which a comment line is sent.
    #[serde(with = "human_duration")]
    pub heartbeat: Duration,
    /// What `retry:` is drawn from.
    pub retry: RetryRange,
    /// The age at which a stream is ended; zero is none. Read it with [`StreamConfig::max_age`].
    #[serde(with = "human_duration")]
    pub max_age: Duration,
    /// The part of `max_age` by which an end may come earlier, drawn for each stream.
    pub max_age_jitter: f64,
    /// Most bytes in the queue of one connection.
    pub queue_max_bytes: usize,
    /// Most events in the queue of one connection.
    pub queue_max_events: usize,
    /// How long the kernel may take none of a connection's bytes while some are queued.
    #[serde(with = "human_duration")]
    pub write_timeout: Duration,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged.
    #[serde(with = "human_duration")]
    pub tcp_user_timeout: Duration,
    /// How long a long-poll request is held.
    #[serde(with = "human_duration")]
    pub long_poll: Duration,
}

impl StreamConfig {
    /// The age at which a stream is ended, if there is one.
    pub fn max_age(&self) -> Option<Duration> {
        (!self.max_age.is_zero()).then_some(self.max_age)
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            retry: RetryRange { min: Duration::from_secs(1), max: Duration::from_secs(3) },
            max_age: Duration::ZERO,
            max_age_jitter: 0.1,
            queue_max_bytes: 256 * 1024,
            queue_max_events: 1024,
            write_timeout: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(30),
            long_poll: Duration::from_secs(25),
        }
    }
}

/// `[server]`: HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Origins whose pages may call the server: `scheme://host[:port]`, or `*` for any, without cookies.
    pub cors_origins: Vec<String>,
    /// Peers whose `Forwarded` headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// Over which time a drain ends the streams.
    #[serde(with = "human_duration")]
    pub drain_window: Duration,
    /// How long a request's head may take to arrive.
    #[serde(with = "human_duration")]
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    #[serde(with = "human_duration")]
    pub body_timeout: Duration,
    /// Threads that serve live streams; zero is one for each core.
    pub shards: usize,
}

impl ServerConfig {
    /// Whether what this peer says of the client's address is believed.
    pub fn trusts_proxy(&self, peer: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            drain_window: Duration::from_secs(10),
            header_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(30),
            shards: 0,
        }
    }
}

/// `[tls]`: TLS on the listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The chain of certificates, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The private key of its first, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// Both files, if TLS is configured. That one is not given alone has been checked.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.cert.as_deref().zip(self.key.as_deref())
    }
}

/// `[limits]`: what clients may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Longest `data` of an event, as compact JSON.
    pub max_data_bytes: usize,
    /// Most lines of an NDJSON publish.
    pub max_batch_events: usize,
    /// Longest NDJSON publish.
    pub max_batch_bytes: usize,
    /// Most channels of a stream.
    pub max_channels_per_stream: usize,
    /// Most `channels` of one publish.
    pub max_channels_per_publish: usize,
    /// Longest request target.
    pub max_url_bytes: usize,
    /// Most connections of the node.
    pub max_connections: usize,
    /// Most streams of one user on the node; zero is no limit.
    pub max_connections_per_user: usize,
    /// Most streams from one address on the node; zero is no limit.
    pub max_streams_per_ip: usize,
    /// Requests a second from one address, in the long run.
    pub ip_requests_per_second: u32,
    /// Requests from one address at once.
    pub ip_burst: u32,
    /// Requests a second with one API key, in the long run.
    pub key_requests_per_second: u32,
    /// Requests with one API key at once.
    pub key_burst: u32,
    /// Most events of one page of history.
    pub history_page_max: usize,
    /// Most channels that one user follows.
    pub max_follows_per_user: usize,
    /// Most devices of one user.
    pub max_devices_per_user: usize,
}

impl LimitsConfig {
    /// The part that parsing a publish needs.
    pub fn publish(&self) -> PublishLimits {
        PublishLimits { data_max_bytes: self.max_data_bytes, channels_max: self.max_channels_per_publish }
    }

    /// Most streams of one user, if limited.
    pub fn max_connections_per_user(&self) -> Option<usize> {
        (self.max_connections_per_user > 0).then_some(self.max_connections_per_user)
    }

    /// Most streams from one address, if limited.
    pub fn max_streams_per_ip(&self) -> Option<usize> {
        (self.max_streams_per_ip > 0).then_some(self.max_streams_per_ip)
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_data_bytes: 64 * 1024,
            max_batch_events: 10_000,
            max_batch_bytes: 16 * 1024 * 1024,
            max_channels_per_stream: 1000,
            max_channels_per_publish: 1000,
            max_url_bytes: 64 * 1024,
            max_connections: 100_000,
            max_connections_per_user: 0,
            max_streams_per_ip: 0,
            ip_requests_per_second: 1000,
            ip_burst: 2000,
            key_requests_per_second: 50_000,
            key_burst: 100_000,
            history_page_max: 1000,
            max_follows_per_user: 10_000,
            max_devices_per_user: 20,
        }
    }
}

/// `[log]`: what the process says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// In the syntax of `tracing_subscriber::EnvFilter`, which has checked it.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}
