//! What is left of a process that is killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use tidings_core::ports::{Broker, HistoryFrom};
use tidings_protocol::{Cursor, Partition, Position};

use crate::support::{ManualClock, append, as_child, channel, child_dir, event, open, read, text};

/// Appends until it is killed, and says what was answered.
async fn append_until_killed(dir: &Path) {
    let (broker, feed) = open(dir, &ManualClock::new());
    drop(feed);
    let tasks = (0..8).map(|task| {
        let broker = broker.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let name = if task % 2 == 0 { "durable:a" } else { "volatile:a" };
                let id = append(&broker, event(name, &format!("{task}-{number}"))).await;
                // One write a line, which the kernel keeps whole however the process ends.
                let line = format!("> {name} {id} {task}-{number}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Runs the child, kills it after so many answers, and returns them: channel, position, text.
fn answers_of_a_killed_child(dir: &Path, count: usize) -> Vec<(String, Position, String)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    as_child(&mut command, "crash::a_killed_process_loses_nothing_that_it_answered", dir);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if answers.len() == count {
            // SIGKILL, in the middle of whatever it does; what it has said until then still counts.
            child.kill().unwrap();
        }
        let Some(answer) = line.strip_prefix("> ") else { continue };
        let mut words = answer.split(' ');
        let name = words.next().unwrap().to_owned();
        let id: Cursor = words.next().unwrap().parse().unwrap();
        let position = id.get(Partition::ZERO).unwrap().position;
        answers.push((name, position, words.next().unwrap().to_owned()));
    }
    assert!(!child.wait().unwrap().success(), "it ends only when it is killed");
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_it_answered() {
    if let Some(dir) = child_dir() {
        return append_until_killed(&dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut highest = Position::ZERO;
    for round in 0..4 {
        let answers = answers_of_a_killed_child(dir.path(), 300 * (round + 1));
        let lowest = answers.iter().map(|(_, position, _)| *position).min().unwrap();
        assert!(lowest > highest, "positions go back from {highest:?} to {lowest:?}");
        highest = answers.iter().map(|(_, position, _)| *position).max().unwrap();

        let (broker, feed) = open(dir.path(), &ManualClock::new());
        drop(feed);
        let kept = read(&broker, &["durable:a"], HistoryFrom::Last(vec![usize::MAX])).await;
        assert!(kept.len() <= 100, "history keeps to its size");
        let mut durable: Vec<_> = answers.iter().filter(|(name, ..)| name == "durable:a").collect();
        durable.sort_by_key(|(_, position, _)| *position);
        // Events that were on disk and not yet answered may stand after the last answered one, at
        // most one for each task.
        for (_, _, said) in durable.iter().rev().take(90) {
            assert!(kept.contains(&text(said)), "{said} was answered and is lost in round {round}");
        }
        let id = append(&broker, event("volatile:a", "x")).await;
        assert!(id.at.position > highest);
        highest = id.at.position;
        assert_eq!(broker.channel(&channel("volatile:a")).await.unwrap().history_len, 1);
        // Not shut down: a broker that is dropped leaves a log that opens.
        drop(broker);
    }
}
