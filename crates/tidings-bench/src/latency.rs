//! How long things took.

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time that is told apart, in microseconds: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

/// Where the curve is read off, in percent.
const CURVE: [f64; 24] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.5, 98.0, 99.0, 99.5, 99.75,
    99.9, 99.95, 99.99, 99.995, 99.999,
];

/// Times in microseconds, exact to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Only bounds that contradict each other are refused.
        Self(Histogram::new_with_bounds(1, MAX_MICROS, 3).unwrap_or_else(|_| unreachable!("the bounds are fixed")))
    }
}

impl Latencies {
    /// Takes the time from one moment to a later one, in nanoseconds of the clock.
    pub(crate) fn record(&mut self, from: u64, to: u64) {
        self.0.saturating_record((to.saturating_sub(from) + 500) / 1000);
    }

    /// Adds those of another client.
    pub(crate) fn add(&mut self, other: &Self) {
        for value in other.0.iter_recorded() {
            self.0.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// What to report of them.
    pub(crate) fn report(&self) -> LatencyReport {
        let histogram = &self.0;
        let is_told = |percent: f64| histogram.len() as f64 * (100.0 - percent) >= 100.0;
        let mut curve: Vec<_> = CURVE
            .into_iter()
            .filter(|percent| is_told(*percent))
            .map(|percent| (percent, histogram.value_at_quantile(percent / 100.0)))
            .collect();
        if !histogram.is_empty() {
            curve.push((100.0, histogram.max()));
        }
        LatencyReport {
            p50_micros: histogram.value_at_quantile(0.5),
            p90_micros: histogram.value_at_quantile(0.9),
            p99_micros: histogram.value_at_quantile(0.99),
            p999_micros: histogram.value_at_quantile(0.999),
            max_micros: histogram.max(),
            count: histogram.len(),
            curve,
        }
    }
}

/// Each value and how often it was seen: exact, as the values are those of the histogram's own steps.
impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut this = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            this.0.saturating_record_n(value, count);
        }
        Ok(this)
    }
}

/// How long things took, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// Median.
    pub p50_micros: u64,
    /// 90th percentile.
    pub p90_micros: u64,
    /// 99th percentile.
    pub p99_micros: u64,
    /// 99.9th percentile.
    pub p999_micros: u64,
    /// Longest.
    pub max_micros: u64,
    /// How many were measured.
    pub count: u64,
    /// Percentiles and their values, for a plot; only those that enough measurements stand for.
    pub curve: Vec<(f64, u64)>,
}

impl std::fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50_micros, p99_micros, p999_micros, max_micros, .. } = self;
        write!(f, "{p50_micros} µs (p50), {p99_micros} µs (p99), {p999_micros} µs (p99.9), {max_micros} µs (longest)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_loses_nothing() {
        let (mut one, mut other, mut both) = (Latencies::default(), Latencies::default(), Latencies::default());
        for at in 0..5000_u64 {
            let nanos = at * at * 1000;
            if at % 3 == 0 {
                one.record(7, 7 + nanos)
            } else {
                other.record(7, 7 + nanos)
            }
            both.record(7, 7 + nanos);
        }
        let sent = serde_json::to_string(&other).unwrap();
        one.add(&serde_json::from_str(&sent).unwrap());
        assert_eq!(one.report(), both.report());
        assert_eq!(both.report().count, 5000);
    }
}
