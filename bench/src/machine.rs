//! Where something was measured, and with which versions.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::statistics::Summary;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
}

impl Machine {
    /// This one. What cannot be read is called unknown.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str, separator: char| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(separator)).map(|(_, value)| value.trim().trim_matches('"').to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = value(&read("/proc/meminfo"), "MemTotal", ':').unwrap_or_default();
        let kibibytes: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: value(&read("/proc/cpuinfo"), "model name", ':').unwrap_or_else(unknown),
            memory_bytes: kibibytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(unknown),
        }
    }

    /// One line of a document.
    pub fn line(&self) -> String {
        let Self { cores, processor, memory_bytes, kernel, system } = self;
        format!("{cores} cores of {processor}, {} GiB, Linux {kernel}, {system}", (memory_bytes + (1 << 29)) >> 30)
    }
}

/// The time, to the minute, in UTC.
pub fn now() -> String {
    let text = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    format!("{} {} UTC", &text[..10], &text[11..16])
}

/// How long the disk takes to keep 4 KiB, where the servers keep their data: the median of some attempts.
pub fn disk_sync_micros() -> anyhow::Result<f64> {
    const ATTEMPTS: usize = 200;
    let mut file = tempfile::tempfile()?;
    let mut samples = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        file.write_all(&[b'x'; 4096])?;
        let asked = Instant::now();
        file.sync_data()?;
        samples.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Summary::of(&samples).map_or(f64::NAN, |summary| summary.median))
}

/// The versions of all that may be compared; what is not installed is not among them.
pub fn versions(tidings: &Path, root: &Path) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut take = |name: &str, version: Option<String>| {
        if let Some(version) = version {
            versions.insert(name.to_owned(), version);
        }
    };
    let word = |text: String, after: &str| {
        let rest = text.split_once(after)?.1.to_owned();
        rest.split_whitespace().next().map(str::to_owned)
    };
    let root_argument = root.to_string_lossy();
    let commit = output("git", &["-C", &root_argument, "rev-parse", "--short=10", "HEAD"]);
    let is_changed = output("git", &["-C", &root_argument, "status", "--porcelain", "--", "crates", "Cargo.lock"]);
    let changes = if is_changed.is_some_and(|files| !files.is_empty()) { " with changes" } else { "" };
    let tidings = output(&tidings.to_string_lossy(), &["--version"]).and_then(|text| word(text, "tidings "));
    take(
        "Tidings",
        tidings.map(|version| match &commit {
            Some(commit) => format!("{version} ({commit}{changes})"),
            None => version,
        }),
    );
    take("Rust", output("rustc", &["--version"]).and_then(|text| word(text, "rustc ")));
    take("axum", locked_version(root, "axum"));
    take("tokio", locked_version(root, "tokio"));
    take("nginx", output(crate::servers::NGINX, &["-v"]).and_then(|text| word(text, "nginx/")));
    let nchan = output("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"]);
    take("Nchan", nchan.filter(|version| !version.is_empty()));
    take("Redis", output("redis-server", &["--version"]).and_then(|text| word(text, "v=")));
    take("NATS", output("nats-server", &["--version"]).and_then(|text| word(text, ": ")));
    versions
}

/// What a command says on both its outputs, if it runs and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The version of a package in `Cargo.lock`.
fn locked_version(root: &Path, name: &str) -> Option<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).ok()?;
    let rest = lock.split_once(&format!("\nname = \"{name}\"\nversion = \""))?.1;
    rest.split('"').next().map(str::to_owned)
}
