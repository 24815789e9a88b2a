//! `docs/inbox.md`: its commands and its program are run, and its configuration is that of their server.

use serde_json::json;
use tidings_testkit::process::{ServerOptions, TidingsServer};

use crate::{
    documents::{Running, blocks, read, root, section},
    guide::Session,
};

/// Where the page's server is.
const THEIRS: &str = "http://127.0.0.1:7330";

async fn page_and_server() -> (String, TidingsServer) {
    let page = read("docs/inbox.md");
    let config = blocks(&page).into_iter().find(|(language, _)| *language == "toml").unwrap().1;
    let options = ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"));
    (page, TidingsServer::start(options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_show_what_the_page_says() {
    let (page, server) = page_and_server().await;
    let count = Session::default().run_all(&page, &server);
    assert!(count > 14, "only {count} blocks were found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shows_what_comes() {
    let (page, server) = page_and_server().await;
    let mut session = Session::default();
    session.run("export KEY=tk_inbox-0123456789abcdef JSON='content-type: application/json'", &server);
    session.run("export TOKEN=$(tidings token --config tidings.toml --sub 42)", &server);
    let notify = |title: &str| {
        let body = json!({ "to": { "user": "42" }, "title": title });
        format!(
            "curl -sS --fail-with-body -H \"authorization: Bearer $KEY\" -H \"$JSON\" -d '{body}' {THEIRS}/v1/notifications"
        )
    };
    session.run(&notify("before"), &server);
    let programs = blocks(section(&page, "## Clients"));
    let program = &programs.iter().find(|(language, _)| *language == "js node").unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("alarms.mjs"), program.replace(THEIRS, &server.url(""))).unwrap();
    let modules = root().join("crates/tidings-testkit/js/node_modules").canonicalize().unwrap();
    std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();
    let running = Running::start(session.command(&format!("cd {:?}; exec node alarms.mjs", dir.path()), &server));
    assert_eq!((running.line(), running.line()), ("before".to_owned(), "1 unread".to_owned()));
    session.run(&notify("live"), &server);
    assert_eq!((running.line(), running.line()), ("live".to_owned(), "2 unread".to_owned()));
    let read = "curl -sS --fail-with-body -H \"authorization: Bearer $TOKEN\" -H \"$JSON\" -d '{\"all\":true}' ";
    session.run(&format!("{read}{THEIRS}/v1/me/notifications/read"), &server);
    assert_eq!(running.line(), "0 unread");
}
