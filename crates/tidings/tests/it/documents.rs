//! Reads the documents, so that what they show is what is run.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The directory of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A document of the repository.
pub(crate) fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a document under a heading (`## Title`), up to the next of its level.
pub(crate) fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let level = heading.split(' ').next().unwrap();
    let body = &document[start + heading.len()..];
    body.find(&format!("\n{level} ")).map_or(body, |end| &body[..end])
}

/// The fenced blocks, each with what stands behind its fence.
pub(crate) fn blocks(document: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, body.join("\n")));
        }
    }
    blocks
}

/// The cells of the table whose first header is this, row by row, without the header.
pub(crate) fn table<'a>(document: &'a str, first_header: &str) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| -> Option<Vec<&'a str>> {
        Some(line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim).collect())
    };
    let mut lines = document.lines().skip_while(|line| !line.starts_with(&format!("| {first_header} |")));
    let rows: Vec<_> = lines.by_ref().skip(2).map_while(cells).collect();
    assert!(!rows.is_empty(), "there is no table that begins with {first_header:?}");
    rows
}

/// A text that is in back quotes.
pub(crate) fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or_else(|| panic!("{cell:?} is no `code`"))
}

/// A block that runs until it is stopped, with its output line by line.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// A shell with a block, in a directory.
pub(crate) fn shell(block: &str, directory: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", block]).current_dir(directory).stdin(Stdio::null());
    // A reader has none of them; those of whoever runs the tests would be configuration.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDINGS_")) {
        command.env_remove(name);
    }
    command
}

impl Running {
    /// Starts a block in a process group of its own, so that all of it can be stopped.
    pub(crate) fn start(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            for line in output.lines() {
                // Nobody reads any more: the test is over.
                let Ok(()) = sender.send(line.unwrap()) else { return };
            }
        });
        Self { child, lines }
    }

    /// The next line.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// The next line that is no heartbeat.
    pub(crate) fn stream_line(&self) -> String {
        std::iter::repeat_with(|| self.line()).find(|line| line != ":").unwrap()
    }

    /// Reads on up to a line that contains this, and gives that.
    pub(crate) fn line_with(&self, text: &str) -> String {
        std::iter::repeat_with(|| self.line()).find(|line| line.contains(text)).unwrap()
    }

    /// Ctrl-C, as far as a terminal would send it.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself.
            let _gone = kill_process_group(group, Signal::INT);
            let _gone = kill_process_group(group, Signal::TERM);
        }
        let _reaped = self.child.wait();
    }
}

/// Whether a line is as a document shows it, where `…` stands for anything.
pub(crate) fn is_as_shown(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let found = if parts.peek().is_none() { rest.len().checked_sub(part.len()) } else { rest.find(part) };
        match found.filter(|at| rest.is_char_boundary(*at) && rest[*at..].starts_with(part)) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(is_as_shown("a 1 b", "a … b") && is_as_shown("a 1 b 2", "a … b …") && is_as_shown("a", "a"));
    assert!(!is_as_shown("a 1 c", "a … b") && !is_as_shown("ab", "a") && !is_as_shown("x a", "a"));
}
