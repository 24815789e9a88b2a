//! What streams are told of inboxes, as far as calls have a part in it.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Store, accepted, alarms, call, column, get, next_of, notify, of, post};
use crate::node::{API_KEY, LIMIT, Node, assert_problem, next, token, user_token};

on_every_store!(
    a_notification_is_told_with_the_counts_after_it,
    a_mark_on_one_device_updates_the_others,
    what_a_user_does_not_want_live_is_in_the_inbox_alone,
    what_is_unread_comes_first_where_that_is_asked_for,
    an_acknowledgement_settles_what_was_told,
    who_comes_back_with_a_cursor_has_acknowledged,
    a_stream_carries_what_its_user_follows_and_may_hear,
);

async fn a_notification_is_told_with_the_counts_after_it(store: Store) {
    let node = store.node("").await;
    let mut stream = alarms(&node, "", "42").await;
    let mut other = alarms(&node, "", "43").await;
    for unread in 1..=3 {
        let body = json!({"to": {"user": "42"}, "title": "t", "body": "b", "url": "/x", "kind": "k", "data": [unread]});
        let id = notify(&node, body).await;
        let (received, data) = next_of(&mut stream, "notification").await;
        assert!(!received.id.is_empty(), "it has a cursor");
        assert_eq!(
            data["counts"],
            json!({"unread": unread, "unseen": unread, "kinds": {"k": {"unread": unread, "unseen": unread}}})
        );
        // The same form as in the inbox.
        let page = get(&node, "/v1/me/notifications?limit=1", &of("42")).await;
        assert_eq!((&data["notification"], &data["notification"]["id"]), (&page["notifications"][0], &json!(id)));
    }
    notify(&node, json!({"to": {"everyone": true}, "title": "all"})).await;
    for stream in [&mut stream, &mut other] {
        let (_, data) = next_of(stream, "notification").await;
        assert_eq!((&data["notification"]["title"], &data["counts"]), (&json!("all"), &Value::Null));
    }
    // To nobody without a name.
    let mut anonymous = node.stream("channel=open:a").await;
    anonymous.connected(LIMIT).await.unwrap();
    notify(&node, json!({"to": {"everyone": true}, "title": "all"})).await;
    next_of(&mut stream, "notification").await;
    node.publish(json!({"channel": "open:a", "data": "first"})).await;
    assert_eq!(next(&mut anonymous).await.data, "first");
}

async fn a_mark_on_one_device_updates_the_others(store: Store) {
    let node = store.node("").await;
    let (mut phone, mut desk) = (alarms(&node, "", "42").await, alarms(&node, "", "42").await);
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(notify(&node, json!({"to": {"user": "42"}, "title": "t"})).await);
        for stream in [&mut phone, &mut desk] {
            next_of(stream, "notification").await;
        }
    }
    for (mark, which, unread, unseen) in [
        ("seen", json!({"all": true}), 2, 0),
        ("read", json!({"ids": [ids[0]]}), 1, 0),
        ("archive", json!({"ids": [ids[1]]}), 0, 0),
        ("unread", json!({"ids": [ids[1]]}), 1, 0),
    ] {
        let answer = post(&node, &format!("/v1/me/notifications/{mark}"), &of("42"), which).await;
        assert_eq!(
            (&answer["counts"]["unread"], &answer["counts"]["unseen"]),
            (&json!(unread), &json!(unseen)),
            "{mark}"
        );
        for stream in [&mut phone, &mut desk] {
            let (_, data) = next_of(stream, "unread").await;
            assert_eq!(data, json!({"counts": answer["counts"]}), "{mark}");
        }
    }
    // What changes nothing is not told of.
    post(&node, "/v1/me/notifications/seen", &of("42"), json!({"all": true})).await;
    notify(&node, json!({"to": {"user": "42"}, "title": "t"})).await;
    next_of(&mut phone, "notification").await;
}

async fn what_a_user_does_not_want_live_is_in_the_inbox_alone(store: Store) {
    let node = store.node("").await;
    let me = of("42");
    let wants = json!({"kinds": {"quiet": {"live": false}, "muted": {"mute_until": 4_000_000_000_000_u64}, "over": {"mute_until": 1}}});
    accepted(call(&node, Method::PUT, "/v1/me/preferences", &me, &wants).await, 200);
    let mut stream = alarms(&node, "", "42").await;
    for kind in ["quiet", "muted", "over"] {
        notify(&node, json!({"to": {"user": "42"}, "title": kind, "kind": kind})).await;
    }
    let (_, data) = next_of(&mut stream, "notification").await;
    assert_eq!((&data["notification"]["title"], &data["counts"]["unread"]), (&json!("over"), &json!(3)));
    assert_eq!(column(&get(&node, "/v1/me/notifications", &me).await, "title"), ["over", "muted", "quiet"]);
    assert_eq!(get(&node, "/v1/me/notifications/counts", &me).await["unread"], 3);
    let mut replayed = alarms(&node, "replay=unread", "42").await;
    let (_, data) = next_of(&mut replayed, "notification").await;
    assert_eq!(data["notification"]["title"], "over");
    notify(&node, json!({"to": {"user": "42"}, "title": "next"})).await;
    assert_eq!(next_of(&mut replayed, "notification").await.1["notification"]["title"], "next");
}

async fn what_is_unread_comes_first_where_that_is_asked_for(store: Store) {
    let node = store.node("[notifications]\nalarm_path = \"/api/v1/users/alarm/subscribe\"\n").await;
    let me = of("42");
    let mut ids = Vec::new();
    for title in ["1", "2", "3", "4"] {
        ids.push(notify(&node, json!({"to": {"user": "42"}, "title": title})).await);
    }
    post(&node, "/v1/me/notifications/read", &me, json!({"ids": [ids[1]]})).await;
    // What is told only after a stream was opened comes live.
    node.wait_for_metric("tidings_inbox_told_total", 4.0).await;
    let mut last_id = String::new();
    for path in ["/v1/subscribe?replay=unread", "/api/v1/users/alarm/subscribe?replay=unread"] {
        let authorization = format!("Bearer {me}");
        let headers = [("authorization", authorization.as_str())];
        let mut stream = tidings_testkit::client::SseClient::connect(node.endpoint(), path, &headers).await.unwrap();
        assert_eq!(stream.status(), 200, "{path}");
        stream.connected(LIMIT).await.unwrap();
        assert_eq!(stream.last_id(), "", "who is cut off now has nothing");
        for title in ["1", "3", "4"] {
            let (received, data) = next_of(&mut stream, "notification").await;
            assert_eq!(data["notification"]["title"], title);
            assert_eq!(received.id.is_empty(), title != "4", "only who has the last one has all: {received:?}");
            last_id = received.id;
        }
    }
    // With a cursor it is not asked for any more.
    let mut stream = alarms(&node, &format!("replay=unread&last_event_id={last_id}"), "42").await;
    notify(&node, json!({"to": {"user": "42"}, "title": "5"})).await;
    assert_eq!(next_of(&mut stream, "notification").await.1["notification"]["title"], "5");
    let answer = node.get("/v1/subscribe?channel=open:a&replay=unread").await;
    assert_problem(&answer, 400, "invalid_query");
    assert_problem(&node.get("/api/v1/users/alarm/subscribe?colour=red").await, 400, "invalid_query");
}

/// The number of deliveries that a stream is known to have.
async fn confirmed(node: &Node) -> f64 {
    node.metric("tidings_notifications_total{outcome=\"confirmed\"}").await
}

async fn an_acknowledgement_settles_what_was_told(store: Store) {
    let node = store.node("[push]\nconfirm = \"client\"\nafter = \"10m\"\n").await;
    let me = of("42");
    let mut stream = alarms(&node, "", "42").await;
    let mut ids = Vec::new();
    let mut cursor = String::new();
    for _ in 0..3 {
        ids.push(notify(&node, json!({"to": {"user": "42"}, "title": "t"})).await);
        cursor = next_of(&mut stream, "notification").await.0.id;
    }
    let ack = async |body: Value| post(&node, "/v1/me/ack", &me, body).await["acknowledged"].as_u64().unwrap();
    assert_eq!(ack(json!({"id": ids[1]})).await, 1);
    assert_eq!(ack(json!({"id": ids[1]})).await, 0);
    assert_eq!(ack(json!({"id": "999999999"})).await, 0);
    assert_eq!(post(&node, "/v1/me/ack", &of("43"), json!({"id": ids[0]})).await, json!({"acknowledged": 0}));
    assert_eq!(ack(json!({"cursor": cursor})).await, 2);
    assert_eq!(ack(json!({"cursor": cursor})).await, 0);
    let report = get(&node, &format!("/v1/notifications/{}", ids[0]), API_KEY).await;
    assert_eq!((&report["delivered_live"], &report["pending"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!(confirmed(&node).await, 3.0);
}

async fn who_comes_back_with_a_cursor_has_acknowledged(store: Store) {
    let node = store.node("[push]\nconfirm = \"client\"\nafter = \"10m\"\n").await;
    let mut stream = alarms(&node, "", "42").await;
    notify(&node, json!({"to": {"user": "42"}, "title": "t"})).await;
    let cursor = next_of(&mut stream, "notification").await.0.id;
    drop(stream);
    alarms(&node, &format!("last_event_id={cursor}"), "42").await;
    node.wait_for_metric("tidings_notifications_total{outcome=\"confirmed\"}", 1.0).await;
    // Likewise by long-poll.
    let id = notify(&node, json!({"to": {"user": "42"}, "title": "u"})).await;
    let poll = async |cursor: &str| {
        let authorization = format!("Bearer {}", of("42"));
        let headers = [("accept", "application/json"), ("authorization", authorization.as_str())];
        let path = format!("/v1/subscribe?last_event_id={cursor}");
        accepted(node.call(Method::GET, &path, &headers, "").await, 200)
    };
    let answer = poll(&cursor).await;
    assert_eq!(
        (&answer["events"][0]["event"], &answer["events"][0]["data"]["notification"]["id"]),
        (&json!("notification"), &json!(id))
    );
    notify(&node, json!({"to": {"user": "42"}, "title": "v"})).await;
    poll(answer["cursor"].as_str().unwrap()).await;
    node.wait_for_metric("tidings_notifications_total{outcome=\"confirmed\"}", 2.0).await;
}

async fn a_stream_carries_what_its_user_follows_and_may_hear(store: Store) {
    let node = store.node("").await;
    post(&node, "/v1/users/42/follows", API_KEY, json!({"follow": ["open:a", "secret:b", "mine:c"]})).await;
    let me = user_token("42", &["mine:*"]);
    let mut stream = node.stream_as("follows=1&channel=open:d", &me).await;
    let mut channels = stream.connected(LIMIT).await.unwrap().channels;
    channels.sort_unstable();
    assert_eq!(channels, ["mine:c", "open:a", "open:d", "user:42"]);
    for channel in ["secret:b", "open:a", "mine:c", "open:d"] {
        node.publish(json!({"channel": channel, "data": channel})).await;
    }
    for channel in ["open:a", "mine:c", "open:d"] {
        assert_eq!(next(&mut stream).await.data, channel);
    }
    assert_problem(&node.get("/v1/subscribe?channel=open:a&follows=1").await, 400, "invalid_query");
    let nobody = token(json!({"tidings": {"subscribe": ["*"]}}));
    let answer = call(&node, Method::GET, "/v1/subscribe?channel=open:a&follows=1", &nobody, &Value::Null).await;
    assert_problem(&answer, 400, "invalid_query");
}
