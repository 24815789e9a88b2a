use std::io::Write as _;

use crate::{
    command::{read_until, run, run_with_input, tidings},
    server::{Server, answer},
};

#[test]
fn one_event_is_published_with_all_that_was_said_of_it() {
    let server = Server::start(vec![answer("200 OK", "application/json", r#"{"id":"AQ","duplicate":false}"#)]);
    let url = server.url();
    let done = run(&[
        "publish",
        "chat:lobby",
        "{\"n\": 1.10}",
        "--event",
        "said",
        "--key",
        "k",
        "--conflate",
        "c",
        "--url",
        &url,
        "--api-key",
        "tk_0123456789abcdef",
    ]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "{\"id\":\"AQ\",\"duplicate\":false}\n"), "{done:?}");
    let request = server.request();
    assert_eq!(request.target, "/v1/publish");
    assert!(request.head.contains("authorization: bearer tk_0123456789abcdef\r\n"), "{}", request.head);
    assert!(request.head.contains("content-type: application/json\r\n"), "{}", request.head);
    assert_eq!(request.body, r#"{"channel":"chat:lobby","event":"said","data":{"n": 1.10},"key":"k","conflate":"c"}"#);
}

#[test]
fn standard_input_is_the_data_without_its_last_line_end() {
    let server = Server::start(vec![answer("200 OK", "application/json", "{}")]);
    let done = run_with_input(&["publish", "a", "-", "--url", &server.url()], "hello\nworld\n");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(server.request().body, r#"{"channel":"a","data":"hello\nworld"}"#);
}

#[test]
fn a_refusal_is_shown_as_its_code_and_detail() {
    let problem = r#"{"type":"about:blank","code":"forbidden","detail":"the key may not publish to a"}"#;
    let server = Server::start(vec![
        answer("403 Forbidden", "application/problem+json", problem),
        answer("502 Bad Gateway", "text/html", "<h1>Bad Gateway</h1>"),
    ]);
    let done = run(&["publish", "a", "1", "--url", &server.url()]);
    assert_eq!(done.code, Some(4));
    assert_eq!(done.stderr, "tidings: forbidden: the key may not publish to a\n");
    let done = run(&["publish", "a", "1", "--url", &server.url()]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(1), "tidings: the server answered 502 Bad Gateway\n"));
}

#[test]
fn a_server_that_is_not_there_is_code_3() {
    // A port that was just free, and that nothing listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    for arguments in [["publish", "a", "1", "--url", &url], ["subscribe", "a", "--json", "--url", &url]] {
        let done = run(&arguments);
        assert_eq!(done.code, Some(3), "{done:?}");
        assert!(done.stderr.contains(&format!("no answer from {url}")), "{done:?}");
    }
}

/// Setting up TLS failed in an image without certificates, and with it every request, also those
/// that need none.
#[test]
fn certificates_are_not_needed_without_tls() {
    let server = Server::start(vec![answer("200 OK", "application/json", "{}")]);
    let output = tidings(&["publish", "a", "1"])
        .env("TIDINGS_URL", server.url())
        .env("SSL_CERT_FILE", "/no/such/file")
        .env("SSL_CERT_DIR", "/no/such/directory")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_line_that_is_piped_in_is_published_at_once() {
    let line = "{\"id\":\"AQ\",\"duplicate\":false}\n";
    let refused = "{\"error\":{\"code\":\"invalid\",\"detail\":\"channel: missing\"}}\n";
    let ndjson = "application/x-ndjson";
    let server = Server::start(vec![answer("200 OK", ndjson, line), answer("200 OK", ndjson, refused)]);
    let mut child = tidings(&["publish", "--ndjson", "-", "--url", &server.url()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"channel\":\"a\",\"data\":1}\n").unwrap();
    // Standard input is still open when the answer comes.
    assert_eq!(read_until(child.stdout.as_mut().unwrap(), "\n"), line);
    let request = server.request();
    assert!(request.head.contains("content-type: application/x-ndjson\r\n"), "{}", request.head);
    assert_eq!(request.body, "{\"channel\":\"a\",\"data\":1}\n");
    input.write_all(b"{\"data\":1}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "event 2: invalid: channel: missing\ntidings: 1 of 2 events were refused\n");
}
