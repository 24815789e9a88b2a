//! The keys that there are, asked of the types themselves, and the one that was probably meant.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize as _;

use super::{
    Config,
    node::{Node, NodeError},
};

/// What stands for the name of a namespace in a list of keys.
pub(super) const ANY_NAME: &str = "NAME";

/// Whether a value would be accepted at a path, all else being default.
pub(super) fn check(path: &[String], node: Node) -> Result<(), NodeError> {
    Config::deserialize(node.nested_at(path)).map(|_| ())
}

/// Whether a path is that of a table.
pub(super) fn is_table(path: &[String]) -> bool {
    check(path, Node::Table(BTreeMap::new())).is_ok()
}

/// The path of every key, in the order in which the types name them.
pub(super) fn keys() -> &'static [Vec<String>] {
    static KEYS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
        let mut found = Vec::new();
        collect(&mut Vec::new(), &mut found);
        found
    });
    &KEYS
}

fn collect(path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    path.push(String::new());
    let names = match check(path, Node::Table(BTreeMap::new())) {
        Err(NodeError::UnknownKey { known, .. }) => known.iter().map(|name| (*name).to_owned()).collect(),
        Ok(()) => vec![ANY_NAME.to_owned()],
        Err(NodeError::Refused(_)) => Vec::new(),
    };
    path.pop();
    if names.is_empty() {
        found.push(path.clone());
    }
    for name in names {
        path.push(name);
        collect(path, found);
        path.pop();
    }
}

/// A path as it is written: `namespaces.chat.history_size`, quoted where TOML would quote.
pub(super) fn dotted(path: &[String]) -> String {
    let is_bare =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let segments: Vec<_> =
        path.iter().map(|segment| if is_bare(segment) { segment.clone() } else { format!("{segment:?}") }).collect();
    segments.join(".")
}

/// The environment variable of a path.
pub(super) fn variable(path: &[String]) -> String {
    format!("TIDINGS_{}", path.join("__").to_uppercase())
}

/// What to say of a key that does not exist.
pub(super) fn unknown(key: &str, known: &'static [&'static str]) -> (String, Option<String>) {
    let hint = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => match keys().iter().find(|other| other.last().is_some_and(|last| last == key)) {
            Some(elsewhere) => format!("did you mean `{}`?", dotted(elsewhere)),
            None => format!("known here are `{}`", known.join("`, `")),
        },
    };
    ("there is no such key".to_owned(), Some(hint))
}

/// What to say of a variable that sets a key that does not exist.
pub(super) fn unknown_variable(name: &str, path: &[String]) -> (String, Option<String>) {
    // A namespace has any name, so the variable's own is taken before names are compared.
    let is_namespace = path.len() > 2 && path[0] == "namespaces";
    let names = keys().iter().map(|key| {
        let mut key = key.clone();
        if is_namespace && key[0] == "namespaces" {
            key[1].clone_from(&path[1]);
        }
        variable(&key)
    });
    let names: Vec<_> = names.collect();
    let hint = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`tidings config reference` lists the keys; a variable is TIDINGS_SECTION__KEY".to_owned(),
    };
    ("there is no such key".to_owned(), Some(hint))
}

/// The candidate that is so near that it was probably meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips of the finger, or one in three letters of a long name.
    let farthest = (word.chars().count() / 3).max(2);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= farthest && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_name_their_keys() {
        let keys: Vec<_> = keys().iter().map(|path| dotted(path)).collect();
        for key in
            ["listen", "auth.jwt_hs256_secret", "stream.retry", "limits.key_burst", "namespaces.NAME.conflate_window"]
        {
            assert!(keys.contains(&key.to_owned()), "{key} is not among {keys:?}");
        }
        assert_eq!(keys.first().map(String::as_str), Some("listen"));
        assert!(keys.len() > 50, "{keys:?}");
    }

    #[test]
    fn a_slip_finds_its_key() {
        let known = ["queue_max_bytes", "queue_max_events", "retry"];
        assert_eq!(nearest("queue_max_byte", known.into_iter()), Some("queue_max_bytes"));
        assert_eq!(nearest("rerty", known.into_iter()), Some("retry"));
        assert_eq!(nearest("listen", known.into_iter()), None);
    }
}
