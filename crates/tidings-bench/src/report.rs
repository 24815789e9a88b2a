//! What the reports of all scenarios have in common.

use std::fmt;

use serde::Serialize;

use crate::{
    clock::now_nanos,
    crew::Common,
    process::{self, Usage},
    target::ServerKind,
};

/// Progress is told at most so often.
const PROGRESS_NANOS: u64 = 500_000_000;

/// Tells a person how far it is.
pub struct Progress<'a> {
    tell: Box<dyn FnMut(&str) + 'a>,
    next: u64,
}

impl<'a> Progress<'a> {
    /// Progress that is told by a function.
    pub fn new(tell: impl FnMut(&str) + 'a) -> Self {
        Self { tell: Box::new(tell), next: 0 }
    }

    /// Progress that nobody is told.
    pub fn silent() -> Self {
        Self { tell: Box::new(|_| {}), next: u64::MAX }
    }

    /// Tells it, unless it was told just now.
    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
        let now = now_nanos();
        if now >= self.next {
            self.next = now + PROGRESS_NANOS;
            (self.tell)(&text());
        }
    }
}

/// What the server's processes used.
#[derive(Debug, Clone, Serialize)]
pub struct ServerUse {
    /// Processor time during the measured part, in user mode and in the kernel.
    pub cpu_seconds: f64,
    /// The same for each delivery; `None` where there were none.
    pub cpu_micros_per_delivery: Option<f64>,
    /// Resident memory before.
    pub rss_before_bytes: u64,
    /// Resident memory after.
    pub rss_after_bytes: u64,
}

impl ServerUse {
    /// What was used since `before`; memory counts from `rss_before_bytes` on.
    pub(crate) fn since(
        before: Option<Usage>,
        rss_before_bytes: Option<u64>,
        common: &Common,
        deliveries: u64,
    ) -> anyhow::Result<Option<Self>> {
        let Some((before, after)) = before.zip(process::usage(&common.pids)?) else { return Ok(None) };
        let cpu_seconds = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        Ok(Some(Self {
            cpu_seconds,
            cpu_micros_per_delivery: (deliveries > 0).then(|| cpu_seconds * 1e6 / deliveries as f64),
            rss_before_bytes: rss_before_bytes.unwrap_or(before.rss_bytes),
            rss_after_bytes: after.rss_bytes,
        }))
    }
}

impl fmt::Display for ServerUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let (before, after) = (mib(self.rss_before_bytes), mib(self.rss_after_bytes));
        write!(f, "server: {:.2} s of a core", self.cpu_seconds)?;
        if let Some(micros) = self.cpu_micros_per_delivery {
            write!(f, ", {micros:.2} µs a delivery")?;
        }
        write!(f, "; resident {before:.1} MiB before, {after:.1} MiB after")
    }
}

/// Writes what the server used, if that is known, on a line of its own.
pub(crate) fn write_server(f: &mut fmt::Formatter<'_>, server: Option<&ServerUse>) -> fmt::Result {
    server.map_or(Ok(()), |server| write!(f, "\n{server}"))
}

/// The name of the kind of server, for reports.
pub(crate) fn kind(common: &Common) -> ServerKind {
    common.target.kind
}
