use std::process::Stdio;

use crate::{
    command::{read_until, run, tidings},
    server::{Server, answer, stream},
};

/// What a server says first.
const CONNECTED: &str = "retry: 1\nid: A0\nevent: connected\n\
                         data: {\"connection\":\"c\",\"node\":\"n\",\"channels\":[\"a\",\"b\"]}\n\n";

fn event(cursor: &str, data: &str) -> String {
    format!(
        "id: {cursor}\ndata: {{\"id\":\"x\",\"channel\":\"a\",\"event\":\"message\",\"data\":{data},\"sent_at\":5}}\n\n"
    )
}

#[test]
fn a_stream_that_is_cut_goes_on_from_its_cursor() {
    let first = format!("{CONNECTED}{}{}", event("A1", "1"), "id: A2\ndata: {\"half");
    let gap = "id: A2\nevent: gap\ndata: {\"channels\":[\"a\"],\"reason\":\"evicted\"}\n\n";
    // The connection that brings nothing, as when load is shed, keeps the cursor.
    let shed = "retry: 2\n\n";
    let second = format!("{gap}{}:\n{}", event("A3", "\"three\""), event("A4", "4"));
    let server = Server::start(vec![stream(&first), stream(shed), stream(&second)]);
    let done = run(&[
        "subscribe",
        "a",
        "b",
        "--json",
        "--count",
        "3",
        "--replay",
        "all",
        "--url",
        &server.url(),
        "--token",
        "t",
    ]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let line = |id, data| {
        format!("{{\"id\":\"{id}\",\"channel\":\"a\",\"event\":\"message\",\"data\":{data},\"sent_at\":5}}\n")
    };
    assert_eq!(done.stdout, [line("A1", "1"), line("A3", "\"three\""), line("A4", "4")].concat());
    assert!(done.stderr.contains("# connected to n: a b\n"), "{}", done.stderr);
    assert!(done.stderr.contains("# gap: events are missing (evicted) on a\n"), "{}", done.stderr);
    let request = server.request();
    assert_eq!(request.target, "/v1/subscribe?channel=a&channel=b&envelope=1&replay=all");
    assert!(request.head.contains("authorization: bearer t\r\n") && !request.head.contains("last-event-id"));
    for _ in 0..2 {
        let head = server.request().head;
        assert!(head.contains("\nlast-event-id: a1\r\n"), "{head}");
    }
}

#[test]
fn a_server_that_asks_not_to_come_back_or_refuses_ends_it() {
    let problem = r#"{"code":"unauthorized","detail":"the token has expired"}"#;
    let server = Server::start(vec![
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(),
        answer("401 Unauthorized", "application/problem+json", problem),
        stream(CONNECTED),
        answer("403 Forbidden", "application/problem+json", r#"{"code":"forbidden","detail":"no"}"#),
        answer("200 OK", "text/html", "<h1>hello</h1>"),
    ]);
    for (code, said) in [
        (4, "tidings: the server asks not to come back (204)\n"),
        (4, "tidings: unauthorized: the token has expired\n"),
        (4, "tidings: forbidden: no\n"),
        (1, "answered with something else than an event stream\n"),
    ] {
        let done = run(&["subscribe", "a", "--from", "A9", "--url", &server.url()]);
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.stderr.ends_with(said), "{done:?}");
    }
}

#[test]
fn an_interrupt_ends_it_in_order() {
    let server =
        Server::start(vec![stream(&format!("retry: 3600000\n{CONNECTED}retry: 3600000\n{}", event("A1", "1")))]);
    let mut child = tidings(&["subscribe", "a", "--url", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(read_until(child.stdout.as_mut().unwrap(), "\n"), "00:00:00Z a 1\n");
    // It waits for an hour now.
    read_until(child.stderr.as_mut().unwrap(), "again in 3600.0 s\n");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let events: String = (0..20_000).map(|at| event(&format!("A{at}"), "\"a line that fills the pipe\"")).collect();
    let server = Server::start(vec![stream(&format!("{CONNECTED}{events}"))]);
    let mut child = tidings(&["subscribe", "a", "--json", "--url", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "\n");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "# connected to n: a b\n");
}
