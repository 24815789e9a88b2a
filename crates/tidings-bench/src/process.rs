//! What local processes and the kernel use, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on Linux whatever the kernel's own.
const TICKS_PER_SECOND: u64 = 100;

/// What the processes of a server use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Processor time so far, in user mode and in the kernel.
    pub(crate) cpu: Duration,
}

/// The sum over these processes; `None` if there are none.
pub(crate) fn usage(pids: &[u32]) -> anyhow::Result<Option<Usage>> {
    let mut sum = Usage::default();
    for pid in pids {
        sum.rss_bytes += rss_bytes(*pid).with_context(|| format!("the memory of process {pid}"))?;
        sum.cpu += cpu_time(*pid).with_context(|| format!("the processor time of process {pid}"))?;
    }
    Ok((!pids.is_empty()).then_some(sum))
}

fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kibibytes(&status, "VmRSS:").context("no VmRSS")
}

fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold anything, but ends at the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no command name")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("too few fields")?.parse()?) };
    // Fields 14 and 15 of proc(5); the first after the name is the third.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND))
}

/// Memory that the kernel uses for sockets of all processes: the pages of TCP's buffers and all slabs.
/// `None` where it does not say.
pub(crate) fn kernel_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let sockets = fs::read_to_string("/proc/net/sockstat").ok()?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"))?;
    let pages: u64 = tcp.rsplit_once("mem ")?.1.split_whitespace().next()?.parse().ok()?;
    let slabs = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:")?;
    Some(pages * PAGE_BYTES + slabs)
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage_of_this = usage(&[std::process::id()]).unwrap().unwrap();
        assert!(usage_of_this.rss_bytes > 100_000);
        assert!(kernel_bytes().is_some_and(|bytes| bytes > 100_000));
        assert!(usage(&[]).unwrap().is_none());
        assert!(usage(&[u32::MAX]).is_err());
    }
}
