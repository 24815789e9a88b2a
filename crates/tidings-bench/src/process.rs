//! What a local process uses, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on Linux whatever the kernel's own.
const TICKS_PER_SECOND: u64 = 100;

/// Resident memory, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

/// Processor time used so far, in user mode and in the kernel.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold anything, but ends at the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no command name")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("too few fields")?.parse()?) };
    // Fields 14 and 15 of proc(5); the first after the name is the third.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND))
}
