//! Where the browsers are.

use std::path::PathBuf;

use anyhow::Context as _;

/// Debian's Chromium, under the names that other systems give it too.
const CHROMIUM: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// Finds Chromium on the `PATH`. The error says what to install.
pub fn chromium() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|dir| CHROMIUM.map(|name| dir.join(name)))
        .find(|file| file.is_file())
        .context("Chromium is not installed (Debian: apt-get install chromium)")
}
