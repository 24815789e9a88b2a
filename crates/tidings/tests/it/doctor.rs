//! `tidings doctor`, `token` and `config` beside a server.

use serde_json::json;

use crate::{
    command::{Done, run_in},
    node::{LIMIT, Node, options},
};

/// Runs a command with the server's configuration.
fn run(node: &Node, arguments: &[&str]) -> Done {
    let directory = node.server.config_path();
    run_in(directory.parent().unwrap(), &[arguments, &["--config", "tidings.toml"]].concat())
}

#[track_caller]
fn assert_finding(done: &Done, verdict: &str, subject: &str, text: &str) {
    let line = done.stdout.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(subject)));
    assert!(line.is_some_and(|line| line.starts_with(verdict) && line.contains(text)), "{subject}: {done:?}");
}

#[tokio::test]
async fn the_doctor_finds_a_sound_server_sound_and_a_damaged_log_damaged() {
    let mut node = Node::start("").await;
    node.publish_numbers("open:a", 1..=50).await;
    let done = run(&node, &["doctor"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_finding(&done, "ok", "configuration", "valid");
    assert_finding(&done, "ok", "credentials", "configured");
    assert_finding(&done, "ok", "server", "running and ready");
    assert_finding(&done, "ok", "log", "sound: 50 events");

    assert_eq!(node.server.terminate(LIMIT).await.unwrap().code(), Some(0));
    let done = run(&node, &["doctor"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_finding(&done, "note", "server", "none is running");
    assert_finding(&done, "ok", "log", "sound: 50 events");
    // It has left nothing that would keep the server from starting.
    node.server.restart().await.unwrap();
    node.server.terminate(LIMIT).await.unwrap();

    let database = node.server.data_dir().join(tidings_broker::embedded::DATABASE_FILE);
    let mut bytes = std::fs::read(&database).unwrap();
    assert!(bytes.len() > 3 * 4096);
    for byte in &mut bytes[4096..3 * 4096] {
        *byte = !*byte;
    }
    std::fs::write(&database, bytes).unwrap();
    let done = run(&node, &["doctor"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_finding(&done, "BAD", "log", "");
    assert!(done.stderr.contains("1 of"), "{done:?}");
    assert_finding(&done, "ok", "configuration", "valid");
}

#[tokio::test]
async fn the_doctor_tells_of_a_draining_server_and_of_missing_credentials() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidings.toml"), "listen = \"127.0.0.1:1\"\n").unwrap();
    let done = run_in(dir.path(), &["doctor", "--config", "tidings.toml"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_finding(&done, "BAD", "credentials", "auth.api_keys");
    assert_eq!(run_in(dir.path(), &["doctor", "--dev", "--config", "tidings.toml"]).code, Some(0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "it only looks");

    let node = Node::start("[server]\ndrain_window = \"1h\"\n").await;
    let mut streams = [node.stream("channel=open:a").await, node.stream("channel=open:a").await];
    for stream in &mut streams {
        stream.connected(LIMIT).await.unwrap();
    }
    // One of the two is closed half the window later, which nobody here waits for.
    node.server.signal(rustix::process::Signal::TERM).unwrap();
    let refuses = tidings_testkit::wait::until("the drain to begin", LIMIT, async || {
        (node.get("/readyz").await.status == 503).then_some(())
    });
    refuses.await.unwrap();
    let done = run(&node, &["doctor"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_finding(&done, "BAD", "server", "draining");
}

#[tokio::test]
async fn a_token_that_the_command_signs_is_accepted() {
    let node = Node::start_with(options("").env("TIDINGS_AUTH__JWT_AUDIENCE", "tidings")).await;
    let token = run(
        &node,
        &["token", "--sub", "42", "--subscribe", "chat:*", "--publish", "chat:lobby", "--audience", "tidings"],
    );
    assert_eq!(token.code, Some(0), "{token:?}");
    let token = token.stdout.trim();
    let mut stream = node.stream_as("channel=chat:lobby", token).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().user.as_deref(), Some("42"));
    let event = json!({"channel": "chat:lobby", "data": "hello"}).to_string();
    assert_eq!(node.post("/v1/publish", Some(token), &event).await.status, 200);
    assert_eq!(crate::node::next(&mut stream).await.data, "hello");
    let elsewhere = json!({"channel": "chat:other", "data": "hello"}).to_string();
    crate::node::assert_problem(&node.post("/v1/publish", Some(token), &elsewhere).await, 403, "forbidden");
    // Without the audience that the server asks for it is not.
    let other = run(&node, &["token", "--sub", "42"]);
    let refused = node.post("/v1/publish", Some(other.stdout.trim()), &event).await;
    crate::node::assert_problem(&refused, 401, "token_audience");

    let checked = run(&node, &["config", "check"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "tidings.toml is valid\n"));
    let shown = run(&node, &["config", "show"]);
    assert!(shown.stdout.contains(&format!("listen = \"{}\"", node.addr())), "{}", shown.stdout);
    assert!(!shown.stdout.contains(crate::node::API_KEY) && !shown.stdout.contains(crate::node::JWT_SECRET));
}
