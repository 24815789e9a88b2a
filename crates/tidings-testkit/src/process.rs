//! The real server, as a child process.

use std::{
    fs::OpenOptions,
    io::{Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    certificates::Authority,
    endpoint::{Endpoint, Way},
    http::HttpClient,
    leash::Leash,
    port::Port,
    wait,
};

/// How long a server may take to become ready. It takes well under a second; a machine that is
/// compiling something else may be slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a killed process may take to be gone. It has to finish its current disk write.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// How much of the log a failing test shows.
const TAIL_MAX_BYTES: u64 = 8 * 1024;

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    binary: Option<PathBuf>,
    config: String,
    is_on_all_interfaces: bool,
    is_tls: bool,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl ServerOptions {
    /// A server with this configuration, in TOML. `listen` and `data_dir` are added to it, in front of
    /// its first table.
    pub fn new(config: impl Into<String>) -> Self {
        Self { config: config.into(), ..Self::default() }
    }

    /// The program to run: `env!("CARGO_BIN_EXE_tidings")` in tests of the crate `tidings`. Without
    /// it, the environment variable `TIDINGS_BIN` names it.
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(binary.into());
        self
    }

    /// Listens on all interfaces, for clients in network namespaces. [`TidingsServer::addr`] stays that
    /// on loopback.
    pub fn on_all_interfaces(mut self) -> Self {
        self.is_on_all_interfaces = true;
        self
    }

    /// Speaks TLS, with a certificate that the server's own authority has signed.
    pub fn tls(mut self) -> Self {
        self.is_tls = true;
        self
    }

    /// One more argument after `serve --config FILE`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable. The child sees no other variable whose name begins with `TIDINGS_`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A running (or killed) server with its port and its data, which outlive a restart.
///
/// On drop the process is killed and its directory removed; if the test is failing, the end of its
/// log is printed first. If the test process itself dies, however it dies, the server dies too.
#[derive(Debug)]
pub struct TidingsServer {
    options: ServerOptions,
    binary: PathBuf,
    port: Port,
    authority: Option<Authority>,
    running: Option<Running>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    _leash: Leash,
}

impl TidingsServer {
    /// Starts a server and waits until `/readyz` says yes.
    pub async fn start(options: ServerOptions) -> anyhow::Result<Self> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => std::env::var_os("TIDINGS_BIN")
                .context("no server to run: set TIDINGS_BIN to the path of a `tidings` binary")?
                .into(),
        };
        let dir = tempfile::Builder::new().prefix("tidings-test-").tempdir()?;
        let port = Port::reserve()?;
        let authority = options.is_tls.then(Authority::new).transpose()?;
        let mut server = Self { options, binary, port, authority, running: None, dir };
        let mut listen = server.addr();
        if server.options.is_on_all_interfaces {
            listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
        }
        let mut config =
            format!("listen = \"{listen}\"\ndata_dir = {:?}\n{}", server.data_dir(), server.options.config);
        if let Some(authority) = &server.authority {
            let (cert, key) = server.certificate_paths();
            authority.write(&cert, &key)?;
            std::fs::write(server.authority_path(), authority.pem())?;
            config.push_str(&format!("\n[tls]\ncert = {cert:?}\nkey = {key:?}\n"));
        }
        std::fs::write(server.config_path(), config)?;
        server.launch().await?;
        Ok(server)
    }

    /// Where it listens, before and after a restart.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// A way to it. One over TLS needs a server that speaks it, and one in cleartext a server that does not.
    pub fn endpoint(&self, way: Way) -> Endpoint {
        // A new authority makes valid roots, or the server would not have been started with it.
        let trust = self.authority.as_ref().and_then(|authority| authority.trust().ok());
        Endpoint::new(self.addr(), way, trust)
    }

    /// A URL of it; `path` begins with `/`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.options.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.addr())
    }

    /// Its certificate and its key, where it speaks TLS.
    pub fn certificate_paths(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("cert.pem"), self.dir.path().join("key.pem"))
    }

    /// The certificate of the authority that signed that.
    pub fn authority_path(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    /// Has its authority sign another certificate in place of the one that it has.
    pub fn renew_certificate(&self) -> anyhow::Result<()> {
        let (cert, key) = self.certificate_paths();
        self.authority.as_ref().context("the server speaks no TLS")?.write(&cert, &key)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its configuration file. A test may change it before a restart or a `hang_up`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("tidings.toml")
    }

    /// All that it wrote on standard output and standard error, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// The last part of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log_path()).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub async fn wait_for_log(&self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let what = format!("{text:?} in the log of the server");
        wait::until(&what, limit, async || self.log().contains(text).then_some(())).await
    }

    /// Its process id, if it has not been ended.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// How it ended, if it ended by itself.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.running {
            Some(running) => Ok(running.child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Kills it: `SIGKILL`, no chance to finish anything. Returns when the process is gone.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let Some(mut running) = self.running.take() else { bail!("the server is not running") };
        running.child.kill()?;
        gone(&mut running.child, KILL_LIMIT).await?;
        Ok(())
    }

    /// Asks it to end (`SIGTERM`) and waits for that.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_for_end(limit).await
    }

    /// Waits until it ends by itself.
    pub async fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let Some(running) = &mut self.running else { bail!("the server is not running") };
        let status = gone(&mut running.child, limit).await?;
        self.running = None;
        Ok(status)
    }

    /// Asks it to read its configuration again (`SIGHUP`).
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("the server is not running")?;
        kill_process(pid, signal).with_context(|| format!("sending {signal:?}"))
    }

    /// Starts it again on the same port and data, after killing it if it runs, and waits until it is ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            self.kill9().await?;
        }
        self.launch().await
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            // They would be taken for configuration.
            if name.as_encoded_bytes().starts_with(b"TIDINGS_") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(self.config_path())
            .args(&self.options.args)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", self.binary.display()))?;
        let leash = Leash::on(&child)?;
        self.running = Some(Running { child, _leash: leash });
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let endpoint = self.endpoint(if self.options.is_tls { Way::Http1Tls } else { Way::Http1 });
        let running = self.running.as_mut().context("the server is not running")?;
        let ready = wait::until("/readyz answers 200", START_LIMIT, async || {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Some(Err(status));
            }
            let asked = wait::within("an answer", Duration::from_secs(5), async {
                HttpClient::new(endpoint.clone()).get("/readyz").await
            });
            matches!(asked.await, Ok(Ok(answer)) if answer.status == 200).then_some(Ok(()))
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the server ended with {status} instead of becoming ready:\n{}", self.log_tail()),
            Err(error) => Err(error.context(format!("the server does not become ready:\n{}", self.log_tail()))),
        }
    }
}

impl Drop for TidingsServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log, its last part ---\n{}\n---", self.log_tail());
        }
        if let Some(running) = &mut self.running {
            // Both fail only if it is gone already.
            let _gone = running.child.kill();
            let _reaped = running.child.wait();
        }
    }
}

/// Waits until the child has ended and is reaped.
pub(crate) async fn gone(child: &mut Child, limit: Duration) -> anyhow::Result<ExitStatus> {
    wait::until("the server to end", limit, async || child.try_wait().transpose()).await?.map_err(Into::into)
}

/// The last part of a file.
pub(crate) fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
