//! `docs/guide.md`: its commands and programs are run, and its tables are held against the code.

use std::{collections::HashMap, path::Path, time::Duration};

use serde_json::json;
use tidings_http::problem::Code;
use tidings_protocol::{CloseReason, GapReason};
use tidings_testkit::{
    browsers,
    node::Script,
    process::{ServerOptions, TidingsServer},
};

use crate::documents::{Running, blocks, code, is_as_shown, read, root, section, shell, table};

/// Starting a browser on a busy machine takes its time.
const BROWSER_LIMIT: Duration = Duration::from_secs(120);

/// Where the guide's server is.
const THEIRS: &str = "http://127.0.0.1:7330";

/// The variables that earlier blocks of a document have exported.
#[derive(Default)]
pub(crate) struct Session(pub(crate) HashMap<String, String>);

impl Session {
    pub(crate) fn command(&self, block: &str, server: &TidingsServer) -> std::process::Command {
        let binaries = Path::new(env!("CARGO_BIN_EXE_tidings")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let directory = server.config_path();
        let mut command = shell(&block.replace(THEIRS, &server.url("")), directory.parent().unwrap());
        command.env("PATH", path).envs(&self.0);
        command
    }

    /// Runs a block to its end, keeps what it exported, and gives what it printed.
    pub(crate) fn run(&mut self, block: &str, server: &TidingsServer) -> String {
        let marker = "--- exported ---";
        let output = self.command(&format!("{block}\necho\necho '{marker}'\nexport -p"), server).output().unwrap();
        assert!(output.status.success(), "{block}\n{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (printed, exported) = text.split_once(marker).unwrap();
        for line in exported.lines() {
            let Some((name, value)) = line.strip_prefix("declare -x ").and_then(|rest| rest.split_once('=')) else {
                continue;
            };
            if ["KEY", "JSON", "TOKEN", "TICKET", "ID"].contains(&name) {
                self.0.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
        }
        printed.to_owned()
    }

    /// Runs all shell blocks of a document in their order, and holds what they print against the block that
    /// follows each. Answers how many there were.
    pub(crate) fn run_all(&mut self, document: &str, server: &TidingsServer) -> usize {
        let blocks = blocks(document);
        let mut count = 0;
        for (at, (_, block)) in blocks.iter().enumerate().filter(|(_, (language, _))| *language == "sh") {
            let shown = blocks.get(at + 1).filter(|(language, _)| language.is_empty()).map(|(_, shown)| shown.as_str());
            count += 1;
            let lines: Vec<String> = if block.contains("curl -N") {
                let streaming = Running::start(self.command(block, server));
                shown.unwrap().lines().map(|_| streaming.stream_line()).collect()
            } else {
                self.run(block, server).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
            };
            let shown: Vec<_> = shown.unwrap_or_default().lines().collect();
            assert_eq!(lines.len(), shown.len(), "{block}\n{lines:#?}");
            for (line, shown) in lines.iter().zip(shown) {
                assert!(is_as_shown(line, shown), "{block}\n{line}\n{shown}");
            }
        }
        count
    }
}

fn guide_and_config() -> (String, String) {
    let guide = read("docs/guide.md");
    let blocks = blocks(&guide);
    let (_, config) = blocks.iter().find(|(language, _)| *language == "toml").unwrap();
    let config = config.clone();
    (guide, config)
}

async fn server(config: &str) -> TidingsServer {
    TidingsServer::start(ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_show_what_the_guide_says() {
    let (guide, config) = guide_and_config();
    let server = server(&config).await;
    let count = Session::default().run_all(&guide, &server);
    assert!(count > 12, "only {count} blocks were found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_receive_events() {
    let (guide, config) = guide_and_config();
    let server = server(&config).await;
    let mut session = Session::default();
    session.run("export KEY=tk_guide-0123456789abcdef", &server);
    session.run("export TOKEN=$(tidings token --config tidings.toml --sub 42 --subscribe 'chat:*')", &server);
    let publish = |data: &str| {
        let event = json!({ "channel": "chat:lobby", "data": data });
        format!(
            "curl -sS --fail-with-body -H \"authorization: Bearer $KEY\" -H 'content-type: application/json' \
             -d '{event}' {THEIRS}/v1/publish"
        )
    };
    session.run(&publish("first"), &server);
    let programs = blocks(section(&guide, "## Clients"));
    let program = |language: &str| {
        let (_, text) = programs.iter().find(|(found, _)| *found == language).unwrap();
        text.replace(THEIRS, &server.url(""))
    };

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("listen.py"), program("python")).unwrap();
    std::fs::write(dir.path().join("listen.mjs"), program("js node")).unwrap();
    let modules = root().join("crates/tidings-testkit/js/node_modules").canonicalize().unwrap();
    std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).unwrap();
    let start = |command: &str| Running::start(session.command(&format!("cd {:?}; {command}", dir.path()), &server));
    let running = [start("exec python3 listen.py"), start("exec node listen.mjs")];
    for program in &running {
        assert_eq!(program.line(), "first");
    }

    let mut browser = Script::start("page.mjs").unwrap();
    let chromium = browsers::chromium().unwrap();
    let open = json!({ "op": "open", "url": server.url("/healthz"), "chromium": chromium });
    browser.ask(&open, BROWSER_LIMIT).await.unwrap();
    let token = &session.0["TOKEN"];
    let script = format!(
        "{}\nwindow.seen = [];\nconst getTicket = async () => (await (await fetch('/v1/tickets', {{ method: 'POST', \
         headers: {{ authorization: 'Bearer {token}' }} }})).json()).ticket;\n\
         listen(location.origin, ['chat:lobby'], getTicket, {{ onEvent: (event) => seen.push(event.data), onGap() {{}} }});",
        program("js browser")
    );
    browser.ask(&json!({ "op": "run", "script": script }), BROWSER_LIMIT).await.unwrap();
    let connected =
        json!({ "op": "until", "expression": "performance.getEntriesByName(location.origin + '/v1/tickets').length" });
    browser.ask(&connected, BROWSER_LIMIT).await.unwrap();
    // Its stream may open before or after this, so the page gets some of them and then all that follow.
    let mut number = 0;
    let last = loop {
        number += 1;
        let data = format!("event {number}");
        session.run(&publish(&data), &server);
        for program in &running {
            assert_eq!(program.line(), data);
        }
        let seen = browser.ask(&json!({ "op": "run", "script": "seen" }), BROWSER_LIMIT).await.unwrap();
        if seen.as_array().is_some_and(|seen| !seen.is_empty()) {
            break data;
        }
        assert!(number < 1000, "the page saw none of {number} events");
    };
    let all = json!({ "op": "until", "expression": format!("seen.at(-1) === {last:?}") });
    browser.ask(&all, BROWSER_LIMIT).await.unwrap();
    browser.end(BROWSER_LIMIT).await.unwrap();
}

#[test]
fn every_problem_and_reason_is_in_its_table() {
    let guide = read("docs/guide.md");
    let problems: Vec<_> = table(section(&guide, "## Problems"), "code")
        .iter()
        .map(|row| (code(row[0]).to_owned(), row[1].parse::<u16>().unwrap()))
        .collect();
    let codes: Vec<_> = Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().as_u16())).collect();
    assert_eq!(sorted(problems), sorted(codes));

    let reasons = |heading| -> Vec<String> {
        table(section(&guide, heading), "reason").iter().map(|row| code(row[0]).to_owned()).collect()
    };
    assert_eq!(reasons("## When a stream ends"), CloseReason::ALL.map(CloseReason::as_str));
    let gaps = [GapReason::Evicted, GapReason::Expired, GapReason::Restart, GapReason::Epoch, GapReason::Unusable];
    assert_eq!(reasons("### Resume"), gaps.map(GapReason::as_str));
}

#[test]
fn every_limit_is_the_default() {
    let guide = read("docs/guide.md");
    let reference: toml::Table = read("config/reference.toml").parse().unwrap();
    let limits = reference["limits"].as_table().unwrap();
    let rows = table(section(&guide, "## Limits"), "what");
    let mut told = Vec::new();
    for row in &rows {
        let name = code(row[3]).strip_prefix("limits.").unwrap();
        assert_eq!(limits[name].as_integer().unwrap().to_string(), row[1], "{name}");
        let refusal = row[2].rsplit_once(" `").and_then(|(_, code)| code.strip_suffix('`'));
        if let Some(refusal) = refusal.filter(|refusal| *refusal != "overload") {
            let status = Code::ALL.iter().find(|code| code.as_str() == refusal).unwrap().status().as_u16();
            assert!(row[2].contains(&status.to_string()), "{row:?}");
        }
        told.push(name.to_owned());
    }
    assert_eq!(sorted(told), sorted(limits.keys().cloned().collect()));
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}
