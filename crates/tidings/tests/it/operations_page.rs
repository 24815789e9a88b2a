//! `docs/operations.md`: its metrics are those that there are, and a restored backup is what it says.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::json;
use tidings_testkit::{
    client::SseClient,
    http::{Answer, HttpClient},
    process::{ServerOptions, TidingsServer},
    wait,
};

use crate::documents::{blocks, code, read, section, shell, table};

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

const KEY: &str = "tk_0123456789abcdef0123456789";

/// What has metrics of its own.
const EVERYTHING: &str = r#"
jwks_url = "http://127.0.0.1:9/keys"
[presence]
webhook_url = "http://127.0.0.1:9/hook"
webhook_secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"#;

async fn server(more: &str) -> TidingsServer {
    let config = format!("[auth]\napi_keys = [\"{KEY}\"]\n{more}");
    TidingsServer::start(ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))).await.unwrap()
}

async fn publish(server: &TidingsServer, data: &str) -> Answer {
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {KEY}"))]
        .map(|(name, value)| (name.to_owned(), value));
    let event = json!({ "channel": "a", "data": data, "key": data }).to_string();
    HttpClient::new(server.addr()).send(Method::POST, "/v1/publish", &headers, event).await.unwrap()
}

async fn subscribe(server: &TidingsServer, cursor: &str) -> SseClient {
    let path = format!("/v1/subscribe?channel=a&last_event_id={cursor}");
    let mut stream =
        SseClient::connect(server.addr(), &path, &[("authorization", &format!("Bearer {KEY}"))]).await.unwrap();
    stream.connected(PATIENCE).await.unwrap();
    stream
}

async fn metrics(server: &TidingsServer) -> String {
    HttpClient::new(server.addr()).get("/metrics").await.unwrap().text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_in_the_table() {
    let server = server(EVERYTHING).await;
    // Metrics with labels of their own are there once something was counted.
    for duplicate in [false, true] {
        assert_eq!(publish(&server, "1").await.json().unwrap()["duplicate"], duplicate);
    }
    assert_eq!(HttpClient::new(server.addr()).get("/v1/connections").await.unwrap().status, 401);
    drop(subscribe(&server, "nonsense").await);
    let resumed = || async { metrics(&server).await.contains("tidings_resume_total{").then_some(()) };
    wait::until("a resume is counted", PATIENCE, async || resumed().await).await.unwrap();

    let text = metrics(&server).await;
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        names.insert(format!("{name}{suffix}"));
    }
    let document = read("docs/operations.md");
    let told = table(section(&document, "## Metrics"), "metric");
    let told: BTreeSet<_> = told.iter().map(|row| code(row[0]).to_owned()).collect();
    assert_eq!(told, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_is_told_from_the_log_that_was_lost() {
    let mut server = server("").await;
    let backups = tempfile::tempdir().unwrap();
    let document = read("docs/operations.md");
    let blocks = blocks(section(&document, "## Backup"));
    let [(_, back_up), (_, restore)] = &blocks[..] else { panic!("other blocks than this test knows: {blocks:#?}") };
    let data_dir = server.data_dir();
    let run = |block: &str| {
        let block = block
            .replace("/var/lib/tidings", data_dir.to_str().unwrap())
            .replace("/var/backups", backups.path().to_str().unwrap());
        let output = shell(&block, backups.path()).output().unwrap();
        assert!(output.status.success(), "{block}\n{output:?}");
    };
    assert_eq!(publish(&server, "before").await.status, 200);
    run(back_up);
    let mut cursor = String::new();
    for number in 0..5 {
        cursor = publish(&server, &format!("lost {number}")).await.json().unwrap()["id"].as_str().unwrap().to_owned();
    }
    server.kill9().await.unwrap();
    run(restore);
    server.restart().await.unwrap();
    // As many as were lost and more, so that without a new epoch the cursor would look like one of them.
    for number in 0..10 {
        assert_eq!(publish(&server, &format!("after {number}")).await.status, 200);
    }
    let mut stream = subscribe(&server, &cursor).await;
    let gap = stream.next_event(PATIENCE).await.unwrap();
    assert_eq!((gap.event.as_str(), gap.data.as_str()), ("gap", r#"{"channels":["a"],"reason":"epoch"}"#));
    assert_eq!(stream.next_event(PATIENCE).await.unwrap().data, "before");
    for number in 0..10 {
        assert_eq!(stream.next_event(PATIENCE).await.unwrap().data, format!("after {number}"));
    }
    // What had been published before the backup is still known by its key.
    assert_eq!(publish(&server, "before").await.json().unwrap()["duplicate"], true);
}
