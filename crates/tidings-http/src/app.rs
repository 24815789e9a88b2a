//! What every request handler has at hand, and the life of the server around it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use rand::seq::SliceRandom as _;
use tidings_core::{
    notifications::Notifier,
    ports::{Broker, Clock, Presence, PushSender},
    publish::Publisher,
    stream::Streams,
};
use tidings_hub::ConnectionFilter;
use tidings_protocol::CloseReason;
use tokio::sync::Semaphore;

use crate::{
    auth::Authenticator, blocks::Blocks, client_address::TrustedProxies, metrics::Metrics, rate_limit::RateLimiter,
    settings::Settings,
};

/// One server's parts.
pub struct App {
    /// Streams and what they need.
    pub streams: Streams,
    /// Publishes and what they need.
    pub publisher: Publisher,
    /// Inboxes, and what users want of them.
    pub notifier: Arc<Notifier>,
    /// What sends to devices; asked whether a device can be one.
    pub push: Arc<dyn PushSender>,
    /// Who is there.
    pub presence: Arc<dyn Presence>,
    /// Who is who.
    pub authenticator: Arc<Authenticator>,
    /// How fast anybody may be.
    pub rate_limiter: RateLimiter,
    /// Whose word on a client's address counts.
    pub trusted_proxies: ArcSwap<TrustedProxies>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cursors of streams that are being taken as acknowledgements.
    pub(crate) acknowledging: Arc<Semaphore>,
    /// Who must not come back yet.
    pub(crate) blocks: Blocks,
    /// Another path of the stream of `GET /v1/subscribe`.
    pub(crate) alarm_path: Option<String>,
    /// This node, for the life of the process.
    pub node: Arc<str>,
    settings: ArcSwap<Settings>,
    is_draining: AtomicBool,
}

/// What an [`App`] is made of.
pub struct AppParts {
    /// Streams and what they need.
    pub streams: Streams,
    /// Inboxes, and what users want of them.
    pub notifier: Arc<Notifier>,
    /// What sends to devices; asked whether a device can be one.
    pub push: Arc<dyn PushSender>,
    /// This node, for the life of the process.
    pub node: Arc<str>,
    /// Who is there.
    pub presence: Arc<dyn Presence>,
    /// Who is who.
    pub authenticator: Arc<Authenticator>,
    /// How fast anybody may be.
    pub rate_limiter: RateLimiter,
    /// Whose word on a client's address counts.
    pub trusted_proxies: TrustedProxies,
    /// Another path of the stream of `GET /v1/subscribe`.
    pub alarm_path: Option<String>,
    /// What an operator has set.
    pub settings: Settings,
    /// The version that is running.
    pub version: &'static str,
}

impl App {
    /// Puts the parts together.
    pub fn new(parts: AppParts) -> Arc<Self> {
        let AppParts {
            streams,
            notifier,
            push,
            node,
            presence,
            authenticator,
            rate_limiter,
            trusted_proxies,
            alarm_path,
            settings,
            version,
        } = parts;
        let publisher = Publisher { broker: streams.broker.clone(), namespaces: streams.namespaces.clone() };
        let metrics =
            Arc::new(Metrics::new(&streams, notifier.clone(), presence.clone(), authenticator.clone(), version));
        Arc::new(Self {
            streams,
            publisher,
            notifier,
            push,
            presence,
            authenticator,
            rate_limiter,
            trusted_proxies: ArcSwap::from_pointee(trusted_proxies),
            metrics,
            acknowledging: Arc::new(Semaphore::new(ACKNOWLEDGING_MAX)),
            blocks: Blocks::default(),
            alarm_path,
            node,
            settings: ArcSwap::from_pointee(settings),
            is_draining: AtomicBool::new(false),
        })
    }

    /// What an operator has set, as it stands now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Replaces it. Open streams keep what they were opened with.
    pub fn replace_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The log.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.streams.broker
    }

    /// The time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.streams.clock
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Why the server is not ready for traffic, if it is not.
    pub fn unready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".to_owned());
        }
        self.broker().status().trouble.or_else(|| self.notifier.trouble())
    }

    /// Ends all streams, spread over the drain window, so that their clients do not come back all at
    /// once. New ones are told to come back later from the first moment.
    pub async fn drain(&self) {
        self.is_draining.store(true, Relaxed);
        self.presence.withdraw();
        let window = self.settings().drain_window;
        let mut open = self.streams.hub.connections(&ConnectionFilter::default());
        tracing::info!(streams = open.len(), window = ?window, "draining");
        open.shuffle(&mut rand::rng());
        let steps = open.len().min(DRAIN_STEPS);
        let mut pause = std::time::Duration::ZERO;
        for chunk in open.chunks(open.len().div_ceil(steps.max(1)).max(1)) {
            // Before each step but the first: who drains nothing need not wait.
            tokio::time::sleep(pause).await;
            pause = window / steps as u32;
            for connection in chunk {
                self.streams.hub.close(&connection.id, CloseReason::Drain);
            }
        }
        // Those that came in between, before they saw the drain.
        self.streams.hub.close_all(&ConnectionFilter::default(), CloseReason::Drain);
    }
}

/// How many cursors of streams are taken as acknowledgements at a time. Each takes a call of the store, if any
/// delivery is open at all.
const ACKNOWLEDGING_MAX: usize = 256;

/// In how many steps streams are closed on shutdown: smooth enough, and few wake-ups.
const DRAIN_STEPS: usize = 1000;
