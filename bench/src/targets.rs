//! What Tidings is meant to reach, and whether it does.

use std::collections::BTreeMap;

use crate::{
    plan::{CPU_PER_DELIVERY, DELIVERIES, EVENTS, IDLE_CPU, MESSAGES, Metric, OPENED, P99, STREAM_BYTES, Unit},
    render,
    results::SectionResult,
};

/// A bound on a figure or on its ratio to another's.
#[derive(Debug, Clone)]
pub struct Target {
    /// What a table calls it.
    pub title: &'static str,
    section: &'static str,
    case: &'static str,
    contender: &'static str,
    metric: Metric,
    against: Option<&'static str>,
    relation: Relation,
    /// The first step, and the next where there is one.
    bounds: &'static [f64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    AtLeast,
    AtMost,
}

/// What became of a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was measured, as text.
    pub measured: String,
    /// How many of its steps are met.
    pub steps_met: usize,
    /// How many there are.
    pub steps: usize,
    /// Whether it comes from the small run, which has fewer streams than a target speaks of.
    pub is_quick: bool,
}

impl Outcome {
    /// A word for it.
    pub fn word(&self) -> &'static str {
        match (self.steps_met, self.steps) {
            _ if self.is_quick => "small run",
            (0, _) => "**no**",
            (met, steps) if met == steps => "yes",
            _ => "the first",
        }
    }
}

impl Target {
    /// The bound, as text.
    pub fn bound(&self) -> String {
        let sign = if self.relation == Relation::AtLeast { '≥' } else { '≤' };
        let step = |bound: &f64| match self.against {
            Some(_) => format!("{sign} {bound}"),
            None => format!("{sign} {}", render::figure(*bound, self.metric.unit)),
        };
        let steps: Vec<String> = self.bounds.iter().map(step).collect();
        let against = self.against.map(|other| format!(" × {other}")).unwrap_or_default();
        steps.join(", then ") + &against
    }

    /// What became of it; `None` when it has not been measured.
    pub fn outcome(&self, results: &BTreeMap<String, SectionResult>) -> Option<Outcome> {
        let result = results.get(self.section)?;
        let median = |contender| result.summary(self.case, contender, self.metric.id).map(|summary| summary.median);
        let value = median(self.contender)?;
        let (value, measured) = match self.against {
            None => (value, render::figure(value, self.metric.unit)),
            Some(other) => {
                let ratio = value / median(other)?;
                let text = render::figure(ratio, Unit::Ratio);
                // "1.10, not met" where 1.1 is the bound would be a riddle.
                let is_bound = self.bounds.iter().any(|bound| render::figure(*bound, Unit::Ratio) == text);
                let text = if is_bound { format!("{ratio:.3}") } else { text };
                (ratio, format!("{text} × {other}"))
            }
        };
        let is_met = |bound: &&f64| match self.relation {
            Relation::AtLeast => value >= **bound,
            Relation::AtMost => value <= **bound,
        };
        let steps_met = self.bounds.iter().filter(is_met).count();
        Some(Outcome { measured, steps_met, steps: self.bounds.len(), is_quick: result.is_quick })
    }
}

const TIDINGS: &str = "Tidings";

/// A ratio to another contender of the same case.
const fn ratio(
    title: &'static str,
    (section, case): (&'static str, &'static str),
    metric: Metric,
    against: &'static str,
    relation: Relation,
    bounds: &'static [f64],
) -> Target {
    Target { title, section, case, contender: TIDINGS, metric, against: Some(against), relation, bounds }
}

/// A figure by itself.
const fn figure(
    title: &'static str,
    (section, case): (&'static str, &'static str),
    contender: &'static str,
    metric: Metric,
    relation: Relation,
    bounds: &'static [f64],
) -> Target {
    Target { title, section, case, contender, metric, against: None, relation, bounds }
}

/// All targets.
pub fn all() -> Vec<Target> {
    use Relation::{AtLeast, AtMost};
    const W1: (&str, &str) = ("broadcast", "1000-w1");
    const W1_MANY: (&str, &str) = ("broadcast", "10000-w1");
    const W16: (&str, &str) = ("broadcast", "1000-w16");
    const W16_MANY: (&str, &str) = ("broadcast", "10000-w16");
    const OPEN: (&str, &str) = ("open-loop", "10");
    const UNICAST: (&str, &str) = ("unicast", "64");
    const USERS: (&str, &str) = ("idle", "users");
    const SINGLE: (&str, &str) = ("publish", "single");
    const BATCH: (&str, &str) = ("publish", "batch");
    const STORM: (&str, &str) = ("storm", "256");
    const SOAK: (&str, &str) = ("soak", "users");
    const SHARDS: (&str, &str) = ("shards", "10");
    vec![
        figure(
            "own memory of an idle stream of an authenticated user",
            USERS,
            TIDINGS,
            STREAM_BYTES,
            AtMost,
            &[512.0, 300.0],
        ),
        ratio("broadcast to 1,000, window 1", W1, DELIVERIES, "raw", AtLeast, &[0.92, 0.97]),
        ratio("", W1, DELIVERIES, "Nchan", AtLeast, &[1.15]),
        ratio("broadcast to 10,000, window 1", W1_MANY, DELIVERIES, "raw", AtLeast, &[0.92, 0.97]),
        ratio("", W1_MANY, DELIVERIES, "Nchan", AtLeast, &[1.6]),
        ratio("broadcast to 1,000, window 16", W16, DELIVERIES, "raw-batch", AtLeast, &[0.85]),
        ratio("", W16, DELIVERIES, "Nchan", AtLeast, &[8.0]),
        ratio("broadcast to 10,000, window 16", W16_MANY, DELIVERIES, "raw-batch", AtLeast, &[0.85]),
        ratio("", W16_MANY, DELIVERIES, "Nchan", AtLeast, &[8.0]),
        ratio("CPU of a delivery, 10,000 streams, 10 events/s", OPEN, CPU_PER_DELIVERY, "raw", AtMost, &[1.10]),
        ratio("p99 of the same", OPEN, P99, "raw", AtMost, &[1.15]),
        ratio("unicast over HTTP", UNICAST, MESSAGES, "raw", AtLeast, &[0.75, 0.85]),
        ratio("", UNICAST, MESSAGES, "Nchan", AtLeast, &[1.3]),
        figure("durable publishes, 64 publishers", SINGLE, "Tidings, durable", EVENTS, AtLeast, &[20_000.0]),
        figure("durable publishes, NDJSON", BATCH, "Tidings, durable", EVENTS, AtLeast, &[100_000.0]),
        ratio("time to open 10,000 streams", STORM, OPENED, "Nchan", AtMost, &[1.1]),
        figure("CPU of 19,000 idle streams with heartbeats", USERS, TIDINGS, IDLE_CPU, AtMost, &[2.0]),
        figure("the same for 30 minutes", SOAK, TIDINGS, IDLE_CPU, AtMost, &[2.0]),
        Target {
            title: "CPU of a delivery with two shards",
            section: SHARDS.0,
            case: SHARDS.1,
            contender: "two shards",
            metric: CPU_PER_DELIVERY,
            against: Some("one shard"),
            relation: AtMost,
            bounds: &[1.1],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::result;

    fn outcome(target: &Target, samples: &[(&str, &[f64])]) -> Option<Outcome> {
        let result = result(target.section, target.case, target.metric.id, samples);
        target.outcome(&[(target.section.to_owned(), result)].into())
    }

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let target = ratio("", ("s", "c"), DELIVERIES, "raw", Relation::AtLeast, &[0.92, 0.97]);
        assert_eq!(target.bound(), "≥ 0.92, then ≥ 0.97 × raw");
        let outcome =
            |tidings: f64| outcome(&target, &[("Tidings", &[1.0, tidings, 900.0]), ("raw", &[99.0, 100.0, 1e6])]);
        let word = |tidings| outcome(tidings).unwrap().word();
        assert_eq!((word(91.0), word(93.0), word(97.0)), ("**no**", "the first", "yes"));
        assert_eq!(outcome(93.0).unwrap().measured, "0.93 × raw");
        assert_eq!(outcome(91.9).unwrap().measured, "0.919 × raw");
    }

    #[test]
    fn what_was_not_measured_has_no_outcome() {
        let target = ratio("", ("s", "c"), DELIVERIES, "raw", Relation::AtMost, &[1.0]);
        assert_eq!(outcome(&target, &[("Tidings", &[1.0])]), None);
        assert_eq!(outcome(&target, &[("Tidings", &[1.0]), ("raw", &[])]), None);
        assert_eq!(target.outcome(&BTreeMap::new()), None);
    }

    #[test]
    fn every_target_is_one_of_a_case_that_is_measured() {
        let sections = crate::sections::all(crate::sections::Size { is_quick: false, streams_max: usize::MAX });
        for target in all() {
            let case = sections
                .iter()
                .find(|section| section.id == target.section)
                .and_then(|section| section.cases.iter().find(|case| case.id == target.case))
                .unwrap_or_else(|| panic!("there is no {} {}", target.section, target.case));
            assert!(case.metrics.contains(&target.metric), "{target:?}");
            for name in target.against.iter().chain([&target.contender]) {
                assert!(case.contenders.iter().any(|contender| contender.name == *name), "{name} in {target:?}");
            }
        }
    }
}
