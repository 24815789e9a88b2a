//! Database servers, as child processes: each with a port and a directory of its own, killed on drop.
//!
//! Tests that only want a database share one server ([`DatabaseServer::shared`]) and get a new database
//! each; those that kill the server start their own. A committed transaction outlives `SIGKILL`; only a power
//! cut could take it, for nothing waits for the disk.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::OnceCell};

use crate::{
    leash::Leash,
    port::Port,
    process::{gone, tail},
    wait,
};

mod mariadb;
mod postgres;

/// How long a server may take to be made, to start, or to end. It takes seconds; a machine that is compiling
/// something else may be slow.
const LIMIT: Duration = Duration::from_secs(120);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Postgres.
    Postgres,
    /// MariaDB, which stands for MySQL too.
    MariaDb,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::MariaDb];

    /// Who runs it where the tests run as root, which neither server likes.
    const fn user(self) -> &'static str {
        match self {
            Self::Postgres => postgres::USER,
            Self::MariaDb => mariadb::USER,
        }
    }

    /// The signal that makes it end without waiting for its clients.
    const fn stop_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::INT,
            Self::MariaDb => Signal::TERM,
        }
    }

    /// The command that makes its data directory.
    fn init(self, dir: &Path) -> anyhow::Result<Invocation> {
        match self {
            Self::Postgres => postgres::init(dir),
            Self::MariaDb => mariadb::init(dir),
        }
    }

    /// The command that runs it in the foreground.
    fn serve(self, dir: &Path, port: u16) -> anyhow::Result<Invocation> {
        match self {
            Self::Postgres => postgres::serve(dir, port),
            Self::MariaDb => mariadb::serve(dir, port),
        }
    }

    /// The command that runs SQL and prints rows, one a line, columns apart by tabs.
    fn client(self, port: u16, database: &str, sql: &str) -> anyhow::Result<Invocation> {
        match self {
            Self::Postgres => postgres::client(port, database, sql),
            Self::MariaDb => mariadb::client(port, database, sql),
        }
    }

    /// The URL of a database; the first one that it has is [`Self::first_database`].
    fn url(self, addr: SocketAddr, database: &str) -> String {
        match self {
            Self::Postgres => format!("postgres://tidings@{addr}/{database}"),
            Self::MariaDb => format!("mysql://tidings:tidings@{addr}/{database}"),
        }
    }

    /// A database that every server has.
    const fn first_database(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mysql",
        }
    }
}

/// A program and its arguments.
#[derive(Debug)]
struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invocation {
    fn new<A: Into<OsString>>(program: PathBuf, arguments: impl IntoIterator<Item = A>) -> Self {
        Self { program, arguments: arguments.into_iter().map(Into::into).collect() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    /// The same, but as somebody else, where that is possible and so needed.
    fn command_as(&self, user: Option<&User>) -> Command {
        let Some(user) = user else { return self.command() };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]);
        command.arg("--clear-groups").arg("--").arg(&self.program).args(&self.arguments);
        command
    }
}

/// An unprivileged user.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `None` where we are nobody special. Else the server's own, where its package has made one.
    fn find(name: &str) -> anyhow::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let table = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let found = [name, "nobody"].iter().find_map(|name| {
            let line = table.lines().find_map(|line| line.strip_prefix(&format!("{name}:")))?;
            let mut ids = line.split(':').skip(1).map_while(|text| text.parse().ok());
            Some(Self { uid: ids.next()?, gid: ids.next()? })
        });
        found.map(Some).context("there is no user `nobody`")
    }
}

/// A running (or stopped) database server with its port and its data, which outlive a restart.
///
/// On drop it is killed and its directory removed. If the test process itself dies, however it dies, the
/// server dies too.
#[derive(Debug)]
pub struct DatabaseServer {
    engine: Engine,
    port: Port,
    user: Option<User>,
    databases: AtomicU32,
    running: Option<Running>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    _leash: Leash,
}

impl DatabaseServer {
    /// The server that all tests of this process share; it is started by whoever is first. It ends, and its
    /// directory goes, when the process ends.
    pub async fn shared(engine: Engine) -> anyhow::Result<&'static Self> {
        static POSTGRES: OnceCell<DatabaseServer> = OnceCell::const_new();
        static MARIADB: OnceCell<DatabaseServer> = OnceCell::const_new();
        let cell = match engine {
            Engine::Postgres => &POSTGRES,
            Engine::MariaDb => &MARIADB,
        };
        cell.get_or_try_init(|| Self::start(engine)).await
    }

    /// Makes a server, starts it and waits until it answers.
    pub async fn start(engine: Engine) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidings-database-").tempdir()?;
        let user = User::find(engine.user())?;
        if let Some(User { uid, gid }) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).context("giving a directory away")?;
        }
        let port = Port::reserve()?;
        let mut server = Self { engine, port, user, databases: AtomicU32::new(0), running: None, dir };
        let init = engine.init(server.dir.path())?;
        let mut command = tokio::process::Command::from(init.command_as(server.user.as_ref()));
        command.current_dir(server.dir.path()).stdin(Stdio::null()).kill_on_drop(true);
        output(command, &init.program).await?;
        server.launch().await?;
        Ok(server)
    }

    /// Which it is.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Where it listens, before and after a restart.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// A new, empty database: its URL.
    pub async fn database(&self) -> anyhow::Result<String> {
        let name = format!("tidings_{}", self.databases.fetch_add(1, Relaxed) + 1);
        self.run(self.engine.first_database(), &format!("CREATE DATABASE {name}")).await?;
        Ok(self.engine.url(self.addr(), &name))
    }

    /// Has the command-line client run SQL in the database of this URL, and gives what it prints: rows, one a
    /// line, columns apart by tabs.
    pub async fn sql(&self, url: &str, sql: &str) -> anyhow::Result<String> {
        let (_, database) = url.rsplit_once('/').context("a URL without a database")?;
        self.run(database, sql).await
    }

    /// Its process id, if it has not been ended.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The last part of what it wrote.
    pub fn log_tail(&self) -> String {
        tail(&self.log_path()).unwrap_or_default()
    }

    /// Kills it and all its processes: `SIGKILL`, no chance to finish anything. Returns when they are gone.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let Some(mut running) = self.running.take() else { bail!("the database server is not running") };
        let orphans = kill_all(&mut running.child)?;
        gone(&mut running.child, LIMIT).await?;
        wait::until("the processes of a killed database server to end", LIMIT, async || {
            orphans.iter().all(|pid| !is_alive(*pid)).then_some(())
        })
        .await
    }

    /// Has it end in good order, without waiting for its clients.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut running) = self.running.take() else { bail!("the database server is not running") };
        let pid = Pid::from_child(&running.child);
        kill_process(pid, self.engine.stop_signal()).context("stopping a database server")?;
        gone(&mut running.child, LIMIT).await?;
        Ok(())
    }

    /// Starts it again on the same port and data, after killing it if it runs, and waits until it answers.
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
        let serve = self.engine.serve(self.dir.path(), self.port.number())?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = serve.command_as(self.user.as_ref());
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", serve.program.display()))?;
        let leash = Leash::with_directory(&child, self.dir.path())?;
        self.running = Some(Running { child, _leash: leash });
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let ready = wait::until("a database server to answer", LIMIT, async || {
            if let Some(Running { child, .. }) = &mut self.running
                && let Ok(Some(status)) = child.try_wait()
            {
                return Some(Err(status));
            }
            // A connection is cheaper to try than the client.
            TcpStream::connect(self.addr()).await.ok()?;
            self.run(self.engine.first_database(), "SELECT 1").await.ok().map(|_| Ok(()))
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{:?} ended with {status}:\n{}", self.engine, self.log_tail()),
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    async fn run(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let client = self.engine.client(self.port.number(), database, sql)?;
        let mut command = tokio::process::Command::from(client.command());
        command.stdin(Stdio::null()).kill_on_drop(true);
        output(command, &client.program).await
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {:?}, its last part ---\n{}\n---", self.engine, self.log_tail());
        }
        if let Some(running) = &mut self.running {
            // Both fail only if it is gone already.
            let _killed = kill_all(&mut running.child);
            let _reaped = running.child.wait();
        }
    }
}

/// Runs a command to its end and gives what it prints.
async fn output(mut command: tokio::process::Command, program: &Path) -> anyhow::Result<String> {
    let what = program.display();
    let output = wait::within(&what.to_string(), LIMIT, command.output()).await?;
    let output = output.with_context(|| format!("running {what}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{what} failed: {}\n{said}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Kills a child and its children, and gives the latter, which somebody else reaps.
fn kill_all(child: &mut Child) -> anyhow::Result<Vec<Pid>> {
    let id = child.id();
    let listed = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    child.kill().context("killing a database server")?;
    let children: Vec<_> = listed.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect();
    for pid in &children {
        // It may have followed its parent already.
        let _killed = kill_process(*pid, Signal::KILL);
    }
    Ok(children)
}

/// Whether there is such a process, and it is no zombie.
fn is_alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X'])))
}

/// Finds a program in these directories or in `PATH`.
fn find(name: &str, package: &str, directories: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = directories.iter().cloned().chain(std::env::split_paths(&path)).map(|dir| dir.join(name));
    found.into_iter().find(|program| program.is_file()).with_context(|| {
        format!("there is no {name}: run scripts/setup, or install it (Debian: apt-get install {package})")
    })
}
