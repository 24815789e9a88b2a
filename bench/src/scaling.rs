//! What a million streams would need, worked out from what was measured.

use crate::{
    plan::{CPU_PER_DELIVERY, DELIVERIES, IDLE_CPU, KERNEL_BYTES, OPENED, OPENING_CPU, STREAM_BYTES},
    results::Results,
};

/// As many as the page speaks of.
pub const STREAMS: f64 = 1e6;

/// Tidings's default for `stream.heartbeat`, which all cases are measured with.
pub const HEARTBEAT_SECONDS: f64 = 15.0;

/// The part of a machine's memory that streams may take.
pub const MEMORY_SHARE: f64 = 0.75;

const TIDINGS: &str = "Tidings";

/// A figure and the section that it is from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct From {
    /// The figure.
    pub value: f64,
    /// The section.
    pub section: &'static str,
    /// The case.
    pub case: &'static str,
}

/// The constants. What was not measured is not there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Constants {
    /// Tidings's own memory for an idle stream of an authenticated user.
    pub own_bytes: Option<From>,
    /// The kernel's memory for one end of its connection. Both ends are on the machine that is measured, and take
    /// about the same, so it is half of what they take.
    pub kernel_bytes: Option<From>,
    /// Processor time for a heartbeat, in microseconds.
    pub heartbeat_micros: Option<From>,
    /// Processor time for the delivery of one event to one stream, in microseconds.
    pub delivery_micros: Option<From>,
    /// Deliveries a second of a core when one event after the other goes to all.
    pub alone_per_second: Option<From>,
    /// The same when sixteen are under way.
    pub coalesced_per_second: Option<From>,
    /// Streams that a core opens in a second.
    pub openings_per_second: Option<From>,
    /// Processor time for opening one, in microseconds.
    pub opening_micros: Option<From>,
}

impl Constants {
    /// Reads them.
    pub fn read(results: &Results) -> Self {
        let median = |section: &'static str, case: &'static str, metric: &str| {
            let value = results.get(section)?.median(case, TIDINGS, metric)?;
            (value.is_finite() && value > 0.0).then_some(From { value, section, case })
        };
        // For each of the streams that the case had.
        let each = |from: From, factor: f64| {
            let streams = results.get(from.section)?.streams(from.case)?;
            Some(From { value: from.value / streams * factor, ..from })
        };
        let heartbeat = |section| {
            let cpu = median(section, "users", IDLE_CPU.id)?;
            each(cpu, HEARTBEAT_SECONDS / 100.0 * 1e6)
        };
        let opening = |case| {
            let opened = median("storm", case, OPENED.id)?;
            let streams = results.get("storm")?.streams(case)?;
            Some(From { value: streams / opened.value, ..opened })
        };
        let opening_cpu = |case| each(median("storm", case, OPENING_CPU.id)?, 1e6);
        Self {
            own_bytes: median("idle", "users", STREAM_BYTES.id),
            kernel_bytes: median("idle", "users", KERNEL_BYTES.id).map(|both| From { value: both.value / 2.0, ..both }),
            // Half an hour says it better than a round.
            heartbeat_micros: heartbeat("soak").or_else(|| heartbeat("idle")),
            delivery_micros: median("open-loop", "10", CPU_PER_DELIVERY.id),
            alone_per_second: median("broadcast", "10000-w1", DELIVERIES.id),
            coalesced_per_second: median("broadcast", "10000-w16", DELIVERIES.id),
            openings_per_second: opening("users").or_else(|| opening("256")),
            opening_micros: opening_cpu("users").or_else(|| opening_cpu("256")),
        }
    }

    /// Memory for so many idle streams, Tidings's and the kernel's.
    pub fn memory_bytes(&self, streams: f64) -> Option<f64> {
        Some((self.own_bytes?.value + self.kernel_bytes?.value) * streams)
    }

    /// Streams for which a machine with so much memory has room.
    pub fn streams_in(&self, memory_bytes: f64) -> Option<f64> {
        Some(memory_bytes * MEMORY_SHARE / self.memory_bytes(1.0)?)
    }

    /// Cores that the heartbeats of so many streams keep busy.
    pub fn heartbeat_cores(&self, streams: f64) -> Option<f64> {
        Some(streams / HEARTBEAT_SECONDS * self.heartbeat_micros?.value / 1e6)
    }

    /// Seconds until the last of so many streams has an event that goes to all.
    pub fn broadcast_seconds(&self, streams: f64, shards: f64) -> Option<f64> {
        Some(streams * self.delivery_micros?.value / 1e6 / shards)
    }

    /// Seconds until so many streams are open.
    pub fn opening_seconds(&self, streams: f64, cores: f64) -> Option<f64> {
        Some(streams / self.openings_per_second?.value / cores)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        render::tests::result,
        results::{CaseResult, ContenderResult, SectionResult},
    };

    /// A case, its streams and its figures.
    type Measured<'a> = (&'a str, u64, &'a [(&'a str, f64)]);

    /// A section with cases of so many streams, and figures of Tidings for each.
    fn section(id: &str, cases: &[Measured<'_>]) -> (String, SectionResult) {
        let case = |(case, streams, figures): &Measured<'_>| {
            let samples = figures.iter().map(|(metric, value)| ((*metric).to_owned(), vec![*value])).collect();
            CaseResult {
                case: (*case).to_owned(),
                title: format!("{streams} streams"),
                streams: Some(*streams),
                contenders: [(TIDINGS.to_owned(), ContenderResult { samples, refused: Vec::new() })].into(),
            }
        };
        let cases = cases.iter().map(case).collect();
        (id.to_owned(), SectionResult { cases, ..result(id, "", "", &[]) })
    }

    /// Results in round numbers.
    pub(crate) fn results() -> Results {
        let users: &[(&str, f64)] = &[(STREAM_BYTES.id, 500.0), (KERNEL_BYTES.id, 7000.0), (IDLE_CPU.id, 2.0)];
        let storm: &[(&str, f64)] = &[(OPENED.id, 0.5), (OPENING_CPU.id, 0.4)];
        [
            section("idle", &[("users", 15_000, users)]),
            section("open-loop", &[("10", 10_000, &[(CPU_PER_DELIVERY.id, 5.0)])]),
            section("storm", &[("256", 10_000, &[(OPENED.id, 0.25)]), ("users", 10_000, storm)]),
            section(
                "broadcast",
                &[
                    ("10000-w1", 10_000, &[(DELIVERIES.id, 180_000.0)]),
                    ("10000-w16", 10_000, &[(DELIVERIES.id, 1.5e6)]),
                ],
            ),
        ]
        .into()
    }

    fn near(value: Option<f64>, wanted: f64) {
        let value = value.unwrap();
        assert!((value - wanted).abs() < wanted * 1e-9, "{value} is not {wanted}");
    }

    #[test]
    fn a_million_is_worked_out_from_what_was_measured() {
        let constants = Constants::read(&results());
        // 500 bytes of Tidings, and half of what both ends take of the kernel.
        near(constants.memory_bytes(STREAMS), 4e9);
        near(constants.streams_in(8e9), 1.5e6);
        // 15,000 streams have 1,000 heartbeats a second for 2 % of a core: 20 µs each.
        near(constants.heartbeat_micros.map(|from| from.value), 20.0);
        near(constants.heartbeat_cores(STREAMS), STREAMS / 15.0 * 20e-6);
        near(constants.broadcast_seconds(STREAMS, 10.0), 0.5);
        near(constants.opening_seconds(STREAMS, 10.0), 5.0);
        near(constants.opening_micros.map(|from| from.value), 40.0);
    }

    #[test]
    fn the_long_run_is_preferred_and_so_are_authenticated_users() {
        let mut results = results();
        results.extend([section("soak", &[("users", 15_000, &[(IDLE_CPU.id, 1.0)])])]);
        results.extend([section("storm", &[("256", 10_000, &[(OPENED.id, 0.25)])])]);
        let constants = Constants::read(&results);
        let heartbeat = constants.heartbeat_micros.unwrap();
        assert_eq!((heartbeat.value.round(), heartbeat.section), (10.0, "soak"));
        let openings = constants.openings_per_second.unwrap();
        assert_eq!((openings.value, openings.case), (40_000.0, "256"));
        assert_eq!(constants.opening_micros, None);
    }

    #[test]
    fn what_was_not_measured_or_counted_is_not_guessed() {
        assert_eq!(Constants::read(&Results::new()), Constants::default());
        let mut results = results();
        // The kernel's memory shrank meanwhile: that says nothing.
        results.extend([section("idle", &[("users", 15_000, &[(STREAM_BYTES.id, 500.0), (KERNEL_BYTES.id, -3.0)])])]);
        // A result of before streams were counted.
        results.get_mut("storm").unwrap().cases.iter_mut().for_each(|case| case.streams = None);
        let constants = Constants::read(&results);
        assert_eq!(constants.memory_bytes(1.0), None);
        assert_eq!(constants.opening_seconds(1.0, 1.0), None);
        assert_eq!(constants.heartbeat_cores(1.0), None);
    }
}
