//! Requests that are wrong: each is told what is wrong, as a problem, and the server goes on.

use axum::http::Method;
use serde_json::json;
use tidings_testkit::http::{Answer, HttpClient};

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer};

async fn post(node: &Node, content_type: Option<&str>, body: &[u8]) -> Answer {
    let mut headers = vec![("authorization".to_owned(), bearer(API_KEY))];
    headers.extend(content_type.map(|value| ("content-type".to_owned(), value.to_owned())));
    HttpClient::new(node.addr()).send(Method::POST, "/v1/publish", &headers, body.to_vec()).await.unwrap()
}

#[tokio::test]
async fn a_body_that_is_no_event_is_told_what_is_wrong_with_it() {
    let node = Node::start("[limits]\nmax_data_bytes = 1000\nmax_batch_bytes = 2000\n").await;
    let long = "x".repeat(201);
    for (body, names) in [
        ("", ""),
        ("{", ""),
        ("null", "JSON object"),
        ("[]", "JSON object"),
        ("\"open:a\"", "JSON object"),
        ("{}", "channel"),
        (r#"{"channel":"open:a","data":1}}"#, ""),
        (r#"{"channel":"open:a","data":1} {"channel":"open:a","data":1}"#, ""),
        (r#"{"channel":"open:a","data":}"#, ""),
        (r#"{"channel":"open:a","data":NaN}"#, ""),
        (r#"{"channel":"open:a","data":01}"#, ""),
        (r#"{"channel":"open:a","data":"\ud800"}"#, "data"),
        (r#"{"channel":"open:a"}"#, "data"),
        (r#"{"channel":"open:a","data":1,"data":2}"#, "data"),
        (r#"{"channel":"open:a","data":1,"Data":2}"#, "Data"),
        (r#"{"channel":"open:a","data":1,"ttl":2}"#, "ttl"),
        (r#"{"channel":"","data":1}"#, "channel"),
        (r#"{"channel":"open a","data":1}"#, "channel"),
        (r#"{"channel":"open:","data":1}"#, "channel"),
        (r#"{"channel":":a","data":1}"#, "channel"),
        (r#"{"channel":"제주","data":1}"#, "channel"),
        (r#"{"channel":"a\u0000b","data":1}"#, "channel"),
        (&format!(r#"{{"channel":"{long}","data":1}}"#), "channel"),
        (r#"{"channel":7,"data":1}"#, ""),
        (r#"{"channel":"open:a","data":1,"event":"a\nid: 1"}"#, "event"),
        (r#"{"channel":"open:a","data":1,"event":"a\u0000"}"#, "event"),
        (r#"{"channel":"open:a","data":1,"event":"tidings.x"}"#, "event"),
        (&format!(r#"{{"channel":"open:a","data":1,"event":"{long}"}}"#), "event"),
        (r#"{"channel":"open:a","data":1,"key":""}"#, "key"),
        (&format!(r#"{{"channel":"open:a","data":1,"key":"{long}"}}"#), "key"),
        (r#"{"channel":"open:a","data":1,"conflate":""}"#, "conflate"),
        (r#"{"channel":"open:a","data":1,"conflate":true}"#, ""),
        (r#"{"channel":"open:a","data":1,"sent_at":-1}"#, ""),
        (r#"{"channel":"open:a","data":1,"sent_at":"now"}"#, ""),
        (r#"{"channel":"open:a","data":1,"expires_in":0}"#, "expires_in"),
    ] {
        let answer = post(&node, Some("application/json"), body.as_bytes()).await;
        let detail = assert_problem(&answer, 400, "invalid_body");
        assert!(detail.contains(names) && !detail.is_empty(), "{body}: {detail}");
    }
    for body in
        [&b"{\"channel\":\"open:a\",\"data\":\"\xff\"}"[..], b"\xff\xfe", b"{\"channel\":\"open:\xc3\x28\",\"data\":1}"]
    {
        assert_problem(&post(&node, Some("application/json"), body).await, 400, "invalid_body");
    }
    // Deeper than any parser's stack.
    let deep = format!(r#"{{"channel":"open:a","data":{}{}}}"#, "[".repeat(400), "]".repeat(400));
    let answer = post(&node, Some("application/json"), deep.as_bytes()).await;
    assert!(answer.status == 200 || answer.status == 400, "{}", answer.text());
    for content_type in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some("\u{e9}"),
    ] {
        let answer = post(&node, content_type, br#"{"channel":"open:a","data":1}"#).await;
        let detail = assert_problem(&answer, 415, "unsupported_media_type");
        assert!(detail.contains("application/json") && detail.contains("application/x-ndjson"), "{detail}");
    }
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        assert_eq!(post(&node, Some(content_type), br#"{"channel":"open:a","data":1}"#).await.status, 200);
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_to_the_byte() {
    let node =
        Node::start("[limits]\nmax_data_bytes = 1000\nmax_batch_bytes = 200000\nmax_channels_per_publish = 3\n").await;
    let of = |bytes: usize| json!({"channel": "open:a", "data": "x".repeat(bytes - 2)}).to_string();
    assert_eq!(post(&node, Some("application/json"), of(1000).as_bytes()).await.status, 200);
    let detail =
        assert_problem(&post(&node, Some("application/json"), of(1001).as_bytes()).await, 413, "data_too_large");
    assert!(detail.contains("1001") && detail.contains("limits.max_data_bytes"), "{detail}");
    // Escapes and white space do not count against the data where they are not part of it.
    let spaced = format!(r#"{{"channel":"open:a","data":{}[1]}}"#, " ".repeat(1500));
    assert_eq!(post(&node, Some("application/json"), spaced.as_bytes()).await.status, 200);
    for megabytes in [1, 8] {
        let huge = of(megabytes << 20);
        assert_problem(&post(&node, Some("application/json"), huge.as_bytes()).await, 413, "body_too_large");
        assert_problem(&post(&node, Some("application/x-ndjson"), huge.as_bytes()).await, 413, "body_too_large");
    }
    let four = json!({"channels": ["open:a", "open:b", "open:c", "open:d"], "data": 1}).to_string();
    assert_problem(&post(&node, Some("application/json"), four.as_bytes()).await, 400, "invalid_body");
    node.assert_serves().await;
}

#[tokio::test]
async fn a_stream_of_too_many_or_unlikely_channels_is_refused() {
    let node = Node::start("").await;
    let query = |count: usize| (0..count).map(|n| format!("&channel=open:{n:0>4}")).collect::<String>();
    let answer = node.get(&format!("/v1/subscribe?{}", query(1001))).await;
    let detail = assert_problem(&answer, 400, "too_many_channels");
    assert!(detail.contains("1001") && detail.contains("1000"), "{detail}");
    let mut stream = node.stream(&query(1000)).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().channels.len(), 1000);
    for query in [
        "channel=",
        "channel=a%20b",
        "channel=%EC%A0%9C",
        "channel=%ff",
        "channel=a%00",
        "channel=a%0Ab",
        "channel=open:",
        &format!("channel={}", "x".repeat(201)),
        "channel=open:a&chanel=open:b",
        "channel=open:a&follows=1",
        "channel=open:a&envelope=yes",
        "channel=open:a&envelope=1&envelope=1",
        "channel=open:a&replay=x",
        "channel=open:a&last_event_id=a&last_event_id=b",
        "channel=open:a&%ff=1",
    ] {
        assert_problem(&node.get(&format!("/v1/subscribe?{query}")).await, 400, "invalid_query");
    }
    assert_problem(&node.get("/v1/subscribe?").await, 400, "channel_missing");
    for accept in ["text/html", "application/xml", "image/*"] {
        let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a", &[("accept", accept)], "").await;
        assert_problem(&answer, 406, "not_acceptable");
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let answer = node.call(Method::GET, "/v1/subscribe?channel=open:a", &upgrade, "").await;
    assert_problem(&answer, 406, "not_acceptable");
    for accept in ["text/event-stream", "*/*", "text/event-stream;q=0.9, application/json", "TEXT/*"] {
        let stream = node.stream_with("channel=open:a", &[("accept", accept)]).await;
        assert_eq!(stream.header("content-type"), Some("text/event-stream"), "{accept}");
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn a_url_over_the_limit_is_refused_to_the_byte() {
    let node = Node::start("[limits]\nmax_url_bytes = 8192\n").await;
    let beginning = "/v1/channels/open:a/history?after=";
    let of = |bytes: usize| format!("{beginning}{}", "x".repeat(bytes - beginning.len()));
    assert_problem(&node.get(&of(8192)).await, 400, "invalid_query");
    let detail = assert_problem(&node.get(&of(8193)).await, 414, "url_too_long");
    assert!(detail.contains("8193") && detail.contains("limits.max_url_bytes"), "{detail}");
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_told_so() {
    let node = Node::start("").await;
    for path in
        ["/nothing", "/v1", "/v1/", "/v1/publish/", "/v2/publish", "/v1/channels", "/v1/channels/a/b/c", "/healthz/x"]
    {
        assert_problem(&node.get(path).await, 404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::GET, "/v1/publish", "POST"),
        (Method::PUT, "/v1/publish", "POST"),
        (Method::DELETE, "/v1/publish", "POST"),
        (Method::POST, "/v1/subscribe?channel=open:a", "GET"),
        (Method::POST, "/v1/channels/open:a/history", "DELETE"),
        (Method::GET, "/v1/connections/x", "DELETE"),
        (Method::POST, "/metrics", "GET"),
        (Method::PATCH, "/healthz", "GET"),
    ] {
        let answer = node.call(method.clone(), path, &[("authorization", &bearer(API_KEY))], "").await;
        assert_problem(&answer, 405, "method_not_allowed");
        // RFC 9110 §15.5.6 asks for it.
        let header = answer.header("allow").unwrap_or_default();
        assert!(header.contains(allowed), "{method} {path}: {header:?}");
    }
    for path in
        ["/v1/channels/a%20b", "/v1/channels/%ff", "/v1/channels/%ff/history", "/v1/channels/:a", "/v1/channels/a%00"]
    {
        assert_problem(&node.get(path).await, 400, "invalid_path");
    }
    let key = bearer(API_KEY);
    for path in ["/v1/connections/%ff", "/v1/users/%ff/connections", "/v1/users/a%20b/connections"] {
        let answer = node.call(Method::DELETE, path, &[("authorization", &key)], "").await;
        assert_problem(&answer, 400, "invalid_path");
    }
    let blocked = node.call(Method::DELETE, "/v1/users/42/connections?blok=5", &[("authorization", &key)], "").await;
    assert_problem(&blocked, 400, "invalid_query");
    // A slash in a channel's name is written as %2F, and a path is only decoded once.
    node.publish(json!({"channel": "open:a/b", "data": 1})).await;
    let events = node.get("/v1/channels/open:a%2Fb/history").await.json().unwrap()["events"].clone();
    assert_eq!(events[0]["channel"], "open:a/b");
    assert_problem(&node.get("/v1/channels/open:a%252Fb").await, 400, "invalid_path");
    // Calls without parameters do not take any.
    for path in ["/v1/channels/open:a?limit=1", "/v1/channels/open:a?colour=red"] {
        assert_problem(&node.get(path).await, 400, "invalid_query");
    }
    let answer = node.post("/v1/publish?channel=open:a", Some(API_KEY), r#"{"channel":"open:a","data":1}"#).await;
    assert_problem(&answer, 400, "invalid_query");
    let answer = node.post("/v1/tickets?sub=42", Some(API_KEY), r#"{"sub":"42"}"#).await;
    assert_problem(&answer, 400, "invalid_query");
    node.assert_serves().await;
}

#[tokio::test]
async fn refusals_are_counted_by_their_code() {
    let node = Node::start("").await;
    let body = "{\"channel\":\"open:a\",\"data\":1}\nnot json\n{}\n";
    let answer = post(&node, Some("application/x-ndjson"), body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    node.get("/nothing").await;
    assert_eq!(node.metric("tidings_requests_refused_total{code=\"invalid_body\"}").await, 2.0);
    assert_eq!(node.metric("tidings_requests_refused_total{code=\"not_found\"}").await, 1.0);
}
