//! The reference `raw`, and with `--batch` the reference `raw-batch`.

#![allow(clippy::print_stdout, reason = "where it listens is all that this program has to say")]

use std::net::SocketAddr;

use bench_suite::raw;
use clap::Parser;

/// Sends messages to streams with one system call each, and does nothing else.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7331")]
    listen: SocketAddr,
    /// Send all that waits for a stream in one call
    #[arg(long)]
    batch: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = raw::listen(arguments.listen)?;
    println!("listening on {}", listener.local_addr()?);
    raw::run(listener, arguments.batch)
}
