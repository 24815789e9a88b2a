//! What was measured, as it is kept in `bench/results/SECTION.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{machine::Machine, statistics::Summary};

/// The results that there are, by section.
pub type Results = BTreeMap<String, SectionResult>;

/// The result of a section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SectionResult {
    /// Which section.
    pub section: String,
    /// When it was done.
    pub measured_at: String,
    /// Where.
    pub machine: Machine,
    /// With which versions.
    pub versions: BTreeMap<String, String>,
    /// How often each case was to be measured.
    pub repetitions: usize,
    /// Whether it was the small run.
    pub is_quick: bool,
    /// Load average over a minute when it began: how much else the machine had to do.
    pub load_average: f64,
    /// What was measured.
    pub cases: Vec<CaseResult>,
    /// What else is to be known.
    #[serde(default)]
    pub remark: Option<String>,
    /// What a program wrote that is a report by itself, such as the stress run's.
    #[serde(default)]
    pub text: Option<String>,
}

/// One case, for all its contenders.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name in the plan.
    pub case: String,
    /// What it was called: the small run has other numbers of streams.
    pub title: String,
    /// How many streams there were, by the reports; what a figure of all of them is divided by.
    #[serde(default)]
    pub streams: Option<u64>,
    /// By contender.
    pub contenders: BTreeMap<String, ContenderResult>,
}

/// What one contender made of a case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContenderResult {
    /// By metric, a sample for each repetition that counts.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// Why repetitions do not count.
    pub refused: Vec<String>,
}

impl SectionResult {
    /// The summary of a metric, if there is one.
    pub fn summary(&self, case: &str, contender: &str, metric: &str) -> Option<Summary> {
        Summary::of(self.contender(case, contender)?.samples.get(metric)?)
    }

    /// The median of a metric, if there is one.
    pub fn median(&self, case: &str, contender: &str, metric: &str) -> Option<f64> {
        self.summary(case, contender, metric).map(|summary| summary.median)
    }

    /// How many streams a case had.
    pub fn streams(&self, case: &str) -> Option<f64> {
        let streams = self.cases.iter().find(|result| result.case == case)?.streams?;
        (streams > 0).then_some(streams as f64)
    }

    /// What a contender made of a case.
    pub fn contender(&self, case: &str, contender: &str) -> Option<&ContenderResult> {
        self.cases.iter().find(|result| result.case == case)?.contenders.get(contender)
    }

    /// Keeps it.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = path(dir, &self.section);
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// The one that was kept, if there is one.
    pub fn read(dir: &Path, section: &str) -> anyhow::Result<Option<Self>> {
        let path = path(dir, section);
        if !path.exists() {
            return Ok(None);
        }
        let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&json).map(Some).with_context(|| format!("{} is not a result", path.display()))
    }
}

fn path(dir: &Path, section: &str) -> PathBuf {
    dir.join(format!("{section}.json"))
}
