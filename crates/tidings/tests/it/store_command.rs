//! `tidings store`, and what the doctor says of it.

use serde_json::json;
use tidings_testkit::databases::{DatabaseServer, Engine};

use crate::{
    command::{Done, run_in},
    node::{LIMIT, Node},
    notifications::{get, notify, of},
};

/// Runs a command with a node's configuration.
fn run(node: &Node, arguments: &[&str]) -> Done {
    let config = node.server.config_path();
    run_in(config.parent().unwrap(), &[arguments, &["--config", "tidings.toml"]].concat())
}

#[tokio::test]
async fn a_store_is_looked_at_without_making_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run_in(dir.path(), arguments);
    let done = run(&["store", "status"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "there is no store yet; `tidings serve` makes it\n"));
    let done = run(&["doctor", "--dev"]);
    assert!(done.stdout.contains("store          none yet"), "{done:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it only looks");

    for _ in 0..2 {
        let done = run(&["store", "migrate"]);
        assert_eq!(
            (done.code, done.stdout.starts_with("the tables are of schema version ")),
            (Some(0), true),
            "{done:?}"
        );
    }
    let done = run(&["store", "status"]);
    assert!(done.code == Some(0) && done.stdout.contains("\ndatabase sqlite 3."), "{done:?}");
    let done = run(&["store", "verify"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "0 users, 0 rows counted again\n"), "{done:?}");
    let done = run(&["doctor", "--dev"]);
    assert!(done.stdout.contains("sqlite can be used, schema "), "{done:?}");
}

#[tokio::test]
async fn verifying_finds_counts_that_are_wrong() {
    let server = DatabaseServer::shared(Engine::Postgres).await.unwrap();
    let url = server.database().await.unwrap();
    let mut node = Node::start(&format!("[store]\nurl = {url:?}\n")).await;
    notify(&node, json!({"to": {"users": ["1", "2"]}, "title": "t"})).await;
    assert_eq!(get(&node, "/v1/me/notifications/counts", &of("1")).await["unread"], 1);
    // Beside a server, too.
    let done = run(&node, &["store", "verify"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "2 users, 2 rows counted again\n"), "{done:?}");
    server.sql(&url, "UPDATE tidings_counts SET unread = unread + 1 WHERE user_id = '1'").await.unwrap();
    let done = run(&node, &["store", "verify"]);
    assert!(done.code == Some(1) && done.stderr.contains('1'), "{done:?}");
    let done = run(&node, &["store", "status"]);
    assert!(done.stdout.contains("\ndatabase postgres "), "{done:?}");
    node.server.terminate(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[store]\nurl = \"postgres://me:hunter2@127.0.0.1:1/x\"\nacquire_timeout = \"1s\"\n";
    std::fs::write(dir.path().join("tidings.toml"), toml).unwrap();
    let run = |arguments: &[&str]| run_in(dir.path(), &[arguments, &["--config", "tidings.toml"]].concat());
    for arguments in [&["doctor", "--dev"][..], &["store", "status"], &["serve", "--dev", "--listen", "127.0.0.1:0"]] {
        let done = run(arguments);
        assert!(done.code.is_some_and(|code| code > 0), "{arguments:?}: {done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("postgres://me:[redacted]@127.0.0.1:1/x"), "{arguments:?}: {done:?}");
        assert!(said.contains("refused"), "{arguments:?}: {done:?}");
        assert!(!said.contains("hunter2"), "{arguments:?}: {done:?}");
    }
}
