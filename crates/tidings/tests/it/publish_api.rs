//! `POST /v1/publish`, and how what is published arrives.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{http::Answer, wait};

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer, next, token};

async fn publish_lines(node: &Node, credentials: &str, body: &str) -> Answer {
    let headers = [("content-type", "application/x-ndjson"), ("authorization", &bearer(credentials))];
    node.call(Method::POST, "/v1/publish", &headers, body).await
}

#[tokio::test]
async fn data_arrives_as_it_was_written() {
    let node = Node::start("").await;
    let mut bare = node.stream("channel=open:a").await;
    let mut enveloped = node.stream("channel=open:a&envelope=1").await;
    bare.connected(LIMIT).await.unwrap();
    enveloped.connected(LIMIT).await.unwrap();
    let forms = [
        // The JSON, the data of a frame, and the data of its envelope.
        (r#""plain""#, "plain", r#""plain""#),
        (r#""""#, "", r#""""#),
        (r#""a\nb\rc\r\nd\n""#, "a\nb\nc\nd\n", r#""a\nb\rc\r\nd\n""#),
        (r#""\r""#, "\n", r#""\r""#),
        (r#""제주 \u00e9 \"x\"""#, "제주 é \"x\"", r#""제주 \u00e9 \"x\"""#),
        (r#"": not a comment""#, ": not a comment", r#"": not a comment""#),
        ("1.10", "1.10", "1.10"),
        ("-0.0", "-0.0", "-0.0"),
        ("1E+400", "1E+400", "1E+400"),
        ("12345678901234567890123", "12345678901234567890123", "12345678901234567890123"),
        ("null", "null", "null"),
        (
            "{ \"b\" : [ 1.0, {\"a\": [] } ],\n \"a\": \"x\\r\\ny z\" }",
            r#"{"b":[1.0,{"a":[]}],"a":"x\r\ny z"}"#,
            r#"{"b":[1.0,{"a":[]}],"a":"x\r\ny z"}"#,
        ),
    ];
    for (json, data, in_envelope) in forms {
        let answer = node.post("/v1/publish", None, &format!(r#"{{"channel":"open:a","data":{json}}}"#)).await;
        assert_eq!(answer.status, 200, "{json}: {}", answer.text());
        let published = answer.json().unwrap();
        assert_eq!(published["duplicate"], false);
        let received = next(&mut bare).await;
        assert_eq!((received.event.as_str(), received.data.as_str()), ("message", data));
        let id = published["id"].as_str().unwrap();
        let envelope = next(&mut enveloped).await.data;
        let beginning =
            format!(r#"{{"id":"{id}","channel":"open:a","event":"message","data":{in_envelope},"sent_at":"#);
        assert!(envelope.starts_with(&beginning), "{envelope}");
    }
    let raw = String::from_utf8(bare.raw().to_vec()).unwrap();
    assert!(raw.contains("\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"), "{raw}");
    assert!(!raw.contains('\r'), "{raw}");
}

#[tokio::test]
async fn a_type_is_any_word_but_the_servers_own() {
    let node = Node::start("").await;
    let mut stream = node.stream("channel=open:a&envelope=1").await;
    stream.connected(LIMIT).await.unwrap();
    for event in ["order.filled", "제주", "message", " spaced ", "error", "tidings"] {
        node.publish(json!({"channel": "open:a", "event": event, "data": 1})).await;
        let received = next(&mut stream).await;
        assert_eq!(received.event, event);
        assert_eq!(serde_json::from_str::<Value>(&received.data).unwrap()["event"], event);
    }
    assert!(!String::from_utf8_lossy(stream.raw()).contains("event: message"), "the default type is left out");
    for event in ["connected", "gap", "closing", "notification", "unread", "tidings.x", "", "a\nb", "a\0b", "a\rb"] {
        let body = json!({"channel": "open:a", "event": event, "data": 1}).to_string();
        let detail = assert_problem(&node.post("/v1/publish", None, &body).await, 400, "invalid_body");
        assert!(detail.starts_with("event: "), "{event:?}: {detail}");
    }
}

#[tokio::test]
async fn one_event_for_several_channels_is_answered_channel_by_channel() {
    let node = Node::start("").await;
    let mut stream = node.stream("channel=open:a&channel=open:b&envelope=1").await;
    stream.connected(LIMIT).await.unwrap();
    let publisher = token(json!({"sub": "1", "tidings": {"publish": ["open:*"]}}));
    let body = r#"{"channels":["open:a","closed:x","open:b"],"data":"x","key":"k"}"#;
    let answer = node.post("/v1/publish", Some(&publisher), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let results = answer.json().unwrap()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), 3);
    assert_eq!((&results[0]["channel"], &results[0]["duplicate"]), (&json!("open:a"), &json!(false)));
    assert_eq!((&results[1]["channel"], &results[1]["error"]["code"]), (&json!("closed:x"), &json!("forbidden")));
    assert!(results[1].get("id").is_none());
    for (at, channel) in [(0, "open:a"), (2, "open:b")] {
        let envelope: Value = serde_json::from_str(&next(&mut stream).await.data).unwrap();
        assert_eq!((&envelope["channel"], &envelope["id"]), (&json!(channel), &results[at]["id"]));
    }
    // The key is each channel's own: what was refused before is not a duplicate now.
    let again = node.post("/v1/publish", Some(API_KEY), body).await.json().unwrap()["results"].clone();
    assert_eq!((&again[0]["id"], &again[0]["duplicate"]), (&results[0]["id"], &json!(true)));
    assert_eq!(again[1]["duplicate"], false);
    for body in [
        r#"{"channels":[],"data":1}"#,
        r#"{"channel":"open:a","channels":["open:b"],"data":1}"#,
        r#"{"channels":["open:a","no channel"],"data":1}"#,
        r#"{"data":1}"#,
    ] {
        assert_problem(&node.post("/v1/publish", None, body).await, 400, "invalid_body");
    }
    assert_eq!(node.metric("tidings_events_published_total{namespace=\"open\"}").await, 2.0);
    assert_eq!(node.metric("tidings_events_published_total{namespace=\"default\"}").await, 1.0);
}

/// A publish to a thousand channels of the longest name did not fit where data had to be short.
#[tokio::test]
async fn the_limit_of_data_does_not_limit_the_channels() {
    let node = Node::start("[limits]\nmax_data_bytes = 100\n").await;
    let channels: Vec<_> = (0..1000).map(|n| format!("open:{n:0>195}")).collect();
    let answer = node.post("/v1/publish", None, &json!({"channels": channels, "data": 1}).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["results"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn bad_lines_of_a_batch_do_not_keep_good_ones_from_being_published() {
    let node = Node::start("[limits]\nmax_data_bytes = 100\nmax_batch_events = 12\n").await;
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    let long = "x".repeat(100);
    let lines = [
        (r#"{"channel":"open:a","data":1}"#, None),
        ("not json", Some("invalid_body")),
        (r#"{"channel":"open:a"}"#, Some("invalid_body")),
        (r#"{"channel":"open:a","data":1,"colour":"red"}"#, Some("invalid_body")),
        (r#"["open:a",1]"#, Some("invalid_body")),
        (r#"{"channel":"open a","data":1}"#, Some("invalid_body")),
        (r#"  {"channel":"open:a","data":2,"key":"k"}  "#, None),
        (r#"{"channel":"open:a","data":3,"key":"k"}"#, Some("key_conflict")),
        (&format!(r#"{{"channel":"open:a","data":"{long}"}}"#), Some("data_too_large")),
        (r#"{"channel":"closed:a","data":4}"#, Some("forbidden")),
        (r#"{"channel":"open:a","data":5}"#, None),
    ];
    let body: String = lines.iter().map(|(line, _)| format!("{line}\r\n\n")).collect();
    let someone = token(json!({"sub": "1"}));
    let answer = publish_lines(&node, &someone, &body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    let answers: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len(), "{}", answer.text());
    for (answer, (line, code)) in answers.iter().zip(&lines) {
        match code {
            None => assert_eq!(answer["duplicate"], false, "{line}: {answer}"),
            Some(code) => {
                assert_eq!(answer["error"]["code"], *code, "{line}: {answer}");
                assert!(!answer["error"]["detail"].as_str().unwrap().is_empty());
            }
        }
    }
    for number in ["1", "2", "5"] {
        assert_eq!(next(&mut stream).await.data, number);
    }
    let many = "{\"channel\":\"open:a\",\"data\":1}\n".repeat(13);
    assert_problem(&publish_lines(&node, API_KEY, &many).await, 413, "batch_too_large");
    let empty = publish_lines(&node, API_KEY, "\n\n").await;
    assert_eq!((empty.status, empty.text().as_str()), (200, ""));
}

#[tokio::test]
async fn a_key_makes_repeating_a_publish_harmless_also_over_a_crash() {
    let mut node = Node::start("[namespaces.volatile]\ndurable = false\n").await;
    let event = json!({"channel": "open:a", "data": {"n": 1}, "key": "order-7"});
    let volatile = json!({"channel": "volatile:a", "data": 1, "key": "order-7"});
    let first = node.publish(event.clone()).await;
    let first_volatile = node.publish(volatile.clone()).await;
    assert!(!first.duplicate && !first_volatile.duplicate);
    for round in 0..2 {
        let again = node.publish(event.clone()).await;
        assert_eq!((again.duplicate, &again.id), (true, &first.id), "round {round}");
        let other = json!({"channel": "open:a", "data": {"n": 2}, "key": "order-7"}).to_string();
        assert_problem(&node.post("/v1/publish", None, &other).await, 409, "key_conflict");
        let elsewhere = json!({"channel": format!("open:b{round}"), "data": {"n": 1}, "key": "order-7"});
        assert!(!node.publish(elsewhere).await.duplicate);
        if round == 0 {
            assert_eq!(node.publish(volatile.clone()).await.id, first_volatile.id);
            node.server.restart().await.unwrap();
        }
    }
    let bodies = node.get("/v1/channels/open:a/history").await.json().unwrap()["events"].clone();
    assert_eq!(bodies.as_array().unwrap().len(), 1, "{bodies}");
    // A volatile namespace forgets its keys with its events.
    assert!(!node.publish(volatile).await.duplicate);
}

#[tokio::test]
async fn an_event_has_the_time_it_was_given_or_that_of_its_acceptance() {
    let node = Node::start("").await;
    let before = (crate::node::now_secs() * 1000.0) as u64;
    node.publish(json!({"channel": "open:a", "data": 1, "sent_at": 1_700_000_000_123_u64})).await;
    node.publish(json!({"channel": "open:a", "data": 2})).await;
    let after = (crate::node::now_secs() * 1000.0) as u64;
    let history = node.get("/v1/channels/open:a/history").await.json().unwrap();
    assert_eq!(history["events"][0]["sent_at"], 1_700_000_000_123_u64);
    let accepted = history["events"][1]["sent_at"].as_u64().unwrap();
    assert!((before..=after).contains(&accepted), "{before} {accepted} {after}");
    assert_eq!((&history["complete"], &history["next"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn an_event_that_nobody_needs_any_more_is_left_out_and_no_gap() {
    let node = Node::start("").await;
    let first = node.publish(json!({"channel": "open:a", "data": 1})).await;
    node.publish(json!({"channel": "open:a", "data": 2, "expires_in": 1})).await;
    node.publish(json!({"channel": "open:a", "data": 3, "expires_in": 3600})).await;
    let gone = wait::until("the second event to expire", LIMIT, async || {
        let history = node.get("/v1/channels/open:a/history").await.json().ok()?;
        (history["events"].as_array()?.len() == 2).then_some(history)
    });
    assert_eq!(gone.await.unwrap()["complete"], true);
    let mut stream = node.stream(&format!("channel=open:a&last_event_id={}", first.id)).await;
    stream.connected(LIMIT).await.unwrap();
    let received = next(&mut stream).await;
    assert_eq!((received.event.as_str(), received.data.as_str()), ("message", "3"));
    for expires_in in ["0", "-1", "1.5", "\"1\"", "99999999999"] {
        let body = format!(r#"{{"channel":"open:a","data":1,"expires_in":{expires_in}}}"#);
        assert_problem(&node.post("/v1/publish", None, &body).await, 400, "invalid_body");
    }
}
