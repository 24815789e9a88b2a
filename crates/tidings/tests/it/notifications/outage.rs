//! The database goes away and comes back.

use axum::http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    databases::{DatabaseServer, Engine},
    wait,
};

use super::{accepted, alarms, call, column, end, get, notify, of, titles_through};
use crate::node::{API_KEY, LIMIT, Node, assert_problem};

#[tokio::test]
async fn postgres() {
    an_outage_of_the_database_is_seen_and_outlived(Engine::Postgres).await;
}

#[tokio::test]
async fn mariadb() {
    an_outage_of_the_database_is_seen_and_outlived(Engine::MariaDb).await;
}

async fn wait_for_readiness(node: &Node, status: u16) {
    let what = format!("/readyz to answer {status}");
    let reached = wait::until(&what, LIMIT, async || (node.get("/readyz").await.status == status).then_some(()));
    reached.await.unwrap();
}

async fn an_outage_of_the_database_is_seen_and_outlived(engine: Engine) {
    let mut database = DatabaseServer::start(engine).await.unwrap();
    let url = database.database().await.unwrap();
    let node = Node::start(&format!("[store]\nurl = {url:?}\nacquire_timeout = \"1s\"\n")).await;
    let mut stream = alarms(&node, "", "42").await;
    notify(&node, json!({"to": {"user": "42"}, "title": "before"})).await;
    assert_eq!(end(&node, &mut stream, "42").await, ["before"]);
    let cursor = stream.last_id().to_owned();

    database.kill9().await.unwrap();
    wait_for_readiness(&node, 503).await;
    let body = json!({"to": {"users": ["42", "43"]}, "title": "meanwhile", "key": "once"});
    assert_problem(&call(&node, Method::POST, "/v1/notifications", API_KEY, &body).await, 503, "store_unavailable");
    let refused = call(&node, Method::GET, "/v1/me/notifications", &of("42"), &Value::Null).await;
    assert_problem(&refused, 503, "store_unavailable");
    assert_eq!(node.metric("tidings_store_up").await, 0.0);
    // What needs no store goes on.
    node.assert_serves().await;

    database.restart().await.unwrap();
    wait_for_readiness(&node, 200).await;
    // Again, for nobody knows whether it was taken.
    accepted(call(&node, Method::POST, "/v1/notifications", API_KEY, &body).await, 202);
    assert_eq!(end(&node, &mut stream, "42").await, ["meanwhile"]);
    let mut back = alarms(&node, &format!("last_event_id={cursor}"), "42").await;
    assert_eq!(titles_through(&mut back, "end").await, ["meanwhile", "end"]);
    let page = get(&node, "/v1/me/notifications", &of("43")).await;
    assert_eq!(column(&page, "title"), ["meanwhile"]);
}
