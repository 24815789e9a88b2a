//! Pages whose words are written by people, and whose figures are filled in.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, ensure};

use crate::{plan::Unit, render};

/// What stands for a figure that there is none of.
pub const NOT_MEASURED: &str = "not measured";

/// What is filled in, by name.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<&'static str, String>);

impl Values {
    /// Some text.
    pub fn text(&mut self, name: &'static str, text: String) {
        self.0.insert(name, text);
    }

    /// A figure, or that it was not measured.
    pub fn figure(&mut self, name: &'static str, value: Option<f64>, unit: Unit) {
        self.text(name, figure(value, unit));
    }

    /// Fills in each `{{name}}`. One that has no value, or a value that no name asks for, is a mistake in the page.
    pub fn fill(&self, template: &str) -> anyhow::Result<String> {
        let mut page = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").context("{{ without }}")?;
            page.push_str(before);
            page.push_str(self.0.get(name).with_context(|| format!("there is no {name:?} to fill in"))?);
            rest = after;
        }
        page.push_str(rest);
        for name in self.0.keys() {
            ensure!(template.contains(&format!("{{{{{name}}}}}")), "the page has no place for {name:?}");
        }
        Ok(page)
    }
}

/// A figure with its unit, or that it was not measured.
pub fn figure(value: Option<f64>, unit: Unit) -> String {
    match value.filter(|value| value.is_finite()) {
        Some(value) => render::figure(value, unit),
        None => NOT_MEASURED.to_owned(),
    }
}

/// A table in Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = format!("| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _infallible = write!(table, "\n| {} |", row.join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_value_and_every_value_a_name() {
        let mut values = Values::default();
        values.figure("cpu", Some(1.25), Unit::Percent);
        values.figure("other", None, Unit::Bytes);
        let page = values.fill("a {{cpu}} and {{other}}, {{cpu}}.").unwrap();
        assert_eq!(page, "a 1.2 % and not measured, 1.2 %.");
        assert!(values.fill("{{cpu}} {{other}} {{third}}").is_err());
        assert!(values.fill("{{cpu}}").is_err());
        assert!(values.fill("{{cpu}} {{other").is_err());
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["a", "b"], &rows), "| a | b |\n| --- | --- |\n| 1 | 2 |");
    }
}
