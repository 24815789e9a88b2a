//! The tour of the README, run as it is pasted.

use std::path::Path;

use tidings_testkit::process::{ServerOptions, TidingsServer};

use crate::documents::{Running, blocks, read, section, shell};

/// Where the README's server is.
const THEIRS: &str = "http://127.0.0.1:7330";

/// What is another each time, as a pattern: `retry` and `id` lines, and the values of `connected`.
fn without_chance(line: &str) -> String {
    if line.strip_prefix("retry: ").is_some_and(|millis| millis.parse::<u64>().is_ok()) {
        return "retry: N".to_owned();
    }
    if line.strip_prefix("id: ").is_some_and(|id| id.parse::<tidings_protocol::Cursor>().is_ok()) {
        return "id: CURSOR".to_owned();
    }
    let Some(data) = line.strip_prefix("data: ") else { return line.to_owned() };
    let mut value: serde_json::Value = serde_json::from_str(data).unwrap();
    for name in ["connection", "node"] {
        if let Some(value) = value.get_mut(name) {
            *value = "…".into();
        }
    }
    format!("data: {value}")
}

async fn server() -> TidingsServer {
    TidingsServer::start(ServerOptions::new("").binary(env!("CARGO_BIN_EXE_tidings")).arg("--dev")).await.unwrap()
}

fn is_published(output: &str) -> bool {
    output.contains("\"id\":\"") && output.contains("\"duplicate\":false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tour_shows_what_it_says() {
    let readme = read("README.md");
    let tour = section(&readme, "## Five minutes");
    let server = server().await;
    let dir = tempfile::tempdir().unwrap();
    // Where `make run` puts the command.
    std::fs::create_dir_all(dir.path().join("target/release")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidings"), dir.path().join("target/release/tidings")).unwrap();
    let ours = server.url("");
    let command = |block: &str| {
        let mut command = shell(&block.replace(THEIRS, &ours), dir.path());
        command.env("TIDINGS_URL", &ours);
        command
    };
    let to_end = |block: &str| {
        let output = command(block).output().unwrap();
        assert!(output.status.success(), "{block}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let blocks = blocks(tour);
    let in_shell: Vec<&str> =
        blocks.iter().filter(|(language, _)| *language == "sh").map(|(_, block)| block.as_str()).collect();
    let [run, listen, publish, publish_more, come_back, by_command, publish_by_command, instead_of_polling] =
        in_shell[..]
    else {
        panic!("other blocks than this test knows: {in_shell:#?}")
    };
    assert_eq!(run, "make run");
    assert!(read("Makefile").contains("run:\n\t$(CARGO) run --release --locked -- serve --dev\n"));

    let listening = Running::start(command(listen));
    let shown = &blocks.iter().find(|(language, _)| language.is_empty()).unwrap().1;
    let (first, event) = shown.split_once("\n\n").unwrap();
    for line in first.lines().chain([""]) {
        assert_eq!(without_chance(&listening.stream_line()), without_chance(line));
    }
    assert!(is_published(&to_end(publish)));
    for line in event.lines().chain([""]) {
        assert_eq!(without_chance(&listening.stream_line()), without_chance(line));
    }
    listening.stop();

    assert_eq!(to_end(publish_more).matches("\"duplicate\":false").count(), 2);
    let back = Running::start(command(come_back));
    back.line_with("event: connected");
    let data = || back.line_with("data: ");
    assert!(data().contains("connection"));
    assert_eq!([data(), data()], ["data: 1", "data: 2"]);

    let subscribing = Running::start(command(by_command));
    for wanted in [r#"{"text":"hello"}"#, " 1", " 2"] {
        assert!(subscribing.line().ends_with(wanted), "{wanted}");
    }
    assert!(is_published(&to_end(publish_by_command)));
    assert!(subscribing.line().ends_with(r#"{"text":"hello again"}"#));
    assert_eq!(data(), r#"data: {"text":"hello again"}"#);
    assert!(is_published(&to_end(instead_of_polling)));
}

/// What somebody sees who has just typed `make run`: a URL, a key and two commands that work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_for_development_says_how_to_try_it() {
    let server = server().await;
    let log = server.log();
    let url = server.url("");
    let line = log.lines().find(|line| line.trim_start().starts_with(&url)).unwrap();
    let (place, rest) = line.trim_start().split_once("   key ").unwrap();
    let (key, subscribe) = rest.split_once("   try: ").unwrap();
    assert_eq!(place, url);
    assert!(key.starts_with("tk_dev_"), "{key}");
    assert_eq!(subscribe, format!("curl -N '{url}/v1/subscribe?channel=chat:lobby'"));
    let listening = Running::start(shell(subscribe, Path::new("/")));
    listening.line_with("event: connected");

    let (_, publish) = log.split_once("  publish    ").unwrap();
    let publish: Vec<_> = publish.lines().take(2).collect();
    let output = shell(&publish.join("\n"), Path::new("/")).output().unwrap();
    assert!(is_published(&String::from_utf8(output.stdout).unwrap()));
    assert_eq!(listening.line_with("data: hello"), "data: hello");
}

/// The configuration that the README shows for production is one.
#[test]
fn the_configuration_for_production_is_valid() {
    let readme = read("README.md");
    let production = blocks(section(&readme, "## In production"));
    let (_, toml) = production.iter().find(|(language, _)| *language == "toml").unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidings.toml"), toml).unwrap();
    let done = crate::command::run_in(dir.path(), &["config", "check", "--config", "tidings.toml"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn every_link_leads_somewhere() {
    for document in ["README.md", "ARCHITECTURE.md", "docs/guide.md", "docs/operations.md", "docs/testing.md"] {
        let text = read(document);
        let base = crate::documents::root().join(document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(base.parent().unwrap().join(path).exists(), "{document} links to {path}");
        }
    }
}
