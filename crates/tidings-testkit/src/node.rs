//! Scripts that run in Node: the public JavaScript clients, held against our bytes.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{browsers, wait};

const NODE_MISSING: &str = "node does not start; install Node 20 or newer (Debian: apt-get install nodejs npm)";

/// A public client that reads event streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reader {
    /// `EventSource` of the npm package `eventsource`.
    EventSource,
    /// The npm package `eventsource-parser` on top of `fetch`.
    EventSourceParser,
    /// The npm package `@microsoft/fetch-event-source`.
    FetchEventSource,
    /// Chromium's own `EventSource`.
    Chromium,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::EventSource, Self::EventSourceParser, Self::FetchEventSource, Self::Chromium];

    /// Its name on the command line of `js/parse.mjs`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventSource => "eventsource",
            Self::EventSourceParser => "eventsource-parser",
            Self::FetchEventSource => "fetch-event-source",
            Self::Chromium => "chromium",
        }
    }

    /// Connects to `url`, listens for these types, and gives the first `count` events.
    ///
    /// An EventSource hands over only the types that were listened for. `error` and `message` are
    /// always among them.
    pub async fn read(
        self,
        url: &str,
        types: &[String],
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<ReadEvent>> {
        let chromium = match self {
            Self::Chromium => Some(browsers::chromium()?),
            _ => None,
        };
        let request = Request { url, types, count, chromium };
        let output = run("parse.mjs", &[self.as_str()], &serde_json::to_string(&request)?, limit).await?;
        serde_json::from_str(&output).with_context(|| format!("the output of parse.mjs: {output}"))
    }
}

/// An event as a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadEvent {
    /// `event.type`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// `event.data`.
    pub data: String,
    /// `event.lastEventId`.
    pub last_event_id: String,
}

#[derive(Serialize)]
struct Request<'a> {
    url: &'a str,
    types: &'a [String],
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    chromium: Option<PathBuf>,
}

/// Runs a script of `js/` with this input and gives its output. The error of a tool that is missing
/// says what to install; that of a script that fails has what it wrote on standard error.
pub async fn run(script: &str, args: &[&str], input: &str, limit: Duration) -> anyhow::Result<String> {
    let mut child = command(script)?
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(NODE_MISSING)?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await.with_context(|| format!("writing to {script}"))?;
    drop(stdin);
    let output = wait::within(script, limit, child.wait_with_output()).await??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{script} {} ended with {}:\n{said}", args.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Node with a script of `js/`. It is killed when the child is dropped.
fn command(script: &str) -> anyhow::Result<Command> {
    let js = Path::new(env!("CARGO_MANIFEST_DIR")).join("js");
    if !js.join("node_modules").is_dir() {
        bail!("the JavaScript clients are not installed: run `make test`, or `npm ci` in {}", js.display());
    }
    let mut command = Command::new("node");
    command.arg(js.join(script)).kill_on_drop(true);
    Ok(command)
}

/// A script of `js/` that answers each line of JSON with a line of JSON.
#[derive(Debug)]
pub struct Script {
    name: &'static str,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Script {
    /// Starts it. What it writes on standard error goes to that of the test.
    pub fn start(name: &'static str) -> anyhow::Result<Self> {
        let mut child = command(name)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(NODE_MISSING)?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self { name, stdin, stdout: BufReader::new(stdout).lines(), child })
    }

    /// Has it do something and gives what it answers.
    pub async fn ask(&mut self, command: &serde_json::Value, limit: Duration) -> anyhow::Result<serde_json::Value> {
        let what = format!("{}, asked {command}", self.name);
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.with_context(|| what.clone())?;
        let line = wait::within(&what, limit, self.stdout.next_line()).await??;
        let answer: Answer = serde_json::from_str(&line.with_context(|| format!("{what}: it has ended"))?)?;
        match answer {
            Answer { error: Some(error), .. } => bail!("{what}: {error}"),
            Answer { value, .. } => Ok(value),
        }
    }

    /// Lets it tidy up, and waits for its end. A script that is dropped is killed.
    pub async fn end(mut self, limit: Duration) -> anyhow::Result<()> {
        drop(self.stdin);
        let status = wait::within(self.name, limit, self.child.wait()).await??;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    value: serde_json::Value,
    #[serde(default)]
    error: Option<String>,
}
