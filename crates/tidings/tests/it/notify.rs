//! `tidings notify`

use serde_json::{Value, json};

use crate::{
    command::{run, run_with_input},
    node::{API_KEY, Node},
    server::{Server, answer},
};

#[test]
fn a_notification_is_sent_with_all_that_was_said_of_it() {
    let server = Server::start(vec![answer("202 Accepted", "application/json", r#"{"id":"17","duplicate":false}"#)]);
    let url = server.url();
    let said = "notify --users 42,43 --title Fire --body b --kind festival.added --target-url /f/7 --data - --key k --push \
                always --collapse c --expires-in 2h --api-key tk_0123456789abcdef --url";
    let arguments: Vec<_> = said.split_whitespace().chain([url.as_str()]).collect();
    let done = run_with_input(&arguments, "{\"n\": 1.10}\n");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "{\"id\":\"17\",\"duplicate\":false}\n"), "{done:?}");
    let request = server.request();
    assert_eq!(request.target, "/v1/notifications");
    assert!(request.head.contains("authorization: bearer tk_0123456789abcdef\r\n"), "{}", request.head);
    assert!(request.body.contains(r#""data":{"n": 1.10}"#), "as it was given: {}", request.body);
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let expected = json!({
        "to": {"users": ["42", "43"]}, "title": "Fire", "body": "b", "kind": "festival.added", "url": "/f/7", "data": {"n": 1.1},
        "key": "k", "push": "always", "collapse": "c", "expires_in": 7200,
    });
    assert_eq!(body, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_it_or_says_why_not() {
    let node = Node::start("").await;
    let url = node.server.url("");
    let notify = |more: &[&str]| run(&[&["notify", "--title", "t", "--url", &url][..], more].concat());
    for to in [&["--user", "42"][..], &["--everyone"], &["--followers-of", "region:jeju"]] {
        let done = notify(&[to, &["--api-key", API_KEY]].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["duplicate"], false, "{done:?}");
    }
    let counts = node.get("/v1/users/42/notifications/counts").await.json().unwrap();
    assert_eq!(counts["unread"], 2);
    let done = notify(&["--user", "42"]);
    assert_eq!((done.code, done.stderr.starts_with("tidings: unauthorized: ")), (Some(4), true), "{done:?}");
    let done = notify(&["--followers-of", "user:42", "--api-key", API_KEY]);
    assert_eq!((done.code, done.stderr.contains("to.followers_of")), (Some(4), true), "{done:?}");
    assert_eq!(notify(&[]).code, Some(2));
}
