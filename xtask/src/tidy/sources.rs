//! What no source file may contain, and how long it may be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::Findings;

/// A file has one subject; past this it has two.
const LINES_MAX: usize = 800;

/// Past this it is worth a look.
const LINES_WARN: usize = 500;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 6] = ["target", "node_modules", ".git", "dist", "corpus", "vendor"];

/// Text that must not stand in a file of these, why, and in which files it may all the same.
struct Ban {
    text: &'static str,
    where_to: fn(&str) -> bool,
    why: &'static str,
    /// Path and the reason why it is fine there.
    allowed: &'static [(&'static str, &'static str)],
}

const BANS: [Ban; 5] = [
    // `concat!`, so that this file does not find itself.
    Ban { text: concat!("unbounded", "_channel"), where_to: is_rust, why: "every queue has a limit", allowed: &[] },
    Ban { text: concat!("todo", "!("), where_to: is_rust, why: "unfinished code is not committed", allowed: &[] },
    Ban {
        text: concat!("unimplemented", "!("),
        where_to: is_rust,
        why: "unfinished code is not committed",
        allowed: &[],
    },
    Ban { text: concat!("#[", "ignore"), where_to: is_rust, why: "a test that does not run is no test", allowed: &[] },
    Ban {
        text: concat!("sleep", "("),
        where_to: is_test,
        why: "tests wait for a condition (tidings_testkit::wait)",
        allowed: &[("crates/tidings-broker/tests/it/support.rs", "its own wait for a condition, within a limit")],
    },
];

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// An integration test of a crate.
fn is_test(path: &str) -> bool {
    is_rust(path) && (path.starts_with("crates/") || path.starts_with("bench/")) && path.contains("/tests/")
}

pub(super) fn check(root: &Path, findings: &mut Findings) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    for path in &paths {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.strip_prefix(root)?.to_string_lossy();
        check_file(&name, &text, findings);
    }
    Ok(())
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_source = [".rs", ".ts", ".tsx", ".js", ".mjs"].iter().any(|ending| name.ends_with(ending));
        if path.is_dir() && !path.is_symlink() && !SKIPPED.contains(&&*name) {
            collect(&path, paths)?;
        } else if path.is_file() && is_source && !name.ends_with(".min.js") {
            paths.push(path);
        }
    }
    Ok(())
}

fn check_file(path: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.errors.push(format!("{path} has {lines} lines; past {LINES_MAX} it is two files"));
    } else if lines > LINES_WARN {
        findings.warnings.push(format!("{path} has {lines} lines; has it one subject?"));
    }
    for ban in BANS.iter().filter(|ban| (ban.where_to)(path)) {
        if ban.allowed.iter().any(|(allowed, _reason)| *allowed == path) {
            continue;
        }
        for (number, _) in (1..).zip(text.lines()).filter(|(_, line)| is_code_with(line, ban.text)) {
            findings.errors.push(format!("{path}:{number}: `{}`: {}", ban.text, ban.why));
        }
    }
    if path.ends_with("/src/lib.rs") && !text.starts_with("//!") {
        findings.errors.push(format!("{path} does not begin with `//!`: what is this crate?"));
    }
}

/// Whether the text stands in the line before a comment.
fn is_code_with(line: &str, text: &str) -> bool {
    line.find(text).is_some_and(|at| !line[..at].contains("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> (usize, usize) {
        let mut findings = Findings::default();
        check_file(path, text, &mut findings);
        (findings.errors.len(), findings.warnings.len())
    }

    #[test]
    fn a_long_file_is_two_files() {
        assert_eq!(said("a.rs", &"x\n".repeat(500)), (0, 0));
        assert_eq!(said("a.ts", &"x\n".repeat(501)), (0, 1));
        assert_eq!(said("a.js", &"x\n".repeat(801)), (1, 0));
    }

    #[test]
    fn what_is_banned_is_found_where_it_is_banned() {
        let queue = format!("let q = {}();\n", BANS[0].text);
        assert_eq!(said("crates/a/src/x.rs", &queue), (1, 0));
        assert_eq!(said("crates/a/src/x.rs", &format!("// no {}", BANS[0].text)), (0, 0));
        let nap = format!("tokio::time::{}DELAY);\n", BANS[4].text);
        assert_eq!(said("crates/a/tests/it/x.rs", &nap), (1, 0));
        assert_eq!(said("crates/a/src/x.rs", &nap), (0, 0));
    }

    #[test]
    fn a_crate_says_what_it_is() {
        assert_eq!(said("crates/a/src/lib.rs", "//! Words.\n"), (0, 0));
        assert_eq!(said("crates/a/src/lib.rs", "mod a;\n"), (1, 0));
    }
}
