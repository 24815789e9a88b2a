//! Many streams at once, as after a restart or a lost network.

use std::fmt;

use serde::Serialize;

use crate::{
    crew::{Common, Crew},
    holding,
    latency::LatencyReport,
    process,
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    streams::Channels,
    target::ServerKind,
};

/// How long events of a catch-up may keep coming, and for how long none may before it is over.
const CATCH_UP_NANOS: (u64, u64) = (30_000_000_000, 2_000_000_000);

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// How many streams.
    pub streams: u64,
    /// How many are being opened at a time.
    pub concurrency: u64,
    /// The cursor that all come back with.
    pub resume_cursor: Option<String>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `storm`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// Streams that were opened.
    pub streams: u64,
    /// Streams that could not be.
    pub failed: u64,
    /// Why the first of them could not.
    pub first_failure: Option<String>,
    /// How long opening all took.
    pub opened_seconds: f64,
    /// Streams opened a second.
    pub streams_per_second: f64,
    /// How long the measured part took, with the catch-up.
    pub seconds: f64,
    /// Events that came on them, `gap`s apart.
    pub events: u64,
    /// `gap`s that came.
    pub gaps: u64,
    /// Streams that ended by themselves.
    pub ended: u64,
    /// From beginning to connect to the event `connected`, or, where the server has none, to the head of
    /// its response.
    pub latency: LatencyReport,
    /// What the server used from before the first stream on.
    pub server: Option<ServerUse>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, failed, opened_seconds, streams_per_second, events, gaps, latency, .. } = self;
        write!(
            f,
            "storm: {streams} streams opened in {opened_seconds:.2} s ({streams_per_second:.0} a second), \
             {failed} failed; {events} events, {gaps} gaps\nfrom connecting to being connected: {latency}"
        )?;
        if let Some(why) = &self.first_failure {
            write!(f, "\nthe first that failed: {why}")?;
        }
        write_server(f, self.server.as_ref())
    }
}

/// Opens the streams.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    let channels = if common.target.has_users() {
        Channels::Own(common.channel_prefix.clone())
    } else {
        Channels::Shared(format!("{}0", common.channel_prefix))
    };
    let is_resumed = parameters.resume_cursor.is_some();
    let plan = holding::Plan {
        streams: parameters.streams,
        concurrency: parameters.concurrency,
        channels,
        cursor: parameters.resume_cursor.clone(),
        hold_nanos: if is_resumed { CATCH_UP_NANOS.0 } else { 0 },
        quiet_nanos: Some(CATCH_UP_NANOS.1),
        pids: Vec::new(),
    };
    let before = process::usage(&common.pids)?;
    let (mut crew, opened) = Crew::open(common, Load::Holding(plan))?;
    anyhow::ensure!(
        opened.opened > 0,
        "no stream could be opened: {}",
        opened.first_failure.as_deref().unwrap_or_default()
    );
    let tally = crew.run(progress)?;
    Ok(Report {
        scenario: "storm",
        server_kind: kind(common),
        streams: opened.opened,
        failed: opened.failed,
        first_failure: opened.first_failure,
        opened_seconds: opened.opened_seconds,
        streams_per_second: opened.opened as f64 / opened.opened_seconds.max(1e-9),
        seconds: opened.opened_seconds + tally.seconds(),
        events: tally.deliveries,
        gaps: tally.gaps,
        ended: tally.ended,
        latency: opened.open_latency.report(),
        server: ServerUse::since(before, None, common, 0)?,
    })
}
