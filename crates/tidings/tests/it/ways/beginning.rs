//! How a stream begins, and what it carries.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_protocol::sse::Parsed;
use tidings_testkit::endpoint::Way;

use crate::node::{API_KEY, LIMIT, Node, assert_problem, next, next_data, numbers, user_token};

on_every_way!(
    a_stream_begins_with_all_that_is_needed_to_come_back,
    silence_is_broken_by_a_comment_that_ends_no_block,
    an_envelope_tells_the_channels_of_one_stream_apart,
    a_new_stream_may_ask_for_what_was_before,
    a_long_history_is_replayed_in_order_and_passes_over_into_what_happens,
    connections_are_listed_and_closed_by_backends,
);

async fn a_stream_begins_with_all_that_is_needed_to_come_back(way: Way) {
    let node = Node::start_on(way, "[stream]\nretry = [\"1500ms\", \"1600ms\"]\n").await;
    let user = user_token("42", &["chat:*"]);
    let mut stream = node.stream_as("channel=chat:lobby&channel=open:a&channel=chat:lobby", &user).await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.header("cache-control"), Some("no-cache, no-store, no-transform"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.header("content-length"), None);
    let connected = stream.connected(LIMIT).await.unwrap();
    assert_eq!(connected.user.as_deref(), Some("42"));
    assert_eq!(connected.channels, ["chat:lobby", "open:a", "user:42"]);
    assert!(!connected.connection.is_empty() && !connected.node.is_empty());
    let retry_ms = stream.retry_ms().unwrap();
    assert!((1500..=1600).contains(&retry_ms), "{retry_ms}");
    let id = stream.last_id().to_owned();
    assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
    let raw = String::from_utf8(stream.raw().to_vec()).unwrap();
    assert!(raw.starts_with(&format!("retry: {retry_ms}\nid: {id}\nevent: connected\ndata: {{")), "{raw}");
    assert!(raw.ends_with("}\n\n"), "{raw}");

    let mut anonymous = node.stream("channel=open:a").await;
    let other = anonymous.connected(LIMIT).await.unwrap();
    assert_eq!(
        (other.user, &other.node, other.channels.as_slice()),
        (None, &connected.node, &["open:a".to_owned()][..])
    );
    assert_ne!(other.connection, connected.connection);

    // From `connected` alone a client can already resume.
    drop(stream);
    node.publish_numbers("chat:lobby", 1..=2).await;
    let mut back = node.stream_as(&format!("channel=chat:lobby&last_event_id={id}"), &user).await;
    back.connected(LIMIT).await.unwrap();
    assert_eq!(next_data(&mut back, 2).await, ["1", "2"]);
}

async fn silence_is_broken_by_a_comment_that_ends_no_block(way: Way) {
    let node = Node::start_on(way, "[stream]\nheartbeat = \"100ms\"\n").await;
    let mut stream = node.stream("channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    let head = stream.raw().len();
    for _ in 0..2 {
        assert_eq!(stream.next(LIMIT).await.unwrap(), Some(Parsed::Comment(String::new())));
    }
    assert_eq!(&stream.raw()[head..], b":\n:\n");
    node.publish(json!({"channel": "open:a", "data": "after"})).await;
    assert_eq!(next(&mut stream).await.data, "after");
}

async fn an_envelope_tells_the_channels_of_one_stream_apart(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut stream = node.stream("channel=open:a&channel=open:b&envelope=1").await;
    stream.connected(LIMIT).await.unwrap();
    for (channel, event) in [("open:a", "message"), ("open:b", "tick")] {
        let body = json!({"channel": channel, "event": event, "data": {"x": [1]}, "sent_at": 5});
        let id = node.publish(body).await.id;
        let received = next(&mut stream).await;
        assert_eq!(received.event, event);
        // The log has one partition, so the cursor is the event's id.
        assert_eq!(received.id, id);
        let expected = json!({"id": id, "channel": channel, "event": event, "data": {"x": [1]}, "sent_at": 5});
        assert_eq!(serde_json::from_str::<Value>(&received.data).unwrap(), expected);
    }
}

async fn a_new_stream_may_ask_for_what_was_before(way: Way) {
    let node = Node::start_on(way, "[namespaces.kept]\nretain = true\nsubscribe = [\"anyone\"]\n").await;
    let mut empty = node.stream("channel=open:a&channel=kept:a&replay=all").await;
    empty.connected(LIMIT).await.unwrap();
    node.publish_numbers("open:a", 1..=5).await;
    node.publish_numbers("open:b", 11..=12).await;
    node.publish_numbers("kept:a", 21..=23).await;
    assert_eq!(next(&mut empty).await.data, "1");
    let cases: [(&str, &[&str]); 9] = [
        ("channel=open:a&replay=2", &["4", "5"]),
        ("channel=open:a&replay=0", &[]),
        ("channel=open:a", &[]),
        ("channel=open:a&replay=all", &["1", "2", "3", "4", "5"]),
        // Each channel's own last ones, in the order of the log.
        ("channel=open:b&channel=open:a&replay=3", &["3", "4", "5", "11", "12"]),
        ("channel=kept:a", &["23"]),
        ("channel=kept:a&channel=open:a", &["23"]),
        ("channel=kept:a&channel=open:a&replay=1", &["5", "23"]),
        ("channel=kept:a&replay=2", &["22", "23"]),
    ];
    for (round, (query, expected)) in cases.into_iter().enumerate() {
        // A channel without a past tells where what happens begins.
        let query = format!("{query}&channel=open:mark{round}");
        let mut stream = node.stream(&query).await;
        stream.connected(LIMIT).await.unwrap();
        let connected_at = stream.last_id().to_owned();
        node.publish(json!({"channel": format!("open:mark{round}"), "data": "mark"})).await;
        let expected = [expected, &["mark"]].concat();
        assert_eq!(next_data(&mut stream, expected.len()).await, expected, "{query}");
        // A client that was cut off right after `connected` gets it all as well. Its cursor is a place in
        // the log, so it may get more than it had asked for.
        let mut back = node.stream(&format!("{query}&last_event_id={connected_at}")).await;
        back.connected(LIMIT).await.unwrap();
        let mut missing = expected.as_slice();
        while let Some(first) = missing.first() {
            if next(&mut back).await.data == *first {
                missing = &missing[1..];
            }
        }
    }
}

async fn a_long_history_is_replayed_in_order_and_passes_over_into_what_happens(way: Way) {
    let node = Node::start_on(way, "[namespaces.long]\nhistory_size = 5000\nsubscribe = [\"anyone\"]\n").await;
    node.publish_numbers("long:a", 1..=2500).await;
    let mut stream = node.stream("channel=long:a&replay=all").await;
    stream.connected(LIMIT).await.unwrap();
    node.publish_numbers("long:a", 2501..=3000).await;
    assert_eq!(next_data(&mut stream, 3000).await, numbers(1..=3000));
}

async fn connections_are_listed_and_closed_by_backends(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut of_user = node.stream_as("channel=open:a", &user_token("42", &[])).await;
    let of_user_id = of_user.connected(LIMIT).await.unwrap().connection;
    let mut other = node.stream("channel=open:a&channel=open:b").await;
    let other_id = other.connected(LIMIT).await.unwrap().connection;
    let ids = async |query: &str| {
        let listed = node.get(&format!("/v1/connections?{query}")).await.json().unwrap();
        let connections = listed["connections"].as_array().unwrap();
        assert_eq!(listed["total"], connections.len());
        let mut ids: Vec<_> = connections.iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut both = vec![of_user_id.clone(), other_id.clone()];
    both.sort();
    for (query, expected) in [
        ("", both.as_slice()),
        ("channel=open:a", both.as_slice()),
        ("transport=sse", both.as_slice()),
        ("channel=open:b", std::slice::from_ref(&other_id)),
        ("user=42", std::slice::from_ref(&of_user_id)),
        ("user=42&channel=open:b", &[]),
        ("transport=long_poll", &[]),
    ] {
        assert_eq!(ids(query).await, expected, "{query}");
    }
    let listed = node.get("/v1/connections?user=42").await.json().unwrap()["connections"][0].clone();
    assert_eq!(
        (&listed["user"], &listed["transport"], &listed["remote"]),
        (&json!("42"), &json!("sse"), &json!("127.0.0.1"))
    );
    assert_eq!((&listed["channels"], &listed["channel_count"]), (&json!(["open:a", "user:42"]), &json!(2)));
    assert_eq!(node.get("/v1/channels/open:a").await.json().unwrap()["subscribers"], 2);

    let authorization = crate::node::bearer(API_KEY);
    let as_backend = [("authorization", authorization.as_str())];
    for path in [format!("/v1/connections/{other_id}"), "/v1/users/42/connections".to_owned()] {
        let refused = node.call(Method::DELETE, &path, &[], "").await;
        assert_problem(&refused, 401, "unauthorized");
        let closed = node.call(Method::DELETE, &path, &as_backend, "").await;
        assert_eq!((closed.status, closed.json().unwrap()), (200, json!({"closed": 1})));
    }
    for stream in [&mut of_user, &mut other] {
        let last = stream.until_end(LIMIT).await.unwrap();
        assert_eq!(last.last().map(|event| event.event.as_str()), Some("closing"));
        assert_eq!(serde_json::from_str::<Value>(&last.last().unwrap().data).unwrap()["reason"], "kicked");
    }
    let sample = "tidings_connections_closed_total{transport=\"sse\",reason=\"kicked\"}";
    node.wait_for_metric(sample, 2.0).await;
    let gone = node.call(Method::DELETE, &format!("/v1/connections/{other_id}"), &as_backend, "").await;
    assert_problem(&gone, 404, "not_found");
    for query in ["transport=pigeon", "channel=a%20b", "user=", "colour=red"] {
        assert_problem(&node.get(&format!("/v1/connections?{query}")).await, 400, "invalid_query");
    }
}
