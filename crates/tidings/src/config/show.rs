//! The configuration in force, as TOML.

use std::fmt::Write as _;

use super::{Loaded, schema};

impl Loaded {
    /// All keys with their values, secrets left out, and above each that is not the default where
    /// it came from.
    pub fn to_annotated_toml(&self) -> String {
        // Text, numbers and tables of them always serialize; were it not so, nothing is shown.
        let table = toml::Table::try_from(&self.config).unwrap_or_default();
        let mut out = String::new();
        let mut section: Vec<String> = Vec::new();
        for path in self.listed_paths() {
            let Some((value, parent)) = lookup(&table, &path).zip(path.split_last().map(|(_, parent)| parent)) else {
                continue;
            };
            if parent != section {
                section = parent.to_vec();
                let _infallible = write!(out, "\n[{}]\n", schema::dotted(&section));
            }
            if let Some(origin) = self.origins.get(&schema::dotted(&path)) {
                let _infallible = writeln!(out, "# from {origin}");
            }
            let key = schema::dotted(&path[section.len()..]);
            let _infallible = writeln!(out, "{key} = {value}");
        }
        out
    }

    /// Every key, those of namespaces once for each namespace.
    fn listed_paths(&self) -> Vec<Vec<String>> {
        let (of_namespaces, mut paths): (Vec<_>, Vec<_>) =
            schema::keys().iter().cloned().partition(|path| path.get(1).is_some_and(|s| s == schema::ANY_NAME));
        for (name, _) in self.config.namespaces.iter() {
            paths.extend(of_namespaces.iter().cloned().map(|mut path| {
                name.clone_into(&mut path[1]);
                path
            }));
        }
        paths
    }
}

fn lookup<'a>(table: &'a toml::Table, path: &[String]) -> Option<&'a toml::Value> {
    match path {
        [] => None,
        [last] => table.get(last),
        [first, rest @ ..] => lookup(table.get(first)?.as_table()?, rest),
    }
}
