//! `tidings serve`: the server as a process, with its signals.

use std::{io::Write as _, net::SocketAddr};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, ServeArguments, logging, open_files};
use crate::{
    config::Config,
    server::{Tidings, VERSION},
};

/// Runs the server until it is told to stop.
pub(crate) async fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let config = arguments.load()?.config;
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, format!("{error:#}"));
    logging::init(&config.log).map_err(failed)?;
    raise_descriptor_limit(config.limits.max_connections);
    let listen = config.listen;
    let server = Tidings::builder().config(config).dev(arguments.dev).build().await;
    let server = server.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
    let listener = bind(listen).with_context(|| format!("cannot listen on {listen}")).map_err(failed)?;
    announce(&server, &listener, arguments.dev)?;
    run_until_signal(server, listener, || Ok(arguments.load()?.config)).await.map_err(failed)
}

/// Connections that may wait to be accepted. When a node dies its clients come all at once, and a
/// connection for which there is no room is tried again after a second at the earliest. The system's own
/// limit (`net.core.somaxconn`, 4,096 on Linux) is below it on most machines.
const BACKLOG: u32 = 65_535;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart need not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn run_until_signal(
    mut server: Tidings,
    listener: TcpListener,
    load: impl Fn() -> Result<Config, crate::config::ConfigErrors>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let shutdown = CancellationToken::new();
    let serving = server.serve(listener, shutdown.clone());
    tokio::pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => break,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {
                reload(&mut server, &load);
                continue;
            }
        }
        if shutdown.is_cancelled() {
            tracing::warn!("a second signal: ending without waiting for streams");
            break;
        }
        shutdown.cancel();
    }
    server.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// What is wrong with a new configuration is logged, and the old one stays.
fn reload(server: &mut Tidings, load: impl Fn() -> Result<Config, crate::config::ConfigErrors>) {
    let reloaded = load().map_err(anyhow::Error::from).and_then(|config| server.reload(config));
    match reloaded {
        Ok(needs_restart) if needs_restart.is_empty() => tracing::info!("configuration reloaded"),
        Ok(needs_restart) => tracing::warn!(keys = ?needs_restart, "configuration reloaded; these need a restart"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "configuration not reloaded; the old one stays"),
    }
}

fn raise_descriptor_limit(streams: usize) {
    if let Some(max) = open_files::raise_limit().filter(|max| *max < streams as u64) {
        tracing::warn!(
            open_files = max,
            max_connections = streams,
            "the system's limit on open files is below limits.max_connections (see ulimit -n, LimitNOFILE)"
        );
    }
}

/// Says where the server is, and in development how to try it.
fn announce(server: &Tidings, listener: &TcpListener, is_dev: bool) -> Result<(), Failure> {
    let scheme = if server.config().tls.files().is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    tracing::info!(version = VERSION, %url, data_dir = %server.config().data_dir.display(), "listening");
    let mut out = std::io::stdout().lock();
    match server.config().auth.api_keys.last().filter(|_| is_dev) {
        None => writeln!(out, "Tidings {VERSION} is listening on {url}")?,
        Some(key) => {
            let key = key.expose();
            writeln!(out, "Tidings {VERSION}, for development: anybody on this machine may publish and subscribe.")?;
            writeln!(out, "  publish    curl -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\")?;
            writeln!(out, "               -d '{{\"channel\":\"chat:lobby\",\"data\":\"hello\"}}' {url}/v1/publish")?;
            writeln!(out, "  {url}   key {key}   try: curl -N '{url}/v1/subscribe?channel=chat:lobby'")?;
        }
    }
    Ok(out.flush()?)
}
