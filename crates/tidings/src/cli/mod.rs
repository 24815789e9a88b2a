//! The command line: what can be asked for, and how a command ends.
//!
//! The types here are those of the command line alone; each command turns them into its own.

pub mod bench;
mod client;
mod config;
mod doctor;
mod logging;
mod notify;
mod open_files;
mod outbox;
mod print_event;
mod publish;
mod push;
mod serve;
mod store;
mod subscribe;
mod token;

use std::{
    fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tidings_protocol::{
    Channel, ChannelPattern, EventType, UserId,
    notification::{Kind, PushMode},
};
use tidings_store::outbox::{DEFAULT_TABLE, Database, Table};

use crate::config::{Config, ConfigErrors, Flags, Loaded, Secret, Sources, environment};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: something went wrong on the way
  2  the command line or the configuration is not accepted
  3  the server cannot be reached
  4  the server refused";

/// How a command ends, for scripts. `EXIT_CODES` says it to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something went wrong on the way.
    Failed = 1,
    /// The command line or the configuration is not accepted.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 3,
    /// The server refused.
    Refused = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended before it was done.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// What to say; nothing where the reader of the output has gone, who has asked for no more.
    text: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: Some(text.into()) }
    }

    /// The same with an error and all that is behind it.
    pub(crate) fn of(exit: Exit, what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        Self::new(exit, text)
    }
}

/// Writing the output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Ok, text: None };
        }
        Self::of(Exit::Failed, "cannot write the output", &error)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(Exit::Usage, format!("the configuration is not accepted\n{errors}"))
    }
}

/// Tidings: a push server. Events are published to channels, and streamed to who subscribes to them.
#[derive(Debug, Parser)]
#[command(name = "tidings", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    Serve(ServeArguments),
    /// Publish an event, or many.
    Publish(PublishArguments),
    /// Send a notification to users' inboxes, streams and devices.
    Notify(NotifyArguments),
    /// Print the events of channels as they come.
    Subscribe(SubscribeArguments),
    /// Sign a token for a user, with the secret of the configuration.
    Token(TokenArguments),
    /// Keys of Web Push, and pushes that were given up.
    #[command(subcommand)]
    Push(PushCommand),
    /// Check and show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look after the tables of inboxes.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Make ready a database that events are taken from.
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Look for what could keep the server from working well here.
    Doctor(DoctorArguments),
    /// Put load on a server and see what it makes of it.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArguments {
    /// The configuration file, in TOML. `tidings config reference` prints all that it may hold.
    #[arg(long, value_name = "FILE", env = "TIDINGS_CONFIG")]
    pub config: Option<PathBuf>,
    /// The directory of what must survive a restart; comes before `data_dir` of the configuration.
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
}

impl ConfigArguments {
    /// Loads the configuration from the file, the environment and these flags.
    pub fn load(&self, listen: Option<String>) -> Result<Loaded, ConfigErrors> {
        Config::load(Sources {
            file: self.config.clone(),
            env: environment(),
            flags: Flags { listen, data_dir: self.data_dir.clone() },
        })
    }
}

/// `tidings serve`
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// For development: anybody on this machine may subscribe and publish, an API key is printed at
    /// the start, and refusals say their cause.
    #[arg(long)]
    pub dev: bool,
    /// The address and port to listen on; comes before `listen` of the configuration.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
}

impl ServeArguments {
    /// Loads the configuration. Without side effects, so that it can be done again on SIGHUP.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        self.config.load(self.listen.clone())
    }
}

/// `tidings doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArguments {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Look at what `serve --dev` would run with.
    #[arg(long)]
    pub dev: bool,
}

/// Which server to talk to, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ClientArguments {
    /// The server.
    #[arg(long, env = "TIDINGS_URL", hide_env_values = true, default_value = "http://127.0.0.1:7330")]
    pub url: String,
    /// An API key, `tk_…`. In the environment, as TIDINGS_API_KEY, it is not seen by those who list processes.
    #[arg(long, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
    /// A user's token, as `tidings token` signs them; in the environment, TIDINGS_TOKEN.
    #[arg(long, value_name = "JWT", conflicts_with = "api_key", value_parser = secret)]
    pub token: Option<Secret>,
    /// Certificates to trust besides the system's, in PEM: those of an authority of one's own, or that of
    /// a server which signed its own.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// `tidings publish`
#[derive(Debug, Clone, Args)]
pub struct PublishArguments {
    /// The channel, as in `chat:lobby`.
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson")]
    pub channel: Option<Channel>,
    /// The data: JSON if it can be read as such, else a string. `-` reads it from standard input.
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// The event's type.
    #[arg(long, value_name = "TYPE", value_parser = event_type, conflicts_with = "ndjson")]
    pub event: Option<String>,
    /// The idempotency key: publishing again with the same one within ten minutes does nothing.
    #[arg(long, conflicts_with = "ndjson")]
    pub key: Option<String>,
    /// Takes the place of an undelivered event of the same channel and value.
    #[arg(long, value_name = "VALUE", conflicts_with = "ndjson")]
    pub conflate: Option<String>,
    /// Publish the events of a file, one JSON object a line; `-` is standard input, each line of
    /// which is published as it comes.
    #[arg(long, value_name = "FILE")]
    pub ndjson: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `tidings notify`
#[derive(Debug, Clone, Args)]
pub struct NotifyArguments {
    /// For whom.
    #[command(flatten)]
    pub to: RecipientArguments,
    /// One line.
    #[arg(long, value_name = "TEXT")]
    pub title: String,
    /// More than one line.
    #[arg(long, value_name = "TEXT")]
    pub body: Option<String>,
    /// What sort it is, as in `festival.added`: preferences and counts go by it.
    #[arg(long, value_name = "KIND", value_parser = Kind::parse)]
    pub kind: Option<Kind>,
    /// Where a click leads: `https://…`, or a path that begins with `/`. (`--url` is the server.)
    #[arg(long, value_name = "URL")]
    pub target_url: Option<String>,
    /// What the application makes of it: JSON if it can be read as such, else a string. `-` reads it from
    /// standard input.
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// The idempotency key: sending again with the same one does nothing, as long as the first is kept.
    #[arg(long)]
    pub key: Option<String>,
    /// Whether it goes to devices: if streams do not get it in time (`offline`), `always` or `never`.
    #[arg(long, value_name = "MODE", value_parser = push_mode)]
    pub push: Option<PushMode>,
    /// Replaces an unread one of the same user with the same value.
    #[arg(long, value_name = "VALUE")]
    pub collapse: Option<String>,
    /// How long it is of use, as in `2h`; as long as the server keeps notifications if left out.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires_in: Option<Duration>,
    /// Which server.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// For whom a notification is.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct RecipientArguments {
    /// For this user.
    #[arg(long, value_name = "USER", value_parser = UserId::parse)]
    pub user: Option<UserId>,
    /// For these users, up to 1,000, with commas between them.
    #[arg(long, value_name = "USER,USER", value_delimiter = ',', value_parser = UserId::parse)]
    pub users: Vec<UserId>,
    /// For who follows this channel.
    #[arg(long, value_name = "CHANNEL")]
    pub followers_of: Option<Channel>,
    /// For every user that there is or will be.
    #[arg(long)]
    pub everyone: bool,
}

/// `tidings subscribe`
#[derive(Debug, Clone, Args)]
pub struct SubscribeArguments {
    /// The channels, as in `chat:lobby`.
    #[arg(required = true, value_name = "CHANNEL")]
    pub channels: Vec<Channel>,
    /// Go on after this cursor: the `id` of an event that `--json` printed.
    #[arg(long, value_name = "CURSOR", value_parser = cursor)]
    pub from: Option<String>,
    /// First print the last N events of each channel, or `all` that are kept.
    #[arg(long, value_name = "N|all", value_parser = replay, conflicts_with = "from")]
    pub replay: Option<String>,
    /// One JSON object a line: `id` (the cursor), `channel`, `event`, `data`, `sent_at`.
    #[arg(long)]
    pub json: bool,
    /// End after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Which server.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `tidings token`
#[derive(Debug, Clone, Args)]
pub struct TokenArguments {
    /// The user.
    #[arg(long, value_name = "USER", value_parser = UserId::parse)]
    pub sub: UserId,
    /// A channel that the user may subscribe to, or the beginning of one and `*`. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = ChannelPattern::parse)]
    pub subscribe: Vec<ChannelPattern>,
    /// A channel that the user may publish to, or the beginning of one and `*`. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = ChannelPattern::parse)]
    pub publish: Vec<ChannelPattern>,
    /// Allow what administrators may do.
    #[arg(long)]
    pub admin: bool,
    /// How long the token is good for.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// Whom the token is for; comes before `auth.jwt_audience` of the configuration.
    #[arg(long)]
    pub audience: Option<String>,
    /// Sign with the development secret, for a server that runs with `--dev`.
    #[arg(long)]
    pub dev: bool,
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArguments,
}

/// `tidings push`
#[derive(Debug, Clone, Subcommand)]
pub enum PushCommand {
    /// Make a key for Web Push, and print it as the configuration takes it.
    Keys {
        /// Where push services find whoever runs the server: `mailto:…` or `https://…`.
        #[arg(long, value_name = "URL", default_value = "mailto:you@example.org")]
        subject: String,
    },
    /// Print the public half of the configured key, which pages subscribe with.
    PublicKey(ConfigArguments),
    /// List the pushes that were given up, newest first.
    Dead(PushDeadArguments),
    /// Try pushes that were given up again.
    Retry(PushRetryArguments),
}

/// `tidings push dead`
#[derive(Debug, Clone, Args)]
pub struct PushDeadArguments {
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Which server.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `tidings push retry`
#[derive(Debug, Clone, Args)]
pub struct PushRetryArguments {
    /// Which, by the id that `tidings push dead` prints.
    #[arg(required = true, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub ids: Vec<u64>,
    /// Which server.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `tidings config`
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the configuration is valid, and all that is wrong with it if not.
    Check(ConfigArguments),
    /// Print the configuration in force, without its secrets, and where each value comes from.
    Show(ConfigArguments),
    /// Print every key with its default and what it is for.
    Reference {
        /// As a page of the documentation.
        #[arg(long)]
        markdown: bool,
    },
}

/// `tidings store`
#[derive(Debug, Clone, Subcommand)]
pub enum StoreCommand {
    /// Make the tables, or bring them to this version. `serve` does it too.
    Migrate(ConfigArguments),
    /// Say which database it is, how much is in it, and which version its tables have.
    Status(ConfigArguments),
    /// Count all inboxes again and compare. Changes nothing; a large store takes a while.
    Verify(ConfigArguments),
}

/// `tidings outbox`
#[derive(Debug, Clone, Subcommand)]
pub enum OutboxCommand {
    /// Print the SQL that makes the tables of an outbox, to be run in your application's database.
    Ddl {
        /// Which SQL: `postgres`, `mysql` (MariaDB too) or `sqlite`.
        #[arg(long, value_name = "DATABASE")]
        database: Database,
        /// The name of the table.
        #[arg(long, value_name = "NAME", default_value = DEFAULT_TABLE, value_parser = Table::parse)]
        table: Table,
    },
}

/// Reads the command line and does what it asks.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli).into(),
        Err(error) => {
            // Help that nobody reads to its end is no failure.
            let _ignored = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
        }
    }
}

/// Does what a command line asks.
pub fn run(cli: Cli) -> Exit {
    let result = match cli.command {
        Command::Serve(arguments) => runtime().and_then(|runtime| runtime.block_on(serve::run(&arguments))),
        Command::Doctor(arguments) => runtime().and_then(|runtime| runtime.block_on(doctor::run(&arguments))),
        Command::Bench(command) => bench::run(command),
        Command::Publish(arguments) => publish::run(arguments),
        Command::Notify(arguments) => notify::run(arguments),
        Command::Subscribe(arguments) => subscribe::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Store(command) => runtime().and_then(|runtime| runtime.block_on(store::run(command))),
        Command::Outbox(command) => outbox::run(&command),
        Command::Push(command) => push::run(command),
        Command::Config(command) => config::run(command),
    };
    match result {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if let Some(text) = &failure.text {
                note(format_args!("tidings: {text}"));
            }
            failure.exit
        }
    }
}

/// For the commands that have more to do at a time than one thread can.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Says something on standard error. Whoever closed it does not want to hear.
fn note(text: fmt::Arguments<'_>) {
    let _ignored = writeln!(io::stderr().lock(), "{text}");
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "accepted is a number with its unit, as in 15s, 10m or 1h".to_owned())
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn push_mode(text: &str) -> Result<PushMode, String> {
    let found = PushMode::ALL.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| "accepted are offline, always and never".to_owned())
}

fn event_type(text: &str) -> Result<String, tidings_protocol::event::EventTypeError> {
    EventType::parse(text).map(|event_type| event_type.as_str().to_owned())
}

fn replay(text: &str) -> Result<String, String> {
    let is_number = text.parse::<u64>().is_ok_and(|number| number > 0);
    if text == "all" || is_number {
        Ok(text.to_owned())
    } else {
        Err("accepted is a number from 1, or `all`".to_owned())
    }
}

/// Only the alphabet is looked at: what the cursor says is for the server, which answers one that it
/// cannot use with a `gap`.
fn cursor(text: &str) -> Result<String, String> {
    let is_fit = !text.is_empty()
        && text.len() <= tidings_protocol::limits::CURSOR_MAX_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_fit { Ok(text.to_owned()) } else { Err("accepted are 1 to 256 of `A-Z a-z 0-9 _ -`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_publish_is_one_event_or_a_file() {
        let is_taken = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(is_taken("tidings publish chat:lobby hello"));
        assert!(is_taken("tidings publish chat:lobby -5"));
        assert!(is_taken("tidings publish chat:lobby - --event said --key k --conflate c"));
        assert!(is_taken("tidings publish --ndjson -"));
        for line in ["chat:lobby", "chat:lobby hello --ndjson -", "chat:lobby hello --event gap", "chat:\u{e9} hello"] {
            assert!(!is_taken(&format!("tidings publish {line}")), "{line}");
        }
    }

    #[test]
    fn a_refused_value_is_told_with_what_is_accepted() {
        for (line, accepted) in [
            ("subscribe a --replay 0", "a number from 1, or `all`"),
            ("subscribe a --from =", "1 to 256 of"),
            ("token --sub 42 --subscribe a*b", "a channel name, or the beginning of one and a final `*`"),
            ("token --sub 42 --ttl 5", "a number with its unit"),
            ("token --sub a,b", "1 to 195 bytes"),
            ("outbox ddl --database oracle", "accepted are postgres, mysql and sqlite"),
            ("outbox ddl --database mysql --table a;b", "a name of up to 56 letters"),
        ] {
            let said = Cli::try_parse_from(format!("tidings {line}").split(' ')).unwrap_err().to_string();
            assert!(said.contains(accepted), "{line}: {said}");
        }
    }
}
