//! What the types of the configuration cannot say.

use std::time::Duration;

use tidings_http::tls::{Tls, TlsFile};
use tidings_protocol::channel::{Channel, USER_NAMESPACE};
use tidings_store::outbox::{Database, Table};

use super::{Access, Config, NamespaceConfig, Secret, auth::API_KEY_PREFIX, push, schema::dotted};

/// What follows the prefix of an API key: 16 random characters of base62 hold 95 bits, which
/// nobody guesses.
const API_KEY_MIN_CHARS: usize = 16;

/// Longest API key: it is compared on every request.
const API_KEY_MAX_BYTES: usize = 512;

/// RFC 7518 §3.2: a key of HS256 has at least the size of the hash.
const HS256_SECRET_MIN_BYTES: usize = 32;

/// Largest history of one channel. Beyond it, what is wanted is a database.
const HISTORY_SIZE_MAX: usize = 1_000_000;

/// A frame repeats `data: ` for each line of its data, so that one of nothing but line ends takes
/// three and a half times the bytes of its JSON, and its head up to 700 more.
const QUEUE_TO_DATA_MIN: usize = 4;

/// More often than the first is work for nothing; after the second the database ends a session that is silent.
const OUTBOX_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All that is wrong: keys and what would be accepted. Never the value of a secret.
pub(super) fn validate(config: &Config) -> Vec<(String, String)> {
    let mut found = Findings::default();
    if config.data_dir.as_os_str().is_empty() {
        found.add("data_dir", "found nothing; accepted is the path of a directory");
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
        let accepted =
            "a level (`error`, `warn`, `info`, `debug`, `trace`) or directives, as in \"info,tidings_hub=debug\"";
        found.add("log.level", format!("{error}; accepted is {accepted}"));
    }
    outbox(config, &mut found);
    auth(config, &mut found);
    broker(config, &mut found);
    super::store::validate(&config.store, &config.notifications, &mut found);
    stream(config, &mut found);
    server(config, &mut found);
    tls(config, &mut found);
    push::validate(&config.push, &mut found);
    super::presence::validate(&config.presence, &mut found);
    limits(config, &mut found);
    for (name, settings) in config.namespaces.iter() {
        namespace(name, settings, &mut found);
    }
    found.0
}

#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<(String, String)>);

impl Findings {
    pub(super) fn add(&mut self, key: &str, text: impl Into<String>) {
        self.0.push((key.to_owned(), text.into()));
    }

    pub(super) fn number(&mut self, key: &str, value: usize, min: usize, max: usize) {
        if value < min || value > max {
            self.add(key, format!("found {value}; accepted are {min} to {max}"));
        }
    }

    pub(super) fn duration(&mut self, key: &str, value: Duration, min: Duration, max: Duration) {
        if value < min || value > max {
            let [value, min, max] = [value, min, max].map(humantime::format_duration);
            self.add(key, format!("found \"{value}\"; accepted are \"{min}\" to \"{max}\""));
        }
    }

    fn secret(&mut self, key: &str, secret: Option<&Secret>) {
        if let Some(secret) = secret
            && secret.expose().len() < HS256_SECRET_MIN_BYTES
        {
            let bytes = secret.expose().len();
            let text = format!(
                "found {bytes} bytes; accepted are {HS256_SECRET_MIN_BYTES} or more (RFC 7518 §3.2), as from `openssl rand -base64 32`"
            );
            self.add(key, text);
        }
    }
}

fn outbox(config: &Config, found: &mut Findings) {
    for (at, outbox) in config.outbox.iter().enumerate() {
        let entry = at + 1;
        if let Err(error) = Database::of_url(outbox.url.expose()) {
            found.add("outbox", format!("entry {entry}, url: {error}"));
        }
        if let Err(error) = Table::parse(&outbox.table) {
            found.add("outbox", format!("entry {entry}, table: {error}"));
        }
        if outbox.poll < OUTBOX_POLL.0 || outbox.poll > OUTBOX_POLL.1 {
            let [poll, min, max] = [outbox.poll, OUTBOX_POLL.0, OUTBOX_POLL.1].map(humantime::format_duration);
            found.add("outbox", format!("entry {entry}, poll: found \"{poll}\"; accepted are \"{min}\" to \"{max}\""));
        }
        if config.outbox[..at].iter().any(|other| (&other.url, &other.table) == (&outbox.url, &outbox.table)) {
            found.add("outbox", format!("entry {entry} is the same table as an entry before it"));
        }
    }
}

fn auth(config: &Config, found: &mut Findings) {
    let auth = &config.auth;
    for (at, key) in auth.api_keys.iter().enumerate() {
        let is_fit = key.expose().strip_prefix(API_KEY_PREFIX).is_some_and(|rest| {
            rest.len() >= API_KEY_MIN_CHARS
                && rest.len() <= API_KEY_MAX_BYTES
                && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
        });
        if !is_fit {
            // RFC 6750 §2.1 says which characters a bearer token has.
            found.add(
                "auth.api_keys",
                format!(
                    "entry {} is not accepted: a key is `{API_KEY_PREFIX}` and {API_KEY_MIN_CHARS} or more of `A-Z a-z 0-9 - . _ ~ + / =`",
                    at + 1
                ),
            );
        }
    }
    found.secret("auth.jwt_hs256_secret", auth.jwt_hs256_secret.as_ref());
    found.secret("auth.ticket_secret", auth.ticket_secret.as_ref());
    if let Err(text) = auth.public_keys() {
        found.add("auth.jwt_public_keys", text);
    }
    if let Some(url) = &auth.jwks_url {
        let is_fit =
            reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
        if !is_fit {
            found.add("auth.jwks_url", "not a URL that keys can be fetched from; accepted is https://… or http://…");
        }
    }
    // Each fetch is a request to somebody else's server.
    found.duration("auth.jwks_refresh", auth.jwks_refresh, SECOND, 7 * DAY);
    // A leeway is added to the life of every token.
    found.duration("auth.jwt_leeway", auth.jwt_leeway, Duration::ZERO, HOUR);
    for (key, text) in [("auth.jwt_audience", &auth.jwt_audience), ("auth.jwt_issuer", &auth.jwt_issuer)] {
        if text.as_deref() == Some("") {
            found.add(key, "found nothing; leave it out, or give the text that tokens carry");
        }
    }
    if let Some(name) = &auth.cookie {
        // RFC 6265 §4.1.1: a cookie's name is a token of HTTP.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
            found.add("auth.cookie", "not a cookie's name; accepted are letters, digits and !#$%&'*+-.^_`|~");
        }
        if config.server.cors_origins.is_empty() {
            found.add(
                "auth.cookie",
                "a cookie is taken from `server.cors_origins` only; list the origins of your pages there",
            );
        }
        if config.server.cors_origins.iter().any(|origin| origin == "*") {
            found.add(
                "server.cors_origins",
                "\"*\" with `auth.cookie` would let every page act as its visitor; list the origins",
            );
        }
    }
}

fn broker(config: &Config, found: &mut Findings) {
    let broker = &config.broker;
    found.duration("broker.idempotency_window", broker.idempotency_window, SECOND, 7 * DAY);
    found.number("broker.idempotency_max_keys", broker.idempotency_max_keys, 1, 1_000_000_000);
    found.number("broker.history_max_bytes", broker.history_max_bytes, 1 << 20, 1 << 40);
    found.number("broker.max_channels", broker.max_channels, 1, 1_000_000_000);
    let max_data_bytes = config.limits.max_data_bytes;
    if broker.append_queue_max_bytes < max_data_bytes.saturating_mul(2) {
        found.add(
            "broker.append_queue_max_bytes",
            format!(
                "found {}; accepted is twice `limits.max_data_bytes` ({max_data_bytes}) or more, so that an event of that size fits",
                broker.append_queue_max_bytes
            ),
        );
    }
}

fn stream(config: &Config, found: &mut Findings) {
    let stream = &config.stream;
    // Proxies commonly end what is silent for a minute, but some are told to wait longer.
    found.duration("stream.heartbeat", stream.heartbeat, Duration::from_millis(100), HOUR);
    let retry = stream.retry;
    found.duration("stream.retry", retry.min, Duration::from_millis(1), HOUR);
    found.duration("stream.retry", retry.max, Duration::from_millis(1), HOUR);
    if retry.min > retry.max {
        found.add("stream.retry", "the first is longer than the second; accepted is the shortest, then the longest");
    }
    if !stream.max_age.is_zero() {
        found.duration("stream.max_age", stream.max_age, SECOND, 365 * DAY);
    }
    if !(0.0..=1.0).contains(&stream.max_age_jitter) {
        found.add("stream.max_age_jitter", format!("found {}; accepted are 0.0 to 1.0", stream.max_age_jitter));
    }
    let max_data_bytes = config.limits.max_data_bytes;
    if stream.queue_max_bytes < max_data_bytes.saturating_mul(QUEUE_TO_DATA_MIN) {
        found.add(
            "stream.queue_max_bytes",
            format!(
                "found {}; accepted is {QUEUE_TO_DATA_MIN} times `limits.max_data_bytes` ({max_data_bytes}) or more, so that an \
                 event of that size fits as a frame of many lines",
                stream.queue_max_bytes
            ),
        );
    }
    found.number("stream.queue_max_events", stream.queue_max_events, 1, 1_000_000);
    found.duration("stream.write_timeout", stream.write_timeout, Duration::from_millis(100), HOUR);
    found.duration("stream.tcp_user_timeout", stream.tcp_user_timeout, Duration::from_millis(100), HOUR);
    found.duration("stream.long_poll", stream.long_poll, Duration::from_millis(100), 10 * MINUTE);
}

fn server(config: &Config, found: &mut Findings) {
    let server = &config.server;
    for origin in &server.cors_origins {
        let is_origin = reqwest::Url::parse(origin).is_ok_and(|url| {
            // What a browser sends is the origin's canonical form, and it is compared as text.
            matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == *origin
        });
        if origin != "*" && !is_origin {
            let accepted = "scheme://host or scheme://host:port in lower case without a path, as in \"https://app.example\", or \"*\"";
            found.add("server.cors_origins", format!("{origin:?} is no origin; accepted is {accepted}"));
        }
    }
    found.duration("server.drain_window", server.drain_window, Duration::ZERO, HOUR);
    found.duration("server.header_timeout", server.header_timeout, Duration::from_millis(100), 10 * MINUTE);
    // More than any machine has cores; each is a thread.
    found.number("server.shards", server.shards, 0, 1024);
    found.duration("server.body_timeout", server.body_timeout, Duration::from_millis(100), HOUR);
}

fn tls(config: &Config, found: &mut Findings) {
    let tls = &config.tls;
    match (&tls.cert, &tls.key) {
        (None, None) => {}
        (Some(_), None) => found.add("tls.key", "`tls.cert` is set and this is not; TLS needs both"),
        (None, Some(_)) => found.add("tls.cert", "`tls.key` is set and this is not; TLS needs both"),
        (Some(cert), Some(key)) => {
            if let Err(error) = Tls::load(cert, key) {
                let at = match error.file() {
                    TlsFile::Certificate => "tls.cert",
                    TlsFile::Key => "tls.key",
                };
                found.add(at, format!("{:#}", anyhow::Error::from(error)));
            }
        }
    }
}

fn limits(config: &Config, found: &mut Findings) {
    let limits = &config.limits;
    // An event is held in memory, copied to the log and queued for each slow consumer.
    found.number("limits.max_data_bytes", limits.max_data_bytes, 1, 64 << 20);
    found.number("limits.max_batch_events", limits.max_batch_events, 1, 1_000_000);
    if limits.max_batch_bytes < limits.max_data_bytes {
        let text = format!(
            "found {}; accepted is `limits.max_data_bytes` ({}) or more, so that one line fits",
            limits.max_batch_bytes, limits.max_data_bytes
        );
        found.add("limits.max_batch_bytes", text);
    }
    found.number("limits.max_batch_bytes", limits.max_batch_bytes, 1, 1 << 30);
    found.number("limits.max_channels_per_stream", limits.max_channels_per_stream, 1, 100_000);
    found.number("limits.max_channels_per_publish", limits.max_channels_per_publish, 1, 100_000);
    // hyper refuses a buffer below 8 KiB and a target beyond 64 KiB, and every connection may fill one.
    found.number("limits.max_url_bytes", limits.max_url_bytes, 8 << 10, 64 << 10);
    found.number("limits.max_connections", limits.max_connections, 1, 100_000_000);
    for (key, value) in [
        ("limits.ip_requests_per_second", limits.ip_requests_per_second),
        ("limits.ip_burst", limits.ip_burst),
        ("limits.key_requests_per_second", limits.key_requests_per_second),
        ("limits.key_burst", limits.key_burst),
    ] {
        found.number(key, value as usize, 1, 1_000_000_000);
    }
    found.number("limits.history_page_max", limits.history_page_max, 1, 100_000);
    found.number("limits.max_follows_per_user", limits.max_follows_per_user, 1, 1_000_000);
    found.number("limits.max_devices_per_user", limits.max_devices_per_user, 1, 1000);
}

fn namespace(name: &str, settings: &NamespaceConfig, found: &mut Findings) {
    let key = |key: &str| dotted(&["namespaces".to_owned(), name.to_owned(), key.to_owned()]);
    let is_name = !name.contains(':') && Channel::parse(&format!("{name}:x")).is_ok();
    if !is_name {
        let table = dotted(&["namespaces".to_owned(), name.to_owned()]);
        found.add(&table, "not a namespace's name; accepted are 1 to 198 of `A-Z a-z 0-9 _ - . / @`, without `:`");
    }
    found.number(&key("history_size"), settings.history_size, 0, HISTORY_SIZE_MAX);
    found.duration(&key("history_ttl"), settings.history_ttl, SECOND, 366 * DAY);
    // A signal to fetch again that comes later than this is of no use.
    found.duration(&key("conflate_window"), settings.conflate_window, Duration::ZERO, MINUTE);
    if settings.retain && settings.history_size == 0 {
        found.add(
            &key("retain"),
            "the retained event is kept in the history; accepted is `true` with `history_size` 1 or more",
        );
    }
    let normal = NamespaceConfig::default();
    for (field, access, normal) in
        [("subscribe", &settings.subscribe, &normal.subscribe), ("publish", &settings.publish, &normal.publish)]
    {
        if name == USER_NAMESPACE && access != normal {
            found.add(
                &key(field),
                "personal channels belong to their users, and API keys publish to them; leave it out",
            );
        } else if access.is_empty() {
            found.add(&key(field), "found an empty list; for nobody but API keys, accepted is [\"nobody\"]");
        } else if access.len() > 1 && access.contains(&Access::Nobody) {
            found.add(&key(field), "\"nobody\" stands alone");
        }
    }
}
