//! Calls on inboxes that are wrong, or made by somebody who may not.

use axum::http::Method;
use serde_json::{Value, json};

use super::{accepted, call, get, notify, of};
use crate::node::{API_KEY, Node, assert_problem, token};

/// Every call on notifications: its method, its path, and a body that it takes.
fn calls() -> Vec<(Method, &'static str, Value)> {
    let all = json!({"all": true});
    let device = json!({"provider": "fcm", "token": "t"});
    let follows = json!({"follow": ["a"]});
    let preferences = json!({"kinds": {}});
    vec![
        (Method::POST, "/v1/notifications", json!({"to": {"user": "42"}, "title": "t"})),
        (Method::GET, "/v1/notifications/1", Value::Null),
        (Method::GET, "/v1/me/notifications", Value::Null),
        (Method::GET, "/v1/me/notifications/counts", Value::Null),
        (Method::POST, "/v1/me/notifications/read", all.clone()),
        (Method::POST, "/v1/me/notifications/unread", all.clone()),
        (Method::POST, "/v1/me/notifications/archive", all.clone()),
        (Method::POST, "/v1/me/notifications/seen", all),
        (Method::POST, "/v1/me/ack", json!({"id": "1"})),
        (Method::GET, "/v1/me/follows", Value::Null),
        (Method::POST, "/v1/me/follows", follows.clone()),
        (Method::PUT, "/v1/me/follows/a", Value::Null),
        (Method::DELETE, "/v1/me/follows/a", Value::Null),
        (Method::GET, "/v1/me/devices", Value::Null),
        (Method::PUT, "/v1/me/devices/d", device.clone()),
        (Method::DELETE, "/v1/me/devices/d", Value::Null),
        (Method::GET, "/v1/me/preferences", Value::Null),
        (Method::PUT, "/v1/me/preferences", preferences.clone()),
        (Method::GET, "/v1/users/42/notifications", Value::Null),
        (Method::GET, "/v1/users/42/notifications/counts", Value::Null),
        (Method::GET, "/v1/users/42/follows", Value::Null),
        (Method::POST, "/v1/users/42/follows", follows),
        (Method::PUT, "/v1/users/42/follows/a", Value::Null),
        (Method::DELETE, "/v1/users/42/follows/a", Value::Null),
        (Method::GET, "/v1/users/42/devices", Value::Null),
        (Method::PUT, "/v1/users/42/devices/d", device),
        (Method::DELETE, "/v1/users/42/devices/d", Value::Null),
        (Method::GET, "/v1/users/42/preferences", Value::Null),
        (Method::PUT, "/v1/users/42/preferences", preferences),
        (Method::DELETE, "/v1/users/42", Value::Null),
        (Method::POST, "/v1/channels/a/followers", json!({"follow": ["42"]})),
        (Method::GET, "/v1/pushes/dead", Value::Null),
        (Method::POST, "/v1/pushes/1/retry", Value::Null),
    ]
}

#[tokio::test]
async fn each_call_is_for_a_user_or_for_backends() {
    let node = Node::start("").await;
    let (me, admin, nobody) = (of("42"), token(json!({"tidings": {"admin": true}})), token(json!({})));
    let described = node.get("/openapi.json").await.json().unwrap();
    for (method, path, body) in calls() {
        let answer = match &body {
            Value::Null => node.call(method.clone(), path, &[], "").await,
            body => node.call(method.clone(), path, &[("content-type", "application/json")], &body.to_string()).await,
        };
        assert_problem(&answer, 401, "unauthorized");
        let is_mine = path.starts_with("/v1/me");
        for (who, mine, theirs) in [
            (API_KEY, Some("user_required"), None),
            (&admin, Some("user_required"), None),
            (&nobody, Some("user_required"), Some("forbidden")),
            (&me, None, Some("forbidden")),
        ] {
            let answer = call(&node, method.clone(), path, who, &body).await;
            match if is_mine { mine } else { theirs } {
                Some(code) => drop(assert_problem(&answer, 403, code)),
                // There is no push that was given up.
                None => assert!([200, 201, 202, 404].contains(&answer.status), "{method} {path}: {}", answer.text()),
            }
        }
        // A parameter that there is not, a type of body that it does not take.
        let who = if is_mine { &me } else { API_KEY };
        let answer = call(&node, method.clone(), &format!("{path}?colour=red"), who, &body).await;
        assert_problem(&answer, 400, "invalid_query");
        if !body.is_null() {
            let headers = [("authorization", format!("Bearer {who}"))];
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = node.call(method.clone(), path, &headers, &body.to_string()).await;
            assert_problem(&answer, 415, "unsupported_media_type");
            for wrong in [json!([]), json!({"colour": "red"}), json!("x")] {
                assert_problem(&call(&node, method.clone(), path, who, &wrong).await, 400, "invalid_body");
            }
        }
        // Each is described, with the names of its parts for what stands in them here.
        let pattern = path
            .replace("/users/42", "/users/{user}")
            .replace("/channels/a", "/channels/{channel}")
            .replace("/follows/a", "/follows/{channel}");
        let pattern =
            pattern.replace("/devices/d", "/devices/{device}").replace("/1", "/{id}").replace("/v{id}", "/v1");
        let words = &described["paths"][&pattern][method.as_str().to_lowercase()];
        assert!(words["summary"].as_str().is_some_and(|summary| summary.len() > 10), "{method} {pattern}: {words}");
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn a_notification_that_is_wrong_is_told_what_is_wrong_with_it() {
    let node = Node::start("[limits]\nmax_data_bytes = 100\n").await;
    let send = async |body: &str| node.post("/v1/notifications", Some(API_KEY), body).await;
    for (body, names) in [
        ("", "JSON object"),
        ("{", ""),
        (r#"{"title":"t"}"#, "to: missing"),
        (r#"{"to":{"user":"42"}}"#, "title: missing"),
        (r#"{"to":{"user":"a b"},"title":"t"}"#, "to.user"),
        (r#"{"to":{"users":[]},"title":"t"}"#, "to.users"),
        (r#"{"to":{"user":"1","everyone":true},"title":"t"}"#, "exactly one of"),
        (r#"{"to":{"followers_of":"user:42"},"title":"t"}"#, "to.followers_of"),
        (r#"{"to":{"followers_of":"tidings:everyone"},"title":"t"}"#, "to.followers_of"),
        (r#"{"to":{"user":"1"},"title":"a\nb"}"#, "title"),
        (r#"{"to":{"user":"1"},"title":"t","url":"javascript:alert(1)"}"#, "url"),
        (r#"{"to":{"user":"1"},"title":"t","push":"later"}"#, "push"),
        (r#"{"to":{"user":"1"},"title":"t","kind":"a b"}"#, "kind"),
        (r#"{"to":{"user":"1"},"title":"t","expires_in":0}"#, "expires_in"),
        (r#"{"to":{"user":"1"},"title":"t","ttl":5}"#, "ttl"),
        (
            &json!({"to": {"users": (0..1001).map(|n| n.to_string()).collect::<Vec<_>>()}, "title": "t"}).to_string(),
            "1001",
        ),
    ] {
        let detail = assert_problem(&send(body).await, 400, "invalid_body");
        assert!(detail.contains(names), "{body}: {detail}");
    }
    let data = json!({"to": {"user": "1"}, "title": "t", "data": "x".repeat(99)}).to_string();
    let detail = assert_problem(&send(&data).await, 413, "data_too_large");
    assert!(detail.contains("101") && detail.contains("limits.max_data_bytes"), "{detail}");
    let huge = json!({"to": {"user": "1"}, "title": "t", "data": "x".repeat(2 << 20)}).to_string();
    assert_problem(&send(&huge).await, 413, "body_too_large");
    // As large as it may be: a thousand users with the longest names.
    let users: Vec<_> = (0..1000).map(|number| format!("{number:0>195}")).collect();
    let most =
        json!({"to": {"users": users}, "title": "t".repeat(500), "body": "b".repeat(4096), "data": "x".repeat(98)});
    accepted(send(&most.to_string()).await, 202);
    for id in ["0", "x", "999999999", "01", "9999999999999999999999"] {
        assert_problem(&node.get(&format!("/v1/notifications/{id}")).await, 404, "not_found");
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn what_is_asked_of_an_inbox_wrongly_is_told_what_is_wrong_with_it() {
    let node = Node::start("").await;
    let me = of("42");
    let id = notify(&node, json!({"to": {"user": "42"}, "title": "t"})).await;
    for query in ["state=new", "state=", "before=x", "before=0", "limit=0", "limit=101", "limit=x", "limit=1&limit=2"] {
        let answer = call(&node, Method::GET, &format!("/v1/me/notifications?{query}"), &me, &Value::Null).await;
        assert_problem(&answer, 400, "invalid_query");
    }
    for query in ["after=a%20b", "limit=1001"] {
        let answer = call(&node, Method::GET, &format!("/v1/me/follows?{query}"), &me, &Value::Null).await;
        assert_problem(&answer, 400, "invalid_query");
    }
    for body in [
        json!({}),
        json!({"all": false}),
        json!({"ids": ["1"], "all": true}),
        json!({"ids": ["x"]}),
        json!({"through": "-1"}),
        json!({"ids": vec!["1"; 1001]}),
    ] {
        let answer = call(&node, Method::POST, "/v1/me/notifications/read", &me, &body).await;
        assert_problem(&answer, 400, "invalid_body");
    }
    for body in [json!({}), json!({"id": "x"}), json!({"cursor": "?"}), json!({"id": "1", "cursor": "x"})] {
        assert_problem(&call(&node, Method::POST, "/v1/me/ack", &me, &body).await, 400, "invalid_body");
    }
    for channel in ["user:42", "tidings:everyone", "a%20b", "%ff"] {
        let path = format!("/v1/channels/{channel}/followers");
        let answer = call(&node, Method::POST, &path, API_KEY, &json!({"follow": ["1"]})).await;
        assert_problem(&answer, 400, "invalid_path");
        let answer = call(&node, Method::PUT, &format!("/v1/me/follows/{channel}"), &me, &Value::Null).await;
        assert_problem(&answer, 400, "invalid_path");
    }
    let answer = call(&node, Method::POST, "/v1/me/follows", &me, &json!({"follow": ["user:43"]})).await;
    let detail = assert_problem(&answer, 400, "invalid_body");
    assert!(detail.contains("user:43"), "{detail}");
    for (device, body, code) in [
        ("d", json!({"provider": "apns", "token": "t"}), "invalid_body"),
        ("d", json!({"provider": "fcm"}), "invalid_body"),
        ("d", json!({"provider": "fcm", "token": "a b"}), "invalid_body"),
        ("d", json!({"provider": "fcm", "token": "x".repeat(5000)}), "invalid_body"),
        ("d", json!({"provider": "web_push", "subscription": {}}), "invalid_body"),
        ("a%20b", json!({"provider": "fcm", "token": "t"}), "invalid_path"),
        ("%ff", json!({"provider": "fcm", "token": "t"}), "invalid_path"),
    ] {
        let answer = call(&node, Method::PUT, &format!("/v1/me/devices/{device}"), &me, &body).await;
        assert_problem(&answer, 400, code);
    }
    for body in [
        json!({"kinds": {"a": {"mail": true}}}),
        json!({"kinds": {"a b": {}}}),
        json!({"kinds": {"a": {"mute_until": -1}}}),
    ] {
        assert_problem(&call(&node, Method::PUT, "/v1/me/preferences", &me, &body).await, 400, "invalid_body");
    }
    for path in ["/v1/users/a%20b/notifications", "/v1/users/%ff/devices", "/v1/users/a%20b/follows/x"] {
        let method = if path.ends_with('x') { Method::PUT } else { Method::GET };
        assert_problem(&call(&node, method, path, API_KEY, &Value::Null).await, 400, "invalid_path");
    }
    for path in ["/v1/me", "/v1/me/", "/v1/me/notifications/", "/v1/me/notifications/forget", "/v1/users/42/ack"] {
        assert_problem(&call(&node, Method::GET, path, &me, &Value::Null).await, 404, "not_found");
    }
    assert_problem(
        &call(&node, Method::GET, "/v1/me/notifications/read", &me, &Value::Null).await,
        405,
        "method_not_allowed",
    );
    for query in ["before=x", "before=0", "limit=0", "limit=1001"] {
        assert_problem(&node.get(&format!("/v1/pushes/dead?{query}")).await, 400, "invalid_query");
    }
    assert_eq!(get(&node, "/v1/pushes/dead", API_KEY).await, json!({"pushes": [], "next": null}));
    for id in ["1", "x", "-1"] {
        let answer = call(&node, Method::POST, &format!("/v1/pushes/{id}/retry"), API_KEY, &Value::Null).await;
        assert_problem(&answer, 404, "not_found");
    }
    // None of it has changed anything.
    let page = get(&node, "/v1/me/notifications", &me).await;
    assert_eq!((&page["notifications"][0]["id"], &page["notifications"][0]["state"]), (&json!(id), &json!("unread")));
    assert_eq!(get(&node, "/v1/me/devices", &me).await, json!({"devices": []}));
}

/// What stands in the namespace `tidings` is taken for the server's word, by every stream of a user.
#[tokio::test]
async fn the_servers_own_namespace_is_closed_to_all() {
    let node = Node::start("[namespaces.tidings]\nsubscribe = [\"anyone\"]\npublish = [\"anyone\"]\n").await;
    let me = of("42");
    for who in [API_KEY, &me] {
        for path in [
            "/v1/subscribe?channel=tidings:everyone",
            "/v1/channels/tidings:everyone/history",
            "/v1/channels/tidings:x",
        ] {
            assert_problem(&call(&node, Method::GET, path, who, &Value::Null).await, 403, "forbidden");
        }
        let event = json!({"channel": "tidings:everyone", "data": 1});
        assert_problem(&call(&node, Method::POST, "/v1/publish", who, &event).await, 403, "forbidden");
    }
    let answer = call(&node, Method::PUT, "/v1/me/follows/tidings:everyone", &me, &Value::Null).await;
    assert_problem(&answer, 400, "invalid_path");
}
