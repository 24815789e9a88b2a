//! What operators look at: the description of the API, metrics, health, and reloading.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::json;
use tidings_testkit::wait;

use crate::node::{API_KEY, LIMIT, Node, assert_problem, next, value_of};

/// The calls of the contract that this version has.
const CALLS: &[&str] = &[
    "DELETE /v1/channels/{channel}/history",
    "DELETE /v1/connections/{id}",
    "DELETE /v1/users/{user}/connections",
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
    "GET /v1/channels/{channel}",
    "GET /v1/channels/{channel}/history",
    "GET /v1/channels/{channel}/presence",
    "GET /v1/users/{user}/presence",
    "GET /v1/connections",
    "GET /v1/subscribe",
    "POST /v1/publish",
    "POST /v1/tickets",
    "POST /v1/channels/{channel}/followers",
    "POST /v1/notifications",
    "GET /v1/notifications/{id}",
    "GET /v1/me/notifications",
    "GET /v1/me/notifications/counts",
    "POST /v1/me/notifications/read",
    "POST /v1/me/notifications/unread",
    "POST /v1/me/notifications/archive",
    "POST /v1/me/notifications/seen",
    "POST /v1/me/ack",
    "GET /v1/me/follows",
    "POST /v1/me/follows",
    "PUT /v1/me/follows/{channel}",
    "DELETE /v1/me/follows/{channel}",
    "GET /v1/me/devices",
    "PUT /v1/me/devices/{device}",
    "DELETE /v1/me/devices/{device}",
    "GET /v1/me/preferences",
    "PUT /v1/me/preferences",
    "DELETE /v1/users/{user}",
    "GET /v1/users/{user}/presence",
    "GET /v1/channels/{channel}/presence",
    "GET /v1/users/{user}/notifications",
    "GET /v1/users/{user}/notifications/counts",
    "GET /v1/users/{user}/follows",
    "POST /v1/users/{user}/follows",
    "PUT /v1/users/{user}/follows/{channel}",
    "DELETE /v1/users/{user}/follows/{channel}",
    "GET /v1/users/{user}/devices",
    "PUT /v1/users/{user}/devices/{device}",
    "DELETE /v1/users/{user}/devices/{device}",
    "GET /v1/users/{user}/preferences",
    "PUT /v1/users/{user}/preferences",
    "GET /v1/pushes/dead",
    "POST /v1/pushes/{id}/retry",
    // The description and the page are no calls.
    "GET /openapi.json",
    "GET /",
];

#[tokio::test]
async fn the_description_lists_every_call_and_no_other() {
    let node = Node::start("presence = true\n").await;
    let answer = node.call(Method::GET, "/openapi.json", &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let openapi = answer.json().unwrap();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1."), "{}", openapi["openapi"]);
    assert!(!openapi["info"]["version"].as_str().unwrap().is_empty());
    let (mut listed, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            let is_described = call["operationId"].is_string() && call["summary"].is_string();
            assert!(is_described && call["responses"].is_object(), "{method} {path}");
            let name = call["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} names two calls");
            // Every part of a path is a parameter.
            let named = call["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path").count();
            assert_eq!(named, path.matches('{').count(), "{method} {path}");
        }
    }
    let expected: BTreeSet<_> = CALLS[..CALLS.len() - 2].iter().map(|call| call.to_string()).collect();
    assert_eq!(listed, expected);
    let text = openapi.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = &reference[..reference.find('"').unwrap()];
        assert!(openapi.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    for call in CALLS {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path
            .replace("{channel}", "open:a")
            .replace("{user}", "42")
            .replace("{id}", "none")
            .replace("{device}", "d");
        let answer = node.call(method.parse().unwrap(), &path, &[], "").await;
        let code = answer.json().ok().and_then(|problem| Some(problem["code"].as_str()?.to_owned()));
        assert!(!matches!(code.as_deref(), Some("not_found" | "method_not_allowed")), "{call}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_viewer_and_the_page_need_no_other_host() {
    let node = Node::start("").await;
    let redirect = node.call(Method::GET, "/docs", &[], "").await;
    assert!((300..400).contains(&redirect.status), "{}", redirect.status);
    assert_eq!(redirect.header("location"), Some("/docs/"));
    let viewer = node.call(Method::GET, "/docs/", &[], "").await;
    assert!(viewer.header("content-type").unwrap().starts_with("text/html"));
    let viewer = viewer.text();
    let files: Vec<_> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| viewer.split(attribute).skip(1).map(|rest| &rest[..rest.find('"').unwrap()]))
        .collect();
    assert!(files.len() >= 4, "{viewer}");
    for file in files {
        assert!(!file.contains("//"), "{file}");
        let path = format!("/docs/{}", file.trim_start_matches("./"));
        assert_eq!(node.call(Method::GET, &path, &[], "").await.status, 200, "{path}");
    }
    let start = node.call(Method::GET, "/docs/swagger-initializer.js", &[], "").await.text();
    assert!(start.contains("/openapi.json") && start.contains("\"validatorUrl\": \"none\""), "{start}");
    let page = node.call(Method::GET, "/", &[], "").await;
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    for text in [&viewer, &start, &page.text()] {
        assert!(!text.contains("https://") && !text.contains("http://"), "{text}");
    }
}

#[tokio::test]
async fn every_metric_is_there_from_the_start_and_counts() {
    let node = Node::start("[namespaces.chat]\nsubscribe = [\"anyone\"]\n").await;
    let answer = node.call(Method::GET, "/metrics", &[], "").await;
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let metrics = answer.text();
    let mut expected = Vec::new();
    for transport in ["sse", "long_poll"] {
        for metric in ["connections", "connections_opened_total", "events_delivered_total"] {
            expected.push(format!("tidings_{metric}{{transport=\"{transport}\"}}"));
        }
        for reason in tidings_protocol::CloseReason::ALL {
            expected.push(format!("tidings_connections_closed_total{{transport=\"{transport}\",reason=\"{reason}\"}}"));
        }
    }
    for namespace in ["default", "chat", "open"] {
        expected.push(format!("tidings_events_published_total{{namespace=\"{namespace}\"}}"));
    }
    for reason in ["conflated", "slow_consumer"] {
        expected.push(format!("tidings_events_dropped_total{{reason=\"{reason}\"}}"));
    }
    for outcome in ["complete", "gap", "interrupted"] {
        expected.push(format!("tidings_resume_total{{outcome=\"{outcome}\"}}"));
    }
    expected.push("tidings_delivery_seconds_count".to_owned());
    for sample in expected {
        assert_eq!(value_of(&metrics, &sample), Some(0.0), "{sample} in\n{metrics}");
    }
    assert_eq!(value_of(&metrics, "tidings_broker_up"), Some(1.0));
    assert!(metrics.contains("tidings_delivery_seconds_bucket{le=\"") && metrics.ends_with("# EOF\n"));

    let mut streams = [node.stream("channel=chat:a").await, node.stream("channel=chat:a").await];
    for stream in &mut streams {
        stream.connected(LIMIT).await.unwrap();
    }
    node.publish(json!({"channel": "chat:a", "data": 1})).await;
    // Names come from clients, and would grow without end.
    node.publish(json!({"channel": "made-up-by-somebody:x", "data": 1})).await;
    for stream in &mut streams {
        next(stream).await;
    }
    let metrics = node.call(Method::GET, "/metrics", &[], "").await.text();
    for (sample, value) in [
        ("tidings_connections{transport=\"sse\"}", 2.0),
        ("tidings_events_published_total{namespace=\"chat\"}", 1.0),
        ("tidings_events_published_total{namespace=\"default\"}", 1.0),
        ("tidings_events_delivered_total{transport=\"sse\"}", 2.0),
        ("tidings_delivery_seconds_count", 2.0),
    ] {
        assert_eq!(value_of(&metrics, sample), Some(value), "{sample} in\n{metrics}");
    }
    assert!(!metrics.contains("made-up-by-somebody"));
}

#[tokio::test]
async fn a_reload_changes_who_may_do_what_and_a_mistake_changes_nothing() {
    let node = Node::start("").await;
    let new_key = "tk_fedcba9876543210";
    let path = node.server.config_path();
    let rewrite = |from: &str, to: &str| {
        let config = std::fs::read_to_string(&path).unwrap();
        assert!(config.contains(from), "{config}");
        std::fs::write(&path, config.replace(from, to)).unwrap();
    };
    let lists = async |key: &str| {
        let authorization = crate::node::bearer(key);
        let headers = [("authorization", authorization.as_str())];
        node.call(Method::GET, "/v1/connections", &headers, "").await.status
    };
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    assert_eq!((lists(API_KEY).await, lists(new_key).await), (200, 401));

    // Both, while backends change over; then the new one alone.
    rewrite(&format!("[\"{API_KEY}\"]"), &format!("[\"{API_KEY}\", \"{new_key}\"]"));
    node.server.hang_up().unwrap();
    wait::until("the new key to be taken", LIMIT, async || (lists(new_key).await == 200).then_some(())).await.unwrap();
    assert_eq!(lists(API_KEY).await, 200);
    rewrite(&format!("[\"{API_KEY}\", \"{new_key}\"]"), &format!("[\"{new_key}\"]"));
    rewrite("publish = [\"anyone\"]", "publish = [\"nobody\"]");
    node.server.hang_up().unwrap();
    wait::until("the old key to be refused", LIMIT, async || (lists(API_KEY).await == 401).then_some(()))
        .await
        .unwrap();
    let event = r#"{"channel":"open:a","data":"reloaded"}"#;
    assert_problem(&node.post("/v1/publish", None, event).await, 401, "unauthorized");
    assert_eq!(node.post("/v1/publish", Some(new_key), event).await.status, 200);
    assert_eq!(next(&mut stream).await.data, "reloaded", "streams that are open stay open");

    rewrite(&format!("[\"{new_key}\"]"), "[\"tk_short\"]");
    node.server.hang_up().unwrap();
    node.server.wait_for_log("configuration not reloaded; the old one stays", LIMIT).await.unwrap();
    assert!(node.server.log().contains("auth.api_keys"), "{}", node.server.log());
    assert_eq!((lists(new_key).await, lists("tk_short").await), (200, 401));
    std::fs::write(&path, "no toml = = at all").unwrap();
    node.server.hang_up().unwrap();
    let both = wait::until("the second refusal in the log", LIMIT, async || {
        (node.server.log().matches("configuration not reloaded").count() == 2).then_some(())
    });
    both.await.unwrap();
    assert_eq!(lists(new_key).await, 200);
    for secret in [API_KEY, new_key, "tk_short", crate::node::JWT_SECRET] {
        assert!(!node.server.log().contains(secret), "a secret is in the log");
    }
}

/// A reload that takes away all credentials would shut everybody out of a running server.
#[tokio::test]
async fn a_reload_without_credentials_is_refused() {
    let node = Node::start("").await;
    let path = node.server.config_path();
    let config = std::fs::read_to_string(&path).unwrap();
    let without: String = config
        .lines()
        .filter(|line| !line.contains("api_keys") && !line.contains("secret"))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&path, without).unwrap();
    node.server.hang_up().unwrap();
    node.server.wait_for_log("configuration not reloaded; the old one stays", LIMIT).await.unwrap();
    assert_eq!(node.get("/v1/connections").await.status, 200);
}

#[tokio::test]
async fn what_needs_a_restart_is_named() {
    let node = Node::start("[stream]\nheartbeat = \"1h\"\n[limits]\nmax_follows_per_user = 5\n").await;
    let path = node.server.config_path();
    let config = std::fs::read_to_string(&path).unwrap();
    let config = config.replace("data_dir = \"", "data_dir = \"/nowhere").replace("\"1h\"", "\"100ms\"");
    let config = config.replace("max_follows_per_user = 5", "max_follows_per_user = 6");
    std::fs::write(&path, config).unwrap();
    node.server.hang_up().unwrap();
    node.server.wait_for_log("these need a restart", LIMIT).await.unwrap();
    let log = node.server.log();
    for key in ["data_dir", "limits.max_follows_per_user"] {
        assert!(log.lines().any(|line| line.contains("need a restart") && line.contains(key)), "{key}: {log}");
    }
    // The rest is in force.
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    assert!(matches!(stream.next(LIMIT).await.unwrap(), Some(tidings_protocol::sse::Parsed::Comment(_))));
}
