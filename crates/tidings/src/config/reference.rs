//! The reference: one commented TOML file that holds the defaults and explains them, and the
//! documentation made from it.

use std::fmt::Write as _;

/// The commented defaults. A test holds them against [`super::Config::default`].
pub const REFERENCE: &str = include_str!("../../../../config/reference.toml");

/// A key as the reference describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    /// Optional keys stand as comments, since TOML has no way to say that a key is not set.
    is_optional: bool,
    text: String,
}

/// A section, or the file itself, and what is said above it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section<'a> {
    name: &'a str,
    text: String,
    entries: Vec<Entry<'a>>,
}

/// Reads a reference: a comment belongs to the key or section that follows it without a blank line.
fn parse(reference: &str) -> Vec<Section<'_>> {
    let mut sections = vec![Section { name: "", text: String::new(), entries: Vec::new() }];
    let mut comment = String::new();
    for line in reference.lines() {
        let is_optional = line.starts_with("# ");
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ").filter(|(key, _)| is_key(key));
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name, text: std::mem::take(&mut comment), entries: Vec::new() });
        } else if let (Some((key, value)), Some(section)) = (setting, sections.last_mut()) {
            let text = std::mem::take(&mut comment);
            section.entries.push(Entry { section: section.name, key, value, is_optional, text });
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text.strip_prefix(' ').unwrap_or(text));
            comment.push('\n');
        } else if let (false, Some(section)) = (comment.is_empty(), sections.last_mut()) {
            section.text.push_str(&std::mem::take(&mut comment));
        }
    }
    sections
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The reference as a page of the documentation.
pub fn markdown() -> String {
    let mut out = String::from(
        "<!-- Made from config/reference.toml by `tidings config reference --markdown`; change that file. -->\n\n# Configuration\n",
    );
    for section in parse(REFERENCE) {
        if !section.name.is_empty() {
            // `NAME` is what the key is called in errors and elsewhere in the documentation.
            let _infallible =
                write!(out, "\n## `[{}]`\n", section.name.replace("namespaces.default", "namespaces.NAME"));
        }
        if !section.text.is_empty() {
            let text = section.text.trim_end();
            // The first line of the file names it, and here the heading does.
            let text =
                if section.name.is_empty() { text.split_once("\n\n").map_or(text, |(_, rest)| rest) } else { text };
            let _infallible = write!(out, "\n{text}\n");
        }
        for entry in &section.entries {
            let path = if entry.section.is_empty() {
                entry.key.to_owned()
            } else {
                format!("{}.{}", entry.section, entry.key)
            };
            let path = path.replace("namespaces.default", "namespaces.NAME");
            let variable = format!("TIDINGS_{}", path.replace('.', "__").to_uppercase());
            let value = if entry.is_optional {
                format!("not set by default, for example `{}`", entry.value)
            } else {
                format!("default `{}`", entry.value)
            };
            let _infallible = write!(out, "\n### `{path}`\n\n{value} · `{variable}`\n\n{}\n", entry.text.trim_end());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::{super::*, *};

    /// The paths that the reference names, those that it sets apart from those in comments.
    fn named() -> (BTreeSet<String>, BTreeSet<String>) {
        let (optional, set): (Vec<_>, Vec<_>) =
            parse(REFERENCE).into_iter().flat_map(|section| section.entries).partition(|entry| entry.is_optional);
        let path = |entry: Entry<'_>| match entry.section {
            "" => entry.key.to_owned(),
            section => format!("{section}.{}", entry.key).replace("namespaces.default", "namespaces.NAME"),
        };
        (set.into_iter().map(path).collect(), optional.into_iter().map(path).collect())
    }

    #[test]
    fn the_reference_is_the_defaults() {
        let loaded = Config::from_toml(REFERENCE, Path::new("reference.toml")).unwrap();
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn the_reference_names_every_key_once() {
        let (set, optional) = named();
        let all: BTreeSet<_> = schema::keys().iter().map(|path| schema::dotted(path)).collect();
        assert_eq!(set.union(&optional).cloned().collect::<BTreeSet<_>>(), all);
        assert!(set.is_disjoint(&optional));
        // What is serialized by default is what has a default.
        let loaded = Loaded { config: Config::default(), origins: Default::default() };
        let shown: toml::Table = loaded.to_annotated_toml().parse().unwrap();
        let mut reference: toml::Table = REFERENCE.parse().unwrap();
        // A section of nothing but optional keys has nothing to show.
        reference.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
        assert_eq!(shown, reference);
    }

    #[test]
    fn every_key_is_explained() {
        for section in parse(REFERENCE) {
            assert!(!section.text.is_empty(), "[{}] has no text", section.name);
            for entry in section.entries {
                assert!(!entry.text.is_empty(), "{}.{} has no text", entry.section, entry.key);
            }
        }
    }

    #[test]
    fn an_optional_key_is_known_with_its_example() {
        for entry in parse(REFERENCE).into_iter().flat_map(|section| section.entries).filter(|entry| entry.is_optional)
        {
            let text = format!("[{}]\n{} = {}", entry.section, entry.key, entry.value);
            if let Err(errors) = Config::from_toml(&text, Path::new("example.toml")) {
                // An example of a secret is not one, and a cookie, a certificate or a provider needs more than
                // itself.
                let is_incomplete = ["cookie", "webhook_url"].contains(&entry.key)
                    || entry.section == "tls"
                    || entry.section.starts_with("push.");
                assert!(entry.key.ends_with("_secret") || is_incomplete, "{errors}");
            }
        }
    }

    /// Run with UPDATE_GENERATED=1 to write the page anew.
    #[test]
    fn the_page_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == markdown(), "docs/configuration.md is stale; run this test with UPDATE_GENERATED=1");
    }
}
