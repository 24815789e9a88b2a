//! Numbers of what events are taken from besides requests.

use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tidings_core::ports::Ingest;

/// The sources: as many as are configured.
#[derive(Clone, Default)]
pub(super) struct Sources(Arc<RwLock<Vec<Arc<dyn Ingest>>>>);

impl Sources {
    pub(super) fn add(&self, source: Arc<dyn Ingest>) {
        self.0.write().push(source);
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sources: Vec<_> = self.0.read().iter().map(|source| source.status()).collect();
        let help = "1 while this node takes from the source, or another one may";
        let mut family = encoder.encode_descriptor("ingest_up", help, None, MetricType::Gauge)?;
        for source in &sources {
            let up = ConstGauge::new(i64::from(source.trouble.is_none()));
            up.encode(family.encode_family(&[("source", source.name.as_str())])?)?;
        }
        let help = "1 where this node is the one that takes from the source";
        let mut family = encoder.encode_descriptor("ingest_leader", help, None, MetricType::Gauge)?;
        for source in &sources {
            let leads = ConstGauge::new(i64::from(source.is_leader));
            leads.encode(family.encode_family(&[("source", source.name.as_str())])?)?;
        }
        let help = "How long the oldest had waited when this node looked last";
        let mut family = encoder.encode_descriptor("ingest_lag_seconds", help, None, MetricType::Gauge)?;
        for source in &sources {
            let lag = ConstGauge::new(source.lag_ms as f64 / 1000.0);
            lag.encode(family.encode_family(&[("source", source.name.as_str())])?)?;
        }
        let help = "What was taken from the source, by what became of it";
        let mut family = encoder.encode_descriptor("ingest_taken", help, None, MetricType::Counter)?;
        for source in &sources {
            for (outcome, count) in [
                ("event", source.events_total),
                ("notification", source.notifications_total),
                ("duplicate", source.duplicates_total),
                ("parked", source.parked_total),
            ] {
                let labels = [("source", source.name.as_str()), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
