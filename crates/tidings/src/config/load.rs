//! Where configuration comes from: flags over environment over file over defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigErrors, Origin, Problem,
    node::{Node, NodeError},
    read_text, schema,
    validate::validate,
};

/// What every variable begins with.
const PREFIX: &str = "TIDINGS_";

/// Variables of the command line, which are no keys of the configuration.
pub const OTHER_VARIABLES: [&str; 4] = ["TIDINGS_CONFIG", "TIDINGS_URL", "TIDINGS_API_KEY", "TIDINGS_TOKEN"];

/// Longest configuration file: it is written by hand, and a thousand namespaces take 200 KiB.
const FILE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most problems that are told at once. A file that is something else altogether has thousands.
const PROBLEMS_MAX: usize = 50;

/// Keys that `tidings serve` and others have flags for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<String>,
}

/// Everything that a configuration is made from, so that making it again (on SIGHUP) is a function
/// of this alone.
#[derive(Debug, Clone, Default)]
pub struct Sources<E> {
    /// The TOML file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `TIDINGS_` are looked at.
    pub env: E,
    /// The flags.
    pub flags: Flags,
}

/// A configuration, and where its values came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration, checked.
    pub config: Config,
    /// The origin of every key that was set, by its dotted path.
    pub origins: BTreeMap<String, Origin>,
}

/// The process's environment. Names and values that are no UTF-8 are made so, where `std::env::vars` panics.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

impl Config {
    /// Lays the sources over one another and checks the result. The errors are all that is wrong.
    pub fn load<E>(sources: Sources<E>) -> Result<Loaded, ConfigErrors>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut layers = Layers::default();
        if let Some(path) = &sources.file {
            match read_text(path, FILE_MAX_BYTES) {
                Ok(text) => layers.add_toml(&text, path),
                Err(error) => layers.problems.push(Problem {
                    key: None,
                    text: format!("cannot read the configuration file: {error}"),
                    origin: Origin::File { path: path.clone(), line: None },
                    hint: None,
                }),
            }
        }
        // In the order of their names, so that the same environment gives the same errors.
        let variables: BTreeMap<_, _> = sources.env.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        for (name, text) in variables {
            layers.add_variable(name, text);
        }
        for (key, flag, text) in
            [("listen", "--listen", sources.flags.listen), ("data_dir", "--data-dir", sources.flags.data_dir)]
        {
            if let Some(text) = text {
                layers.add(&[key.to_owned()], Node::Text(text), Origin::Flag(flag));
            }
        }
        layers.finish()
    }

    /// Reads a configuration from the text of a file alone. `name` stands for the file in errors.
    pub fn from_toml(text: &str, name: &Path) -> Result<Loaded, ConfigErrors> {
        let mut layers = Layers::default();
        layers.add_toml(text, name);
        layers.finish()
    }
}

/// The sources so far, the later over the earlier.
struct Layers {
    merged: Node,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Default for Layers {
    fn default() -> Self {
        Self { merged: Node::Table(BTreeMap::new()), origins: BTreeMap::new(), problems: Vec::new() }
    }
}

impl Layers {
    /// Each value is checked alone: so every one that is wrong is told, and told of its own source.
    fn add(&mut self, path: &[String], node: Node, origin: Origin) -> bool {
        let (key, (text, hint)) = match schema::check(path, node.clone()) {
            Ok(()) => {
                if !matches!(node, Node::Table(_)) {
                    self.origins.insert(schema::dotted(path), origin);
                }
                self.merged.insert(path, node);
                return true;
            }
            Err(NodeError::Refused(text)) => (Some(schema::dotted(path)), (text, None)),
            Err(NodeError::UnknownKey { key, known }) => match &origin {
                // The variable's name says the key already.
                Origin::Variable(name) if schema::variable(path) == *name => {
                    (None, schema::unknown_variable(name, path))
                }
                _ => (Some(schema::dotted(path)), schema::unknown(&key, known)),
            },
        };
        self.problems.push(Problem { key, text, origin, hint });
        false
    }

    fn add_toml(&mut self, text: &str, path: &Path) {
        let line_ends: Vec<_> = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        let line_of = |offset: usize| 1 + line_ends.partition_point(|end| *end < offset);
        let at = |offset: usize| Origin::File { path: path.to_owned(), line: Some(line_of(offset)) };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // Not the error's `Display`: it shows the line, and there may be a secret on it.
            self.problems.extend(errors.iter().map(|error| Problem {
                key: None,
                text: format!("not TOML: {}", error.message().replace('\n', ", ")),
                origin: error.span().map_or(Origin::File { path: path.to_owned(), line: None }, |s| at(s.start)),
                hint: None,
            }));
            // A thousand brackets that nothing closes are one mistake.
            self.problems.dedup();
            return;
        }
        self.add_toml_table(&mut Vec::new(), table.get_ref(), &at);
    }

    fn add_toml_table(&mut self, path: &mut Vec<String>, table: &DeTable<'_>, at: &dyn Fn(usize) -> Origin) {
        // In the order of the file, which is the order in which its errors are told.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            path.push(key.get_ref().to_string());
            let origin = at(key.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => {
                    // A table that is itself unknown is told once, not for each of its keys.
                    if self.add(path, Node::Table(BTreeMap::new()), origin) {
                        self.add_toml_table(path, inner, at);
                    }
                }
                value => {
                    self.add(path, node_of(value), origin);
                }
            }
            path.pop();
        }
    }

    fn add_variable(&mut self, name: String, text: String) {
        if OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(&name) {
            return;
        }
        let path: Vec<_> = name[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        let origin = Origin::Variable(name);
        if !schema::is_table(&path) {
            self.add(&path, Node::Text(text), origin);
            return;
        }
        match serde_json::from_str::<serde_json::Value>(&text).map(Node::from) {
            Ok(Node::Table(fields)) => self.add_json_table(&mut path.clone(), fields, &origin),
            _ => self.problems.push(Problem {
                key: None,
                text: "found text that is no JSON object; accepted is one, as in {\"key\":\"value\"}".to_owned(),
                origin,
                hint: None,
            }),
        }
    }

    fn add_json_table(&mut self, path: &mut Vec<String>, fields: BTreeMap<String, Node>, origin: &Origin) {
        for (key, node) in fields {
            path.push(key);
            match node {
                Node::Table(inner) => {
                    if self.add(path, Node::Table(BTreeMap::new()), origin.clone()) {
                        self.add_json_table(path, inner, origin);
                    }
                }
                node => {
                    self.add(path, node, origin.clone());
                }
            }
            path.pop();
        }
    }

    fn finish(self) -> Result<Loaded, ConfigErrors> {
        let Self { merged, origins, mut problems } = self;
        match Config::deserialize(merged) {
            Ok(config) => {
                problems.extend(validate(&config).into_iter().map(|(key, text)| {
                    let origin = origins.get(&key).cloned().unwrap_or(Origin::Default);
                    Problem { key: Some(key), text, origin, hint: None }
                }));
                if problems.is_empty() {
                    return Ok(Loaded { config, origins });
                }
            }
            // Each value was accepted alone, and tables take any of their keys together.
            Err(error) => {
                problems.push(Problem { key: None, text: error.to_string(), origin: Origin::Default, hint: None })
            }
        }
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        if more > 0 {
            problems.push(Problem { key: None, text: format!("and {more} more"), origin: Origin::Default, hint: None });
        }
        Err(ConfigErrors(problems))
    }
}

/// Whether Kubernetes set the variable. For a Service called `tidings` or `tidings-…` it gives
/// every pod `TIDINGS_SERVICE_HOST`, `TIDINGS_PORT`, `TIDINGS_PORT_7330_TCP_ADDR` and their like,
/// which are nobody's mistake.
fn is_service_link(name: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        matches!(
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()),
            (Some(""), Some(number), Some("TCP" | "UDP" | "SCTP"), None | Some("PROTO" | "PORT" | "ADDR"), None)
                if number.bytes().all(|b| b.is_ascii_digit())
        )
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name.match_indices("_PORT").any(|(at, word)| is_port(&name[at + word.len()..]))
}

fn node_of(value: &DeValue<'_>) -> Node {
    match value {
        DeValue::String(text) => Node::String(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Node::Other("an integer of more than 64 bits"), Node::Integer),
        DeValue::Float(float) => float.as_str().parse().map_or(Node::Other("no number"), Node::Float),
        DeValue::Boolean(value) => Node::Boolean(*value),
        DeValue::Datetime(_) => Node::Other("a date or time"),
        DeValue::Array(items) => Node::List(items.iter().map(|item| node_of(item.get_ref())).collect()),
        DeValue::Table(table) => Node::Table(
            table.iter().map(|(key, value)| (key.get_ref().to_string(), node_of(value.get_ref()))).collect(),
        ),
    }
}
