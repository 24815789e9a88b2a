//! Carries out a section: starts servers, has them loaded in turn, keeps the result.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    client::{self, Client},
    equality,
    machine::{self, Machine},
    plan::{Case, Contender, Kind, Pinning, Section, Unit},
    render,
    results::{CaseResult, SectionResult},
    servers::{Options, Programs, Running, Server},
};

/// The server's core and the client's, where they have one each and none are given.
const CORES: (usize, usize) = (0, 1);

/// How all sections are carried out.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The programs.
    pub programs: Programs,
    /// The project's folder.
    pub root: std::path::PathBuf,
    /// How often each case is measured.
    pub repetitions: usize,
    /// Whether this is the small run.
    pub is_quick: bool,
    /// The cores of server and client, where they have one each.
    pub cores: Option<(usize, usize)>,
}

impl Setup {
    /// Carries out a section; `progress` is told of each measurement.
    pub fn section(&self, section: &Section, progress: &mut dyn FnMut(&str)) -> anyhow::Result<SectionResult> {
        let mut result = SectionResult {
            section: section.id.to_owned(),
            measured_at: machine::now(),
            machine: Machine::this(),
            versions: machine::versions(&self.programs.tidings, &self.root),
            repetitions: self.repetitions,
            is_quick: self.is_quick,
            load_average: load_average(),
            cases: Vec::new(),
            remark: None,
            text: None,
        };
        if section.id == "publish" {
            let micros = machine::disk_sync_micros()?;
            let time = render::figure(micros, Unit::Micros);
            result.remark = Some(format!("`fdatasync` of 4 KiB takes {time} on this disk, in the median."));
        }
        match section.kind {
            Kind::Cases | Kind::Polling | Kind::Soak => {
                for case in &section.cases {
                    result.cases.push(self.case(case, progress));
                }
            }
            Kind::Stress => result.text = Some(self.stress()?),
        }
        Ok(result)
    }

    /// Whether `raw` sends what Tidings sends; gives the length of a frame.
    pub fn check_equality(&self) -> anyhow::Result<usize> {
        let start = |server| Running::start(server, &self.programs, &Options::default());
        let (tidings, raw) = (start(Server::Tidings)?, start(Server::Raw)?);
        equality::check(tidings.address(), raw.address()).context("raw is no fair reference")
    }

    fn case(&self, case: &Case, progress: &mut dyn FnMut(&str)) -> CaseResult {
        let mut result = CaseResult { case: case.id.clone(), title: case.title.clone(), ..CaseResult::default() };
        for repetition in 0..self.repetitions.min(case.repetitions_max) {
            for at in 0..case.contenders.len() {
                // Nobody is always first.
                let contender = &case.contenders[(at + repetition) % case.contenders.len()];
                progress(&format!("{}: {}, repetition {}", case.title, contender.name, repetition + 1));
                let report = self.measure(case, contender).map_err(|error| one_line(&format!("{error:#}")));
                if let Err(reason) = &report {
                    progress(&format!("{}: {}: {reason}", case.title, contender.name));
                }
                take(&mut result, case, contender, report);
            }
        }
        result
    }

    fn measure(&self, case: &Case, contender: &Contender) -> anyhow::Result<Value> {
        let cores = match case.pinning {
            Pinning::Apart => self.cores.or((Machine::this().cores > 1).then_some(CORES)),
            Pinning::Free => None,
            Pinning::AsAsked => self.cores,
        };
        let (server_core, client_core) = cores.unzip();
        let options = Options { core: server_core, environment: contender.environment.clone() };
        let running = Running::start(contender.server, &self.programs, &options)?;
        // On the server's core too: what the two use together is what is compared.
        let api = match contender.has_api {
            true => Some(Running::start(Server::AxumSse, &self.programs, &options)?),
            false => None,
        };
        let client = Client {
            api: api.as_ref().map(|api| (api.address(), api.pids()[0])),
            core: client_core,
            arguments: contender.arguments.clone(),
            is_authenticated: contender.is_authenticated,
            limit: contender.limit,
        };
        client::measure(contender.server, &running, &client, &self.programs)
    }

    fn stress(&self) -> anyhow::Result<String> {
        let program = self.programs.references.join("stress");
        ensure!(program.exists(), "build it first: cargo build --release -p tidings-testkit --bin stress");
        let mut command = Command::new(&program);
        command.arg("--binary").arg(&self.programs.tidings);
        if self.is_quick {
            command.arg("--short");
        }
        let output = command.output().context("starting the stress run")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "the stress run failed: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }
}

/// Keeps what a report says of the case's metrics, or why it does not count.
fn take(result: &mut CaseResult, case: &Case, contender: &Contender, report: Result<Value, String>) {
    let outcome = result.contenders.entry(contender.name.clone()).or_default();
    match report {
        Ok(report) => {
            for metric in &case.metrics {
                if let Some(value) = report.pointer(metric.pointer).and_then(Value::as_f64) {
                    outcome.samples.entry(metric.id.to_owned()).or_default().push(value * metric.factor);
                }
            }
            result.streams = report.get("streams").and_then(Value::as_u64).or(result.streams);
        }
        Err(reason) => outcome.refused.push(reason),
    }
}

/// How busy the machine was in the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// An error for a table's footnote: its first line, without paths and with an end.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(MAX_CHARS).collect()
}

/// Where the programs of this build are.
pub fn programs(dir: &Path) -> anyhow::Result<Programs> {
    let programs = Programs { tidings: dir.join("tidings"), references: dir.to_owned() };
    for program in [&programs.tidings, &dir.join("reference-raw"), &dir.join("reference-axum")] {
        ensure!(
            program.exists(),
            "{} is not there: cargo build --release -p tidings -p bench-suite",
            program.display()
        );
    }
    Ok(programs)
}
