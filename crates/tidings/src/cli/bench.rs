//! `tidings bench`: load on a server, and what it makes of it.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use tidings_bench::{
    Common, LatencyReport, Progress, Target, Url, broadcast, check_channel_prefix, churn, idle,
    plot::{Curve, latency_svg, memory_svg},
    poll, publish, storm, unicast,
};

use super::{ClientArguments, Exit, Failure, duration, note, open_files, secret};
use crate::config::Secret;

/// The scenarios.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Hold streams open that have nothing to do.
    Idle(IdleScenario),
    /// Publish to one channel with many streams, and account for every delivery.
    Broadcast(BroadcastScenario),
    /// Publish to the own channels of many users, one at a time.
    Unicast(UnicastScenario),
    /// Open many streams at once, as after a restart.
    Storm(StormScenario),
    /// Publish as fast as the server answers.
    Publish(PublishScenario),
    /// Let clients come and go for a long time, and see whether the server's memory grows.
    Churn(ChurnScenario),
    /// Compare users who poll an API with users who are told when to ask it.
    Poll(PollScenario),
    /// Work as one of several processes of a run.
    #[command(hide = true)]
    Member,
}

/// What all scenarios want to know.
#[derive(Debug, Clone, Args)]
pub struct CommonArguments {
    /// A Tidings server. Only plain HTTP; a host's name is looked up once.
    #[arg(long, env = "TIDINGS_URL", hide_env_values = true, default_value = "http://127.0.0.1:7330")]
    url: String,
    /// An API key, to publish with. In the environment, as TIDINGS_API_KEY, it is not seen by those who list
    /// processes.
    #[arg(long, alias = "key", value_name = "KEY", value_parser = secret)]
    api_key: Option<Secret>,
    /// Any other server that speaks plain event streams: where a stream is opened, with `{channel}` in the
    /// place of the channel's name. Takes the place of --url.
    #[arg(long, value_name = "TEMPLATE")]
    subscribe_url: Option<String>,
    /// How to publish to it: by POST, with the event's data as the body. Any 2xx is an acknowledgement.
    #[arg(long, value_name = "TEMPLATE", requires = "subscribe_url")]
    publish_url: Option<String>,
    /// A process of the server, if it is on this machine: what it uses is then told too. May be repeated;
    /// what they use is added up.
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Client threads.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Client processes, which the streams are divided over: often one may have no more than 20,000
    /// descriptors. With more than one, further threads are processes too.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Addresses of this machine, 127.0.1.1 and so on, that streams to a server on it come from; 0 leaves it
    /// to the system. One address has about 28,000 ports.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u8).range(..=254))]
    source_addresses: u8,
    /// What the names of the channels begin with.
    #[arg(long, value_name = "TEXT", default_value = "bench:")]
    channel_prefix: String,
    /// How long nothing may come before the rest counts as lost.
    #[arg(long, default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// Sign users' tokens with this secret (HS256): each stream is then one of a user u0, u1, …, on their
    /// personal channel where the scenario has a channel for each stream.
    #[arg(long, value_name = "SECRET", env = "TIDINGS_AUTH__JWT_HS256_SECRET", hide_env_values = true, value_parser = secret)]
    jwt_secret: Option<Secret>,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the latencies, or for `idle` and `churn` the server's memory over time.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How long.
#[derive(Debug, Clone, Args)]
pub struct DurationArgument {
    /// How long.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
}

/// `tidings bench idle`
#[derive(Debug, Clone, Args)]
pub struct IdleScenario {
    /// How many streams.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    streams: u64,
    /// Give each stream a channel of its own instead of one for all.
    #[arg(long)]
    own_channels: bool,
    /// How long the server's memory must have been the same before it counts, within 15 s: allocators give
    /// memory back with a delay.
    #[arg(long, default_value = "3s", value_parser = duration)]
    settle: Duration,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench broadcast`
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("pace").args(["window", "rate"]))]
pub struct BroadcastScenario {
    /// How many streams.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    streams: u64,
    /// Publish as soon as fewer than so many messages are not yet delivered to all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    window: Option<u64>,
    /// With --window: how many messages.
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "rate")]
    messages: u64,
    /// Publish so many messages a second, whatever the server makes of it; 10 if there is no --window.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Length of a message's data.
    #[arg(long, value_name = "N", default_value_t = 128)]
    data_bytes: usize,
    /// Streams besides that are never read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_readers: u64,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench unicast`
#[derive(Debug, Clone, Args)]
pub struct UnicastScenario {
    /// How many users, each with a stream on a channel of their own.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// Connections that publish, each with one request under way.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    publishers: u64,
    /// Publish so many messages a second, whatever the server makes of it, instead of each when the one
    /// before is acknowledged and delivered.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Length of a message's data.
    #[arg(long, value_name = "N", default_value_t = 128)]
    data_bytes: usize,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench storm`
#[derive(Debug, Clone, Args)]
pub struct StormScenario {
    /// How many streams.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    streams: u64,
    /// How many are being opened at a time.
    #[arg(long, value_name = "N", default_value_t = 256)]
    concurrency: u64,
    /// Have all come back with this cursor.
    #[arg(long, value_name = "CURSOR", value_parser = super::cursor)]
    resume_cursor: Option<String>,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench publish`
#[derive(Debug, Clone, Args)]
pub struct PublishScenario {
    /// Publishers at the same time, each with one request under way.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    publishers: u64,
    /// Events of a request; more than one are sent as NDJSON.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u64,
    /// Bytes of an event's data.
    #[arg(long, value_name = "N", default_value_t = 200)]
    data_bytes: usize,
    /// Channels that events are spread over.
    #[arg(long, value_name = "N", default_value_t = 64)]
    channels: u64,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench churn`
#[derive(Debug, Clone, Args)]
pub struct ChurnScenario {
    /// Streams opened, and so closed, a second.
    #[arg(long, value_name = "N", default_value_t = 500)]
    connects: u32,
    /// Events published a second.
    #[arg(long, value_name = "N", default_value_t = 100)]
    events: u32,
    /// How long a stream stays, on average.
    #[arg(long, default_value = "1s", value_parser = duration)]
    stay: Duration,
    /// From when on memory should not grow.
    #[arg(long, default_value = "5m", value_parser = duration)]
    settle: Duration,
    /// Channels that streams and events are spread over.
    #[arg(long, value_name = "N", default_value_t = 100)]
    channels: u32,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

/// `tidings bench poll`
#[derive(Debug, Clone, Args)]
pub struct PollScenario {
    /// What each user asks for, with `{user}` in the place of u0, u1, …
    #[arg(long, value_name = "TEMPLATE")]
    poll_url: String,
    /// How many users.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// How often each polls.
    #[arg(long, default_value = "3s", value_parser = duration)]
    interval: Duration,
    /// The part of the users for whom something changes in an interval. May be repeated, for a phase each.
    #[arg(long = "change-rate", value_name = "PART", default_values_t = [0.01, 0.1, 1.0], value_parser = part)]
    change_rates: Vec<f64>,
    /// A process of the API, if it is on this machine. May be repeated.
    #[arg(long = "api-pid", value_name = "PID")]
    api_pids: Vec<u32>,
    #[command(flatten)]
    duration: DurationArgument,
    #[command(flatten)]
    common: CommonArguments,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "accepted is a number above 0".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part: &f64| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "accepted is a number from 0 to 1, as in 0.01".to_owned())
}

pub(super) fn run(command: BenchCommand) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, format!("{error:#}"));
    open_files::raise_limit();
    let mut progress = progress();
    match command {
        BenchCommand::Member => tidings_bench::member().map_err(failed),
        BenchCommand::Idle(scenario) => {
            let parameters = idle::Parameters {
                streams: scenario.streams,
                own_channels: scenario.own_channels,
                duration: scenario.duration.duration,
                settle: scenario.settle,
            };
            let common = common(&scenario.common)?;
            let report = idle::run(&common, &parameters, &mut progress).map_err(failed)?;
            let curve = Curve::of_memory("idle", report.samples.iter().copied());
            tell(&report, &scenario.common, Picture::Memory(curve))
        }
        BenchCommand::Broadcast(scenario) => {
            let pace = match scenario.window {
                Some(window) => broadcast::Pace::Window { window, messages: scenario.messages },
                None => broadcast::Pace::Rate {
                    per_second: scenario.rate.unwrap_or(10.0),
                    duration: scenario.duration.duration,
                },
            };
            let parameters = broadcast::Parameters {
                streams: scenario.streams,
                pace,
                data_bytes: scenario.data_bytes,
                slow_readers: scenario.slow_readers,
            };
            let common = common(&scenario.common)?;
            let report = broadcast::run(&common, &parameters, &mut progress).map_err(failed)?;
            tell(&report, &scenario.common, Picture::Latency("broadcast", &report.latency))
        }
        BenchCommand::Unicast(scenario) => {
            let parameters = unicast::Parameters {
                users: scenario.users,
                publishers: scenario.publishers,
                per_second: scenario.rate,
                duration: scenario.duration.duration,
                data_bytes: scenario.data_bytes,
            };
            let common = common(&scenario.common)?;
            let report = unicast::run(&common, &parameters, &mut progress).map_err(failed)?;
            tell(&report, &scenario.common, Picture::Latency("unicast", &report.latency))
        }
        BenchCommand::Storm(scenario) => {
            let parameters = storm::Parameters {
                streams: scenario.streams,
                concurrency: scenario.concurrency,
                resume_cursor: scenario.resume_cursor,
            };
            let common = common(&scenario.common)?;
            let report = storm::run(&common, &parameters, &mut progress).map_err(failed)?;
            tell(&report, &scenario.common, Picture::Latency("storm", &report.latency))
        }
        BenchCommand::Publish(scenario) => {
            let parameters = publish::Parameters {
                publishers: scenario.publishers,
                duration: scenario.duration.duration,
                data_bytes: scenario.data_bytes,
                batch: scenario.batch,
                channels: scenario.channels,
            };
            let common = common(&scenario.common)?;
            let report = publish::run(&common, &parameters, &mut progress).map_err(failed)?;
            tell(&report, &scenario.common, Picture::Latency("publish", &report.latency))
        }
        BenchCommand::Churn(scenario) => {
            if scenario.common.pids.is_empty() {
                let text = "--pid is needed: the scenario is about the memory of the server's process";
                return Err(Failure::new(Exit::Usage, text));
            }
            let parameters = churn::Parameters {
                connects_per_second: scenario.connects,
                events_per_second: scenario.events,
                duration: scenario.duration.duration,
                settle: scenario.settle,
                stay: scenario.stay,
                channels: scenario.channels,
            };
            let common = common(&scenario.common)?;
            let report = churn::run(&common, &parameters, &mut progress).map_err(failed)?;
            let samples = report.samples.iter().map(|(second, bytes)| (*second as f64, *bytes));
            tell(&report, &scenario.common, Picture::Memory(Curve::of_memory("churn", samples)))
        }
        BenchCommand::Poll(scenario) => {
            let parameters = poll::Parameters {
                poll_url: Url::parse(&scenario.poll_url).map_err(usage)?,
                users: scenario.users,
                interval: scenario.interval,
                duration: scenario.duration.duration,
                change_rates: scenario.change_rates,
                api_pids: scenario.api_pids,
            };
            let common = common(&scenario.common)?;
            let report = poll::run(&common, &parameters, &mut progress).map_err(failed)?;
            let curves = report.phases.iter().map(|phase| {
                let name = format!("{}, {} % change", phase.phase, phase.change_rate * 100.0);
                Curve::of_latency(name, &phase.latency)
            });
            tell(&report, &scenario.common, Picture::Latencies("from a change to having it", curves.collect()))
        }
    }
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{error:#}"))
}

fn common(arguments: &CommonArguments) -> Result<Common, Failure> {
    let client =
        ClientArguments { url: arguments.url.clone(), api_key: arguments.api_key.clone(), token: None, ca: None };
    let bearer = super::client::credential(&client, |name| std::env::var(name).ok());
    let bearer = bearer.map(|secret| secret.expose().to_owned());
    check_channel_prefix(&arguments.channel_prefix).map_err(usage)?;
    let target = match &arguments.subscribe_url {
        Some(subscribe) => Target::plain(subscribe, arguments.publish_url.as_deref(), bearer),
        None => Target::tidings(&arguments.url, bearer),
    };
    let jwt_secret = arguments.jwt_secret.as_ref().map(|secret| secret.expose().to_owned());
    Ok(Common {
        target: target.map_err(usage)?.with_users(jwt_secret).with_source_addresses(arguments.source_addresses),
        channel_prefix: arguments.channel_prefix.clone(),
        pids: arguments.pids.clone(),
        threads: arguments.threads,
        processes: arguments.processes,
        patience: arguments.patience,
        program: std::env::current_exe()?,
    })
}

/// Tells people how far it is; a file that the errors go to is not for that.
fn progress() -> Progress<'static> {
    if std::io::stderr().is_terminal() {
        Progress::new(|text| note(format_args!("{text}")))
    } else {
        Progress::silent()
    }
}

/// What a report looks like.
enum Picture<'a> {
    Latency(&'static str, &'a LatencyReport),
    Latencies(&'static str, Vec<Curve>),
    Memory(Curve),
}

impl Picture<'_> {
    fn draw(self) -> anyhow::Result<String> {
        match self {
            Self::Latency(scenario, report) => {
                latency_svg(&format!("{scenario}: latency"), &[Curve::of_latency(scenario, report)])
            }
            Self::Latencies(title, curves) => latency_svg(title, &curves),
            Self::Memory(curve) => {
                let title = format!("{}: resident memory of the server", curve.name);
                memory_svg(&title, &[curve])
            }
        }
    }
}

fn tell<R: Serialize + fmt::Display>(
    report: &R,
    common: &CommonArguments,
    picture: Picture<'_>,
) -> Result<(), Failure> {
    if let Some(path) = &common.json {
        let json = serde_json::to_vec_pretty(report).map_err(std::io::Error::from)?;
        std::fs::write(path, json)?;
    }
    if let Some(path) = &common.svg {
        let svg = picture.draw().map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))?;
        std::fs::write(path, svg)?;
    }
    Ok(writeln!(std::io::stdout(), "{report}")?)
}
