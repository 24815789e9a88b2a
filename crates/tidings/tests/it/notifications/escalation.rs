//! A notification reaches the phone of who is not there, whatever their open connection says; and not that of
//! who has it.
//!
//! The clients run on hosts of their own, which are cut off: no FIN, no reset, packets dropped on the way.

use std::{
    net::Ipv4Addr,
    process::{Child, Stdio},
};

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    host::Host,
    push::{PushService, Subscription},
    wait,
};

use super::{Store, alarms, call, get, notify, of, post};
use crate::{
    nginx::Nginx,
    node::{API_KEY, LIMIT, Node, next, options},
};

/// What is needed to push to the stand-in, soon.
pub(super) const PUSH: &str = r#"
[push]
after = "1s"
[push.web_push]
vapid_private_key = "8yF3yAH9PNNEQE5hGBnwLMEDO3Y8m0G0_Tb4xwNV9QM"
subject = "mailto:operations@example.com"
allow_private = ["127.0.0.0/8"]
"#;

/// A stream on another host, of somebody who is signed in.
struct Listener(Child);

impl Listener {
    async fn start(host: &Host, node: &Node, port: u16, user: &str) -> Self {
        let url = format!("http://{}:{port}/v1/subscribe", host.near());
        let authorization = format!("authorization: Bearer {}", of(user));
        let mut curl = host.command("curl");
        curl.args(["-sN", "--http1.1", "-H", &authorization, &url]).stdout(Stdio::null());
        let listener = Self(curl.spawn().unwrap());
        wait::until("the listener to be there", LIMIT, async || is_online(node, user).await.then_some(()))
            .await
            .unwrap();
        listener
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

async fn is_online(node: &Node, user: &str) -> bool {
    get(node, &format!("/v1/users/{user}/presence"), API_KEY).await["online"] == true
}

/// Gives the user a device of the stand-in's.
pub(super) async fn phone(node: &Node, push: &PushService, user: &str) -> Subscription {
    let subscription = push.subscribe().await.unwrap();
    let device = json!({"provider": "web_push", "subscription": subscription.to_json()});
    let answer = call(node, Method::PUT, &format!("/v1/users/{user}/devices/phone"), API_KEY, &device).await;
    assert!(answer.status < 300, "{}", answer.text());
    subscription
}

/// The report once every delivery is settled.
pub(super) async fn settled(node: &Node, id: &str) -> Value {
    let path = format!("/v1/notifications/{id}");
    let done = async || {
        let report = get(node, &path, API_KEY).await;
        (report["fanning_out"] == false && report["pending"] == 0).then_some(report)
    };
    wait::until("the notification to be settled", LIMIT, done).await.unwrap()
}

fn figures(report: &Value) -> Vec<u64> {
    ["recipients", "delivered_live", "pushed", "failed"].map(|name| report[name].as_u64().unwrap()).into()
}

/// Presence says that both are there.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_is_pushed_to_and_who_has_it_is_not() {
    let push = PushService::start().await.unwrap();
    let node = Node::start_with(options(PUSH).on_all_interfaces()).await;
    let (lost, well) = (Host::new().unwrap(), Host::new().unwrap());
    let port = node.addr().port();
    let _streams =
        (Listener::start(&lost, &node, port, "lost").await, Listener::start(&well, &node, port, "well").await);
    let (lost_phone, well_phone) = (phone(&node, &push, "lost").await, phone(&node, &push, "well").await);

    lost.cut_off().unwrap();
    let id = notify(&node, json!({"to": {"users": ["lost", "well"]}, "title": "Your order was filled"})).await;
    let pushed = push.until_taken(&lost_phone, 1, LIMIT).await.unwrap();
    assert_eq!(pushed[0].payload["id"], *id);
    assert!(is_online(&node, "lost").await, "presence still says so");
    assert_eq!(figures(&settled(&node, &id).await), [2, 1, 1, 0]);
    assert_eq!(push.delivered(&well_phone).len(), 0);
    assert_eq!(push.complaints(), [""; 0]);
}

/// nginx acknowledges whatever it is sent, so only the client's own word counts.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_only_the_clients_word_counts() {
    let push = PushService::start().await.unwrap();
    let node = Node::start(&format!("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{PUSH}")).await;
    let nginx = Nginx::start_on(Ipv4Addr::UNSPECIFIED, &node.server).await;
    let (lost, well) = (Host::new().unwrap(), Host::new().unwrap());
    let port = nginx.address.port();
    let _streams =
        (Listener::start(&lost, &node, port, "lost").await, Listener::start(&well, &node, port, "silent").await);
    let mut acknowledging = tidings_testkit::client::SseClient::connect(
        nginx.address,
        "/v1/subscribe",
        &[("authorization", &format!("Bearer {}", of("polite")))],
    )
    .await
    .unwrap();
    acknowledging.connected(LIMIT).await.unwrap();
    let mut phones = Vec::new();
    for user in ["lost", "silent", "polite"] {
        phones.push(phone(&node, &push, user).await);
    }

    lost.cut_off().unwrap();
    let id = notify(&node, json!({"to": {"users": ["lost", "silent", "polite"]}, "title": "t"})).await;
    let told = next(&mut acknowledging).await;
    assert_eq!(told.event, "notification");
    let answer = post(&node, "/v1/me/ack", &of("polite"), json!({"cursor": told.id})).await;
    assert_eq!(answer, json!({"acknowledged": 1}));
    // The silent one has it, and a push too many: without its word nobody can know.
    for subscription in &phones[..2] {
        assert_eq!(push.until_taken(subscription, 1, LIMIT).await.unwrap()[0].payload["id"], *id);
    }
    assert_eq!(figures(&settled(&node, &id).await), [3, 1, 2, 0]);
    assert_eq!(push.delivered(&phones[2]).len(), 0);
}

/// Who comes back with a cursor past it has it, and so has who reads it.
#[tokio::test]
async fn coming_back_and_reading_spare_the_push() {
    let push = PushService::start().await.unwrap();
    let config = format!("{}[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}", Store::Sqlite.config().await, PUSH);
    let node = Node::start(&config.replace("after = \"1s\"", "after = \"3s\"")).await;
    let mut phones = Vec::new();
    for user in ["back", "reader", "away"] {
        phones.push(phone(&node, &push, user).await);
    }
    let mut stream = alarms(&node, "", "back").await;
    let id = notify(&node, json!({"to": {"users": ["back", "reader", "away"]}, "title": "t"})).await;
    let cursor = next(&mut stream).await.id;
    drop(stream);
    let _again = alarms(&node, &format!("last_event_id={cursor}"), "back").await;
    post(&node, "/v1/me/notifications/read", &of("reader"), json!({"ids": [id]})).await;
    push.until_taken(&phones[2], 1, LIMIT).await.unwrap();
    let report = settled(&node, &id).await;
    assert_eq!((figures(&report), &report["read"]), (vec![3, 1, 1, 0], &json!(1)));
    assert_eq!((push.delivered(&phones[0]).len(), push.delivered(&phones[1]).len()), (0, 0));
    for outcome in ["confirmed", "read", "pushed"] {
        assert_eq!(
            node.metric(&format!("tidings_notifications_total{{outcome=\"{outcome}\"}}")).await,
            1.0,
            "{outcome}"
        );
    }
}
