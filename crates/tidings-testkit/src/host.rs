//! A host of its own on this machine, which can be cut off: a network namespace with one cable to us.
//!
//! Needs root, `ip` (iproute2) and `nft` (nftables).

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::Context as _;

/// Tells hosts of one test process apart.
static HOSTS: AtomicU16 = AtomicU16::new(0);

/// A network namespace and the cable to it. Removed on drop.
#[derive(Debug)]
pub struct Host {
    name: String,
    near: Ipv4Addr,
}

impl Host {
    /// Makes a host.
    pub fn new() -> anyhow::Result<Self> {
        let number = HOSTS.fetch_add(1, Relaxed);
        let id = std::process::id();
        // From the range for benchmarks of network devices (RFC 2544), which no real network uses; a
        // pair of addresses for each process and up to sixteen hosts of its.
        let pair = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (((id & 0xfff) << 4 | u32::from(number & 0xf)) << 1);
        let (near, far) = (Ipv4Addr::from(pair), Ipv4Addr::from(pair + 1));
        let name = format!("tt{id}x{number}");
        // An interface's name has at most 15 characters.
        let (cable, end) = (format!("a{name}"), format!("b{name}"));
        let host = Self { name, near };
        run("ip", &["netns", "add", &host.name])?;
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", &end, "netns", &host.name])?;
        run("ip", &["addr", "add", &format!("{near}/31"), "dev", &cable])?;
        run("ip", &["link", "set", &cable, "up"])?;
        host.run("ip", &["addr", "add", &format!("{far}/31"), "dev", &end])?;
        host.run("ip", &["link", "set", &end, "up"])?;
        host.run("ip", &["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// Our address, as that host sees it.
    pub fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// A command that runs on that host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// From now on nothing reaches that host, and nothing says so.
    pub fn cut_off(&self) -> anyhow::Result<()> {
        self.run("nft", &["add", "table", "inet", "cut"])?;
        self.run("nft", &["add", "chain", "inet", "cut", "in", "{ type filter hook input priority 0; policy drop; }"])
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        run("ip", &all)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Takes the cable with it. What fails here was not made, or is found by whoever looks.
        let _removed = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| {
        format!("{program} could not be run; it is needed (Debian: apt-get install iproute2 nftables), as root")
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {} failed: {said}", arguments.join(" "));
    Ok(())
}
