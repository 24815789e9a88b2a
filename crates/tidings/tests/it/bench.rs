//! The load generator against a real server: its accounts have to add up, whatever the speed.

use serde_json::Value;

use crate::{
    command::run,
    node::{API_KEY, Node},
};

/// Runs a scenario and gives its report.
async fn bench(node: &Node, scenario: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let (url, pid) = (node.server.url(""), node.server.pid().unwrap().to_string());
    let mut arguments = vec!["bench"];
    arguments.extend(scenario);
    let path_text = path.to_str().unwrap();
    let common = ["--url", &url, "--api-key", API_KEY, "--pid", &pid, "--json", path_text, "--channel-prefix", "open:"];
    arguments.extend(common);
    let done = tokio::task::block_in_place(|| run(&arguments));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stdout.is_empty());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_publish_is_counted_by_its_answer() {
    let node = Node::start("").await;
    for batch in ["1", "10"] {
        let before = node.metric("tidings_events_published_total{namespace=\"open\"}").await;
        let report = bench(&node, &["publish", "--publishers", "4", "--batch", batch, "--duration", "300ms"]).await;
        let after = node.metric("tidings_events_published_total{namespace=\"open\"}").await;
        let events = report["events"].as_f64().unwrap();
        assert!(events > 0.0);
        assert_eq!(after - before, events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_is_accounted_for() {
    let node = Node::start("").await;
    let idle = bench(&node, &["idle", "--streams", "40", "--own-channels", "--duration", "100ms"]).await;
    assert_eq!((idle["streams"].as_u64(), idle["published"].as_u64()), (Some(40), Some(0)));
    assert!(idle["server_bytes_per_stream"].is_i64());
    let scenario = ["broadcast", "--streams", "40", "--events", "50", "--duration", "400ms"];
    let report = bench(&node, &scenario).await;
    assert_eq!(report["published"], 20);
    assert_eq!((&report["expected"], &report["delivered"]), (&Value::from(800), &Value::from(800)));
    assert_eq!(report["repeated_or_reordered"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_come_and_go() {
    let node = Node::start("").await;
    let scenario =
        ["churn", "--connects", "50", "--events", "20", "--stay", "100ms", "--settle", "0s", "--duration", "2s"];
    let report = bench(&node, &scenario).await;
    assert!(report["connected"].as_u64().unwrap() > 0, "{report}");
    assert!(report["resident_end_bytes"].as_u64().unwrap() > 0);
    node.wait_for_streams(0).await;
}
