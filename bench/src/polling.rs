//! Polling against push: what is measured, and how its figures are read.

use crate::{
    plan::{Case, Contender, Drawing, Kind, Metric, Pinning, Plot, Section, Unit},
    results::SectionResult,
    sections::{Size, thousands},
    servers::Server,
};

/// The section's name.
pub const SECTION: &str = "polling";

/// Who takes part: both servers at once.
pub const CONTENDER: &str = "Tidings and an API";

/// How often a user polls, in seconds.
pub const INTERVAL_SECONDS: u32 = 3;

/// The cases, and how many users each has in the real run.
pub const CASES: [(&str, usize); 2] = [("1000", 1_000), ("10000", 10_000)];

/// The phases of push: by what their figures' names begin with, and how many per cent change in an interval.
pub const PUSHES: [(&str, f64); 3] = [("push1", 1.0), ("push10", 10.0), ("push100", 100.0)];

/// How wrong the processor time of both servers may be: for each, that in user mode and in the kernel are cut to a
/// hundredth of a second; they are rarely wrong in the same direction, so it is half of that.
const CLOCK_SECONDS: f64 = 0.02;

/// Most repetitions: each takes minutes.
pub const REPETITIONS_MAX: usize = 2;

/// Figures of a phase.
const PHASE_FIGURES: usize = 9;

/// The figures of one phase of a report.
macro_rules! phase {
    ($number:literal, $name:literal) => {
        phase!($number, $name,
            "seconds" Seconds,
            "requests_per_second" Number,
            "events_per_second" Number,
            "api_cpu_percent_of_core" Percent,
            "push_cpu_percent_of_core" Percent,
            "api_bytes" Bytes,
            "push_bytes" Bytes,
            "latency/p50_micros" Micros,
            "latency/p99_micros" Micros
        )
    };
    ($number:literal, $name:literal, $($figure:literal $unit:ident),+) => {
        [$(Metric {
            id: concat!($name, "/", $figure),
            title: $figure,
            pointer: concat!("/phases/", $number, "/", $figure),
            factor: 1.0,
            unit: Unit::$unit,
        }),+]
    };
}

const PHASES: [[Metric; PHASE_FIGURES]; 4] =
    [phase!("0", "poll"), phase!("1", "push1"), phase!("2", "push10"), phase!("3", "push100")];

/// The plan.
pub fn section(size: Size) -> Section {
    let of = |(id, wanted): (&str, usize), seconds: u32| {
        let users = size.streams(wanted);
        let seconds = if size.is_quick { INTERVAL_SECONDS } else { seconds };
        let rates: Vec<String> =
            PUSHES.iter().map(|(_, percent)| format!("--change-rate {}", percent / 100.0)).collect();
        // A user has a stream and a connection to the API: two descriptors, and a process has no more than 20,000.
        let arguments = format!(
            "poll --users {users} --interval {INTERVAL_SECONDS}s --duration {seconds}s --processes 2 {}",
            rates.join(" ")
        );
        let contender = Contender { has_api: true, ..Contender::named(CONTENDER, Server::Tidings, &arguments) };
        Case {
            id: id.to_owned(),
            title: format!("{} users", thousands(users)),
            contenders: vec![contender.authenticated()],
            metrics: PHASES.concat(),
            pinning: Pinning::Apart,
            repetitions_max: REPETITIONS_MAX,
        }
    };
    Section {
        id: SECTION,
        title: "Instead of polling",
        about: "An API is asked by every user every 3 s; then the same users hold a stream and ask when they are told that \
                something has changed. What each costs is on a page of its own: [polling.md](polling.md).",
        // Processor time is counted in hundredths of a second; there has to be enough of it.
        cases: vec![of(CASES[0], 9), of(CASES[1], 18)],
        plots: vec![plot("polling-1000", "1,000 users", "1000"), plot("polling-10000", "10,000 users", "10000")],
        kind: Kind::Polling,
    }
}

fn plot(file: &'static str, title: &'static str, case: &'static str) -> Plot {
    Plot { file, title, drawing: Drawing::Polling { case } }
}

/// What one phase came to, in medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// How long it took.
    pub seconds: f64,
    /// Requests that the API answered in a second.
    pub requests_per_second: f64,
    /// Signals that came in a second.
    pub events_per_second: f64,
    /// Processor time of the API, in percent of a core.
    pub api_percent: f64,
    /// Processor time of Tidings, in percent of a core. Where users poll it is there, with nothing to do.
    pub push_percent: f64,
    /// Bytes to and from the API in a second.
    pub api_bytes_per_second: f64,
    /// Bytes to and from Tidings in a second.
    pub push_bytes_per_second: f64,
    /// From a change to the answer that shows it, for half of the changes.
    pub p50_micros: f64,
    /// The same for all but a hundredth.
    pub p99_micros: f64,
}

impl Phase {
    /// Reads a phase; `None` where it was not measured.
    pub fn read(result: &SectionResult, case: &str, name: &str) -> Option<Self> {
        let median = |figure: &str| result.median(case, CONTENDER, &format!("{name}/{figure}"));
        let seconds = median("seconds").filter(|seconds| *seconds > 0.0)?;
        Some(Self {
            seconds,
            requests_per_second: median("requests_per_second")?,
            events_per_second: median("events_per_second")?,
            api_percent: median("api_cpu_percent_of_core")?,
            push_percent: median("push_cpu_percent_of_core")?,
            api_bytes_per_second: median("api_bytes")? / seconds,
            push_bytes_per_second: median("push_bytes")? / seconds,
            p50_micros: median("latency/p50_micros")?,
            p99_micros: median("latency/p99_micros")?,
        })
    }

    /// Processor time of both servers, in percent of a core.
    pub fn together_percent(&self) -> f64 {
        self.api_percent + self.push_percent
    }

    fn used_seconds(&self) -> f64 {
        self.together_percent() / 100.0 * self.seconds
    }

    /// Whether there was enough for the clocks.
    fn is_measurable(&self) -> bool {
        self.used_seconds() >= 3.0 * CLOCK_SECONDS
    }
}

/// A case: polling, and push for each of [`PUSHES`] that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What users cost who poll.
    pub poll: Phase,
    /// Per cent of the users for whom something changes in an interval, and what they cost then.
    pub pushes: Vec<(f64, Phase)>,
}

impl Comparison {
    /// Reads a case; `None` where it was not measured.
    pub fn read(result: &SectionResult, case: &str) -> Option<Self> {
        let poll = Phase::read(result, case, "poll")?;
        let read = |(name, percent): &(&str, f64)| Some((*percent, Phase::read(result, case, name)?));
        let pushes: Vec<(f64, Phase)> = PUSHES.iter().filter_map(read).collect();
        (!pushes.is_empty()).then_some(Self { poll, pushes })
    }

    /// How many times what push costs polling costs, in processor time.
    pub fn ratio(&self, push: &Phase) -> Ratio {
        let poll_percent = self.poll.together_percent();
        if !self.poll.is_measurable() {
            return Ratio::Unclear;
        }
        if push.is_measurable() {
            return Ratio::Exactly(poll_percent / push.together_percent());
        }
        let least = poll_percent / ((push.used_seconds() + CLOCK_SECONDS) / push.seconds * 100.0);
        // That polling costs at least half as much says nothing.
        if least > 1.0 { Ratio::AtLeast(least) } else { Ratio::Unclear }
    }

    /// The per cent of changes at which push costs as much as polling, on a straight line between two points.
    pub fn break_even_percent(&self) -> Option<f64> {
        let poll = Some(&self.poll).filter(|poll| poll.is_measurable())?.together_percent();
        self.pushes.windows(2).find_map(|pair| {
            let [(left, below), (right, above)] = pair else { return None };
            let (below, above) = (below.together_percent(), above.together_percent());
            (below <= poll && above > poll).then(|| left + (poll - below) / (above - below) * (right - left))
        })
    }
}

/// How many times as much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ratio {
    /// The quotient of what was measured.
    Exactly(f64),
    /// What it is at least, as there was too little of the divisor to measure it well.
    AtLeast(f64),
    /// There was too little to measure at all.
    Unclear,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{render::tests::result, results::ContenderResult};

    /// What a phase used: seconds, requests, API CPU, Tidings CPU, p50.
    pub(crate) type Used = (f64, f64, f64, f64, f64);

    /// A result with phases: polling, then push.
    pub(crate) fn measured(case: &str, phases: [Used; 4]) -> SectionResult {
        let mut measured = result(SECTION, case, "", &[(CONTENDER, &[])]);
        measured.cases[0].title = "10,000 users".to_owned();
        let ContenderResult { samples, .. } = measured.cases[0].contenders.get_mut(CONTENDER).unwrap();
        for (metrics, (seconds, requests, api, push, p50)) in PHASES.iter().zip(phases) {
            for metric in metrics {
                let value = match metric.title {
                    "seconds" => seconds,
                    "requests_per_second" => requests,
                    "api_cpu_percent_of_core" => api,
                    "push_cpu_percent_of_core" => push,
                    "latency/p50_micros" => p50,
                    "latency/p99_micros" => 2.0 * p50,
                    "api_bytes" => 900.0 * seconds,
                    _ => 300.0,
                };
                samples.insert(metric.id.to_owned(), vec![value]);
            }
        }
        measured
    }

    /// Push takes a tenth of what polling takes, then half, then twice as much.
    pub(crate) const PHASES_MEASURED: [Used; 4] = [
        (10.0, 3333.0, 8.0, 0.0, 1.5e6),
        (10.0, 33.0, 0.2, 0.6, 105e3),
        (10.0, 333.0, 1.0, 3.0, 104e3),
        (10.0, 3300.0, 8.0, 8.0, 103e3),
    ];

    #[test]
    fn phases_are_read_and_compared() {
        let result = measured("10000", PHASES_MEASURED);
        let comparison = Comparison::read(&result, "10000").unwrap();
        assert_eq!(comparison.poll.api_bytes_per_second, 900.0);
        let ratios: Vec<Ratio> = comparison.pushes.iter().map(|(_, push)| comparison.ratio(push)).collect();
        let is_near = |ratio, wanted: f64| matches!(ratio, Ratio::Exactly(value) if (value - wanted).abs() < 1e-9);
        assert!(is_near(ratios[0], 10.0) && is_near(ratios[1], 2.0) && is_near(ratios[2], 0.5), "{ratios:?}");
        // From 4 % of a core at 10 % of changes to 16 % at 100 %; polling takes 8 %.
        let even = comparison.break_even_percent().unwrap();
        assert!((even - 40.0).abs() < 1e-9, "{even}");
        assert_eq!(Comparison::read(&result, "1000"), None);
    }

    #[test]
    fn what_the_clock_cannot_tell_is_a_bound() {
        let mut phases = PHASES_MEASURED;
        // Two hundredths of a second in ten seconds: with the clocks' error of as much, it may be 0.4 %.
        (phases[1].2, phases[1].3) = (0.1, 0.1);
        let comparison = Comparison::read(&measured("1000", phases), "1000").unwrap();
        let ratio = comparison.ratio(&comparison.pushes[0].1);
        assert!(matches!(ratio, Ratio::AtLeast(value) if (value - 20.0).abs() < 1e-9), "{ratio:?}");
        // Polling that takes as little cannot be compared with anything.
        (phases[0].2, phases[0].3) = (0.1, 0.1);
        let comparison = Comparison::read(&measured("1000", phases), "1000").unwrap();
        assert!(comparison.pushes.iter().all(|(_, push)| comparison.ratio(push) == Ratio::Unclear));
        assert_eq!(comparison.break_even_percent(), None);
    }

    #[test]
    fn costs_that_never_meet_have_no_break_even() {
        let mut phases = PHASES_MEASURED;
        (phases[3].2, phases[3].3) = (2.0, 2.0);
        let comparison = Comparison::read(&measured("1000", phases), "1000").unwrap();
        assert_eq!(comparison.break_even_percent(), None);
    }

    #[test]
    fn the_plan_takes_each_figure_once() {
        let section = section(Size { is_quick: false, streams_max: usize::MAX });
        for (case, (id, users)) in section.cases.iter().zip(CASES) {
            let mut ids: Vec<&str> = case.metrics.iter().map(|metric| metric.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((ids.len(), &*case.id), (PHASES.len() * PHASE_FIGURES, id));
            assert!(case.contenders[0].arguments.contains(&users.to_string()));
        }
    }
}
