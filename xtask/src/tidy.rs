//! What the compiler does not check about the shape of the workspace.

use std::path::Path;

mod edges;
mod sources;

/// What was found. Errors fail the build, warnings are a hint.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Checks everything.
pub(crate) fn check(root: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    edges::check(&edges::metadata(root)?, &mut findings)?;
    sources::check(root, &mut findings)?;
    Ok(findings)
}
