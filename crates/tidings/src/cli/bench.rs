//! `tidings bench`: load on a server, and what it makes of it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;
use tidings_bench::{Target, churn, publish, streams};

use super::{ClientArguments, Exit, Failure, note, open_files, runtime};

/// The scenarios.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Publish as fast as the server answers.
    Publish(PublishScenario),
    /// Hold streams open that have nothing to do.
    Idle(IdleScenario),
    /// Publish to one channel with many streams, at a fixed rate.
    Broadcast(BroadcastScenario),
    /// Let clients come and go for a long time, and see whether the server's memory grows.
    Churn(ChurnScenario),
}

/// What all scenarios want to know.
#[derive(Debug, Clone, Args)]
pub struct CommonArguments {
    /// Which server. Only plain HTTP to an IP address.
    #[command(flatten)]
    client: ClientArguments,
    /// The server's process, if it is on this machine: what it uses is then told too.
    #[arg(long)]
    pid: Option<u32>,
    /// How long.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// What the names of the channels begin with.
    #[arg(long, default_value = "bench:")]
    channel_prefix: String,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `tidings bench publish`
#[derive(Debug, Clone, Args)]
pub struct PublishScenario {
    /// What all scenarios want to know.
    #[command(flatten)]
    common: CommonArguments,
    /// Publishers at the same time, each with one request under way.
    #[arg(long, default_value_t = 64)]
    publishers: usize,
    /// Events of a request; more than one are sent as NDJSON.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Bytes of an event's data.
    #[arg(long, default_value_t = 200)]
    data_bytes: usize,
    /// Channels that events are spread over.
    #[arg(long, default_value_t = 64)]
    channels: usize,
}

/// `tidings bench idle`
#[derive(Debug, Clone, Args)]
pub struct IdleScenario {
    /// What all scenarios want to know.
    #[command(flatten)]
    common: CommonArguments,
    /// How many streams.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Give each stream a channel of its own instead of one for all.
    #[arg(long)]
    own_channels: bool,
}

/// `tidings bench broadcast`
#[derive(Debug, Clone, Args)]
pub struct BroadcastScenario {
    /// What all scenarios want to know.
    #[command(flatten)]
    common: CommonArguments,
    /// How many streams.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Events published a second.
    #[arg(long, default_value_t = 10)]
    events: u32,
    /// Bytes of an event's padding.
    #[arg(long, default_value_t = 64)]
    data_bytes: usize,
}

/// `tidings bench churn`
#[derive(Debug, Clone, Args)]
pub struct ChurnScenario {
    /// What all scenarios want to know.
    #[command(flatten)]
    common: CommonArguments,
    /// Streams opened, and so closed, a second.
    #[arg(long, default_value_t = 500)]
    connects: u32,
    /// Events published a second.
    #[arg(long, default_value_t = 100)]
    events: u32,
    /// How long a stream stays, on average.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    stay: Duration,
    /// From when on memory should not grow.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// Channels that streams and events are spread over.
    #[arg(long, default_value_t = 100)]
    channels: u32,
}

pub(super) fn run(command: BenchCommand) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, format!("{error:#}"));
    let runtime = runtime()?;
    match command {
        BenchCommand::Publish(scenario) => {
            let parameters = publish::Parameters {
                target: target(&scenario.common)?,
                publishers: scenario.publishers,
                duration: scenario.common.duration,
                data_bytes: scenario.data_bytes,
                batch: scenario.batch,
                channels: scenario.channels,
                channel_prefix: scenario.common.channel_prefix.clone(),
                pid: scenario.common.pid,
            };
            let report = runtime.block_on(publish::run(&parameters)).map_err(failed)?;
            tell(&report, &scenario.common)
        }
        BenchCommand::Idle(scenario) => {
            let channels = if scenario.own_channels { scenario.streams } else { 1 };
            let parameters = stream_parameters(&scenario.common, scenario.streams, channels)?;
            let report = runtime.block_on(streams::run(&parameters)).map_err(failed)?;
            tell(&report, &scenario.common)
        }
        BenchCommand::Broadcast(scenario) => {
            let parameters = streams::Parameters {
                events_per_second: scenario.events,
                data_bytes: scenario.data_bytes,
                ..stream_parameters(&scenario.common, scenario.streams, 1)?
            };
            let report = runtime.block_on(streams::run(&parameters)).map_err(failed)?;
            tell(&report, &scenario.common)
        }
        BenchCommand::Churn(scenario) => {
            let pid = scenario.common.pid.ok_or_else(|| {
                Failure::new(Exit::Usage, "--pid is needed: the scenario is about the memory of the server's process")
            })?;
            let parameters = churn::Parameters {
                target: target(&scenario.common)?,
                connects_per_second: scenario.connects,
                events_per_second: scenario.events,
                duration: scenario.common.duration,
                settle: scenario.settle,
                stay: scenario.stay,
                channels: scenario.channels,
                channel_prefix: scenario.common.channel_prefix.clone(),
                pid,
            };
            let progress =
                |second, bytes: u64| note(format_args!("{second:>6} s  {:.1} MiB", bytes as f64 / 1048576.0));
            let report = runtime.block_on(churn::run(&parameters, progress)).map_err(failed)?;
            tell(&report, &scenario.common)
        }
    }
}

fn stream_parameters(
    common: &CommonArguments,
    streams: usize,
    channels: usize,
) -> Result<streams::Parameters, Failure> {
    open_files::raise_limit();
    Ok(streams::Parameters {
        target: target(common)?,
        streams,
        channels,
        channel_prefix: common.channel_prefix.clone(),
        duration: common.duration,
        events_per_second: 0,
        data_bytes: 0,
        pid: common.pid,
    })
}

fn target(common: &CommonArguments) -> Result<Target, Failure> {
    let bearer = super::client::credential(&common.client, |name| std::env::var(name).ok());
    let bearer = bearer.map(|secret| secret.expose().to_owned());
    Target::parse(&common.client.url, bearer).map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))
}

fn tell<R: Serialize + std::fmt::Display>(report: &R, common: &CommonArguments) -> Result<(), Failure> {
    use std::io::Write as _;
    if let Some(path) = &common.json {
        let json = serde_json::to_vec_pretty(report).map_err(std::io::Error::from)?;
        std::fs::write(path, json)?;
    }
    Ok(writeln!(std::io::stdout(), "{report}")?)
}
