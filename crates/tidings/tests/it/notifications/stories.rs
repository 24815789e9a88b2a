//! What users see of notifications over the life of their connections: each notification once, wherever they were
//! when it came.

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::client::SseClient;

use super::{Store, accepted, alarms, call, column, end, get, next_of, notify, of, post, titles_through};
use crate::node::{LIMIT, Node};

on_every_store!(
    a_new_festival_reaches_each_follower_once,
    the_alarms_of_a_social_application,
    what_is_for_everyone_reaches_everyone_once,
    what_was_missed_is_merged_with_what_happened,
    nothing_is_lost_or_doubled_over_restarts,
    nothing_that_was_accepted_is_lost_by_a_crash,
);

async fn connected_id(node: &Node, user: &str) -> String {
    alarms(node, "", user).await.last_id().to_owned()
}

async fn a_new_festival_reaches_each_follower_once(store: Store) {
    let node = store.node("").await;
    for user in ["online", "away", "new-phone", "muted"] {
        accepted(call(&node, Method::PUT, "/v1/me/follows/region:jeju", &of(user), &Value::Null).await, 200);
    }
    let wants = json!({"kinds": {"festival.added": {"live": false, "push": false}}});
    accepted(call(&node, Method::PUT, "/v1/me/preferences", &of("muted"), &wants).await, 200);
    let away_since = connected_id(&node, "away").await;
    let (mut online, mut muted) = (alarms(&node, "", "online").await, alarms(&node, "", "muted").await);
    let mut elsewhere = alarms(&node, "", "elsewhere").await;

    let festival = json!({"to": {"followers_of": "region:jeju"}, "kind": "festival.added", "title": "Fire festival"});
    notify(&node, festival).await;
    assert_eq!(titles_through(&mut online, "Fire festival").await, ["Fire festival"]);

    // At the next login of those who were not there: with a cursor, and without one on a new phone.
    let mut back = alarms(&node, &format!("last_event_id={away_since}"), "away").await;
    assert_eq!(titles_through(&mut back, "Fire festival").await, ["Fire festival"]);
    let mut new_phone = alarms(&node, "replay=unread", "new-phone").await;
    assert_eq!(titles_through(&mut new_phone, "Fire festival").await, ["Fire festival"]);
    let mut muted_again = alarms(&node, "replay=unread", "muted").await;
    for (stream, user) in [
        (&mut online, "online"),
        (&mut back, "away"),
        (&mut new_phone, "new-phone"),
        (&mut muted, "muted"),
        (&mut elsewhere, "elsewhere"),
    ] {
        assert_eq!(end(&node, stream, user).await, [""; 0], "{user}");
    }
    assert_eq!(titles_through(&mut muted_again, "end").await, ["end"]);
    // The inbox has it in any case, and of those alone who follow.
    for (user, titles) in [
        ("online", &["end", "Fire festival"][..]),
        ("away", &["end", "Fire festival"]),
        ("new-phone", &["end", "Fire festival"]),
        ("muted", &["end", "Fire festival"]),
        ("elsewhere", &["end"]),
    ] {
        assert_eq!(column(&get(&node, "/v1/me/notifications", &of(user)).await, "title"), titles, "{user}");
    }
    // Who comes back with the last cursor has nothing to make up for.
    let cursor = new_phone.last_id().to_owned();
    let mut again = alarms(&node, &format!("last_event_id={cursor}"), "new-phone").await;
    assert_eq!(end(&node, &mut again, "new-phone").await, [""; 0]);
}

async fn the_alarms_of_a_social_application(store: Store) {
    let node = store.node("").await;
    let (me, like) = (of("author"), |who: &str| json!({"to": {"user": "author"}, "kind": "like", "title": who}));
    let mut phone = alarms(&node, "", "author").await;
    let comment = json!({"to": {"user": "author"}, "kind": "comment", "title": "first!", "collapse": "post-7"});
    let mut last = Value::Null;
    for body in [like("ann"), like("bob"), comment.clone(), comment] {
        // One by one: of two that come together under one `collapse`, only the later need be told.
        notify(&node, body.clone()).await;
        last = next_of(&mut phone, "notification").await.1;
        assert_eq!(last["notification"]["title"], body["title"]);
    }
    // The second comment stands for the first.
    let kinds = json!({"comment": {"unread": 1, "unseen": 1}, "like": {"unread": 2, "unseen": 2}});
    assert_eq!(last["counts"], json!({"unread": 3, "unseen": 3, "kinds": kinds}));
    // A look at the list on another device, and one of them read there.
    let mut desk = alarms(&node, "replay=unread", "author").await;
    assert_eq!(titles_through(&mut desk, "first!").await, ["ann", "bob", "first!"]);
    post(&node, "/v1/me/notifications/seen", &me, json!({"all": true})).await;
    post(&node, "/v1/me/notifications/read", &me, json!({"ids": [last["notification"]["id"]]})).await;
    for stream in [&mut phone, &mut desk] {
        assert_eq!(next_of(stream, "unread").await.1["counts"]["unseen"], 0);
        let kinds = json!({"like": {"unread": 2, "unseen": 0}});
        assert_eq!(next_of(stream, "unread").await.1["counts"], json!({"unread": 2, "unseen": 0, "kinds": kinds}));
    }
    assert_eq!(end(&node, &mut phone, "author").await, [""; 0]);
}

async fn what_is_for_everyone_reaches_everyone_once(store: Store) {
    let node = store.node("").await;
    let users: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
    let away_since = connected_id(&node, "away").await;
    let mut streams = Vec::new();
    for user in &users {
        streams.push(alarms(&node, "", user).await);
    }
    for title in ["one", "two"] {
        notify(&node, json!({"to": {"everyone": true}, "title": title})).await;
    }
    for (stream, user) in streams.iter_mut().zip(&users) {
        assert_eq!(end(&node, stream, user).await, ["one", "two"], "{user}");
    }
    let mut back = alarms(&node, &format!("last_event_id={away_since}"), "away").await;
    assert_eq!(end(&node, &mut back, "away").await, ["one", "two"]);
    // Who was never seen before has it in the inbox, and is not told of the past unless that is asked for.
    let mut new = alarms(&node, "", "new").await;
    assert_eq!(end(&node, &mut new, "new").await, [""; 0]);
    let mut new = alarms(&node, "replay=unread", "new").await;
    assert_eq!(titles_through(&mut new, "end").await, ["one", "two", "end"]);
    for user in ["u0", "away", "new"] {
        assert_eq!(get(&node, "/v1/me/notifications/counts", &of(user)).await["unread"], 3, "{user}");
    }
    // Nobody is told that the stream listens to more than it names, and nobody may name that.
    let mut stream = node.stream_as("", &of("u0")).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().channels, ["user:u0"]);
    let answer = call(&node, Method::GET, "/v1/subscribe?channel=tidings:everyone", &of("u0"), &Value::Null).await;
    assert!(matches!(answer.status, 400 | 403), "{}", answer.status);
}

async fn what_was_missed_is_merged_with_what_happened(store: Store) {
    let node = store.node("").await;
    let cursor = {
        let mut stream = node.stream_as("channel=open:a&envelope=1", &of("42")).await;
        stream.connected(LIMIT).await.unwrap();
        stream.last_id().to_owned()
    };
    let mut expected = Vec::new();
    for number in 0..300 {
        match number % 3 {
            0 => drop(node.publish(json!({"channel": "open:a", "data": format!("{number}")})).await),
            1 => drop(notify(&node, json!({"to": {"user": "42"}, "title": format!("{number}")})).await),
            _ => drop(notify(&node, json!({"to": {"everyone": true}, "title": format!("{number}")})).await),
        }
        // Told before the next is published: then that is the order of the log too.
        let told = (0..=number).filter(|number| number % 3 > 0).count();
        node.wait_for_metric("tidings_inbox_told_total", told as f64).await;
        expected.push(number.to_string());
    }
    // History holds the last hundred: these are all of them.
    let text_of = |event: &str, data: &Value| match event {
        "notification" => data["data"]["notification"]["title"].as_str().unwrap().to_owned(),
        _ => data["data"].as_str().unwrap().to_owned(),
    };
    let (mut came, mut cursor) = (Vec::new(), cursor);
    // Cut off after every seventh frame.
    while came.len() < expected.len() {
        let mut stream = node.stream_as(&format!("channel=open:a&envelope=1&last_event_id={cursor}"), &of("42")).await;
        stream.connected(LIMIT).await.unwrap();
        for _ in 0..7.min(expected.len() - came.len()) {
            let received = stream.next_event(LIMIT).await.unwrap();
            let data: Value = serde_json::from_str(&received.data).unwrap();
            // The same channels as live.
            assert_eq!(data["channel"], ["open:a", "user:42", "tidings:everyone"][came.len() % 3]);
            came.push(text_of(&received.event, &data));
            cursor.clone_from(&received.id);
        }
    }
    assert_eq!(came, expected);
}

/// A client that comes back for ever, and what it was told of.
struct Client {
    user: &'static str,
    cursor: String,
    told: BTreeMap<String, usize>,
}

impl Client {
    fn new(user: &'static str) -> Self {
        Self { user, cursor: String::new(), told: BTreeMap::new() }
    }

    /// Comes, or comes back.
    async fn come(&self, node: &Node) -> SseClient {
        match self.cursor.is_empty() {
            true => alarms(node, "", self.user).await,
            false => alarms(node, &format!("last_event_id={}", self.cursor), self.user).await,
        }
    }

    /// Takes so many notifications that it did not have. What comes in between is not counted.
    async fn take(&mut self, stream: &mut SseClient, count: usize) {
        self.cursor = stream.last_id().to_owned();
        let enough = self.told.len() + count;
        while self.told.len() < enough {
            let (received, data) = next_of(stream, "notification").await;
            *self.told.entry(data["notification"]["title"].as_str().unwrap().to_owned()).or_default() += 1;
            self.cursor = received.id;
        }
    }
}

async fn nothing_is_lost_or_doubled_over_restarts(store: Store) {
    let mut node = store.node("").await;
    let mut clients = [Client::new("1"), Client::new("2")];
    accepted(call(&node, Method::PUT, "/v1/me/follows/f", &of("1"), &Value::Null).await, 200);
    let mut number = 0;
    for round in 0..3 {
        let mut streams = [clients[0].come(&node).await, clients[1].come(&node).await];
        for (client, stream) in clients.iter_mut().zip(&mut streams) {
            client.take(stream, usize::from(round > 0) * if client.user == "1" { 3 } else { 2 }).await;
        }
        let mut send = async |count: usize| {
            for _ in 0..count {
                notify(&node, json!({"to": {"users": ["1", "2"]}, "title": number.to_string()})).await;
                number += 1;
            }
        };
        send(5).await;
        for (client, stream) in clients.iter_mut().zip(&mut streams) {
            client.take(stream, 5).await;
        }
        drop(streams);
        // While nobody is there, and the last of it hardly told when the server ends.
        send(1).await;
        notify(&node, json!({"to": {"followers_of": "f"}, "title": format!("f{round}")})).await;
        notify(&node, json!({"to": {"everyone": true}, "title": format!("all{round}")})).await;
        assert_eq!(node.server.terminate(LIMIT).await.unwrap().code(), Some(0));
        node.server.restart().await.unwrap();
    }
    for client in &mut clients {
        let mut stream = client.come(&node).await;
        client.take(&mut stream, if client.user == "1" { 3 } else { 2 }).await;
        assert_eq!(end(&node, &mut stream, client.user).await, [""; 0]);
        let followed = if client.user == "1" { 3 } else { 0 };
        assert_eq!(client.told.len(), 18 + 3 + followed, "{:?}", client.told);
        assert!(client.told.values().all(|count| *count == 1), "{:?}", client.told);
        assert_eq!(get(&node, "/v1/me/notifications/counts", &of(client.user)).await["unread"], 22 + followed);
    }
}

async fn nothing_that_was_accepted_is_lost_by_a_crash(store: Store) {
    let mut node = store.node("").await;
    let mut client = Client::new("1");
    accepted(call(&node, Method::PUT, "/v1/me/follows/f", &of("1"), &Value::Null).await, 200);
    client.cursor = connected_id(&node, "1").await;
    for round in 0..4 {
        // Accepted, and perhaps neither written out nor told, nor its place noted, when the server is killed.
        notify(&node, json!({"to": {"user": "1"}, "title": format!("user{round}")})).await;
        notify(&node, json!({"to": {"followers_of": "f"}, "title": format!("f{round}")})).await;
        notify(&node, json!({"to": {"everyone": true}, "title": format!("all{round}")})).await;
        node.server.kill9().await.unwrap();
        node.server.restart().await.unwrap();
        let mut stream = client.come(&node).await;
        client.take(&mut stream, 3).await;
    }
    let mut stream = client.come(&node).await;
    let again = end(&node, &mut stream, "1").await;
    assert_eq!(client.told.len(), 12, "{:?}", client.told);
    // Nobody was told of anything before the server died. Where the database is another process, it may commit what
    // the dead server had asked for, the place of an event, after the next one has told of it again.
    if matches!(store, Store::Sqlite) {
        assert!(client.told.values().all(|count| *count == 1) && again.is_empty(), "{:?} {again:?}", client.told);
    }
    assert!(client.told.values().all(|count| *count <= 2), "{:?}", client.told);
    let page = get(&node, "/v1/me/notifications", &of("1")).await;
    assert_eq!(column(&page, "title").len(), 13, "{page}");
}
