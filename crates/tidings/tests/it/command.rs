//! Runs the command in an environment of its own.

use std::{
    io::{Read, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

/// The command with nothing of the developer's environment that could change what it does.
pub(crate) fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the command to its end.
pub(crate) fn run(arguments: &[&str]) -> Done {
    tidings(arguments).output().unwrap().into()
}

/// Runs the command in a directory.
pub(crate) fn run_in(directory: &Path, arguments: &[&str]) -> Done {
    tidings(arguments).current_dir(directory).output().unwrap().into()
}

/// Runs the command with something on its standard input.
pub(crate) fn run_with_input(arguments: &[&str], input: &str) -> Done {
    let mut child =
        tidings(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Reads a child's output up to a text, byte by byte, so that nothing after it is taken.
pub(crate) fn read_until(source: &mut impl Read, wanted: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while source.read(&mut byte).unwrap() == 1 {
        read.push(byte[0]);
        if read.ends_with(wanted.as_bytes()) {
            return String::from_utf8(read).unwrap();
        }
    }
    panic!("{wanted:?} did not come, but {:?}", String::from_utf8_lossy(&read));
}
