//! The page of benchmarks, from the results. No figure stands there that does not come from them.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    plan::{Case, Kind, Section, Unit},
    polling_page,
    results::{ContenderResult, Results, SectionResult},
    statistics::Summary,
    targets,
};

/// What stands at the top, whatever was measured.
const HEAD: &str = "# Benchmarks

`make bench` measures all of this and writes this page, [polling.md](polling.md), which compares push with polling, and
[scaling.md](scaling.md), which works out what a million streams would need; `make bench QUICK=1` is a look in a few minutes,
which is written to `bench/results/quick/` and leaves these pages alone. No figure is written by hand.

The machine is shared and small, so that absolute figures say little about another: quote the ratios. Server and client run
on the same machine over loopback, each on a core of its own unless it says otherwise; there the sender also pays for the
receiver's side of TCP, which hides some of what servers differ in. The servers of a case take turns within each
repetition. The client accounts for every event: a run in which one was lost, came twice or out of order does not count,
and is named below the table. Figures are medians, with the lowest and the highest in parentheses.

- **raw** is the kernel's send path and nothing else: one thread, a table of sockets, one `write` for each message and
  stream, with frames of the same bytes as Tidings's. What a server needs beyond it is its own cost.
- **raw-batch** is the same, but all that waits for a stream goes out in one system call.
- **axum `Sse`** is the server that most teams would write: axum's `Sse` over a tokio `broadcast` channel for each topic.
- **Nchan** is the push module of nginx, with one worker and without history, as in [nchan.conf](../bench/nchan.conf).
";

/// What a page says that has figures of the small run.
pub const SMALL_RUN: &str = "**Some of this is from the small run (`QUICK=1`), with fewer streams and repetitions.**";

/// The page. A drawing is shown if it is there; `notes` are what people have to say of a section.
pub fn page(
    sections: &[Section],
    results: &Results,
    drawings: &BTreeSet<&str>,
    notes: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut page = HEAD.to_owned();
    let newest = results.values().max_by_key(|result| &result.measured_at);
    if let Some(newest) = newest {
        let text = format!("{}. {}.", newest.machine.line(), versions(newest));
        let _infallible = write!(page, "\n{}\n", wrapped(&text));
    }
    if results.values().any(|result| result.is_quick) {
        let _infallible = write!(page, "\n{SMALL_RUN}\n");
    }
    if let Some(text) = notes("introduction") {
        let _infallible = write!(page, "\n{}\n", text.trim());
    }
    page.push_str("\n## Targets\n\n");
    write_targets(&mut page, results);
    for section in sections {
        let result = results.get(section.id);
        if section.kind.is_long() && result.is_none() {
            continue;
        }
        let _infallible = write!(page, "\n## {}\n\n{}\n", section.title, wrapped(section.about));
        match result {
            None => page.push_str("\nNot measured yet.\n"),
            Some(result) => write_section(&mut page, section, result, newest, drawings),
        }
        if let Some(text) = notes(section.id) {
            let _infallible = write!(page, "\n{}\n", text.trim());
        }
    }
    page
}

fn write_targets(page: &mut String, results: &Results) {
    page.push_str("| | target | measured | met |\n| --- | --- | --- | --- |\n");
    for target in targets::all() {
        let (measured, word) = match target.outcome(results) {
            Some(outcome) => (outcome.measured.clone(), outcome.word()),
            None => ("not measured".to_owned(), ""),
        };
        let _infallible = writeln!(page, "| {} | {} | {measured} | {word} |", target.title, target.bound());
    }
}

fn write_section(
    page: &mut String,
    section: &Section,
    result: &SectionResult,
    newest: Option<&SectionResult>,
    drawings: &BTreeSet<&str>,
) {
    match section.kind {
        Kind::Polling => page.push_str(&polling_page::summary(result)),
        Kind::Cases | Kind::Soak | Kind::Stress => write_tables(page, section, result, drawings),
    }
    if let Some(text) = &result.text {
        let _infallible = write!(page, "\n```text\n{}\n```\n", text.trim());
    }
    if let Some(remark) = &result.remark {
        let _infallible = write!(page, "\n{remark}\n");
    }
    write_refused(page, section, result);
    let repetitions = match section.kind {
        Kind::Cases => format!(", medians of {}", result.repetitions),
        Kind::Polling | Kind::Soak | Kind::Stress => String::new(),
    };
    let quick = if result.is_quick { ", small run" } else { "" };
    let _infallible = write!(
        page,
        "\n`bench-suite {}`, {}{repetitions}{quick}; load average before it {:.1}.",
        section.id, result.measured_at, result.load_average
    );
    // Sections may be measured one by one; where it was elsewhere or with another build, that is said.
    if let Some(newest) = newest {
        if result.machine != newest.machine {
            let _infallible = write!(page, " {}.", result.machine.line());
        }
        if result.versions != newest.versions {
            let _infallible = write!(page, " {}.", versions(result));
        }
    }
    page.push('\n');
}

fn write_tables(page: &mut String, section: &Section, result: &SectionResult, drawings: &BTreeSet<&str>) {
    let names = |case: &Case| case.contenders.iter().map(|contender| contender.name.clone()).collect::<Vec<_>>();
    for cases in section.cases.chunk_by(|a, b| names(a) == names(b)) {
        let names = names(&cases[0]);
        let _infallible = write!(page, "\n| | {} |\n| --- |{}\n", names.join(" | "), " --- |".repeat(names.len()));
        for case in cases {
            write_case(page, case, &names, result);
        }
    }
    for plot in section.plots.iter().filter(|plot| drawings.contains(plot.file)) {
        let _infallible = write!(page, "\n![{}](benchmarks/{}.svg)\n", plot.title, plot.file);
    }
}

fn write_case(page: &mut String, case: &Case, names: &[String], result: &SectionResult) {
    for (at, metric) in case.metrics.iter().enumerate() {
        let summaries: Vec<Option<Summary>> =
            names.iter().map(|name| result.summary(&case.id, name, metric.id)).collect();
        // What a report of this kind never has, such as the kernel's memory where it cannot be read.
        if at > 0 && summaries.iter().all(Option::is_none) {
            continue;
        }
        let count = summaries.iter().flatten().map(|summary| summary.count).max().unwrap_or(0);
        let few = if case.repetitions_max < result.repetitions { format!(" (of {count})") } else { String::new() };
        let title = match at {
            0 => format!("{}: {}{few}", title_of(case, result), metric.title),
            _ => metric.title.to_owned(),
        };
        let cells: Vec<String> = summaries
            .iter()
            .map(|summary| summary.map_or("–".to_owned(), |summary| cell(summary, metric.unit)))
            .collect();
        let _infallible = writeln!(page, "| {title} | {} |", cells.join(" | "));
    }
}

/// As it was called when it was measured.
fn title_of<'a>(case: &'a Case, result: &'a SectionResult) -> &'a str {
    let measured = result.cases.iter().find(|measured| measured.case == case.id);
    measured.map_or(&case.title, |measured| &measured.title)
}

fn write_refused(page: &mut String, section: &Section, result: &SectionResult) {
    for case in &section.cases {
        for contender in &case.contenders {
            let Some(ContenderResult { refused, .. }) = result.contender(&case.id, &contender.name) else { continue };
            let reasons: BTreeSet<&str> = refused.iter().map(String::as_str).collect();
            if !reasons.is_empty() {
                let reasons: Vec<&str> = reasons.into_iter().collect();
                let (name, title) = (&contender.name, title_of(case, result));
                let count = refused.len();
                let _infallible = write!(page, "\nNot counted, {name}, {title}: {count} × {}\n", reasons.join("; "));
            }
        }
    }
}

/// The versions, as a line.
pub fn versions(result: &SectionResult) -> String {
    let versions: Vec<String> = result.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    versions.join(", ")
}

/// The median, and where the samples lie if they differ to the eye.
fn cell(summary: Summary, unit: Unit) -> String {
    let [median, lowest, highest] = [summary.median, summary.lowest, summary.highest].map(|value| figure(value, unit));
    if lowest == highest { median } else { format!("{median} ({lowest}–{highest})") }
}

/// A figure with its unit.
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Number if value >= 1e6 => format!("{:.2} M", value / 1e6),
        Unit::Number if value >= 1e5 => format!("{:.0} k", value / 1e3),
        Unit::Number => number(value),
        Unit::Bytes if value.abs() >= 4e6 => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Unit::Bytes if value.abs() >= 4096.0 => format!("{:.1} KiB", value / 1024.0),
        Unit::Bytes => format!("{} B", number(value)),
        Unit::Micros if value >= 1e6 => format!("{:.2} s", value / 1e6),
        Unit::Micros if value >= 1e3 => format!("{:.1} ms", value / 1e3),
        Unit::Micros if value >= 100.0 => format!("{value:.0} µs"),
        Unit::Micros => format!("{value:.1} µs"),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Percent => format!("{value:.1} %"),
        Unit::Ratio => format!("{value:.2}"),
    }
}

/// The same words in lines that fit an editor.
pub fn wrapped(text: &str) -> String {
    const COLUMNS: usize = 120;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.chars().count() + word.len() < COLUMNS);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// A whole number with separators.
pub fn number(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        plan::{Contender, DELIVERIES, P99, Pinning},
        results::CaseResult,
        servers::Server,
    };

    /// A result with one case and one metric.
    pub(crate) fn result(section: &str, case: &str, metric: &str, samples: &[(&str, &[f64])]) -> SectionResult {
        let of = |samples: &[f64]| ContenderResult {
            samples: [(metric.to_owned(), samples.to_vec())].into(),
            refused: Vec::new(),
        };
        let contenders = samples.iter().map(|(name, samples)| ((*name).to_owned(), of(samples))).collect();
        SectionResult {
            section: section.to_owned(),
            measured_at: "2026-01-02 03:04 UTC".to_owned(),
            machine: Machine {
                cores: 2,
                processor: "Abacus".to_owned(),
                memory_bytes: 8 << 30,
                kernel: "6.1".to_owned(),
                system: "Debian".to_owned(),
            },
            versions: [("Tidings".to_owned(), "0.1.0".to_owned())].into(),
            repetitions: 3,
            is_quick: false,
            load_average: 0.25,
            cases: vec![CaseResult {
                case: case.to_owned(),
                title: "many streams".to_owned(),
                contenders,
                streams: None,
            }],
            remark: None,
            text: None,
        }
    }

    fn section() -> Section {
        Section {
            id: "one",
            title: "One",
            about: "About it.",
            cases: vec![Case {
                id: "c".to_owned(),
                title: "many streams".to_owned(),
                contenders: vec![Contender::new(Server::Tidings, ""), Contender::new(Server::Raw, "")],
                metrics: vec![DELIVERIES, P99],
                pinning: Pinning::Apart,
                repetitions_max: 9,
            }],
            plots: Vec::new(),
            kind: Kind::Cases,
        }
    }

    #[test]
    fn figures_are_written_for_people() {
        let written: Vec<String> = [
            (1_503_210.0, Unit::Number),
            (181_234.0, Unit::Number),
            (74_512.4, Unit::Number),
            (-1234.0, Unit::Number),
            (-0.2, Unit::Number),
            (312.0, Unit::Bytes),
            (11571.0, Unit::Bytes),
            (26_900_000.0, Unit::Bytes),
            (5.04, Unit::Micros),
            (310.4, Unit::Micros),
            (66_100.0, Unit::Micros),
            (1_500_000.0, Unit::Micros),
            (0.304, Unit::Seconds),
            (1.44, Unit::Percent),
            (0.954, Unit::Ratio),
        ]
        .map(|(value, unit)| figure(value, unit))
        .into();
        assert_eq!(
            written,
            [
                "1.50 M", "181 k", "74,512", "-1,234", "0", "312 B", "11.3 KiB", "25.7 MiB", "5.0 µs", "310 µs",
                "66.1 ms", "1.50 s", "0.30 s", "1.4 %", "0.95",
            ]
        );
    }

    #[test]
    fn the_page_has_the_medians_the_spread_and_what_was_refused() {
        let mut result = result("one", "c", DELIVERIES.id, &[("Tidings", &[3.0, 1.0, 2.0]), ("raw", &[5.0])]);
        let raw = result.cases[0].contenders.get_mut("raw").unwrap();
        raw.refused = vec!["refused: 1 lost".to_owned(), "refused: 1 lost".to_owned()];
        let notes = |id: &str| (id == "one").then(|| "A profile says why.\n".to_owned());
        let page = page(&[section()], &[("one".to_owned(), result)].into(), &BTreeSet::new(), &notes);
        for line in [
            "2 cores of Abacus, 8 GiB, Linux 6.1, Debian. Tidings 0.1.0.",
            "| | Tidings | raw |",
            "| many streams: deliveries/s | 2 (1–3) | 5 |",
            "Not counted, raw, many streams: 2 × refused: 1 lost",
            "A profile says why.",
            "`bench-suite one`, 2026-01-02 03:04 UTC, medians of 3; load average before it 0.2.",
        ] {
            assert!(page.lines().any(|other| other == line), "{line:?} is not in\n{page}");
        }
        // A metric that no report had.
        assert!(!page.contains("| p99 |"));
    }

    #[test]
    fn a_section_of_another_machine_says_so_and_one_without_result_too() {
        let old = SectionResult {
            measured_at: "2025-01-01 00:00 UTC".to_owned(),
            machine: Machine { cores: 64, ..result("", "", "", &[]).machine },
            is_quick: true,
            ..result("one", "c", DELIVERIES.id, &[("Tidings", &[1.0])])
        };
        let new = result("two", "c", DELIVERIES.id, &[("Tidings", &[1.0])]);
        let sections = [section(), Section { id: "two", ..section() }, Section { id: "three", ..section() }];
        let page =
            page(&sections, &[("one".to_owned(), old), ("two".to_owned(), new)].into(), &BTreeSet::new(), &|_| None);
        assert_eq!(page.matches("64 cores of Abacus").count(), 1, "{page}");
        assert_eq!(page.matches("2 cores of Abacus").count(), 1, "{page}");
        assert_eq!(page.matches("Not measured yet.").count(), 1, "{page}");
        assert!(page.contains("Some of this is from the small run"));
        assert!(page.contains("| many streams: deliveries/s | 1 | – |"), "{page}");
    }
}
