use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

use serde_json::json;

use crate::command::{run, run_in};

/// What is printed can be added to a configuration as it is.
#[test]
fn a_key_for_web_push_is_printed_as_the_configuration_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = run(&["push", "keys", "--subject", "mailto:ops@example.org"]);
    assert_eq!((keys.code, keys.stderr.as_str()), (Some(0), ""));
    fs::write(dir.path().join("tidings.toml"), &keys.stdout).unwrap();
    let checked = run_in(dir.path(), &["config", "check", "--config", "tidings.toml"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // The public half is that of the private one, and the only one that is shown again.
    let public = run_in(dir.path(), &["push", "public-key", "--config", "tidings.toml"]);
    assert_eq!(public.stdout.trim_end().len(), 87, "{public:?}");
    assert!(keys.stdout.contains(&format!("# {}", public.stdout)), "{keys:?}");
    let shown = run_in(dir.path(), &["config", "show", "--config", "tidings.toml"]);
    assert!(shown.stdout.contains("vapid_private_key = \"[redacted]\""), "{shown:?}");
}

#[test]
fn no_two_keys_are_the_same() {
    assert_ne!(run(&["push", "keys"]).stdout, run(&["push", "keys"]).stdout);
}

#[test]
fn without_a_key_there_is_no_public_half() {
    let done = run(&["push", "public-key"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert!(done.stderr.contains("tidings push keys"), "{done:?}");
}

/// A server that gives these answers, one a connection, and then the first lines of what it was asked.
fn answering(answers: Vec<(u16, String)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let answer = |(status, body): (u16, String)| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            assert!(head.contains(&"authorization: Bearer tk_0123456789abcdef".to_owned()), "{head:?}");
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .unwrap();
            head[0].clone()
        };
        answers.into_iter().map(answer).collect()
    });
    (url, asked)
}

fn dead(id: u64) -> serde_json::Value {
    json!({
        "id": id.to_string(), "notification": "17", "user": "42", "device": "phone", "provider": "fcm", "attempts": 8,
        "cause": "FCM answered 500", "died_at": 1_764_000_000_000_u64, "added_later": true,
    })
}

#[test]
fn pushes_that_were_given_up_are_listed_page_by_page() {
    let pages = || {
        let first = json!({ "pushes": (0..1000).map(|n| dead(5000 - n)).collect::<Vec<_>>(), "next": "4001" });
        let second = json!({ "pushes": [dead(4000)], "next": null });
        vec![(200, first.to_string()), (200, second.to_string())]
    };
    let list = |url: &str, more: &[&str]| {
        let arguments = [&["push", "dead", "--limit", "1500", "--url", url, "--api-key", "tk_0123456789abcdef"], more];
        run(&arguments.concat())
    };
    let (url, asked) = answering(pages());
    let done = list(&url, &[]);
    assert_eq!((done.code, done.stdout.lines().count()), (Some(0), 1001), "{done:?}");
    assert!(done.stdout.ends_with("user 42, device phone (fcm), 8 attempts: FCM answered 500\n"), "{}", done.stdout);
    assert_eq!(
        asked.join().unwrap(),
        ["GET /v1/pushes/dead?limit=1000 HTTP/1.1", "GET /v1/pushes/dead?limit=500&before=4001 HTTP/1.1"]
    );
    let (url, _asked) = answering(pages());
    let done = list(&url, &["--json"]);
    let first: serde_json::Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first, dead(5000));
}

#[test]
fn each_push_is_tried_again_and_one_that_is_not_there_fails_in_the_end() {
    let missing = json!({ "code": "not_found", "detail": "no push that was given up has this id" }).to_string();
    let retried = json!({ "retried": true }).to_string();
    let (url, asked) = answering(vec![(404, missing), (200, retried)]);
    let done = run(&["push", "retry", "4", "5", "--url", &url, "--api-key", "tk_0123456789abcdef"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(4), "5 is tried again\n"), "{done:?}");
    assert!(done.stderr.contains("4: not_found: no push that was given up has this id"), "{done:?}");
    assert_eq!(asked.join().unwrap(), ["POST /v1/pushes/4/retry HTTP/1.1", "POST /v1/pushes/5/retry HTTP/1.1"]);
}
