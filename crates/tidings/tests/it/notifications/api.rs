//! Sending, the inbox, its counts, and what a user does with them.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::wait;

use super::{Store, accepted, call, column, get, notify, of, post};
use crate::node::{API_KEY, LIMIT, Node, assert_problem, now_secs, token};

on_every_store!(
    what_is_sent_is_in_the_inbox_as_it_was_sent,
    a_key_makes_repeating_a_notification_harmless,
    an_inbox_is_read_page_by_page,
    marks_change_states_and_counts,
    a_newer_one_takes_the_place_of_an_unread_one_of_the_same_collapse,
    what_has_expired_is_nowhere,
    everyone_has_it_also_who_comes_later,
    a_backend_sees_what_a_user_has_and_forgets_them,
);

async fn what_is_sent_is_in_the_inbox_as_it_was_sent(store: Store) {
    let node = store.node("").await;
    let before = (now_secs() * 1000.0) as u64;
    let id = notify(
        &node,
        json!({
            "to": {"users": ["42", "43", "42"]}, "kind": "festival.added", "title": "Fire festival 🔥", "body": "two\nlines",
            "url": "/festivals/7", "data": {"id": 7, "n": 1.5}, "collapse": "c", "expires_in": 3600,
        }),
    )
    .await;
    let after = (now_secs() * 1000.0) as u64;
    for user in ["42", "43"] {
        let page = get(&node, "/v1/me/notifications", &of(user)).await;
        let entry = page["notifications"][0].clone();
        let created_at = entry["created_at"].as_u64().unwrap();
        assert!((before..=after).contains(&created_at), "{before} {created_at} {after}");
        let expected = json!({
            "id": id, "kind": "festival.added", "title": "Fire festival 🔥", "body": "two\nlines", "url": "/festivals/7",
            "data": {"id": 7, "n": 1.5}, "state": "unread", "seen": false, "collapse": "c", "created_at": created_at,
            "expires_at": created_at + 3_600_000,
        });
        assert_eq!(page, json!({"notifications": [expected], "next": null}));
        let counts = json!({"unread": 1, "unseen": 1, "kinds": {"festival.added": {"unread": 1, "unseen": 1}}});
        assert_eq!(get(&node, "/v1/me/notifications/counts", &of(user)).await, counts);
    }
    // The least that one can say, and somebody whom it is not for.
    let least = notify(&node, json!({"to": {"user": "44"}, "title": "t"})).await;
    assert!(least.parse::<u64>().unwrap() > id.parse().unwrap(), "{least} is later than {id}");
    let page = get(&node, "/v1/me/notifications", &of("44")).await;
    let entry = &page["notifications"][0];
    assert_eq!((&entry["kind"], &entry["body"], &entry["data"]), (&json!("default"), &Value::Null, &Value::Null));
    assert!(entry.get("collapse").is_none(), "{entry}");
    let none = json!({"unread": 0, "unseen": 0, "kinds": {}});
    assert_eq!(get(&node, "/v1/me/notifications/counts", &of("45")).await, none);
    assert_eq!(get(&node, "/v1/me/notifications", &of("45")).await, json!({"notifications": [], "next": null}));

    let report = get(&node, &format!("/v1/notifications/{id}"), API_KEY).await;
    assert_eq!(
        (&report["id"], &report["kind"], &report["title"]),
        (&json!(id), &json!("festival.added"), &json!("Fire festival 🔥"))
    );
    assert_eq!(
        (&report["audience"], &report["channel"], &report["recipients"]),
        (&json!("users"), &Value::Null, &json!(2))
    );
    assert_eq!((&report["read"], &report["fanning_out"]), (&json!(0), &json!(false)));
    let admin = token(json!({"tidings": {"admin": true}}));
    assert_eq!(get(&node, &format!("/v1/notifications/{id}"), &admin).await["id"], id.as_str());
}

async fn a_key_makes_repeating_a_notification_harmless(store: Store) {
    let mut node = store.node("").await;
    let body = json!({"to": {"users": ["1", "2"]}, "title": "Paid", "data": {"order": 7}, "key": "order-7"});
    // All at once: one of them is the first.
    let requests = (0..8).map(|_| call(&node, Method::POST, "/v1/notifications", API_KEY, &body));
    let answers: Vec<_> =
        futures_util::future::join_all(requests).await.into_iter().map(|answer| accepted(answer, 202)).collect();
    let id = answers[0]["id"].clone();
    assert!(answers.iter().all(|answer| answer["id"] == id), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer["duplicate"] == false).count(), 1, "{answers:?}");
    node.server.restart().await.unwrap();
    // The same, said in another way.
    let again =
        r#" {"key":"order-7", "push":"offline","data":{ "order" : 7 },"title":"P\u0061id","to":{"users":["2","1"]}} "#;
    let answer = accepted(node.post("/v1/notifications", Some(API_KEY), again).await, 202);
    assert_eq!(answer, json!({"id": id, "duplicate": true}));
    for other in [
        json!({"to": {"users": ["1"]}, "title": "Paid", "data": {"order": 7}, "key": "order-7"}),
        json!({"to": {"users": ["1", "2"]}, "title": "Paid", "data": {"order": 8}, "key": "order-7"}),
    ] {
        let answer = call(&node, Method::POST, "/v1/notifications", API_KEY, &other).await;
        assert_problem(&answer, 409, "key_conflict");
    }
    notify(&node, json!({"to": {"user": "1"}, "title": "Paid", "key": "order-8"})).await;
    let page = get(&node, "/v1/me/notifications", &of("1")).await;
    assert_eq!(page["notifications"].as_array().unwrap().len(), 2, "{page}");
    assert_eq!(node.metric("tidings_notifications_total{outcome=\"duplicate\"}").await, 1.0);
}

async fn an_inbox_is_read_page_by_page(store: Store) {
    let node = store.node("").await;
    let mut ids = Vec::new();
    for number in 0..57 {
        ids.push(notify(&node, json!({"to": {"user": "42"}, "title": number.to_string()})).await);
    }
    ids.reverse();
    let me = of("42");
    let first = get(&node, "/v1/me/notifications", &me).await;
    assert_eq!(column(&first, "id"), ids[..50]);
    assert_eq!(first["next"], ids[49]);
    let second = get(&node, &format!("/v1/me/notifications?before={}", ids[49]), &me).await;
    assert_eq!(
        (column(&second, "id"), &second["next"]),
        (ids[50..].iter().map(String::as_str).collect(), &Value::Null)
    );
    // One that comes in between moves no page.
    notify(&node, json!({"to": {"user": "42"}, "title": "new"})).await;
    let mut seen: Vec<String> = Vec::new();
    let mut before = format!("&before={}", ids[0]);
    loop {
        let page = get(&node, &format!("/v1/me/notifications?limit=7{before}"), &me).await;
        seen.extend(column(&page, "id").into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(seen, ids[1..]);
    post(&node, "/v1/me/notifications/read", &me, json!({"ids": [ids[3], ids[5]]})).await;
    post(&node, "/v1/me/notifications/archive", &me, json!({"ids": [ids[4]]})).await;
    let of_state = async |state: &str| {
        let page = get(&node, &format!("/v1/me/notifications?limit=100&state={state}"), &me).await;
        column(&page, "id").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_state("read").await, [ids[3].clone(), ids[5].clone()]);
    assert_eq!(of_state("archived").await, [ids[4].clone()]);
    assert_eq!(of_state("unread").await.len(), 55);
    let all = of_state("all").await;
    assert!(all.len() == 57 && !all.contains(&ids[4]), "{all:?}");
    assert_eq!(column(&get(&node, "/v1/me/notifications?limit=1", &me).await, "title"), ["new"]);
}

async fn marks_change_states_and_counts(store: Store) {
    let node = store.node("").await;
    let me = of("42");
    let mut ids = Vec::new();
    for (at, kind) in ["a", "b", "a", "b", "a"].iter().enumerate() {
        ids.push(notify(&node, json!({"to": {"user": "42"}, "title": at.to_string(), "kind": kind})).await);
    }
    let of_kinds = |a: (u64, u64), b: (u64, u64)| {
        let mut kinds = json!({});
        for (kind, (unread, unseen)) in [("a", a), ("b", b)] {
            if unread + unseen > 0 {
                kinds[kind] = json!({"unread": unread, "unseen": unseen});
            }
        }
        json!({"unread": a.0 + b.0, "unseen": a.1 + b.1, "kinds": kinds})
    };
    let mark = async |mark: &str, which: Value| post(&node, &format!("/v1/me/notifications/{mark}"), &me, which).await;
    let answer = |changed: usize, counts: Value| json!({"changed": changed, "counts": counts});

    assert_eq!(mark("seen", json!({"through": ids[1]})).await, answer(2, of_kinds((3, 2), (2, 1))));
    assert_eq!(mark("read", json!({"ids": [ids[0], ids[4], "999999999"]})).await, answer(2, of_kinds((1, 1), (2, 1))));
    assert_eq!(mark("read", json!({"ids": [ids[0]]})).await, answer(0, of_kinds((1, 1), (2, 1))), "it was read before");
    assert_eq!(mark("archive", json!({"ids": [ids[1], ids[0]]})).await, answer(2, of_kinds((1, 1), (1, 1))));
    // Unread is seen: one has had it before one's eyes.
    assert_eq!(mark("unread", json!({"ids": [ids[0]]})).await, answer(1, of_kinds((2, 1), (1, 1))));
    assert_eq!(mark("seen", json!({"all": true})).await, answer(2, of_kinds((2, 0), (1, 0))));
    assert_eq!(mark("read", json!({"all": true})).await, answer(3, of_kinds((0, 0), (0, 0))));
    assert_eq!(mark("unread", json!({"through": 1})).await["changed"], u64::from(ids[0] == "1"));
    mark("read", json!({"ids": []})).await;
    let page = get(&node, "/v1/me/notifications?state=read", &me).await;
    assert!(page["notifications"].as_array().unwrap().iter().all(|entry| entry["seen"] == true), "{page}");
    let report = get(&node, &format!("/v1/notifications/{}", ids[4]), API_KEY).await;
    assert_eq!((&report["read"], &report["recipients"], &report["pending"]), (&json!(1), &json!(1), &json!(0)));
    // What one user marks is not another's.
    notify(&node, json!({"to": {"user": "43"}, "title": "t"})).await;
    mark("archive", json!({"all": true})).await;
    assert_eq!(get(&node, "/v1/me/notifications/counts", &of("43")).await["unread"], 1);
    assert_eq!(get(&node, "/v1/me/notifications/counts", &me).await, of_kinds((0, 0), (0, 0)));
}

async fn a_newer_one_takes_the_place_of_an_unread_one_of_the_same_collapse(store: Store) {
    let node = store.node("").await;
    let me = of("42");
    let send = async |title: &str| {
        notify(&node, json!({"to": {"user": "42"}, "title": title, "collapse": "likes", "kind": "like"})).await
    };
    send("1 like").await;
    let second = send("2 likes").await;
    let page = get(&node, "/v1/me/notifications", &me).await;
    assert_eq!(column(&page, "title"), ["2 likes"]);
    assert_eq!(get(&node, "/v1/me/notifications/counts", &me).await["unread"], 1);
    post(&node, "/v1/me/notifications/read", &me, json!({"ids": [second]})).await;
    send("3 likes").await;
    // What has been read is history, and stays.
    assert_eq!(column(&get(&node, "/v1/me/notifications", &me).await, "title"), ["3 likes", "2 likes"]);
}

async fn what_has_expired_is_nowhere(store: Store) {
    let node = store.node("").await;
    let me = of("42");
    let id = notify(&node, json!({"to": {"user": "42"}, "title": "short", "expires_in": 1})).await;
    notify(&node, json!({"to": {"everyone": true}, "title": "short", "expires_in": 1})).await;
    notify(&node, json!({"to": {"user": "42"}, "title": "long"})).await;
    let gone = wait::until("the short ones to expire", LIMIT, async || {
        let counts = get(&node, "/v1/me/notifications/counts", &me).await;
        (counts["unread"] == 1).then_some(())
    });
    gone.await.unwrap();
    assert_eq!(column(&get(&node, "/v1/me/notifications", &me).await, "title"), ["long"]);
    let read = post(&node, "/v1/me/notifications/read", &me, json!({"ids": [id]})).await;
    assert_eq!(read["changed"], 0);
}

async fn everyone_has_it_also_who_comes_later(store: Store) {
    let node = store.node("").await;
    notify(&node, json!({"to": {"user": "42"}, "title": "before"})).await;
    let id = notify(&node, json!({"to": {"everyone": true}, "title": "all", "kind": "news"})).await;
    notify(&node, json!({"to": {"user": "42"}, "title": "after"})).await;
    assert_eq!(column(&get(&node, "/v1/me/notifications", &of("42")).await, "title"), ["after", "all", "before"]);
    for user in ["7", "8"] {
        let counts = get(&node, "/v1/me/notifications/counts", &of(user)).await;
        assert_eq!(counts, json!({"unread": 1, "unseen": 1, "kinds": {"news": {"unread": 1, "unseen": 1}}}));
    }
    assert_eq!(post(&node, "/v1/me/notifications/read", &of("7"), json!({"all": true})).await["changed"], 1);
    // Marking is a first look too.
    assert_eq!(post(&node, "/v1/me/notifications/read", &of("9"), json!({"ids": [id]})).await["changed"], 1);
    let report = get(&node, &format!("/v1/notifications/{id}"), API_KEY).await;
    assert_eq!(
        (&report["audience"], &report["recipients"], &report["read"]),
        (&json!("everyone"), &json!(4), &json!(2))
    );
}

async fn a_backend_sees_what_a_user_has_and_forgets_them(store: Store) {
    let node = store.node("").await;
    notify(&node, json!({"to": {"user": "a:b/c"}, "title": "one"})).await;
    notify(&node, json!({"to": {"user": "a:b/c"}, "title": "two"})).await;
    let user = "/v1/users/a:b%2Fc";
    let page = get(&node, &format!("{user}/notifications?limit=1"), API_KEY).await;
    assert_eq!((column(&page, "title"), page["next"].is_string()), (vec!["two"], true));
    assert_eq!(get(&node, &format!("{user}/notifications/counts"), API_KEY).await["unseen"], 2, "a look marks nothing");
    let put = json!({"provider": "fcm", "token": "token-1"});
    accepted(call(&node, Method::PUT, &format!("{user}/devices/phone"), API_KEY, &put).await, 201);
    accepted(call(&node, Method::PUT, &format!("{user}/follows/region:jeju"), API_KEY, &Value::Null).await, 200);
    let wants = json!({"kinds": {"news": {"live": true, "push": false, "mute_until": null}}});
    accepted(call(&node, Method::PUT, &format!("{user}/preferences"), API_KEY, &wants).await, 200);
    assert_eq!(get(&node, "/v1/me/preferences", &of("a:b/c")).await, wants);
    node.publish(json!({"channel": "user:a:b/c", "data": "kept"})).await;

    let mut stream = super::alarms(&node, "", "a:b/c").await;
    let erased = accepted(call(&node, Method::DELETE, user, API_KEY, &Value::Null).await, 200);
    assert_eq!(erased["notifications"], 2, "{erased}");
    assert_eq!(erased["closed"], 1, "{erased}");
    // Besides the one that was published, history may hold none: notifications pass by.
    assert_eq!(erased["events"], 1, "{erased}");
    let end = stream.until_end(LIMIT).await.unwrap();
    assert!(end.last().is_some_and(|last| last.event == "closing" && last.data.contains("kicked")), "{end:?}");
    assert_nothing_is_known_of(&node, "a:b/c").await;
    let again = accepted(call(&node, Method::DELETE, user, API_KEY, &Value::Null).await, 200);
    assert_eq!(again, json!({"notifications": 0, "events": 0, "closed": 0}));
}

async fn assert_nothing_is_known_of(node: &Node, user: &str) {
    let me = of(user);
    assert_eq!(get(node, "/v1/me/notifications?state=all", &me).await["notifications"], json!([]));
    assert_eq!(get(node, "/v1/me/notifications/counts", &me).await["unread"], 0);
    assert_eq!(get(node, "/v1/me/devices", &me).await, json!({"devices": []}));
    assert_eq!(get(node, "/v1/me/follows", &me).await, json!({"follows": [], "next": null}));
    assert_eq!(get(node, "/v1/me/preferences", &me).await, json!({"kinds": {}}));
}
