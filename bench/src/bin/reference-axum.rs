//! The reference `axum-sse`.

#![allow(clippy::print_stdout, reason = "where it listens is all that this program has to say")]

use std::net::SocketAddr;

use bench_suite::{axum_sse, raw};
use clap::Parser;

/// The server that most teams would write with axum.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7332")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = raw::listen(Arguments::parse().listen)?;
    println!("listening on {}", listener.local_addr()?);
    listener.set_nonblocking(true)?;
    axum_sse::run(tokio::net::TcpListener::from_std(listener)?).await
}
