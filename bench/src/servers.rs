//! The servers that are compared, as child processes.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rand::Rng as _;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Debian's nginx, where only root's `PATH` looks.
pub const NGINX: &str = "/usr/sbin/nginx";

/// Nchan's module, from Debian's `libnginx-mod-nchan`.
const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

const NCHAN_CONFIG: &str = include_str!("../nchan.conf");

/// The key that Tidings is started with, and that its clients bring.
pub const API_KEY: &str = "tk_bench_0123456789abcdefghij";

/// What tokens of users are signed with.
pub const JWT_SECRET: &str = "a secret for measurements, nothing else";

/// Below the range from which Linux takes ports for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How long a server may take to be ready or to end. A machine that compiles something else is slow.
const LIMIT: Duration = Duration::from_secs(30);

/// A server that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// Ours.
    Tidings,
    /// One `write` a message and stream, nothing else.
    Raw,
    /// One `writev` for all that waits for a stream, nothing else.
    RawBatch,
    /// axum's `Sse` over tokio's `broadcast`.
    AxumSse,
    /// Nchan in nginx.
    Nchan,
    /// Redis with every command on the disk before it is answered.
    RedisDurable,
    /// Redis without persistence.
    Redis,
    /// NATS without JetStream.
    Nats,
}

impl Server {
    /// What the document calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidings => "Tidings",
            Self::Raw => "raw",
            Self::RawBatch => "raw-batch",
            Self::AxumSse => "axum `Sse`",
            Self::Nchan => "Nchan",
            Self::RedisDurable | Self::Redis => "Redis",
            Self::Nats => "NATS",
        }
    }

    /// What has to be installed, under Debian's names, if it is not.
    pub fn missing(self) -> Option<&'static str> {
        let is_there = |name: &str| {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&paths).chain(["/usr/sbin".into()]).any(|dir| dir.join(name).exists())
        };
        match self {
            Self::Nchan if !Path::new(NGINX).exists() || !Path::new(NCHAN_MODULE).exists() => {
                Some("nginx libnginx-mod-nchan")
            }
            Self::Redis | Self::RedisDurable if !is_there("redis-server") => Some("redis-server"),
            Self::Nats if !is_there("nats-server") => Some("nats-server"),
            _ => None,
        }
    }
}

/// Where the programs of this build are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server and its load generator.
    pub tidings: PathBuf,
    /// The folder of the references.
    pub references: PathBuf,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The only core it may use.
    pub core: Option<usize>,
    /// Environment variables for Tidings.
    pub environment: Vec<(String, String)>,
}

/// A running server. It is ended on drop, and ends when this process dies.
#[derive(Debug)]
pub struct Running {
    server: Server,
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Running {
    /// Starts a server on a free port and waits until it takes connections.
    pub fn start(server: Server, programs: &Programs, options: &Options) -> anyhow::Result<Self> {
        if let Some(packages) = server.missing() {
            bail!("{} is not installed (Debian: apt-get install {packages})", server.name());
        }
        let dir = tempfile::Builder::new().prefix("tidings-bench-").tempdir()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let log = fs::File::create(dir.path().join("log"))?;
        let mut command = pinned(options.core, &program(server, programs));
        arguments(server, &mut command, address, dir.path())?;
        for (name, _) in std::env::vars_os() {
            // They would be taken for configuration.
            if name.as_encoded_bytes().starts_with(b"TIDINGS_") {
                command.env_remove(name);
            }
        }
        if server == Server::Tidings {
            command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        }
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting setpriv and taskset (util-linux)")?;
        let mut running = Self { server, child, address, dir };
        running.wait_until_ready()?;
        Ok(running)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its processes: the one that was started and its children.
    pub fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
    }

    /// The last lines that it has written.
    pub fn log_tail(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let log = read("log") + &read("error.log");
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.server.name(), self.log_tail());
            }
            // All of them listen when they are ready, Tidings too; but nginx listens before its worker is there,
            // whose memory and time are what counts.
            let is_complete = self.server != Server::Nchan || self.pids().len() > 1;
            if is_complete && TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} is not ready after {LIMIT:?}:\n{}", self.server.name(), self.log_tail())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx has to end its worker; Tidings would first let its clients down gently.
        if self.server == Server::Nchan {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            let _gone = pid.map(|pid| kill_process(pid, Signal::TERM));
            let asked = Instant::now();
            while asked.elapsed() < LIMIT {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Both fail only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A command that may use one core only, if one is given, and that dies with this process.
pub fn pinned(core: Option<usize>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.arg(program);
    command
}

fn program(server: Server, programs: &Programs) -> PathBuf {
    match server {
        Server::Tidings => programs.tidings.clone(),
        Server::Raw | Server::RawBatch => programs.references.join("reference-raw"),
        Server::AxumSse => programs.references.join("reference-axum"),
        Server::Nchan => NGINX.into(),
        Server::Redis | Server::RedisDurable => "redis-server".into(),
        Server::Nats => "nats-server".into(),
    }
}

fn arguments(server: Server, command: &mut Command, address: SocketAddr, dir: &Path) -> anyhow::Result<()> {
    let port = address.port().to_string();
    let listen = address.to_string();
    match server {
        Server::Tidings => {
            fs::write(dir.join("tidings.toml"), tidings_config(address, dir))?;
            command.args(["serve", "--config", "tidings.toml"])
        }
        Server::Raw | Server::AxumSse => command.args(["--listen", &listen]),
        Server::RawBatch => command.args(["--batch", "--listen", &listen]),
        Server::Nchan => {
            let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
            let config = NCHAN_CONFIG
                .replace("@MODULE@", NCHAN_MODULE)
                .replace("@DESCRIPTORS@", &descriptors.to_string())
                .replace("@LISTEN@", &listen);
            let path = dir.join("nginx.conf");
            fs::write(&path, config)?;
            command.arg("-c").arg(path).arg("-p").arg(dir).args(["-g", "daemon off;"])
        }
        Server::Redis => command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]),
        Server::RedisDurable => command
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always"]),
        Server::Nats => command.args(["--addr", "127.0.0.1", "--port", &port]),
    };
    Ok(())
}

fn tidings_config(address: SocketAddr, dir: &Path) -> String {
    format!(
        r#"listen = "{address}"
data_dir = "{}/data"

[log]
level = "error"

[auth]
api_keys = ["{API_KEY}"]
jwt_hs256_secret = "{JWT_SECRET}"

[limits]
key_requests_per_second = 1000000
key_burst = 1000000
ip_requests_per_second = 1000000
ip_burst = 1000000

[namespaces.volatile]
durable = false
subscribe = ["anyone"]

[namespaces.user]
durable = false
"#,
        dir.display()
    )
}

fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

/// As many descriptors as this process may have, for it and its children: a stream takes one.
pub fn raise_descriptor_limit() -> anyhow::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    let descriptors = limit.maximum.unwrap_or(u64::MAX);
    ensure!(descriptors >= 4096, "only {descriptors} open files are allowed (ulimit -n); 20,000 are needed");
    Ok(descriptors)
}
