use crate::command::{Done, run, run_in, tidings};

fn check(toml: &str) -> Done {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidings.toml"), toml).unwrap();
    run_in(dir.path(), &["config", "check", "--config", "tidings.toml"])
}

#[test]
fn the_reference_is_a_valid_configuration() {
    let reference = run(&["config", "reference"]);
    assert_eq!(reference.code, Some(0));
    let done = check(&reference.stdout);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (Some(0), "tidings.toml is valid\n", ""));
    assert!(run(&["config", "reference", "--markdown"]).stdout.contains("### `stream.heartbeat`"));
}

#[test]
fn check_tells_all_that_is_wrong_and_exits_with_2() {
    let done = check("listen = \"here\"\n[stream]\nheartbeet = \"1s\"\n[limits]\nip_burst = 0\n");
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        done.stderr.lines().skip(1).collect::<Vec<_>>(),
        [
            "tidings.toml:1: listen: \"here\" is no address; accepted is an address and a port, as in \"127.0.0.1:7330\" or \
             \"[::]:7330\"",
            "tidings.toml:3: stream.heartbeet: there is no such key; did you mean `heartbeat`?",
            "tidings.toml:5: limits.ip_burst: found 0; accepted are 1 to 1000000000",
        ]
    );
    assert_eq!(run(&["config", "check", "--config", "/no/such/file"]).code, Some(2));
    assert_eq!(run(&["config", "chek"]).code, Some(2));
}

#[test]
fn show_says_where_values_come_from_and_keeps_secrets() {
    let secret = "0123456789abcdef0123456789abcdef";
    let output = tidings(&["config", "show"])
        .env("TIDINGS_AUTH__JWT_HS256_SECRET", secret)
        .env("TIDINGS_STREAM__HEARTBEAT", "5s")
        .output()
        .unwrap();
    let done = Done::from(output);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("# from environment variable TIDINGS_STREAM__HEARTBEAT\nheartbeat = \"5s\"\n"));
    assert!(done.stdout.contains("jwt_hs256_secret = \"[redacted]\""));
    assert!(!done.stdout.contains(secret));
}

#[test]
fn the_file_can_be_named_in_the_environment() {
    let output = tidings(&["config", "check"]).env("TIDINGS_CONFIG", "/no/such/file").output().unwrap();
    assert!(Done::from(output).stderr.contains("/no/such/file: cannot read the configuration file"));
}

#[test]
fn help_documents_the_exit_codes() {
    let done = run(&["--help"]);
    assert_eq!(done.code, Some(0));
    assert!(done.stdout.contains("4  the server refused"), "{}", done.stdout);
    assert_eq!(run(&["--no-such-flag"]).code, Some(2));
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = tidings_testkit::certificates::Authority::new().unwrap();
    authority.write(&path("a.crt"), &path("a.key")).unwrap();
    authority.write(&path("b.crt"), &path("b.key")).unwrap();
    let check = |tls: &str| {
        std::fs::write(path("tidings.toml"), format!("[tls]\n{tls}")).unwrap();
        run_in(dir.path(), &["config", "check", "--config", "tidings.toml"])
    };
    let done = check("cert = \"a.crt\"\nkey = \"a.key\"\n");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for (tls, said) in [
        ("cert = \"a.crt\"\n", "tls.key: `tls.cert` is set and this is not"),
        ("key = \"a.key\"\n", "tls.cert: `tls.key` is set and this is not"),
        (
            "cert = \"c.crt\"\nkey = \"a.key\"\n",
            "tidings.toml:2: tls.cert: the file \"c.crt\" cannot be read: No such file",
        ),
        ("cert = \"a.crt\"\nkey = \"b.key\"\n", "tidings.toml:3: tls.key: the key in \"b.key\" is not that of"),
        ("cert = \"a.key\"\nkey = \"a.key\"\n", "tidings.toml:2: tls.cert: the file \"a.key\" holds no certificate"),
    ] {
        let done = check(tls);
        assert_eq!(done.code, Some(2), "{tls}");
        assert!(done.stderr.contains(said), "{tls}: {}", done.stderr);
    }
}
