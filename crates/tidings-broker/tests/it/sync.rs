//! Synced before answered: seen from outside, in the system calls of a process.

use std::{collections::HashMap, io::Write as _, path::Path, process::Command};

use tidings_core::ports::Broker as _;

use crate::support::{ManualClock, as_child, child_dir, event, open};

fn say(marker: &str) {
    std::io::stdout().lock().write_all(format!("{marker}\n").as_bytes()).unwrap();
    std::io::stdout().lock().flush().unwrap();
}

async fn append_between_markers(dir: &Path) {
    let (broker, feed) = open(dir, &ManualClock::new());
    drop(feed);
    for name in ["durable", "volatile"] {
        say(&format!("begin-{name}"));
        let answers = broker.append(vec![event(&format!("{name}:a"), "x")]).await;
        assert!(answers[0].is_ok());
        say(&format!("answered-{name}"));
    }
}

/// The system calls of a trace in the order in which they returned, each in one piece.
fn completed_calls(trace: &str) -> Vec<String> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').expect("strace -f begins each line with the thread");
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, beginning);
        } else if let Some((_, rest)) = call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>")) {
            calls.push(format!("{}{rest}", unfinished.remove(thread).expect("it began before")));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_event_is_synced_before_it_is_answered_and_a_volatile_one_is_not_written() {
    if let Some(dir) = child_dir() {
        return append_between_markers(&dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=fsync,fdatasync,write,writev,pwrite64,pwritev", "-o"]).arg(&trace);
    command.arg(std::env::current_exe().unwrap());
    as_child(
        &mut command,
        "sync::a_durable_event_is_synced_before_it_is_answered_and_a_volatile_one_is_not_written",
        dir.path(),
    );
    let output = command.output().expect("strace cannot be run: install it (Debian: apt-get install strace)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let calls = completed_calls(&std::fs::read_to_string(&trace).unwrap());
    let marker = |word: &str| {
        let is_it = |call: &String| call.starts_with("write(1<") && call.contains(word);
        calls.iter().position(is_it).unwrap_or_else(|| panic!("no {word} in {calls:#?}"))
    };
    let durable = &calls[marker("begin-durable")..marker("answered-durable")];
    let is_wal = |call: &String| call.contains("tidings.sqlite-wal>");
    let is_write = |call: &String| call.starts_with("pwrite") || call.starts_with("write");
    let is_sync = |call: &String| call.starts_with("fsync(") || call.starts_with("fdatasync(");
    let written = durable.iter().rposition(|call| is_wal(call) && is_write(call));
    let synced = durable.iter().rposition(|call| is_wal(call) && is_sync(call) && call.trim_end().ends_with("= 0"));
    assert!(written.is_some(), "the event is not in the WAL when it is answered: {durable:#?}");
    assert!(synced > written, "the WAL is not synced when the event is answered: {durable:#?}");

    let volatile = &calls[marker("begin-volatile")..marker("answered-volatile")];
    let disk: Vec<_> = volatile.iter().filter(|call| is_sync(call) || call.contains("tidings.sqlite")).collect();
    assert!(disk.is_empty(), "a volatile event touches the disk: {disk:#?}");
}
