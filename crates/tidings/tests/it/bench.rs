//! The load generator against real servers: its accounts have to add up, whatever the speed.

use serde_json::{Value, json};

use crate::{
    command::run,
    node::{API_KEY, JWT_SECRET, Node},
    plain_server::{Framing, Lie, PlainServer},
};

/// Runs a scenario against a server and gives its report. A picture is drawn each time.
async fn bench_at(server: &[&str], scenario: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (json, svg) = (dir.path().join("report.json"), dir.path().join("report.svg"));
    let mut arguments = vec!["bench"];
    arguments.extend(scenario);
    arguments.extend(server);
    arguments.extend(["--json", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    let done = tokio::task::block_in_place(|| run(&arguments));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["scenario"], scenario[0]);
    report
}

async fn bench(node: &Node, scenario: &[&str]) -> Value {
    let (url, pid) = (node.server.url(""), node.server.pid().unwrap().to_string());
    let server = ["--url", &url, "--api-key", API_KEY, "--pid", &pid, "--channel-prefix", "open:"];
    let report = bench_at(&server, scenario).await;
    assert_eq!(report["server_kind"], "tidings");
    report
}

async fn bench_plain(server: &PlainServer, scenario: &[&str]) -> Value {
    let (subscribe, publish) = (server.url("/sub/{channel}"), server.url("/pub/{channel}"));
    let pid = std::process::id().to_string();
    let server = ["--subscribe-url", &subscribe, "--publish-url", &publish, "--pid", &pid];
    let report = bench_at(&server, scenario).await;
    assert_eq!(report["server_kind"], "plain");
    report
}

/// Deliveries, and those that were lost, duplicated and reordered.
fn account(report: &Value) -> [u64; 4] {
    ["deliveries", "lost", "duplicated", "reordered"].map(|name| report[name].as_u64().unwrap())
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
    let idle = ["idle", "--streams", "40", "--own-channels", "--settle", "0s", "--duration", "100ms"];
    let idle = bench(&node, &idle).await;
    assert_eq!((&idle["streams"], &idle["ended"]), (&json!(40), &json!(0)));
    assert!(idle["bytes_per_stream"].is_f64() && idle["server"]["cpu_seconds"].is_f64(), "{idle}");
    let scenario = ["broadcast", "--streams", "40", "--rate", "50", "--duration", "400ms"];
    let report = bench(&node, &scenario).await;
    assert_eq!((&report["published"], account(&report)), (&json!(20), [800, 0, 0, 0]), "{report}");
    assert_eq!((&report["latency"]["count"], &report["gaps"]), (&json!(800), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_divide_the_streams_and_add_up_their_accounts() {
    let node = Node::start("").await;
    for division in [["--threads", "1"], ["--threads", "2"], ["--processes", "3"]] {
        let mut scenario = vec!["broadcast", "--streams", "41", "--window", "4", "--messages", "30"];
        scenario.extend(division);
        let report = bench(&node, &scenario).await;
        assert_eq!((&report["streams"], account(&report)), (&json!(41), [1230, 0, 0, 0]), "{division:?}: {report}");
        let mut scenario =
            vec!["unicast", "--users", "10", "--publishers", "5", "--rate", "100", "--duration", "500ms"];
        scenario.extend(division);
        let report = bench(&node, &scenario).await;
        assert_eq!((&report["published"], account(&report)), (&json!(50), [50, 0, 0, 0]), "{division:?}: {report}");
    }
    node.wait_for_streams(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_signed_in_and_listen_to_their_own_channels() {
    let node = Node::start("").await;
    let scenario = ["unicast", "--users", "8", "--publishers", "3", "--duration", "300ms", "--jwt-secret", JWT_SECRET];
    let report = bench(&node, &scenario).await;
    let [deliveries, lost, duplicated, reordered] = account(&report);
    assert_eq!((&report["messages"], lost, duplicated, reordered), (&json!(deliveries), 0, 0, 0), "{report}");
    let published = node.metric("tidings_events_published_total{namespace=\"user\"}").await
        + node.metric("tidings_events_published_total{namespace=\"default\"}").await;
    assert_eq!(published, deliveries as f64);
    assert!(deliveries > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_given_what_it_missed() {
    let node = Node::start("").await;
    let ids = node.publish_numbers("open:0", 0..5).await;
    let scenario = ["storm", "--streams", "20", "--concurrency", "7", "--resume-cursor", &ids[1]];
    let report = bench(&node, &scenario).await;
    assert_eq!((&report["streams"], &report["events"]), (&json!(20), &json!(60)), "{report}");
    assert_eq!((&report["failed"], &report["latency"]["count"]), (&json!(0), &json!(20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_are_reported_apart() {
    let node = Node::start("[stream]\nqueue_max_bytes = 262144\n").await;
    let scenario = ["broadcast", "--streams", "3", "--slow-readers", "2", "--window", "1", "--messages", "300"];
    let report = bench(&node, &[&scenario[..], &["--data-bytes", "60000"]].concat()).await;
    assert_eq!(account(&report), [900, 0, 0, 0], "{report}");
    assert_eq!((&report["streams"], &report["slow_readers"], &report["slow_ended"]), (&json!(3), &json!(2), &json!(2)));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_is_compared_with_being_told() {
    let node = Node::start("").await;
    let poll_url = node.server.url("/healthz?user={user}");
    let pid = node.server.pid().unwrap().to_string();
    let scenario = ["poll", "--poll-url", &poll_url, "--users", "20", "--interval", "200ms", "--duration", "400ms"];
    let report = bench(&node, &[&scenario[..], &["--change-rate", "0.5", "--api-pid", &pid]].concat()).await;
    let [polled, pushed] = [0, 1].map(|at| &report["phases"][at]);
    assert_eq!((&polled["phase"], &polled["events"]), (&json!("poll"), &json!(0)));
    let polls = polled["requests"].as_u64().unwrap() + polled["skipped"].as_u64().unwrap();
    assert_eq!(polls, 40, "{report}");
    assert_eq!((&pushed["phase"], &pushed["lost"]), (&json!("push"), &json!(0)), "{report}");
    let changes = &pushed["changes"];
    assert_eq!(changes.as_u64().unwrap() + pushed["merged"].as_u64().unwrap(), 20, "{report}");
    assert_eq!((&pushed["events"], &pushed["latency"]["count"]), (changes, changes), "{report}");
    assert!(pushed["api_cpu_percent_of_core"].is_f64() && pushed["push_cpu_percent_of_core"].is_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_of_plain_event_streams_will_do() {
    for framing in [Framing::Chunked, Framing::UntilClose] {
        let server = PlainServer::start(framing, Lie::None).await;
        let idle = bench_plain(&server, &["idle", "--streams", "9", "--settle", "0s", "--duration", "100ms"]).await;
        assert_eq!((&idle["streams"], &idle["heartbeats"]), (&json!(9), &json!(9)), "{idle}");
        let storm = bench_plain(&server, &["storm", "--streams", "9"]).await;
        assert_eq!(storm["streams"], 9, "{storm}");
        let scenario = ["broadcast", "--streams", "9", "--window", "3", "--messages", "20"];
        let report = bench_plain(&server, &scenario).await;
        assert_eq!(account(&report), [180, 0, 0, 0], "{report}");
        let scenario = ["unicast", "--users", "9", "--rate", "100", "--duration", "200ms", "--publishers", "4"];
        let report = bench_plain(&server, &scenario).await;
        assert_eq!(account(&report), [20, 0, 0, 0], "{report}");
        let report = bench_plain(&server, &["publish", "--publishers", "2", "--duration", "100ms"]).await;
        assert!(report["events"].as_u64().unwrap() > 0, "{report}");
        let report =
            bench_plain(&server, &["churn", "--connects", "50", "--stay", "50ms", "--duration", "500ms"]).await;
        assert!(report["connected"].as_u64().unwrap() > 0, "{report}");
        let poll_url = server.url("/api/{user}");
        let scenario = ["poll", "--poll-url", &poll_url, "--users", "9", "--interval", "100ms", "--duration", "200ms"];
        let report = bench_plain(&server, &[&scenario[..], &["--change-rate", "1"]].concat()).await;
        assert_eq!(report["phases"][1]["events"], report["phases"][1]["changes"], "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lies_is_found_out() {
    for (lie, wanted, ended) in [
        (Lie::Lose, [29, 1, 0, 0], 0),
        (Lie::Double, [30, 0, 1, 0], 0),
        (Lie::Swap, [30, 0, 0, 1], 0),
        (Lie::End, [25, 5, 0, 0], 1),
    ] {
        let server = PlainServer::start(Framing::Chunked, lie).await;
        let scenario = ["broadcast", "--streams", "3", "--rate", "50", "--duration", "200ms", "--patience", "500ms"];
        let report = bench_plain(&server, &scenario).await;
        assert_eq!((account(&report), report["ended"].as_u64()), (wanted, Some(ended)), "{lie:?}: {report}");
        let server = PlainServer::start(Framing::UntilClose, lie).await;
        let scenario = ["unicast", "--users", "1", "--publishers", "1", "--rate", "50", "--duration", "200ms"];
        let report = bench_plain(&server, &[&scenario[..], &["--patience", "500ms"]].concat()).await;
        let [_, lost, duplicated, reordered] = account(&report);
        assert_eq!([lost, duplicated, reordered], wanted[1..], "{lie:?}: {report}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (arguments, code, text) in [
        (&["churn"][..], 2, "--pid is needed"),
        (&["idle", "--url", "https://127.0.0.1"], 2, "without TLS"),
        (&["broadcast", "--window", "1", "--rate", "2"], 2, "cannot be used with"),
        (&["storm", "--streams", "1", "--url", "http://127.0.0.1:1"], 1, "refused"),
        (&["unicast", "--subscribe-url", "http://127.0.0.1:1/x"], 1, "--publish-url"),
        (&["idle", "--channel-prefix", "a b"], 2, "a b0"),
    ] {
        let done = run(&[&["bench"], arguments].concat());
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.stderr.contains(text), "{done:?}");
    }
}
