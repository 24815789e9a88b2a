//! Which crate may depend on which: `protocol ← hub ← core ← {broker, store, push, http} ← tidings`.
//! Adapters never import each other, and a heavy dependency stays with its owner.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Findings;

/// Our crates and which of ours each may have as a dependency. A crate that is not listed is an
/// error, so that a new one finds its place here.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("tidings-protocol", &[]),
    ("tidings-hub", &["tidings-protocol"]),
    ("tidings-core", &["tidings-protocol", "tidings-hub"]),
    ("tidings-broker", &["tidings-protocol", "tidings-hub", "tidings-core"]),
    ("tidings-store", &["tidings-protocol", "tidings-hub", "tidings-core"]),
    ("tidings-push", &["tidings-protocol", "tidings-hub", "tidings-core"]),
    ("tidings-http", &["tidings-protocol", "tidings-hub", "tidings-core"]),
    ("tidings-bench", &["tidings-protocol"]),
    ("tidings-testkit", &["tidings-protocol"]),
    // It runs the server as anybody would, and its own references speak the same frames.
    ("bench-suite", &["tidings-protocol"]),
    (
        "tidings",
        &[
            "tidings-protocol",
            "tidings-hub",
            "tidings-core",
            "tidings-broker",
            "tidings-store",
            "tidings-push",
            "tidings-http",
            "tidings-bench",
        ],
    ),
    ("xtask", &[]),
];

/// What an example may depend on: what a user's own program would.
const ALLOWED_IN_EXAMPLES: &[&str] = &["tidings", "tidings-protocol"];

/// Crates that only tests may depend on.
const TEST_ONLY: [&str; 1] = ["tidings-testkit"];

/// Heavy dependencies, who may have them, and why nobody else.
const OWNED: [(&str, &[&str], &str); 6] = [
    // One of the references is the server that most teams would write with axum.
    (
        "axum",
        &["tidings-http", "tidings", "bench-suite"],
        "only tidings-http knows HTTP; tidings embeds it in an application",
    ),
    ("tower-http", &["tidings-http", "tidings"], "only tidings-http knows HTTP"),
    ("utoipa", &["tidings-http"], "only tidings-http knows the API"),
    ("rusqlite", &["tidings-broker", "tidings-store"], "SQL is an adapter's business"),
    ("sqlx", &["tidings-store"], "SQL is an adapter's business"),
    // Clients of their own, so that what they measure and check is not the server's code.
    ("hyper", &["tidings-http", "tidings-testkit"], "only tidings-http knows HTTP"),
];

/// What cargo knows of the members of the workspace.
pub(super) fn metadata(root: &Path) -> anyhow::Result<Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the output of cargo metadata")
}

pub(super) fn check(metadata: &Value, findings: &mut Findings) -> anyhow::Result<()> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into();
    let root = metadata["workspace_root"].as_str().context("cargo metadata has no workspace_root")?;
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let manifest = package["manifest_path"].as_str().and_then(|path| path.strip_prefix(root));
        let is_example = manifest.is_some_and(|path| path.starts_with("/examples/"));
        let may = if is_example { Some(&ALLOWED_IN_EXAMPLES) } else { allowed.get(name) };
        let Some(may) = may else {
            findings.errors.push(format!("{name} has no place in xtask/src/tidy/edges.rs yet"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("a package without dependencies")? {
            let to = dependency["name"].as_str().context("a dependency without a name")?;
            let is_dev = dependency["kind"] == "dev";
            // Tests may use the equipment, but not an adapter's neighbour.
            let is_fine = may.contains(&to) || (is_dev && TEST_ONLY.contains(&to));
            if ours.contains(&to) && to != name && !is_fine {
                findings.errors.push(format!("{name} must not depend on {to}: imports run one way"));
            }
            let owner = OWNED.iter().find(|(owned, owners, _)| *owned == to && !owners.contains(&name));
            if let Some((_, owners, why)) = owner.filter(|_| !is_dev && !is_example) {
                let owners = owners.join(" and ");
                findings.errors.push(format!("{name} must not depend on {to}, which belongs to {owners}: {why}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of one package with one dependency.
    fn said(package: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
        let dir = if package == "square" { "examples" } else { "crates" };
        let mut packages = vec![json!({
            "name": package,
            "manifest_path": format!("/w/{dir}/{package}/Cargo.toml"),
            "dependencies": [{ "name": dependency, "kind": kind }],
        })];
        if dependency.starts_with("tidings") {
            packages.push(json!({ "name": dependency, "dependencies": [] }));
        }
        let mut findings = Findings::default();
        check(&json!({ "workspace_root": "/w", "packages": packages }), &mut findings).unwrap();
        findings.errors
    }

    #[test]
    fn imports_run_one_way() {
        assert_eq!(said("tidings-http", "tidings-core", None), [""; 0]);
        assert_eq!(said("tidings", "tidings-testkit", Some("dev")), [""; 0]);
        assert_eq!(said("square", "tidings", None), [""; 0]);
        for (from, to, kind) in [
            ("tidings-core", "tidings-http", None),
            ("tidings-http", "tidings-broker", None),
            ("tidings-http", "tidings-broker", Some("dev")),
            ("tidings-hub", "tidings-core", None),
            ("tidings-bench", "tidings-core", None),
            ("tidings", "tidings-testkit", None),
            ("tidings-testkit", "tidings-core", None),
            ("square", "tidings-http", None),
        ] {
            assert_eq!(said(from, to, kind), [format!("{from} must not depend on {to}: imports run one way")]);
        }
        assert_eq!(said("new", "serde", None), ["new has no place in xtask/src/tidy/edges.rs yet"]);
    }

    #[test]
    fn a_heavy_dependency_stays_with_its_owner() {
        assert_eq!(said("tidings-http", "axum", None), [""; 0]);
        assert_eq!(said("tidings-core", "axum", Some("dev")), [""; 0]);
        assert_eq!(said("square", "axum", None), [""; 0]);
        assert_eq!(said("tidings-core", "axum", None).len(), 1);
        assert_eq!(said("tidings-http", "rusqlite", None).len(), 1);
    }
}
