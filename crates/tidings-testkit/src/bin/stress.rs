//! Runs the crash-and-resume scenario and prints what happened; `docs/testing.md` describes it.

#![allow(clippy::print_stdout, reason = "the report is what this program is for")]

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use tidings_testkit::stress::{StressOptions, run};

/// Kills a server under load and checks that nobody misses anything.
#[derive(Parser)]
struct Args {
    /// The server to run; else the environment variable TIDINGS_BIN
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Events to publish
    #[arg(long)]
    events: Option<u64>,
    /// Channels to publish them on
    #[arg(long)]
    channels: Option<usize>,
    /// Subscribers, each of 1 to 20 of the channels
    #[arg(long)]
    subscribers: Option<usize>,
    /// How often to kill the server
    #[arg(long)]
    kills: Option<usize>,
    /// Most bytes before a connection is cut
    #[arg(long)]
    cut_max_bytes: Option<u64>,
    /// Longest run, in seconds
    #[arg(long)]
    limit_secs: Option<u64>,
    /// The seed of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// The size of the test suite's run instead of the long one
    #[arg(long)]
    short: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut options = if args.short { StressOptions::short(seed) } else { StressOptions::long(seed) };
    options.binary = args.binary;
    options.events = args.events.unwrap_or(options.events);
    options.channels = args.channels.unwrap_or(options.channels);
    options.subscribers = args.subscribers.unwrap_or(options.subscribers);
    options.kills = args.kills.unwrap_or(options.kills);
    options.cuts.max_bytes = args.cut_max_bytes.unwrap_or(options.cuts.max_bytes);
    options.limit = args.limit_secs.map_or(options.limit, Duration::from_secs);
    println!("seed {seed}");
    println!("{}", run(options).await?);
    Ok(())
}
