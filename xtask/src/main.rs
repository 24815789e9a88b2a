//! Chores of the workspace: `cargo xtask tidy` checks its shape.

#![allow(clippy::print_stdout, reason = "a command line talks to its user")]

use std::{path::Path, process::ExitCode};

mod tidy;

const USAGE: &str = "usage: cargo xtask tidy";

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The workspace is where this crate was compiled; the chores are never installed.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => {
            let findings = tidy::check(root)?;
            for warning in &findings.warnings {
                println!("warning: {warning}");
            }
            for error in &findings.errors {
                println!("error: {error}");
            }
            println!("tidy: {} errors, {} warnings", findings.errors.len(), findings.warnings.len());
            Ok(if findings.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => anyhow::bail!("{USAGE}"),
    }
}
