//! What the process says of itself, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFormat};

/// Begins to log. Once per process: only the command does it, never the library.
pub(crate) fn init(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.level)?;
    let is_terminal = std::io::stderr().is_terminal();
    let is_json = match config.format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !is_terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    if is_json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()?;
    } else {
        let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
        registry.with(fmt::layer().with_ansi(has_colour).with_target(false).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(())
}
