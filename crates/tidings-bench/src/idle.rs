//! What a stream costs that has nothing to do.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    clock::nanos,
    crew::{Common, Crew},
    holding,
    process::{self, kernel_bytes},
    report::{Progress, ServerUse, kind, write_server},
    scenario::Load,
    streams::Channels,
    target::ServerKind,
};

/// Streams that are being opened at a time: a listen queue has room for more.
pub(crate) const OPENING_MAX: u64 = 256;

/// What to do.
#[derive(Clone)]
pub struct Parameters {
    /// How many streams.
    pub streams: u64,
    /// Whether each listens to a channel of its own, or all to the same one.
    pub own_channels: bool,
    /// How long they are held.
    pub duration: Duration,
    /// How long the server's memory must not have changed before it counts, within 15 s.
    pub settle: Duration,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `idle`.
    pub scenario: &'static str,
    /// What kind of server it was.
    pub server_kind: ServerKind,
    /// Streams that were open.
    pub streams: u64,
    /// How long they were held.
    pub seconds: f64,
    /// How long opening all took.
    pub opened_seconds: f64,
    /// What the server's resident memory grew by for each stream.
    pub bytes_per_stream: Option<f64>,
    /// What the kernel's memory grew by for each stream: TCP's buffers and all slabs of the machine, so on
    /// loopback both ends of the connection.
    pub kernel_bytes_per_stream: Option<f64>,
    /// The server's processor time while the streams were held, in percent of one core.
    pub cpu_percent_of_core: Option<f64>,
    /// Heartbeats that came.
    pub heartbeats: u64,
    /// Streams that ended by themselves.
    pub ended: u64,
    /// What the server used while the streams were held; memory counts from before they were opened.
    pub server: Option<ServerUse>,
    /// Resident memory of the server while the streams were held: the second, and the bytes.
    pub samples: Vec<(f64, u64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, opened_seconds, seconds, heartbeats, ended, .. } = self;
        write!(f, "idle: {streams} streams opened in {opened_seconds:.2} s, held for {seconds:.1} s; ")?;
        write!(f, "{heartbeats} heartbeats, {ended} streams ended by themselves")?;
        if let Some(bytes) = self.bytes_per_stream {
            write!(f, "; {bytes:.0} bytes of the server's memory for each")?;
        }
        if let Some(bytes) = self.kernel_bytes_per_stream {
            write!(f, ", {bytes:.0} of the kernel's")?;
        }
        if let Some(percent) = self.cpu_percent_of_core {
            write!(f, "; {percent:.2} % of a core")?;
        }
        write_server(f, self.server.as_ref())
    }
}

/// Opens the streams and holds them.
pub fn run(common: &Common, parameters: &Parameters, progress: &mut Progress<'_>) -> anyhow::Result<Report> {
    let channels = if parameters.own_channels || common.target.has_users() {
        common.target.ensure_channels()?;
        Channels::Own(common.channel_prefix.clone())
    } else {
        Channels::Shared(format!("{}0", common.channel_prefix))
    };
    let plan = holding::Plan {
        streams: parameters.streams,
        concurrency: OPENING_MAX,
        channels,
        cursor: None,
        hold_nanos: nanos(parameters.duration),
        quiet_nanos: None,
        pids: common.pids.clone(),
    };
    let (before, kernel_before) = (process::usage(&common.pids)?, kernel_bytes());
    let (mut crew, opened) = Crew::open(common, Load::Holding(plan))?;
    opened.ensure_all_open()?;
    crew.settle(&common.pids, parameters.settle)?;
    let (settled, kernel_settled) = (process::usage(&common.pids)?, kernel_bytes());
    let tally = crew.run(progress)?;
    let rss_before = before.map(|usage| usage.rss_bytes);
    let server = ServerUse::since(settled, rss_before, common, 0)?;
    let per_stream = |(before, after): (u64, u64)| (after as f64 - before as f64) / opened.opened.max(1) as f64;
    let seconds = tally.seconds();
    Ok(Report {
        scenario: "idle",
        server_kind: kind(common),
        streams: opened.opened,
        seconds,
        opened_seconds: opened.opened_seconds,
        bytes_per_stream: rss_before.zip(settled.map(|usage| usage.rss_bytes)).map(per_stream),
        kernel_bytes_per_stream: kernel_before.zip(kernel_settled).map(per_stream),
        cpu_percent_of_core: server.as_ref().map(|server| server.cpu_seconds / seconds.max(1e-9) * 100.0),
        heartbeats: tally.heartbeats,
        ended: tally.ended,
        server,
        samples: tally.samples,
    })
}
