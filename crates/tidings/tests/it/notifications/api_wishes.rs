//! Follows, devices and preferences: by users and by backends.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::wait;

use super::{Store, accepted, call, column, get, notify, of, post};
use crate::node::{API_KEY, LIMIT, assert_problem};

on_every_store!(
    follows_are_added_and_taken_away,
    a_backend_brings_a_channels_followers_along,
    a_notification_to_followers_reaches_those_who_follow,
    a_device_is_put_listed_and_removed_and_its_token_shown_to_nobody,
    preferences_are_replaced_as_a_whole,
);

async fn follows_are_added_and_taken_away(store: Store) {
    let node = store.node("[limits]\nmax_follows_per_user = 5\n").await;
    let me = of("42");
    let put = async |channel: &str| {
        accepted(call(&node, Method::PUT, &format!("/v1/me/follows/{channel}"), &me, &Value::Null).await, 200)
    };
    assert_eq!(put("region:jeju").await, json!({"followed": ["region:jeju"], "unfollowed": []}));
    assert_eq!(put("region:jeju").await, json!({"followed": [], "unfollowed": []}));
    assert_eq!(put("a%2Fb").await["followed"], json!(["a/b"]));
    let change = json!({"follow": ["region:seoul", "region:jeju", "c"], "unfollow": ["a/b", "never"]});
    let changed = post(&node, "/v1/me/follows", &me, change).await;
    assert_eq!(changed["unfollowed"], json!(["a/b"]));
    let mut followed: Vec<_> = changed["followed"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    followed.sort_unstable();
    assert_eq!(followed, ["c", "region:seoul"]);

    let page = get(&node, "/v1/me/follows?limit=2", &me).await;
    let names = |page: &Value| {
        let follows = page["follows"].as_array().unwrap().clone();
        assert!(follows.iter().all(|follow| follow["since"].as_u64().is_some()), "{page}");
        follows.iter().map(|follow| follow["channel"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(&page), &page["next"]), (vec!["c".to_owned(), "region:jeju".to_owned()], &json!("region:jeju")));
    let rest = get(&node, "/v1/users/42/follows?after=region:jeju", API_KEY).await;
    assert_eq!((names(&rest), &rest["next"]), (vec!["region:seoul".to_owned()], &Value::Null));

    put("d").await;
    put("e").await;
    let answer = call(&node, Method::PUT, "/v1/me/follows/f", &me, &Value::Null).await;
    let detail = assert_problem(&answer, 409, "too_many_follows");
    assert!(detail.contains('5') && detail.contains("limits.max_follows_per_user"), "{detail}");
    // At the limit, one for another.
    post(&node, "/v1/me/follows", &me, json!({"follow": ["f"], "unfollow": ["e"]})).await;
    let answer = call(&node, Method::DELETE, "/v1/users/42/follows/f", API_KEY, &Value::Null).await;
    assert_eq!(accepted(answer, 200), json!({"followed": [], "unfollowed": ["f"]}));
    let answer = call(&node, Method::DELETE, "/v1/me/follows/f", &me, &Value::Null).await;
    assert_eq!(accepted(answer, 200), json!({"followed": [], "unfollowed": []}));
    post(&node, "/v1/users/43/follows", API_KEY, json!({"follow": ["f"]})).await;
    assert_eq!(names(&get(&node, "/v1/me/follows", &of("43")).await), ["f"]);
}

async fn a_backend_brings_a_channels_followers_along(store: Store) {
    let node = store.node("[limits]\nmax_follows_per_user = 1\n").await;
    post(&node, "/v1/me/follows", &of("full"), json!({"follow": ["region:seoul"]})).await;
    let path = "/v1/channels/region:jeju/followers";
    let change = async |body: Value| {
        let mut changed = post(&node, path, API_KEY, body).await;
        for field in ["followed", "unfollowed", "over_limit"] {
            changed[field].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        changed
    };
    let changed = change(json!({"follow": ["1", "2", "full", "1"]})).await;
    assert_eq!(changed, json!({"followed": ["1", "2"], "unfollowed": [], "over_limit": ["full"]}));
    // Who is at the limit because of this channel follows it already.
    let changed = change(json!({"follow": ["2", "3"], "unfollow": ["1", "full", "never"]})).await;
    assert_eq!(changed, json!({"followed": ["3"], "unfollowed": ["1"], "over_limit": []}));
    notify(&node, json!({"to": {"followers_of": "region:jeju"}, "title": "t"})).await;
    let arrived = async || {
        let mut unread = Vec::new();
        for user in ["1", "2", "3", "full"] {
            unread.push(get(&node, "/v1/me/notifications/counts", &of(user)).await["unread"].as_u64().unwrap());
        }
        (unread == [0, 1, 1, 0]).then_some(())
    };
    wait::until("those who follow to have it", LIMIT, arrived).await.unwrap();

    for (body, named) in [
        (json!({}), "0 users"),
        (json!({"follow": ["a b"]}), "follow"),
        (json!({"follow": ["1"], "unfollow": ["1"]}), "unfollow"),
        (json!({"follows": ["1"]}), "unknown field"),
    ] {
        let detail = assert_problem(&call(&node, Method::POST, path, API_KEY, &body).await, 400, "invalid_body");
        assert!(detail.contains(named), "{body}: {detail}");
    }
    let answer = call(&node, Method::POST, path, &of("1"), &json!({"follow": ["1"]})).await;
    assert_problem(&answer, 403, "forbidden");
    let answer = call(&node, Method::POST, "/v1/channels/user:7/followers", API_KEY, &json!({"follow": ["1"]})).await;
    assert_problem(&answer, 400, "invalid_path");
}

async fn a_notification_to_followers_reaches_those_who_follow(store: Store) {
    let node = store.node("").await;
    for user in ["1", "2", "3"] {
        post(&node, &format!("/v1/users/{user}/follows"), API_KEY, json!({"follow": ["region:jeju"]})).await;
    }
    call(&node, Method::DELETE, "/v1/me/follows/region:jeju", &of("3"), &Value::Null).await;
    let id = notify(&node, json!({"to": {"followers_of": "region:jeju"}, "title": "Fire", "kind": "festival"})).await;
    let report = wait::until("the followers to have it", LIMIT, async || {
        let report = get(&node, &format!("/v1/notifications/{id}"), API_KEY).await;
        (report["fanning_out"] == false).then_some(report)
    });
    let report = report.await.unwrap();
    assert_eq!((&report["audience"], &report["channel"]), (&json!("followers_of"), &json!("region:jeju")));
    assert_eq!(report["recipients"], 2);
    for (user, has) in [("1", true), ("2", true), ("3", false), ("4", false)] {
        let page = get(&node, "/v1/me/notifications", &of(user)).await;
        assert_eq!(column(&page, "id"), if has { vec![id.as_str()] } else { vec![] }, "user {user}");
    }
    assert_eq!(node.metric("tidings_inbox_fan_out_rows_total").await, 2.0);
}

async fn a_device_is_put_listed_and_removed_and_its_token_shown_to_nobody(store: Store) {
    let node = store.node("[limits]\nmax_devices_per_user = 2\n").await;
    let me = of("42");
    let put = async |user: &str, device: &str, token: &str| {
        let body = json!({"provider": "fcm", "token": token});
        call(&node, Method::PUT, &format!("/v1/me/devices/{device}"), &of(user), &body).await
    };
    let created = accepted(put("42", "phone", "secret-1").await, 201);
    assert_eq!(
        (&created["id"], &created["provider"], &created["quarantined"]),
        (&json!("phone"), &json!("fcm"), &Value::Null)
    );
    assert_eq!(created["configured"], false, "this server has no [push.fcm]");
    accepted(put("42", "phone", "secret-2").await, 200);
    accepted(put("42", "tab%2Flet", "secret-3").await, 201);
    let detail = assert_problem(&put("42", "watch", "secret-4").await, 409, "too_many_devices");
    assert!(detail.contains("limits.max_devices_per_user"), "{detail}");
    let ids = async |user: &str| {
        let answer = get(&node, "/v1/me/devices", &of(user)).await;
        assert!(!answer.to_string().contains("secret"), "{answer}");
        let devices = answer["devices"].as_array().unwrap().clone();
        devices.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("42").await, ["phone", "tab/let"]);
    // The phone is handed on: it has one owner.
    accepted(put("43", "mine", "secret-2").await, 201);
    assert_eq!((ids("42").await, ids("43").await), (vec!["tab/let".to_owned()], vec!["mine".to_owned()]));
    let remove = async || call(&node, Method::DELETE, "/v1/me/devices/tab%2Flet", &me, &Value::Null).await;
    assert_eq!(accepted(remove().await, 200), json!({"removed": true}));
    assert_eq!(accepted(remove().await, 200), json!({"removed": false}));
    let theirs = get(&node, "/v1/users/43/devices", API_KEY).await;
    assert_eq!(theirs["devices"][0]["id"], "mine");
    let answer = call(&node, Method::DELETE, "/v1/users/43/devices/mine", API_KEY, &Value::Null).await;
    assert_eq!(accepted(answer, 200), json!({"removed": true}));
    // A browser's subscription, as it writes itself. The keys are those of RFC 8291, Appendix A.
    let subscription = json!({
        "endpoint": "https://push.example.net/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV", "expirationTime": null,
        "keys": {
            "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "auth": "BTBZMqHH6r4Tts7J_aSIgg",
        },
    });
    let body = json!({"provider": "web_push", "subscription": subscription});
    let web = accepted(call(&node, Method::PUT, "/v1/me/devices/browser", &me, &body).await, 201);
    assert_eq!(web["provider"], "web_push");
    for wrong in [
        json!({"provider": "web_push", "subscription": {"endpoint": "http://127.0.0.1:1/x", "keys": subscription["keys"]}}),
        json!({"provider": "web_push", "subscription": {"endpoint": "https://push.example.net/x", "keys": {"p256dh": "AAAA", "auth": "AAAA"}}}),
    ] {
        let answer = call(&node, Method::PUT, "/v1/me/devices/browser", &me, &wrong).await;
        assert_problem(&answer, 400, "invalid_body");
    }
}

async fn preferences_are_replaced_as_a_whole(store: Store) {
    let node = store.node("").await;
    let me = of("42");
    assert_eq!(get(&node, "/v1/me/preferences", &me).await, json!({"kinds": {}}));
    let put =
        async |path: &str, who: &str, body: Value| accepted(call(&node, Method::PUT, path, who, &body).await, 200);
    let first = put(
        "/v1/me/preferences",
        &me,
        json!({"kinds": {"a": {"push": false}, "b.c": {"mute_until": 4_000_000_000_000_u64}}}),
    )
    .await;
    let expected = json!({"kinds": {
        "a": {"live": true, "push": false, "mute_until": null},
        "b.c": {"live": true, "push": true, "mute_until": 4_000_000_000_000_u64},
    }});
    assert_eq!(first, expected);
    assert_eq!(get(&node, "/v1/users/42/preferences", API_KEY).await, expected);
    let second = put("/v1/users/42/preferences", API_KEY, json!({"kinds": {"d": {"live": false}}})).await;
    assert_eq!(second, json!({"kinds": {"d": {"live": false, "push": true, "mute_until": null}}}));
    assert_eq!(get(&node, "/v1/me/preferences", &me).await, second);
    put("/v1/me/preferences", &me, json!({"kinds": {}})).await;
    assert_eq!(get(&node, "/v1/me/preferences", &me).await, json!({"kinds": {}}));
}
