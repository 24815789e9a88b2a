//! `kill -9` at random moments of notifications' ways to very many followers.
//!
//! `FAN_OUT_FOLLOWERS` and `FAN_OUT_KILLS` make it longer, `FAN_OUT_SEED` repeats one.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tidings_testkit::{push::PushService, wait};

use super::{
    Store, accepted, call, column,
    escalation::{PUSH, phone},
    get, post,
};
use crate::{
    command::{Done, tidings},
    node::{API_KEY, Node},
};

on_every_store!(every_follower_gets_it_exactly_once_however_often_the_server_is_killed);

/// Followers of one request.
const AT_ONCE: usize = 1000;

/// So many of them have a device.
const DEVICES: usize = 10;

/// How long the server may take for what was left undone. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(300);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

async fn every_follower_gets_it_exactly_once_however_often_the_server_is_killed(store: Store) {
    let followers = number("FAN_OUT_FOLLOWERS", 5_000);
    let kills = number("FAN_OUT_KILLS", 3);
    let seed = number("FAN_OUT_SEED", rand::random::<u32>().into());
    eprintln!("FAN_OUT_SEED={seed} FAN_OUT_FOLLOWERS={followers} FAN_OUT_KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);

    let push = PushService::start().await.unwrap();
    let mut node = store.node(PUSH).await;
    let users: Vec<String> = (0..followers).map(|number| format!("u{number}")).collect();
    for some in users.chunks(AT_ONCE) {
        let changed = post(&node, "/v1/channels/region:jeju/followers", API_KEY, json!({"follow": some})).await;
        assert_eq!(changed["followed"].as_array().unwrap().len(), some.len());
    }
    let mut phones = Vec::new();
    let mut owners = users.clone();
    owners.shuffle(&mut rng);
    for user in owners.into_iter().take(DEVICES) {
        phones.push((phone(&node, &push, &user).await, user));
    }

    let mut ids = Vec::new();
    for kill in 0..kills {
        let festival = json!({
            "to": {"followers_of": "region:jeju"}, "kind": "festival.added", "title": format!("festival {kill}"),
            "key": format!("festival-{kill}"),
        });
        let send = async |node: &Node| {
            accepted(call(node, axum::http::Method::POST, "/v1/notifications", API_KEY, &festival).await, 202)
        };
        let id = send(&node).await["id"].as_str().unwrap().to_owned();
        // At any moment of writing it out and telling it, while those before may still be told and pushed.
        let counter = match rng.random_bool(0.5) {
            true => "tidings_inbox_fan_out_rows_total",
            false => "tidings_inbox_told_total",
        };
        let share = rng.random_range(0.0..1.0);
        let reached = async || (node.metric(counter).await >= share * followers as f64).then_some(());
        wait::until(counter, PATIENCE, reached).await.unwrap();
        node.server.restart().await.unwrap();
        assert_eq!(send(&node).await, json!({"id": id, "duplicate": true}), "seed {seed}");
        ids.push(id);
    }

    for id in &ids {
        let done = async || {
            let report = get(&node, &format!("/v1/notifications/{id}"), API_KEY).await;
            (report["fanning_out"] == false && report["pending"] == 0).then_some(report)
        };
        let report = wait::until("all to be told and pushed", PATIENCE, done).await.unwrap();
        let found = (report["recipients"].as_u64(), report["pushed"].as_u64(), report["failed"].as_u64());
        assert_eq!(found, (Some(followers), Some(DEVICES as u64), Some(0)), "seed {seed}: {report}");
    }
    let sampled = users.iter().step_by(users.len() / 50);
    for user in sampled.chain(phones.iter().map(|(_, user)| user)) {
        let page = get(&node, &format!("/v1/users/{user}/notifications?limit=100"), API_KEY).await;
        let mut found = column(&page, "id");
        found.reverse();
        assert_eq!(found, ids, "seed {seed}: {user}");
        let counts = get(&node, &format!("/v1/users/{user}/notifications/counts"), API_KEY).await;
        assert_eq!(counts["unread"], ids.len(), "seed {seed}: {user}");
    }
    // At least once each. A device that goes by the id, or by `tag`, has each once.
    for (phone, user) in &phones {
        let mut pushed: Vec<_> = push.delivered(phone).iter().map(|sent| sent.payload["id"].clone()).collect();
        pushed.sort_by_key(|id| id.as_str().and_then(|id| id.parse::<u64>().ok()));
        pushed.dedup();
        assert_eq!(Value::from(pushed), json!(ids), "seed {seed}: {user}");
    }
    node.server.terminate(PATIENCE).await.unwrap();
    let config = node.server.config_path();
    let verified = Done::from(tidings(&["store", "verify", "--config", config.to_str().unwrap()]).output().unwrap());
    assert_eq!(verified.code, Some(0), "seed {seed}: {}{}", verified.stdout, verified.stderr);
}
