//! The page of what polling costs, from the results of the section `polling`.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    plan::Unit,
    polling::{CASES, Comparison, INTERVAL_SECONDS, Phase, REPETITIONS_MAX, Ratio, SECTION},
    render::{self, figure, number},
    results::{Results, SectionResult},
    template::{NOT_MEASURED, Values, table},
};

const TEMPLATE: &str = include_str!("../pages/polling.md");

/// What a request to an API with a database is taken to cost, in microseconds of a core.
const DEAR_REQUEST_MICROS: f64 = 1000.0;

/// Ratios this near to 1 say that there is no difference: the machine is no more exact.
const SAME: std::ops::Range<f64> = 0.9..1.1;

/// The page.
pub fn page(results: &Results, drawings: &BTreeSet<&str>) -> anyhow::Result<String> {
    let result = results.get(SECTION);
    let cases = result.map(measured).unwrap_or_default();
    let mut values = Values::default();
    values.text("interval", INTERVAL_SECONDS.to_string());
    values.text("where", result.map_or("Not measured yet.".to_owned(), provenance));
    values.text("tables", or_not_measured(cases.iter().map(|case| case.table(drawings)).collect(), "\n\n"));
    values.text("lines", or_not_measured(cases.iter().map(Measured::lines).collect(), "\n"));
    values.text("losses", losses(&cases));
    values.text("dear", or_not_measured(cases.iter().map(Measured::dear).collect(), "\n"));
    // By the most users, where there is most to divide.
    let request = cases.last().map(|case| {
        let poll = &case.comparison.poll;
        poll.api_percent / 100.0 / poll.requests_per_second * 1e6
    });
    values.figure("request_micros", request, Unit::Micros);
    values.fill(TEMPLATE)
}

/// What the page of benchmarks says of it: a line for each number of users.
pub fn summary(result: &SectionResult) -> String {
    let mut lines = String::new();
    for Measured { title, comparison, .. } in measured(result) {
        let percent = |phase: &Phase| figure(phase.together_percent(), Unit::Percent);
        let pushes: Vec<String> = comparison
            .pushes
            .iter()
            .map(|(changes, push)| format!("{} when something changes for {changes} %", percent(push)))
            .collect();
        let poll = percent(&comparison.poll);
        let _infallible = write!(
            lines,
            "\n- {title}: polling takes {poll} of a core, push {} of them in {INTERVAL_SECONDS} s.",
            pushes.join(", ")
        );
    }
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines
}

/// A case that has figures.
struct Measured {
    title: String,
    /// For the file of its drawing.
    id: &'static str,
    comparison: Comparison,
}

fn measured(result: &SectionResult) -> Vec<Measured> {
    let of = |(id, _): &(&'static str, usize)| {
        let title = result.cases.iter().find(|case| case.case == *id)?.title.clone();
        Some(Measured { title, id, comparison: Comparison::read(result, id)? })
    };
    CASES.iter().filter_map(of).collect()
}

impl Measured {
    fn table(&self, drawings: &BTreeSet<&str>) -> String {
        let comparison = &self.comparison;
        let row = |title: String, phase: &Phase, ratio: String| {
            let percent = |value| figure(value, Unit::Percent);
            vec![
                title,
                number(phase.requests_per_second),
                number(phase.events_per_second),
                percent(phase.api_percent),
                percent(phase.push_percent),
                percent(phase.together_percent()),
                ratio,
                figure(phase.api_bytes_per_second, Unit::Bytes),
                figure(phase.push_bytes_per_second, Unit::Bytes),
                figure(phase.p50_micros, Unit::Micros),
                figure(phase.p99_micros, Unit::Micros),
            ]
        };
        let poll = row(format!("polling, every {INTERVAL_SECONDS} s"), &comparison.poll, "1".to_owned());
        let pushes = comparison.pushes.iter().map(|(percent, push)| {
            let ratio = match comparison.ratio(push) {
                Ratio::Exactly(value) => times(value),
                Ratio::AtLeast(value) => format!("at least {}", times(value)),
                Ratio::Unclear => "–".to_owned(),
            };
            row(format!("push, {percent} % change"), push, ratio)
        });
        let rows: Vec<Vec<String>> = std::iter::once(poll).chain(pushes).collect();
        let head = [
            "",
            "requests/s",
            "events/s",
            "CPU of the API",
            "CPU of Tidings",
            "together",
            "polling costs × as much",
            "API bytes/s",
            "Tidings bytes/s",
            "change seen after, p50",
            "p99",
        ];
        let mut text = format!("## {}\n\n{}", self.title, table(&head, &rows));
        let file = format!("polling-{}", self.id);
        if drawings.contains(&*file) {
            let _infallible = write!(text, "\n\n![CPU by how much changes](benchmarks/{file}.svg)");
        }
        text
    }

    /// A line for each rate of changes.
    fn lines(&self) -> String {
        let Comparison { poll, pushes } = &self.comparison;
        let lines = pushes.iter().map(|(percent, push)| {
            let [sooner, later] = [push.p50_micros, poll.p50_micros].map(|micros| figure(micros, Unit::Micros));
            format!(
                "- {}, {percent} % change: {}; the API gets {} requests a second instead of {}; half of the changes are \
                 seen within {sooner} instead of {later}, {} × sooner.",
                self.title,
                verdict(self.comparison.ratio(push)),
                number(push.requests_per_second),
                number(poll.requests_per_second),
                times(poll.p50_micros / push.p50_micros.max(1.0)),
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// With an API that costs more.
    fn dear(&self) -> String {
        let Comparison { poll, pushes } = &self.comparison;
        let requests = |phase: &Phase| phase.requests_per_second * DEAR_REQUEST_MICROS / 1e6 * 100.0;
        let lines = pushes.iter().map(|(percent, push)| {
            let together = requests(push) + push.push_percent;
            format!(
                "  - {}, {percent} % change: {} of a core with push, {} with polling, {} × as much; Tidings's share of the first \
                 is {}.",
                self.title,
                figure(together, Unit::Percent),
                figure(requests(poll), Unit::Percent),
                times(requests(poll) / together),
                figure(push.push_percent / together * 100.0, Unit::Percent),
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Where everybody's data changes all the time, and from where on push costs more.
fn losses(cases: &[Measured]) -> String {
    let everybody = cases.iter().filter_map(|case| {
        let (_, push) = case.comparison.pushes.iter().find(|(percent, _)| *percent >= 100.0)?;
        let even = match case.comparison.break_even_percent() {
            Some(percent) => {
                format!(" On a straight line between what was measured, they cost the same at {percent:.0} %.")
            }
            None => String::new(),
        };
        Some(format!("{}: {}.{even}", case.title, verdict(case.comparison.ratio(push))))
    });
    let everybody: Vec<String> = everybody.collect();
    let figures = if everybody.is_empty() { NOT_MEASURED.to_owned() } else { everybody.join(" ") };
    render::wrapped(&format!(
        "- **Everything changes all the time.** When something changes for every user in every interval, push makes the same \
         requests as polling (but for changes that are seen together), and publishes and events besides. {figures} What is \
         left is that changes are seen sooner. Send the data in the event then, instead of a signal to ask."
    ))
    .replace('\n', "\n  ")
}

fn verdict(ratio: Ratio) -> String {
    match ratio {
        Ratio::Unclear => "there was too little to measure for a ratio of CPU".to_owned(),
        Ratio::AtLeast(value) => format!("polling costs at least {} × as much CPU", times(value)),
        Ratio::Exactly(value) if SAME.contains(&value) => "both cost the same CPU, to within a tenth".to_owned(),
        Ratio::Exactly(value) if value < 1.0 => format!("push costs {} × as much CPU as polling", times(1.0 / value)),
        Ratio::Exactly(value) => format!("polling costs {} × as much CPU", times(value)),
    }
}

/// A ratio with as many digits as it deserves.
fn times(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { number(value) }
}

fn provenance(result: &SectionResult) -> String {
    let quick = if result.is_quick { format!("\n\n{}", render::SMALL_RUN) } else { String::new() };
    let text = format!(
        "{}. {}. Measured {}, {}; load average before it {:.1}.",
        result.machine.line(),
        render::versions(result),
        result.measured_at,
        match result.repetitions.min(REPETITIONS_MAX) {
            1 => "once".to_owned(),
            repetitions => format!("medians of {repetitions}"),
        },
        result.load_average
    );
    render::wrapped(&text) + &quick
}

fn or_not_measured(parts: Vec<String>, separator: &str) -> String {
    if parts.is_empty() { "Not measured yet.".to_owned() } else { parts.join(separator) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polling::tests::{PHASES_MEASURED, measured as result_of};

    fn of(phases: [crate::polling::tests::Used; 4]) -> Results {
        [(SECTION.to_owned(), result_of("10000", phases))].into()
    }

    #[test]
    fn the_page_says_where_push_wins_and_where_not() {
        let page = page(&of(PHASES_MEASURED), &["polling-10000"].into()).unwrap();
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in [
            "| polling, every 3 s | 3,333 | 300 | 8.0 % | 0.0 % | 8.0 % | 1 | 900 B |",
            "| push, 1 % change | 33 | 300 | 0.2 % | 0.6 % | 0.8 % | 10 |",
            "![CPU by how much changes](benchmarks/polling-10000.svg)",
            "10,000 users, 1 % change: polling costs 10 × as much CPU; the API gets 33 requests a second instead of 3,333; \
             half of the changes are seen within 105.0 ms instead of 1.50 s, 14 × sooner.",
            "push costs 2.0 × as much CPU as polling. On a straight line between what was measured, they cost the same at \
             40 %.",
            // 8 % of a core for 3,333 requests a second.
            "The one here takes 24.0 µs of a core for a request.",
            // A millisecond for each request: 333.3 % of a core for polling, 3.3 % and Tidings's 0.6 % for push.
            "1 % change: 3.9 % of a core with push, 333.3 % with polling, 85 × as much; Tidings's share of the first is 15.4 %.",
            "2 cores of Abacus",
        ] {
            assert!(words.contains(text), "{text:?} is not in\n{page}");
        }
        assert!(!page.contains("Not measured") && !page.contains("takes not measured"), "{page}");
    }

    #[test]
    fn words_follow_the_figures() {
        let mut phases = PHASES_MEASURED;
        (phases[1].2, phases[1].3) = (0.0, 0.1);
        (phases[2].2, phases[2].3) = (4.0, 4.2);
        let page = page(&of(phases), &BTreeSet::new()).unwrap();
        for text in
            ["| at least 27 |", "polling costs at least 27 × as much CPU", "both cost the same CPU, to within a tenth"]
        {
            assert!(page.contains(text), "{text:?} is not in\n{page}");
        }
        assert!(!page.contains(".svg"));
    }

    #[test]
    fn without_a_result_the_page_says_so() {
        let page = page(&Results::new(), &BTreeSet::new()).unwrap();
        assert_eq!(page.matches("Not measured yet.").count(), 4, "{page}");
        assert!(page.contains("takes not measured of a core"), "{page}");
    }

    #[test]
    fn the_page_of_benchmarks_has_a_line() {
        let summary = summary(&result_of("10000", PHASES_MEASURED));
        assert_eq!(
            summary,
            "\n- 10,000 users: polling takes 8.0 % of a core, push 0.8 % when something changes for 1 %, 4.0 % when something \
             changes for 10 %, 16.0 % when something changes for 100 % of them in 3 s.\n"
        );
    }
}
