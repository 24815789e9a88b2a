//! The driver of the comparison suite.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use bench_suite::{
    broker::{self, BrokerLoad},
    documents,
    plan::{Kind, Section},
    run,
    sections::{self, Size},
    servers,
};
use clap::{Parser, Subcommand};

/// Descriptors of a process that are not streams.
const OTHER_DESCRIPTORS: usize = 500;

/// Compares Tidings with others on this machine and writes docs/benchmarks.md, docs/polling.md and docs/scaling.md.
#[derive(Parser)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<CommandArguments>,
    /// Sections to measure, or `all`, which is all but `soak` and `stress`; `list` shows them
    #[arg(required = true)]
    sections: Vec<String>,
    /// Fewer streams and two repetitions: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// How often each case is measured
    #[arg(long)]
    repetitions: Option<usize>,
    /// With `all`: the stress run too, which takes minutes
    #[arg(long)]
    stress: bool,
    /// The cores of server and client, as in `0,1`, where they have one each
    #[arg(long, value_parser = cores)]
    cores: Option<(usize, usize)>,
    /// Do not check first that `raw` sends what Tidings sends
    #[arg(long)]
    skip_check: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Subcommand)]
enum CommandArguments {
    /// Write the document again from the results that are there
    Render(Places),
    /// Show the sections
    List,
    /// Load a message broker
    #[command(hide = true)]
    BrokerLoad(BrokerLoad),
}

#[derive(clap::Args)]
struct Places {
    /// The project's folder
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Where results are kept; by default bench/results in the project's folder, and bench/results/quick
    #[arg(long)]
    results: Option<PathBuf>,
    /// What is written, polling.md and scaling.md beside it; by default docs/benchmarks.md in the project's folder,
    /// and bench/results/quick/benchmarks.md
    #[arg(long)]
    document: Option<PathBuf>,
}

impl Places {
    /// Where results are kept and what is written. The small run leaves those of the real one alone.
    fn paths(&self, is_quick: bool) -> (PathBuf, PathBuf) {
        let results = self.root.join("bench/results");
        let (results, document) = match is_quick {
            true => (results.join("quick"), results.join("quick/benchmarks.md")),
            false => (results, self.root.join("docs/benchmarks.md")),
        };
        (self.results.clone().unwrap_or(results), self.document.clone().unwrap_or(document))
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(CommandArguments::BrokerLoad(load)) => broker::run(load),
        Some(CommandArguments::List) => {
            let mut out = std::io::stdout().lock();
            for section in sections::all(Size { is_quick: false, streams_max: usize::MAX }) {
                writeln!(out, "{:<14}{}", section.id, section.title)?;
            }
            Ok(())
        }
        Some(CommandArguments::Render(places)) => {
            let sections = sections::all(Size { is_quick: false, streams_max: usize::MAX });
            let (results, document) = places.paths(false);
            documents::write(&sections, &results, &document)
        }
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let descriptors = servers::raise_descriptor_limit()?;
    let streams_max = usize::try_from(descriptors)?.saturating_sub(OTHER_DESCRIPTORS);
    let all = sections::all(Size { is_quick: arguments.quick, streams_max });
    let chosen = chosen(&all, arguments)?;
    let (results, document) = arguments.places.paths(arguments.quick);
    let beside = std::env::current_exe()?;
    let setup = run::Setup {
        programs: run::programs(beside.parent().context("where this program is")?)?,
        root: arguments.places.root.clone(),
        repetitions: arguments.repetitions.unwrap_or(if arguments.quick { 2 } else { 5 }).max(1),
        is_quick: arguments.quick,
        cores: arguments.cores,
    };
    if !arguments.skip_check {
        let frame_bytes = setup.check_equality()?;
        eprintln!("raw sends what Tidings sends: {frame_bytes} bytes a frame");
    }
    for (number, section) in chosen.iter().enumerate() {
        eprintln!("== {} ({} of {})", section.title, number + 1, chosen.len());
        let is_terminal = std::io::stderr().is_terminal();
        let started = Instant::now();
        let result = setup.section(section, &mut |what| match is_terminal {
            true => eprint!("\r\x1b[K{what}"),
            false => eprintln!("{what}"),
        })?;
        let clear = if is_terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}took {:.0} s", started.elapsed().as_secs_f64());
        result.write(&results)?;
        // After each, so that what was measured is not lost with what comes.
        documents::write(&all, &results, &document)?;
    }
    eprintln!("written: {}", document.display());
    Ok(())
}

fn chosen<'a>(all: &'a [Section], arguments: &Arguments) -> anyhow::Result<Vec<&'a Section>> {
    for name in &arguments.sections {
        ensure!(
            name == "all" || all.iter().any(|section| section.id == name),
            "there is no section {name:?}; `bench-suite list` shows them"
        );
    }
    let has_all = arguments.sections.iter().any(|name| name == "all");
    let is_chosen = |section: &&Section| {
        let is_named = arguments.sections.iter().any(|name| name == section.id);
        is_named || (has_all && (!section.kind.is_long() || (section.kind == Kind::Stress && arguments.stress)))
    };
    Ok(all.iter().filter(is_chosen).collect())
}

/// Two cores, separated by a comma.
fn cores(text: &str) -> Result<(usize, usize), String> {
    let (server, client) = text.split_once(',').ok_or("two numbers, such as 0,1, are needed")?;
    let core = |text: &str| text.trim().parse().map_err(|error| format!("{text:?}: {error}"));
    Ok((core(server)?, core(client)?))
}
