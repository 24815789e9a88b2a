//! What makes children die with this process, however it dies.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// Kills, and removes the directory if there is one to remove. The children of `$1` are asked for before it
/// is gone; some servers put theirs into sessions of their own.
const SCRIPT: &str = r#"
read -r _ && exit
kill -9 "$1" $(cat "/proc/$1/task/$1/children") 2>/dev/null
[ -n "$2" ] || exit
for _ in $(seq 100); do
    rm -rf -- "$2" && exit
    sleep 0.1
done
"#;

/// Kills a process, and its children, when this one dies.
///
/// A shell waits on a pipe that only this process holds. When the pipe closes without a word, it
/// kills. (`PR_SET_PDEATHSIG` would fire when the *thread* that started the child ends, and threads
/// of a test come and go.)
#[derive(Debug)]
pub(crate) struct Leash(Child);

impl Leash {
    /// On this child.
    pub(crate) fn on(child: &Child) -> anyhow::Result<Self> {
        Self::new(child, None)
    }

    /// On this child, and then removes its directory.
    pub(crate) fn with_directory(child: &Child, directory: &Path) -> anyhow::Result<Self> {
        Self::new(child, Some(directory))
    }

    fn new(child: &Child, directory: Option<&Path>) -> anyhow::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "leash", &child.id().to_string()])
            .args(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group, or Ctrl-C would end it before its work.
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        Ok(Self(shell))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            // A word: the process has been reaped, its id may be somebody else's by now.
            let _told = stdin.write_all(b"done\n");
        }
        let _reaped = self.0.wait();
    }
}
