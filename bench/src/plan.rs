//! What a section is made of: cases, contenders, metrics.

use std::time::Duration;

use crate::servers::Server;

/// Longest measurement, where a contender does not say otherwise. The longest of these takes a minute.
const LIMIT: Duration = Duration::from_secs(180);

/// Something to find out, in one or several cases.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name on the command line and of its files.
    pub id: &'static str,
    /// Its headline.
    pub title: &'static str,
    /// What is measured, and how.
    pub about: &'static str,
    /// What is measured.
    pub cases: Vec<Case>,
    /// What is drawn.
    pub plots: Vec<Plot>,
    /// What happens beside the cases.
    pub kind: Kind,
}

/// What a section does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Measures its cases.
    Cases,
    /// Measures its cases, which have a page of their own.
    Polling,
    /// Measures its cases, which take so long that they have to be asked for by name.
    Soak,
    /// Runs the stress run and shows what that says.
    Stress,
}

impl Kind {
    /// Whether `all` leaves it out, as it takes long.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Soak | Self::Stress)
    }
}

/// Whether server and client have a core each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// They have.
    Apart,
    /// They may use all.
    Free,
    /// They may use all, unless cores are given to the driver: a measurement that runs beside others.
    AsAsked,
}

/// One thing to measure.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name within the section.
    pub id: String,
    /// What a table calls it.
    pub title: String,
    /// Who takes part, in the order of the table.
    pub contenders: Vec<Contender>,
    /// What is taken from the report.
    pub metrics: Vec<Metric>,
    /// Where server and client run.
    pub pinning: Pinning,
    /// Most repetitions, where more would tell nothing.
    pub repetitions_max: usize,
}

/// A server that takes part in a case, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Contender {
    /// What a table calls it.
    pub name: String,
    /// The server.
    pub server: Server,
    /// The scenario and its arguments.
    pub arguments: Vec<String>,
    /// Environment variables for Tidings.
    pub environment: Vec<(String, String)>,
    /// Whether each stream is an authenticated user.
    pub is_authenticated: bool,
    /// Whether there is an API beside it that is polled.
    pub has_api: bool,
    /// How long it may take.
    pub limit: Duration,
}

impl Contender {
    /// A server under its own name; the arguments are separated by spaces.
    pub fn new(server: Server, arguments: &str) -> Self {
        Self::named(server.name(), server, arguments)
    }

    /// A server under another name.
    pub fn named(name: &str, server: Server, arguments: &str) -> Self {
        Self {
            name: name.to_owned(),
            server,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            environment: Vec::new(),
            is_authenticated: false,
            has_api: false,
            limit: LIMIT,
        }
    }

    /// The same with an environment variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with streams of authenticated users.
    pub fn authenticated(mut self) -> Self {
        self.is_authenticated = true;
        self
    }
}

/// A figure of a report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name in a result.
    pub id: &'static str,
    /// What a table calls it.
    pub title: &'static str,
    /// Where a report has it: a JSON pointer.
    pub pointer: &'static str,
    /// By what the reported figure is multiplied.
    pub factor: f64,
    /// How it is written.
    pub unit: Unit,
}

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As it is, with separators.
    Number,
    /// Bytes.
    Bytes,
    /// Microseconds, as milliseconds where they are many.
    Micros,
    /// Seconds.
    Seconds,
    /// Per cent.
    Percent,
    /// A ratio.
    Ratio,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct Plot {
    /// The file's name, without the ending.
    pub file: &'static str,
    /// Its headline.
    pub title: &'static str,
    /// What is drawn.
    pub drawing: Drawing,
}

/// What is drawn.
#[derive(Debug, Clone)]
pub enum Drawing {
    /// A group of bars for each case: its title and that of its group; one bar for each contender.
    Bars {
        /// Cases and what they are called.
        cases: Vec<(&'static str, &'static str)>,
        /// The figure.
        metric: Metric,
    },
    /// A line for each contender over these cases.
    Lines {
        /// Cases and their places.
        cases: Vec<(&'static str, f64)>,
        /// What the places are.
        axis: &'static str,
        /// The figure.
        metric: Metric,
    },
    /// Polling and push, by what changes for how many: the processor time of both servers.
    Polling {
        /// The case.
        case: &'static str,
    },
    /// A line for each contender over the percentiles of its latency.
    Percentiles {
        /// The case.
        case: &'static str,
    },
}

/// Percentiles of a latency, and how many nines each has.
pub const PERCENTILES: [(Metric, f64); 5] = [(P50, 0.301), (P90, 1.0), (P99, 2.0), (P999, 3.0), (LONGEST, 4.0)];

const fn metric(id: &'static str, title: &'static str, pointer: &'static str, unit: Unit) -> Metric {
    Metric { id, title, pointer, factor: 1.0, unit }
}

/// Deliveries a second.
pub const DELIVERIES: Metric = metric("deliveries_per_second", "deliveries/s", "/deliveries_per_second", Unit::Number);
/// Messages a second, each to one stream.
pub const MESSAGES: Metric = metric("messages_per_second", "messages/s", "/messages_per_second", Unit::Number);
/// Acknowledged events a second.
pub const EVENTS: Metric = metric("events_per_second", "events/s", "/events_per_second", Unit::Number);
/// Median latency.
pub const P50: Metric = metric("p50_micros", "p50", "/latency/p50_micros", Unit::Micros);
/// 90th percentile.
pub const P90: Metric = metric("p90_micros", "p90", "/latency/p90_micros", Unit::Micros);
/// 99th percentile.
pub const P99: Metric = metric("p99_micros", "p99", "/latency/p99_micros", Unit::Micros);
/// 99.9th percentile.
pub const P999: Metric = metric("p999_micros", "p99.9", "/latency/p999_micros", Unit::Micros);
/// Longest latency.
pub const LONGEST: Metric = metric("max_micros", "longest", "/latency/max_micros", Unit::Micros);
/// Processor time of the server for a delivery.
pub const CPU_PER_DELIVERY: Metric =
    metric("cpu_micros_per_delivery", "server CPU a delivery", "/server/cpu_micros_per_delivery", Unit::Micros);
/// Resident memory of the server for a stream.
pub const STREAM_BYTES: Metric = metric("bytes_per_stream", "own memory a stream", "/bytes_per_stream", Unit::Bytes);
/// Memory of the kernel for a stream.
pub const KERNEL_BYTES: Metric =
    metric("kernel_bytes_per_stream", "kernel memory a stream", "/kernel_bytes_per_stream", Unit::Bytes);
/// Processor time while nothing happens but heartbeats.
pub const IDLE_CPU: Metric = metric("cpu_percent_of_core", "CPU, of one core", "/cpu_percent_of_core", Unit::Percent);
/// The time until all streams are open.
pub const OPENED: Metric = metric("opened_seconds", "all open after", "/opened_seconds", Unit::Seconds);
/// Processor time of the server for opening all streams.
pub const OPENING_CPU: Metric =
    metric("server_cpu_seconds", "server CPU for opening all", "/server/cpu_seconds", Unit::Seconds);
/// Heartbeats that came.
pub const HEARTBEATS: Metric = metric("heartbeats", "heartbeats", "/heartbeats", Unit::Number);
/// Streams that ended by themselves.
pub const ENDED: Metric = metric("ended", "streams that ended by themselves", "/ended", Unit::Number);
/// Resident memory of the server when the streams begin to be held.
pub const RESIDENT_START: Metric =
    metric("resident_start_bytes", "resident memory at the start", "/samples/0/1", Unit::Bytes);
/// Resident memory of the server at the end.
pub const RESIDENT_END: Metric =
    metric("resident_end_bytes", "resident memory at the end", "/server/rss_after_bytes", Unit::Bytes);
/// How slow readers fared.
pub const SLOW_ENDED: Metric = metric("slow_ended", "slow readers ended", "/slow_ended", Unit::Number);
