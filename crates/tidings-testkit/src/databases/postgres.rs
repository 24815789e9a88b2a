//! How Postgres is made, run, and asked.

use std::path::{Path, PathBuf};

use super::{Invocation, find};

pub(super) const USER: &str = "postgres";

/// A program of the newest version that is installed. Debian keeps them out of `PATH`.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut directories: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    directories.sort_by_key(|dir| {
        let version = dir.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        std::cmp::Reverse(version.and_then(|text| text.parse::<u32>().ok()))
    });
    find(name, "postgresql", &directories)
}

pub(super) fn init(dir: &Path) -> anyhow::Result<Invocation> {
    let data = dir.join("data");
    let options = ["--username=tidings", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"];
    Ok(Invocation::new(program("initdb")?, options.map(Into::into).into_iter().chain([data.into_os_string()])))
}

pub(super) fn serve(dir: &Path, port: u16) -> anyhow::Result<Invocation> {
    let settings = [
        format!("unix_socket_directories={}", dir.display()),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "fsync=off".to_owned(),
        "full_page_writes=off".to_owned(),
        // Tests run beside each other, each with a pool.
        "max_connections=200".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ];
    let data = ["-D".into(), dir.join("data").into_os_string()];
    let settings = settings.into_iter().flat_map(|setting| ["-c".into(), setting.into()]);
    Ok(Invocation::new(program("postgres")?, data.into_iter().chain(settings)))
}

pub(super) fn client(port: u16, database: &str, sql: &str) -> anyhow::Result<Invocation> {
    let url = format!("postgres://tidings@127.0.0.1:{port}/{database}");
    // No file of the user's (`-X`), no password asked for (`-w`), rows only (`-tA`), an error ends it.
    let options = ["-X", "-w", "-q", "-t", "-A", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql];
    Ok(Invocation::new(find("psql", "postgresql-client", &[])?, options))
}
