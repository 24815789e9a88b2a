//! The Prometheus metrics of one server. No globals: two servers in one process count apart.

mod ingest;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};
use tidings_core::{
    notifications::Notifier,
    ports::{Broker, Ingest, Presence, presence::PresenceStatus},
    stream::Streams,
};
use tidings_hub::{Hub, Transport, counters::DELIVERY_BOUNDS_MILLIS};
use tidings_protocol::CloseReason;

use self::ingest::Sources;
use crate::{auth::Authenticator, tls::Handshake};

/// What became of a client that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResumeOutcome {
    /// It got all that it had missed.
    Complete,
    /// Something that it had missed was gone, and it was told.
    Gap,
    /// It left before all was sent.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: ResumeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    outcome: Handshake,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

/// Of what stands alone.
type NoLabels = [(&'static str, &'static str); 0];

impl EncodeLabelValue for ResumeOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Complete => "complete",
            Self::Gap => "gap",
            Self::Interrupted => "interrupted",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

impl EncodeLabelValue for Handshake {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

/// What is counted on the way; the rest is read from its owners when metrics are asked for.
pub struct Metrics {
    registry: Registry,
    published: Family<NamespaceLabel, Counter>,
    duplicates: Family<NamespaceLabel, Counter>,
    /// The counters of these two, found without an allocation for each event.
    published_by_label: RwLock<HashMap<String, Counter>>,
    duplicates_by_label: RwLock<HashMap<String, Counter>>,
    refused: Family<CodeLabel, Counter>,
    resumes: Family<OutcomeLabel, Counter>,
    handshakes: Family<HandshakeLabel, Counter>,
    sources: Sources,
}

impl Metrics {
    /// Metrics of a server with these parts.
    pub fn new(
        streams: &Streams,
        notifier: Arc<Notifier>,
        presence: Arc<dyn Presence>,
        authenticator: Arc<Authenticator>,
        version: &'static str,
    ) -> Self {
        let (hub, broker) = (streams.hub.clone(), streams.broker.clone());
        let mut registry = Registry::with_prefix("tidings");
        let published = Family::<NamespaceLabel, Counter>::default();
        for (label, _) in streams.namespaces.load().labelled() {
            drop(published.get_or_create(&NamespaceLabel { namespace: label.to_owned() }));
        }
        registry.register("events_published", "Events accepted, by configured namespace", published.clone());
        let duplicates = Family::default();
        registry.register(
            "events_duplicate",
            "Publishes answered with an earlier event of the same key, by configured namespace",
            duplicates.clone(),
        );
        let refused = Family::default();
        registry.register(
            "requests_refused",
            "Requests and batch lines answered with a problem, by code",
            refused.clone(),
        );
        let resumes = Family::<OutcomeLabel, Counter>::default();
        // A counter that is not there until it counts hides its first increase.
        for outcome in [ResumeOutcome::Complete, ResumeOutcome::Gap, ResumeOutcome::Interrupted] {
            drop(resumes.get_or_create(&OutcomeLabel { outcome }));
        }
        registry.register("resume", "Streams that came back with a cursor, by outcome", resumes.clone());
        let handshakes = Family::<HandshakeLabel, Counter>::default();
        for outcome in [Handshake::Complete, Handshake::Failed, Handshake::TimedOut] {
            drop(handshakes.get_or_create(&HandshakeLabel { outcome }));
        }
        registry.register("tls_handshakes", "TLS handshakes, by outcome", handshakes.clone());
        registry.register(
            "build",
            "The running version",
            prometheus_client::metrics::info::Info::new([("version", version)]),
        );
        registry.register_collector(Box::new(Observed { hub, broker, notifier, presence, authenticator }));
        let sources = Sources::default();
        registry.register_collector(Box::new(sources.clone()));
        Self {
            registry,
            published,
            duplicates,
            published_by_label: RwLock::default(),
            duplicates_by_label: RwLock::default(),
            refused,
            resumes,
            handshakes,
            sources,
        }
    }

    /// Shows the numbers of a source from now on.
    pub fn watch(&self, source: Arc<dyn Ingest>) {
        self.sources.add(source);
    }

    /// An event was accepted.
    pub fn published(&self, namespace: &str, is_duplicate: bool) {
        let (family, counters) = match is_duplicate {
            false => (&self.published, &self.published_by_label),
            true => (&self.duplicates, &self.duplicates_by_label),
        };
        if let Some(counter) = counters.read().get(namespace) {
            counter.inc();
            return;
        }
        let counter = family.get_or_create(&NamespaceLabel { namespace: namespace.to_owned() }).clone();
        counter.inc();
        // As many as there are configured namespaces, over all reloads.
        counters.write().insert(namespace.to_owned(), counter);
    }

    /// A request was refused.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&CodeLabel { code }).inc();
    }

    /// A client came back.
    pub fn resumed(&self, outcome: ResumeOutcome) {
        self.resumes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A client wanted TLS.
    pub(crate) fn handshake(&self, outcome: Handshake) {
        self.handshakes.get_or_create(&HandshakeLabel { outcome }).inc();
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Numbers that others own.
struct Observed {
    hub: Arc<Hub>,
    broker: Arc<dyn Broker>,
    notifier: Arc<Notifier>,
    presence: Arc<dyn Presence>,
    authenticator: Arc<Authenticator>,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observed")
    }
}

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.hub.counters();

        let mut family = encoder.encode_descriptor("connections", "Open streams", None, MetricType::Gauge)?;
        for transport in Transport::ALL {
            let open = self.hub.count_of_transport(transport) as i64;
            ConstGauge::new(open).encode(family.encode_family(&[("transport", transport.as_str())])?)?;
        }
        let mut family =
            encoder.encode_descriptor("connections_opened", "Streams opened", None, MetricType::Counter)?;
        for transport in Transport::ALL {
            let value = ConstCounter::new(counters.opened[transport as usize].get());
            value.encode(family.encode_family(&[("transport", transport.as_str())])?)?;
        }
        let mut family = encoder.encode_descriptor("connections_closed", "Streams ended", None, MetricType::Counter)?;
        for transport in Transport::ALL {
            for reason in CloseReason::ALL {
                let value = ConstCounter::new(counters.closed[transport as usize][reason as usize].get());
                let labels = [("transport", transport.as_str()), ("reason", reason.as_str())];
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Events handed to streams, live or from history";
        let mut family = encoder.encode_descriptor("events_delivered", help, None, MetricType::Counter)?;
        for transport in Transport::ALL {
            let value = ConstCounter::new(counters.delivered[transport as usize].get());
            value.encode(family.encode_family(&[("transport", transport.as_str())])?)?;
        }
        let help = "From sent_at to the kernel taking the event, or for streams that a task serves to the \
                    connection taking it; live events only";
        let (sum_millis, counts) = counters.delivery.get();
        let bounds = DELIVERY_BOUNDS_MILLIS.iter().map(|millis| millis / 1000.0).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = counts.iter().sum();
        encoder
            .encode_descriptor("delivery_seconds", help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabels>(sum_millis as f64 / 1000.0, count, &buckets, None)?;
        let help = "Live events that were not delivered to a stream: a newer one took their place, or the \
                    stream was closed and its client resumes";
        let mut family = encoder.encode_descriptor("events_dropped", help, None, MetricType::Counter)?;
        for (reason, counter) in [("conflated", &counters.conflated), ("slow_consumer", &counters.overflowed)] {
            ConstCounter::new(counter.get()).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let help = "Times that a stream could not catch up with its buffer and read history again";
        let family = encoder.encode_descriptor("stream_later_fences", help, None, MetricType::Counter)?;
        ConstCounter::new(counters.later_fences.get()).encode(family)?;
        let help = "Times that the feed waited for a shard that had not written what it had";
        let family = encoder.encode_descriptor("feed_waits", help, None, MetricType::Counter)?;
        ConstCounter::new(counters.feed_waits.get()).encode(family)?;
        let help = "Sockets of each shard, those that are being closed included";
        let mut family = encoder.encode_descriptor("shard_sockets", help, None, MetricType::Gauge)?;
        for (number, sockets) in self.hub.sockets_by_shard().into_iter().enumerate() {
            let number = number.to_string();
            ConstGauge::new(sockets as i64).encode(family.encode_family(&[("shard", number.as_str())])?)?;
        }
        let family =
            encoder.encode_descriptor("channels_listened", "Channels with a stream here", None, MetricType::Gauge)?;
        ConstGauge::new(self.hub.channel_count() as i64).encode(family)?;

        if let Some(keys) = self.authenticator.key_fetch_status() {
            let help = "Keys held from auth.jwks_url";
            let family = encoder.encode_descriptor("jwks_keys", help, None, MetricType::Gauge)?;
            ConstGauge::new(keys.keys as i64).encode(family)?;
            let help = "Fetches of auth.jwks_url, by outcome";
            let mut family = encoder.encode_descriptor("jwks_fetches", help, None, MetricType::Counter)?;
            for (outcome, count) in [("success", keys.successes), ("failure", keys.failures)] {
                ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
            }
        }

        let status = self.broker.status();
        let family = encoder.encode_descriptor(
            "broker_up",
            "1 while the log can take durable events",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(status.trouble.is_none())).encode(family)?;
        for (name, value) in status.gauges {
            let name = format!("broker_{name}");
            let family = encoder.encode_descriptor(&name, "A number of the log", None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(family)?;
        }
        for (name, value) in status.counters {
            let name = format!("broker_{name}");
            let family = encoder.encode_descriptor(&name, "A count of the log", None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)?;
        }
        self.encode_presence(&mut encoder)?;
        self.encode_notifications(encoder)
    }
}

impl Observed {
    fn encode_presence(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let PresenceStatus { joins, leaves, lost, listener } = self.presence.status();
        let help = "Users who came to a channel or left it, of which its other listeners were told; lost are those \
                    that the log did not take";
        let mut family = encoder.encode_descriptor("presence_events", help, None, MetricType::Counter)?;
        for (kind, count) in [("join", joins), ("leave", leaves), ("lost", lost)] {
            ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        if !listener.is_empty() {
            let help = "Messages of the webhook for users who come and go, by outcome";
            let mut family = encoder.encode_descriptor("presence_webhook", help, None, MetricType::Counter)?;
            for (outcome, count) in listener {
                ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
            }
        }
        Ok(())
    }

    fn encode_notifications(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.notifier.counters();
        let help = "Notifications accepted and duplicate, and deliveries of theirs by what became of them";
        let mut family = encoder.encode_descriptor("notifications", help, None, MetricType::Counter)?;
        let taken = [("accepted", counters.accepted()), ("duplicate", counters.duplicates())];
        let settled = counters.outcomes().map(|(outcome, count)| (outcome.as_str(), count));
        for (outcome, count) in taken.into_iter().chain(settled) {
            ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        let help = "Attempts to push to a device, by provider and what came of them";
        let mut family = encoder.encode_descriptor("push", help, None, MetricType::Counter)?;
        for (provider, outcome, count) in counters.pushes() {
            let labels = [("provider", provider), ("outcome", outcome.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, count) in [
            (
                "inbox_fan_out_rows",
                "Inboxes written to followers, and to devices for everyone",
                counters.fan_out_rows(),
            ),
            ("inbox_told", "Events by which streams were told of notifications", counters.told()),
            ("inbox_expired_rows", "Rows taken away because their notification had expired", counters.swept()),
            ("store_errors", "Calls of the store that failed", counters.store_errors()),
        ] {
            ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let status = self.notifier.status();
        let help = "1 while the store of notifications can be used";
        let family = encoder.encode_descriptor("store_up", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(status.trouble.is_none())).encode(family)?;
        let help = "Steps of notifications that fail now and are tried again: tell, push and the like";
        let family = encoder.encode_descriptor("notifier_failing_workers", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.notifier.worker_troubles().len() as i64).encode(family)?;
        for (name, value) in status.gauges {
            let name = format!("store_{name}");
            let family = encoder.encode_descriptor(&name, "A number of the store", None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(family)?;
        }
        Ok(())
    }
}
