//! One measurement: `tidings bench` against a server, and whether its report may be believed.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::servers::{API_KEY, JWT_SECRET, Programs, Running, Server, pinned};

/// What must be zero in a report that counts, and in its phases.
const ACCOUNTS: [&str; 6] = ["lost", "duplicated", "reordered", "foreign", "gaps", "ended"];

/// How a client is started.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// The only core it may use.
    pub core: Option<usize>,
    /// The scenario and its own arguments.
    pub arguments: Vec<String>,
    /// Whether each stream is an authenticated user of its own.
    pub is_authenticated: bool,
    /// An API that is polled, and its process.
    pub api: Option<(SocketAddr, u32)>,
    /// How long it may take.
    pub limit: Duration,
}

/// Runs a scenario and gives its report. The report is refused if anything was lost, came twice or out of order.
pub fn measure(server: Server, running: &Running, client: &Client, programs: &Programs) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("report.json");
    let log_path = dir.path().join("log");
    let log = fs::File::create(&log_path)?;
    let mut command = match server {
        Server::Redis | Server::RedisDurable | Server::Nats => {
            let mut command = pinned(client.core, &std::env::current_exe()?);
            command.arg("broker-load").args(&client.arguments).arg("--address").arg(running.address().to_string());
            command
        }
        _ => {
            let mut command = pinned(client.core, &programs.tidings);
            command.arg("bench").args(&client.arguments);
            for (name, _) in std::env::vars_os() {
                if name.as_encoded_bytes().starts_with(b"TIDINGS_") {
                    command.env_remove(name);
                }
            }
            for pid in running.pids() {
                command.arg("--pid").arg(pid.to_string());
            }
            if let Some((address, pid)) = client.api {
                command.args(["--poll-url", &format!("http://{address}/account/{{user}}")]);
                command.args(["--api-pid", &pid.to_string()]);
            }
            let url = format!("http://{}", running.address());
            if server == Server::Tidings {
                command.args(["--url", &url]).env("TIDINGS_API_KEY", API_KEY);
                if client.is_authenticated {
                    command.args(["--jwt-secret", JWT_SECRET]);
                }
            } else {
                command.args(["--subscribe-url", &format!("{url}/sub/{{channel}}")]);
                command.args(["--publish-url", &format!("{url}/pub/{{channel}}")]);
            }
            command
        }
    };
    command.arg("--json").arg(&json);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("starting setpriv and taskset (util-linux)")?;
    let said = || fs::read_to_string(&log_path).unwrap_or_default();
    if !is_successful(&mut child, client.limit)? {
        bail!("`tidings bench {}` failed: {}", client.arguments.join(" "), said().trim());
    }
    let report: Value = serde_json::from_slice(&read(&json, &said())?).context("the report")?;
    believe(&report)?;
    Ok(report)
}

fn read(path: &Path, said: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("no report was written: {said}"))
}

fn is_successful(child: &mut Child, limit: Duration) -> anyhow::Result<bool> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _gone = child.kill();
    let _reaped = child.wait();
    bail!("it was not done after {limit:?}")
}

/// An account that is not there is of no interest to the scenario; one that is there must be zero.
fn believe(report: &Value) -> anyhow::Result<()> {
    let phases = report.get("phases").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let wrong: Vec<String> = std::iter::once(report)
        .chain(phases)
        .flat_map(|part| ACCOUNTS.iter().map(move |name| (name, part.get(name))))
        .filter_map(|(name, value)| {
            let value = value.filter(|value| !value.is_null() && value.as_u64() != Some(0))?;
            Some(format!("{value} {name}"))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { bail!("refused: {}", wrong.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_with_losses_is_refused() {
        assert!(believe(&json!({ "lost": 0, "duplicated": 0, "reordered": 0, "streams": 7 })).is_ok());
        for wrong in [json!({ "lost": 1 }), json!({ "duplicated": 3, "lost": 0 }), json!({ "phases": [{ "lost": 1 }] })]
        {
            assert!(believe(&wrong).is_err(), "{wrong}");
        }
        let error = believe(&json!({ "lost": 2, "ended": 1 })).unwrap_err();
        assert_eq!(error.to_string(), "refused: 2 lost, 1 ended");
    }
}
