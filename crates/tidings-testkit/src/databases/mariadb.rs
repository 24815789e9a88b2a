//! How MariaDB is made, run, and asked.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Invocation, find};

pub(super) const USER: &str = "mysql";

/// Run at every start. Its own `root` is for whoever comes through the socket.
const USERS: &str = "CREATE USER IF NOT EXISTS tidings@'127.0.0.1' IDENTIFIED BY 'tidings';
GRANT ALL ON *.* TO tidings@'127.0.0.1' WITH GRANT OPTION;
";

pub(super) fn init(dir: &Path) -> anyhow::Result<Invocation> {
    let options = [
        // The first one, or it is not understood: no file of the system's.
        "--no-defaults".to_owned(),
        format!("--datadir={}", dir.join("data").display()),
        "--skip-test-db".to_owned(),
        "--auth-root-authentication-method=normal".to_owned(),
    ];
    Ok(Invocation::new(find("mariadb-install-db", "mariadb-server", &[])?, options))
}

pub(super) fn serve(dir: &Path, port: u16) -> anyhow::Result<Invocation> {
    let users = dir.join("users.sql");
    std::fs::write(&users, USERS).with_context(|| format!("writing {}", users.display()))?;
    let options = [
        "--no-defaults".to_owned(),
        format!("--datadir={}", dir.join("data").display()),
        format!("--socket={}", dir.join("socket").display()),
        format!("--pid-file={}", dir.join("pid").display()),
        format!("--init-file={}", users.display()),
        format!("--port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--skip-name-resolve".to_owned(),
        // As Debian's configuration has it, and as MySQL is by itself.
        "--character-set-server=utf8mb4".to_owned(),
        // To the system at each commit, to the disk once a second.
        "--innodb-flush-log-at-trx-commit=2".to_owned(),
        "--innodb-buffer-pool-size=32M".to_owned(),
        "--max-connections=200".to_owned(),
    ];
    // Debian keeps it where only root's PATH looks.
    Ok(Invocation::new(find("mariadbd", "mariadb-server", &[PathBuf::from("/usr/sbin")])?, options))
}

pub(super) fn client(port: u16, database: &str, sql: &str) -> anyhow::Result<Invocation> {
    let options = [
        "--no-defaults".to_owned(),
        "--protocol=tcp".to_owned(),
        "--host=127.0.0.1".to_owned(),
        format!("--port={port}"),
        "--user=tidings".to_owned(),
        "--password=tidings".to_owned(),
        "--default-character-set=utf8mb4".to_owned(),
        "--batch".to_owned(),
        "--skip-column-names".to_owned(),
        format!("--database={database}"),
        format!("--execute={sql}"),
    ];
    Ok(Invocation::new(find("mariadb", "mariadb-client", &[])?, options))
}
