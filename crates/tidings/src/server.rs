//! A server, put together from its configuration: to be run by itself or inside an application.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tidings_broker::{
    embedded::{EmbeddedBroker, EmbeddedConfig, EmbeddedFeed},
    log::KeyLimits,
};
use tidings_core::{
    Namespace, Namespaces, Principal, SharedNamespaces, Who,
    feed::Delivery,
    follow::NodeFollows,
    notifications::{Notifier, NotifierParts},
    ports::Store as _,
    presence::NodeConfirmations,
    stream::Streams,
};
use tidings_http::{
    App, AppParts,
    auth::{AuthConfig, Authenticator},
    client_address::TrustedProxies,
    rate_limit::{RateLimitConfig, RateLimiter},
    settings::{Confirm, Limits, Settings, StreamSettings},
    tls::Tls,
};
use tidings_hub::{Hub, LiveSettings, QueueLimits, Shards, Time};
use tidings_protocol::publish::{Publish, PublishError, PublishLimits};
use tidings_store::SqlStore;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::SystemClock,
    config::{self, Access, Config},
    dev::DevSecrets,
    secret_file,
    wiring::{self, outbox::Outboxes},
};

/// Room in a request's head besides its URL: cookies, a token of 8 KiB, what proxies add.
const HEADERS_MAX_BYTES: usize = 32 * 1024;

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A server that is ready to serve.
///
/// It has no globals: several may run in one process, each with its own `data_dir`.
///
/// ```no_run
/// # async fn run() -> anyhow::Result<()> {
/// let server = tidings::Tidings::builder().dev(true).data_dir("tidings-data").build().await?;
/// let app = axum::Router::new()
///     .route("/hello", axum::routing::get(|| async { "hello" }))
///     .merge(server.router());
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7330").await?;
/// axum::serve(listener, app).with_graceful_shutdown(server.drained_on_ctrl_c()).await?;
/// server.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Tidings {
    app: Arc<App>,
    broker: Arc<EmbeddedBroker>,
    store: Arc<SqlStore>,
    namespaces: SharedNamespaces,
    tls: Option<Arc<Tls>>,
    config: Config,
    is_dev: bool,
    stop: CancellationToken,
    /// What is done with notifications. It needs the log, and ends before it.
    workers: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    outboxes: Outboxes,
    shards: Shards,
}

/// How a [`Tidings`] is made.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    config: Config,
    is_dev: bool,
}

impl Builder {
    /// Uses this configuration instead of the defaults. `listen` and `log` in it are for `tidings serve`:
    /// an application has a listener and a log of its own. `tls` is for [`Tidings::serve`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// For development: everybody may publish and subscribe, and secrets are made and kept in
    /// `data_dir`.
    pub fn dev(mut self, is_dev: bool) -> Self {
        self.is_dev = is_dev;
        self
    }

    /// Keeps what must survive the process there.
    pub fn data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = data_dir.into();
        self
    }

    /// Opens the log and starts the tasks that a server needs.
    ///
    /// # Errors
    ///
    /// When no credentials are configured (without [`dev`](Self::dev)), a key cannot be read, or
    /// `data_dir` cannot be used or is in use by another server.
    pub async fn build(self) -> anyhow::Result<Tidings> {
        let Self { mut config, is_dev } = self;
        if is_dev {
            let secrets = DevSecrets::load_or_create(&config.data_dir)?;
            config.apply_dev(&secrets)?;
        } else {
            check_credentials(&config)?;
        }
        Tidings::start(config, is_dev).await
    }
}

impl Tidings {
    /// Begins to make a server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start(config: Config, is_dev: bool) -> anyhow::Result<Self> {
        let namespaces = namespaces(&config).shared();
        let tls = config.tls.files().map(|(cert, key)| Tls::load(cert, key)).transpose()?.map(Arc::new);
        let clock = Arc::new(SystemClock::new());
        let (broker, feed): (_, EmbeddedFeed) =
            EmbeddedBroker::open(embedded_config(&config), namespaces.clone(), clock.clone())
                .with_context(|| format!("the log in {} cannot be used", config.data_dir.display()))?;
        let hub = Hub::new(tidings_core::ports::Feed::start(&feed), Box::new(broker.clone()));
        let count = match config.server.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let time: Arc<dyn Time> = clock.clone();
        let shards = Shards::start(&hub, count, &time).context("the threads for streams cannot be started")?;
        let stop = CancellationToken::new();
        let presence = wiring::presence::start(&config, namespaces.load_full(), &hub, clock.clone(), &time, &stop)?;
        let auth = auth_config(&config)?;
        for warning in auth.warnings() {
            tracing::warn!("{warning}");
        }
        let authenticator = Arc::new(Authenticator::new(&auth)?);
        let push = Arc::new(config.push.senders(&time)?);
        let store = Arc::new(wiring::store::open(&config, clock.now()).await?);
        let notifier = Notifier::new(NotifierParts {
            store: store.clone(),
            broker: broker.clone(),
            confirmations: Arc::new(NodeConfirmations { hub: hub.clone(), clock: clock.clone() }),
            push: push.clone(),
            follow_listeners: Arc::new(NodeFollows { hub: hub.clone() }),
            clock: clock.clone(),
            settings: wiring::notifications::settings(&config),
        });
        let streams = Streams {
            hub: hub.clone(),
            broker: broker.clone(),
            namespaces: namespaces.clone(),
            clock: clock.clone(),
            inbox: Some(notifier.inbox()),
        };
        let app = App::new(AppParts {
            streams,
            notifier: notifier.clone(),
            push,
            node: presence.node().clone(),
            presence: presence.clone(),
            authenticator: authenticator.clone(),
            rate_limiter: RateLimiter::new(rate_limits(&config), clock.clone()),
            trusted_proxies: trusted_proxies(&config)?,
            alarm_path: config.notifications.alarm_path.clone(),
            settings: settings(&config, is_dev),
            version: VERSION,
        });
        let outboxes = Outboxes::start(&config, &app, &namespaces)?;
        let delivery = Delivery { hub, namespaces: namespaces.clone(), clock };
        let tasks = vec![
            tokio::spawn(delivery.run(feed)),
            tokio::spawn(authenticator.run(stop.clone())),
            tokio::spawn(presence.run(broker.clone(), stop.clone())),
        ];
        let workers = notifier.start(&stop);
        Ok(Self { app, broker, store, namespaces, tls, config, is_dev, stop, workers, tasks, outboxes, shards })
    }

    /// All routes: the API under `/v1`, `/docs` and `/openapi.json`, the page at `/`, `/healthz`,
    /// `/readyz`, `/metrics`. To be merged into an application's own router, not nested: the paths in
    /// pages and answers begin at the root.
    ///
    /// Serve it with [connect info](axum::Router::into_make_service_with_connect_info), or clients have
    /// no address: they are then neither listed with one nor limited by it.
    pub fn router(&self) -> axum::Router {
        tidings_http::router(self.app.clone())
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Publishes from within the process, as a backend with an API key would: `json` is what
    /// `POST /v1/publish` takes. Answers the event's id on each of its channels.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> anyhow::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// let server = tidings::Tidings::builder().dev(true).data_dir(dir.path()).build().await?;
    /// let event = r#"{"channels":["news:a","news:b"],"event":"added","data":{"id":7}}"#;
    /// assert_eq!(server.publish(event).await?.len(), 2);
    /// server.close().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the JSON is not an event, or the log does not take it, on one of several channels at least:
    /// it may be on the others. With a `key`, publishing again is safe.
    pub async fn publish(&self, json: &str) -> anyhow::Result<Vec<String>> {
        let limits = PublishLimits {
            data_max_bytes: self.config.limits.max_data_bytes,
            channels_max: self.config.limits.max_channels_per_publish,
        };
        let publish = Publish::parse(json.as_bytes(), limits, self.app.clock().now()).map_err(|e: PublishError| e)?;
        let who = Principal::ApiKey { label: "embedded".to_owned() };
        let channels: Vec<_> = publish.events.iter().map(|event| event.channel.clone()).collect();
        let answers = self.app.publisher.publish(&who, publish.events).await;
        let namespaces = self.namespaces.load();
        let counted = channels.iter().zip(answers).map(|(channel, answer)| {
            let appended = answer?;
            self.app.metrics.published(namespaces.label(channel), appended.is_duplicate);
            Ok(appended.id.to_string())
        });
        // All of them are counted, also those after one that was refused.
        counted.collect::<Vec<_>>().into_iter().collect()
    }

    /// Serves on the listener until `shutdown`, drains, and ends when every connection has. What is
    /// left to do then is [`close`](Self::close). Unlike `axum::serve` it watches the sockets, so that
    /// clients that are gone without a word are found ([`StreamConfig`](crate::config::StreamConfig)), and
    /// speaks TLS, if that is configured, and HTTP/2.
    pub fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> impl Future<Output = ()> + use<> {
        tidings_http::serve(self.app.clone(), self.router(), listener, self.tls.clone(), shutdown)
    }

    /// Ends the streams over the drain window. For applications that own the listener;
    /// [`serve`](Self::serve) does it by itself.
    pub async fn drain(&self) {
        self.app.drain().await;
    }

    /// A future for `axum::serve(…).with_graceful_shutdown(…)`: waits for Ctrl-C, then drains.
    pub fn drained_on_ctrl_c(&self) -> impl Future<Output = ()> + Send + 'static {
        let app = self.app.clone();
        async move {
            // Without a handler Ctrl-C would end the process anyway.
            let _cannot_listen = tokio::signal::ctrl_c().await;
            app.drain().await;
        }
    }

    /// Takes what can be changed from a newly read configuration: credentials, namespaces, limits,
    /// stream settings, CORS, proxies, the certificate, whose files are read again. Names what has changed but needs a restart.
    ///
    /// # Errors
    ///
    /// When no credentials are left, or a key or a certificate cannot be read; then nothing has changed.
    pub fn reload(&mut self, mut config: Config) -> anyhow::Result<Vec<&'static str>> {
        if self.is_dev {
            config.apply_dev(&DevSecrets::load_or_create(&self.config.data_dir)?)?;
        } else {
            check_credentials(&config)?;
        }
        let (auth, proxies) = (auth_config(&config)?, trusted_proxies(&config)?);
        let new_tls = match (&self.tls, config.tls.files()) {
            (Some(_), Some((cert, key))) => Some(Tls::load(cert, key)?),
            _ => None,
        };
        self.app.authenticator.reload(&auth)?;
        if let (Some(tls), Some(new)) = (&self.tls, new_tls) {
            tls.replace_by(new);
        }
        self.app.trusted_proxies.store(Arc::new(proxies));
        self.app.rate_limiter.reload(rate_limits(&config));
        self.app.replace_settings(settings(&config, self.is_dev));
        self.namespaces.store(Arc::new(namespaces(&config)));
        let old = std::mem::replace(&mut self.config, config);
        let needs_restart = [
            ("listen", old.listen != self.config.listen),
            ("data_dir", old.data_dir != self.config.data_dir),
            ("outbox", old.outbox != self.config.outbox),
            ("broker", old.broker != self.config.broker),
            ("store", old.store != self.config.store),
            ("notifications", old.notifications != self.config.notifications),
            ("push", old.push != self.config.push),
            ("presence", old.presence != self.config.presence),
            ("namespaces.NAME.presence", with_presence(&old) != with_presence(&self.config)),
            // The notifier has it from the start; the other limits are asked for when they are needed.
            ("limits.max_follows_per_user", old.limits.max_follows_per_user != self.config.limits.max_follows_per_user),
            ("server.shards", old.server.shards != self.config.server.shards),
            ("log", old.log != self.config.log),
            // A certificate can be replaced; whether there is one is a matter of what the port speaks.
            ("tls", old.tls.files().is_some() != self.config.tls.files().is_some()),
        ];
        Ok(needs_restart.into_iter().filter(|(_, has_changed)| *has_changed).map(|(key, _)| key).collect())
    }

    /// Stops the tasks and closes the log and the store, with all that was accepted on disk.
    pub async fn close(self) {
        // What it has taken has to be taken by the log too.
        self.outboxes.stop().await;
        self.stop.cancel();
        join(self.workers).await;
        self.broker.shutdown().await;
        join(self.tasks).await;
        self.store.close().await;
        if let Err(error) = tokio::task::spawn_blocking(move || self.shards.stop()).await {
            tracing::error!(%error, "the shards could not be stopped");
        }
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the server failed");
        }
    }
}

/// The namespaces of which account is kept who listens.
fn with_presence(config: &Config) -> Vec<&str> {
    config.namespaces.iter().filter(|(_, namespace)| namespace.presence).map(|(name, _)| name).collect()
}

fn check_credentials(config: &Config) -> anyhow::Result<()> {
    if config.auth.has_credentials() {
        return Ok(());
    }
    anyhow::bail!(
        "no credentials are configured, so nobody could publish; set auth.api_keys, auth.jwt_hs256_secret, \
         auth.jwt_public_keys or auth.jwks_url, or try things out with --dev"
    )
}

fn namespaces(config: &Config) -> Namespaces {
    let who = |access: &Access| match access {
        Access::Anyone => Who::Anyone,
        Access::User => Who::User,
        Access::Token => Who::Token,
        Access::Nobody => Who::Nobody,
    };
    let named = config.namespaces.iter().map(|(name, from)| {
        let namespace = Namespace {
            history_size: from.history_size,
            history_ttl: from.history_ttl,
            durable: from.durable,
            retain: from.retain,
            presence: from.presence,
            conflate_window: from.conflate_window,
            subscribe: from.subscribe.iter().map(who).collect(),
            publish: from.publish.iter().map(who).collect(),
        };
        (name.to_owned(), namespace)
    });
    Namespaces::new(named.collect::<HashMap<_, _>>())
}

fn embedded_config(config: &Config) -> EmbeddedConfig {
    let broker = &config.broker;
    EmbeddedConfig {
        dir: config.data_dir.clone(),
        history_max_bytes: broker.history_max_bytes,
        channels_max: broker.max_channels,
        keys: KeyLimits {
            window_ms: broker.idempotency_window.as_millis() as u64,
            keys_max: broker.idempotency_max_keys,
        },
        append_queue_max_bytes: broker.append_queue_max_bytes,
        database_max_bytes: None,
    }
}

/// The configured secret, or one that is made once and kept in the data directory, so that tickets
/// outlive a restart.
fn ticket_secret(config: &Config) -> anyhow::Result<[u8; 32]> {
    use sha2::Digest as _;
    let text = match &config.auth.ticket_secret {
        Some(secret) => secret.expose().to_owned(),
        None => secret_file::load_or_create(&config.data_dir, "ticket-secret", || secret_file::random_text(43))?,
    };
    Ok(sha2::Sha256::digest(text.trim().as_bytes()).into())
}

fn trusted_proxies(config: &Config) -> anyhow::Result<TrustedProxies> {
    let networks: Vec<String> =
        config.server.trusted_proxies.iter().map(|network| network.as_ip_net().to_string()).collect();
    Ok(TrustedProxies::parse(&networks)?)
}

fn auth_config(config: &Config) -> anyhow::Result<AuthConfig> {
    let auth = &config.auth;
    let public_keys = auth.public_keys().map_err(anyhow::Error::msg)?;
    Ok(AuthConfig {
        api_keys: auth.api_keys.iter().map(|key| key.expose().to_owned()).collect(),
        jwt_hs256_secret: auth.jwt_hs256_secret.as_ref().map(|secret| secret.expose().to_owned()),
        jwt_public_keys: public_keys.into_iter().map(|key| key.pem).collect(),
        jwks_url: auth.jwks_url.clone(),
        jwks_refresh: auth.jwks_refresh,
        jwt_audience: auth.jwt_audience.clone(),
        jwt_issuer: auth.jwt_issuer.clone(),
        jwt_leeway: auth.jwt_leeway,
        cookie: auth.cookie.clone(),
        cors_origins: config.server.cors_origins.clone(),
        allow_token_in_query: auth.allow_token_in_query,
        ticket_secret: ticket_secret(config)?,
    })
}

fn rate_limits(config: &Config) -> RateLimitConfig {
    RateLimitConfig {
        ip_requests_per_second: config.limits.ip_requests_per_second,
        ip_burst: config.limits.ip_burst,
        key_requests_per_second: config.limits.key_requests_per_second,
        key_burst: config.limits.key_burst,
    }
}

fn settings(config: &Config, is_dev: bool) -> Settings {
    let (stream, limits) = (&config.stream, &config.limits);
    Settings {
        stream: StreamSettings {
            live: Arc::new(LiveSettings {
                heartbeat: stream.heartbeat,
                write_timeout: stream.write_timeout,
                retry_millis: (stream.retry.min.as_millis() as u64, stream.retry.max.as_millis() as u64),
                limits: QueueLimits { max_bytes: stream.queue_max_bytes, max_events: stream.queue_max_events },
            }),
            max_age: stream.max_age,
            max_age_jitter: stream.max_age_jitter,
            tcp_user_timeout: stream.tcp_user_timeout,
            long_poll: stream.long_poll,
            confirm: match config.push.confirm {
                config::Confirm::Auto => Confirm::Auto,
                config::Confirm::Tcp => Confirm::Tcp,
                config::Confirm::Client => Confirm::Client,
            },
        },
        limits: Limits {
            data_max_bytes: limits.max_data_bytes,
            batch_max_events: limits.max_batch_events,
            batch_max_bytes: limits.max_batch_bytes,
            channels_per_stream: limits.max_channels_per_stream,
            channels_per_publish: limits.max_channels_per_publish,
            url_max_bytes: limits.max_url_bytes,
            head_max_bytes: limits.max_url_bytes + HEADERS_MAX_BYTES,
            connections: limits.max_connections,
            connections_per_user: limits.max_connections_per_user,
            connections_per_address: limits.max_streams_per_ip,
            devices_per_user: limits.max_devices_per_user,
            history_page: limits.history_page_max,
        },
        cors_origins: config.server.cors_origins.clone(),
        allows_cookies: config.auth.cookie.is_some(),
        dev: is_dev,
        header_timeout: config.server.header_timeout,
        body_timeout: config.server.body_timeout,
        drain_window: config.server.drain_window,
    }
}
