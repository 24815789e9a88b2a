//! Tickets: streams for clients that cannot set headers.

use axum::http::Method;
use serde_json::{Value, json};

use crate::node::{API_KEY, LIMIT, Node, assert_problem, bearer, next_data, now_secs, token, user_token};

async fn ticket(node: &Node, credentials: &str, body: &str) -> String {
    let answer = node.post("/v1/tickets", Some(credentials), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = answer.json().unwrap();
    assert!(answer["expires_in"].as_u64().is_some_and(|secs| (1..=30).contains(&secs)), "{answer}");
    let ticket = answer["ticket"].as_str().unwrap().to_owned();
    assert!(ticket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "safe in a URL: {ticket}");
    ticket
}

async fn assert_refused(node: &Node, query: &str, code: &str) {
    let answer = node.call(Method::GET, &format!("/v1/subscribe?{query}"), &[], "").await;
    assert_problem(&answer, 401, code);
}

#[tokio::test]
async fn a_ticket_opens_one_stream_and_reopens_it_with_its_cursor() {
    let node = Node::start("").await;
    let before = node.publish(json!({"channel": "chat:a", "data": 0})).await.id;
    let mut backend = node.stream_as("channel=chat:a", API_KEY).await;
    backend.connected(LIMIT).await.unwrap();
    node.publish(json!({"channel": "chat:a", "data": 1})).await;
    assert_eq!(next_data(&mut backend, 1).await, ["1"]);
    let ticket = ticket(&node, &user_token("42", &["chat:*"]), "{}").await;
    let url = format!("channel=chat:a&ticket={ticket}");
    let mut stream = node.stream(&url).await;
    let connected = stream.connected(LIMIT).await.unwrap();
    assert_eq!((connected.user.as_deref(), connected.channels), (Some("42"), vec!["chat:a".into(), "user:42".into()]));
    let at_connected = stream.last_id().to_owned();
    node.publish(json!({"channel": "chat:a", "data": 2})).await;
    assert_eq!(next_data(&mut stream, 1).await, ["2"]);
    let cursor = stream.last_id().to_owned();
    drop(stream);
    // Who has the URL alone, from a log, gets nothing; nor with what is no cursor of that stream.
    assert_refused(&node, &url, "ticket_invalid").await;
    assert_refused(&node, &format!("{url}&last_event_id=garbage"), "ticket_invalid").await;
    assert_refused(&node, &format!("{url}&last_event_id="), "ticket_invalid").await;
    assert_refused(&node, &format!("{url}&last_event_id={before}"), "ticket_invalid").await;
    // What EventSource does: the same URL, and the header. Any number of times.
    node.publish(json!({"channel": "user:42", "data": 3})).await;
    for (cursor, expected) in [(&cursor, vec!["3"]), (&at_connected, vec!["2", "3"])] {
        let mut back = node.stream_with(&url, &[("last-event-id", cursor)]).await;
        back.connected(LIMIT).await.unwrap();
        assert_eq!(next_data(&mut back, expected.len()).await, expected);
    }
    // It is for streams alone, and for the channels of the token behind it.
    let history = node.call(Method::GET, &format!("/v1/channels/chat:a/history?ticket={ticket}"), &[], "").await;
    assert_problem(&history, 401, "ticket_invalid");
    let fresh = self::ticket(&node, &user_token("42", &["chat:*"]), "").await;
    let other = node.call(Method::GET, &format!("/v1/subscribe?channel=board:1&ticket={fresh}"), &[], "").await;
    assert_problem(&other, 403, "forbidden");
}

/// Over a restart, since the secret is kept in the data directory.
#[tokio::test]
async fn a_ticket_outlives_the_server() {
    let mut node = Node::start("").await;
    let ticket = ticket(&node, &user_token("42", &[]), "{}").await;
    let url = format!("channel=open:a&ticket={ticket}");
    let mut stream = node.stream(&url).await;
    stream.connected(LIMIT).await.unwrap();
    let cursor = stream.last_id().to_owned();
    node.publish(json!({"channel": "open:a", "data": 1})).await;
    node.server.restart().await.unwrap();
    let mut back = node.stream_with(&url, &[("last-event-id", &cursor)]).await;
    assert_eq!(back.connected(LIMIT).await.unwrap().user.as_deref(), Some("42"));
    assert_eq!(next_data(&mut back, 1).await, ["1"]);
}

#[tokio::test]
async fn a_backend_issues_tickets_for_its_users() {
    let node = Node::start("").await;
    let both = ticket(&node, API_KEY, r#"{"sub":"7","subscribe":["board:*"],"ttl":60}"#).await;
    let mut stream = node.stream(&format!("channel=board:1&ticket={both}")).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().channels, ["board:1", "user:7"]);
    let nameless = ticket(&node, API_KEY, r#"{"subscribe":["board:1"]}"#).await;
    let mut stream = node.stream(&format!("channel=board:1&ticket={nameless}")).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().user, None);
    for body in [
        "{}",
        "",
        "[]",
        r#"{"sub":""}"#,
        r#"{"sub":"a b"}"#,
        r#"{"subscribe":["a b"]}"#,
        r#"{"sub":"7","ttl":0}"#,
        r#"{"sub":"7","ttl":86401}"#,
        r#"{"sub":"7","admin":true}"#,
    ] {
        assert_problem(&node.post("/v1/tickets", Some(API_KEY), body).await, 400, "invalid_body");
    }
    // A token's bearer gets no more than the token permits.
    let user = user_token("42", &["chat:*"]);
    for body in [r#"{"sub":"1"}"#, r#"{"subscribe":["*"]}"#, r#"{"ttl":60}"#] {
        assert_problem(&node.post("/v1/tickets", Some(&user), body).await, 400, "invalid_body");
    }
    assert_problem(&node.post("/v1/tickets", None, "{}").await, 401, "unauthorized");
    let plain = [("authorization", bearer(&user)), ("content-type", "text/plain".to_owned())];
    let plain = plain.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = node.call(Method::POST, "/v1/tickets", &plain, "{}").await;
    assert_problem(&answer, 415, "unsupported_media_type");
    // A POST without a body or a type is a ticket of one's own.
    let answer = node.call(Method::POST, "/v1/tickets", &[("authorization", &bearer(&user))], "").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_ticket_ends_with_its_token_and_cannot_be_forged() {
    let node = Node::start("").await;
    let short = token(json!({"sub": "42", "exp": now_secs() + 1.5}));
    let ticket = ticket(&node, &short, "{}").await;
    let url = format!("ticket={ticket}");
    let mut stream = node.stream(&url).await;
    let events = stream.until_end(LIMIT).await.unwrap();
    assert_eq!((events[0].event.as_str(), events[1].event.as_str()), ("connected", "closing"));
    assert_eq!(serde_json::from_str::<Value>(&events[1].data).unwrap()["reason"], "token_expired");
    assert_refused(&node, &format!("{url}&last_event_id={}", stream.last_id()), "token_expired").await;

    let good = self::ticket(&node, &user_token("42", &[]), "{}").await;
    let mut forged = good.clone().into_bytes();
    forged[10] = if forged[10] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for ticket in [forged.as_str(), &good[1..], &good[..40], "x", &"A".repeat(13_000)] {
        assert_refused(&node, &format!("channel=open:a&ticket={ticket}"), "ticket_invalid").await;
    }
    assert_refused(&node, "channel=open:a&ticket=", "credentials_malformed").await;
    // None of these has spent it. The header counts before the ticket.
    let mut stream = node.stream_as(&format!("ticket={good}"), &user_token("7", &[])).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().user.as_deref(), Some("7"));
    let mut stream = node.stream(&format!("ticket={good}")).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().user.as_deref(), Some("42"));
}

#[tokio::test]
async fn a_ticket_is_not_spent_by_being_turned_away() {
    let node = Node::start("[limits]\nmax_connections = 1\n").await;
    let first = node.stream("channel=open:a").await;
    node.wait_for_streams(1).await;
    let ticket = ticket(&node, &user_token("42", &["chat:*"]), "{}").await;
    let url = format!("channel=chat:a&ticket={ticket}");
    let turned_away = node.stream(&url).await.until_end(LIMIT).await.unwrap();
    assert_eq!(turned_away[0].event, "closing");
    drop(first);
    node.wait_for_streams(0).await;
    // As EventSource does: the same URL, and no cursor, for it has been given none.
    node.stream(&url).await.connected(LIMIT).await.unwrap();
}
