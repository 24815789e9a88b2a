//! Loading as a whole: what comes before what, and what errors say.

use std::{path::Path, time::Duration};

use proptest::prelude::*;

use super::*;

/// The problems of a file and an environment, as they are shown.
fn problems(toml: &str, env: &[(&str, &str)]) -> Vec<String> {
    match load(toml, env, Flags::default()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

fn load(toml: &str, env: &[(&str, &str)], flags: Flags) -> Result<Loaded, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    std::fs::write(&file, toml).unwrap();
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::load(Sources { file: Some(file), env, flags }).map_err(|mut errors| {
        // The directory has another name each time.
        for problem in &mut errors.0 {
            if let Origin::File { path, .. } = &mut problem.origin {
                *path = path.file_name().unwrap().into();
            }
        }
        errors
    })
}

#[test]
fn flags_come_before_the_environment_before_the_file_before_the_defaults() {
    let toml = "listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\n[stream]\nheartbeat = \"1s\"\nlong_poll = \"1s\"\n";
    let env = [("TIDINGS_LISTEN", "127.0.0.1:2"), ("TIDINGS_STREAM__HEARTBEAT", "2s"), ("PATH", "/bin")];
    let flags = Flags { listen: Some("127.0.0.1:3".to_owned()), data_dir: None };
    let loaded = load(toml, &env, flags).unwrap();
    let config = &loaded.config;
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data_dir, Path::new("file"));
    assert_eq!(config.stream.heartbeat, Duration::from_secs(2));
    assert_eq!(config.stream.long_poll, Duration::from_secs(1));
    assert_eq!(config.stream.queue_max_events, 1024);
    assert_eq!(loaded.origins["listen"], Origin::Flag("--listen"));
    assert_eq!(loaded.origins["stream.heartbeat"], Origin::Variable("TIDINGS_STREAM__HEARTBEAT".to_owned()));
    assert!(matches!(loaded.origins["stream.long_poll"], Origin::File { line: Some(5), .. }));
    assert!(!loaded.origins.contains_key("stream.write_timeout"));
}

#[test]
fn a_variable_takes_the_type_of_its_key() {
    let env = [
        ("TIDINGS_AUTH__JWT_AUDIENCE", "12345"),
        ("TIDINGS_AUTH__API_KEYS", r#"["tk_0123456789abcdef"]"#),
        ("TIDINGS_AUTH__ALLOW_TOKEN_IN_QUERY", "true"),
        ("TIDINGS_STREAM__RETRY", r#"["2s","4s"]"#),
        ("TIDINGS_STREAM__MAX_AGE_JITTER", "0.5"),
        ("TIDINGS_LIMITS__IP_BURST", "7"),
        ("TIDINGS_SERVER__TRUSTED_PROXIES", r#"["10.0.0.0/8"]"#),
        ("TIDINGS_LOG__FORMAT", "json"),
        ("TIDINGS_NAMESPACES__CHAT__HISTORY_SIZE", "5"),
        ("TIDINGS_NAMESPACES", r#"{"Board":{"retain":true}}"#),
        ("TIDINGS_BROKER", r#"{"max_channels":9}"#),
    ];
    let config = load("", &env, Flags::default()).unwrap().config;
    assert_eq!(config.auth.jwt_audience.as_deref(), Some("12345"));
    assert_eq!(config.auth.api_keys, [Secret::new("tk_0123456789abcdef")]);
    assert!(config.auth.allow_token_in_query);
    assert_eq!(config.stream.retry.max, Duration::from_secs(4));
    assert_eq!(config.stream.max_age_jitter, 0.5);
    assert_eq!(config.limits.ip_burst, 7);
    assert!(config.server.trusts_proxy("10.9.9.9".parse().unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.namespaces.get("chat").history_size, 5);
    assert!(config.namespaces.get("Board").retain);
    assert_eq!(config.namespaces.get("anything"), &NamespaceConfig::default());
    assert_eq!(config.broker.max_channels, 9);
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest() {
    let toml = "[stream]\nqueue_max_byte = 5\n\n[strem]\nheartbeat = \"1s\"\nretry = 5\n\n[server]\nheartbeat = \"1s\"\n\
                \n[namespaces.chat]\nhistory_sise = 1\nqqqqqqqqqqq = 1\n";
    let env = [
        ("TIDINGS_STREAM_HEARTBEAT", "1s"),
        ("TIDINGS_NAMESPACES__CHAT__HISTORY_SICE", "1"),
        ("TIDINGS_CONFIG", "x"),
        ("TIDINGS_XYZZY", "1"),
    ];
    let namespace_keys =
        "`history_size`, `history_ttl`, `durable`, `retain`, `presence`, `conflate_window`, `subscribe`, `publish`";
    assert_eq!(
        problems(toml, &env),
        [
            "tidings.toml:2: stream.queue_max_byte: there is no such key; did you mean `queue_max_bytes`?",
            "tidings.toml:4: strem: there is no such key; did you mean `stream`?",
            "tidings.toml:9: server.heartbeat: there is no such key; did you mean `stream.heartbeat`?",
            "tidings.toml:12: namespaces.chat.history_sise: there is no such key; did you mean `history_size`?",
            &format!(
                "tidings.toml:13: namespaces.chat.qqqqqqqqqqq: there is no such key; known here are {namespace_keys}"
            ),
            "environment variable TIDINGS_NAMESPACES__CHAT__HISTORY_SICE: there is no such key; did you mean \
             TIDINGS_NAMESPACES__CHAT__HISTORY_SIZE?",
            "environment variable TIDINGS_STREAM_HEARTBEAT: there is no such key; did you mean TIDINGS_STREAM__HEARTBEAT?",
            "environment variable TIDINGS_XYZZY: there is no such key; `tidings config reference` lists the keys; a variable \
             is TIDINGS_SECTION__KEY",
        ]
    );
}

#[test]
fn a_wrong_value_is_told_with_what_is_accepted() {
    for (toml, wanted) in [
        ("listen = 5", "tidings.toml:1: listen: found an integer; accepted is an address and a port"),
        ("listen = \"localhost\"", "listen: \"localhost\" is no address; accepted is an address and a port, as in"),
        ("stream = 5", "stream: found an integer; accepted is a table"),
        ("stream = [\"1s\"]", "stream: found a list; accepted is a table"),
        (
            "stream.heartbeat = 15",
            "stream.heartbeat: found an integer; accepted is a duration with its unit, as in \"15s\"",
        ),
        ("stream.heartbeat = \"15\"", "stream.heartbeat: \"15\" is no duration; accepted is a duration with its unit"),
        ("stream.heartbeat = \"0s\"", "stream.heartbeat: found \"0s\"; accepted are \"100ms\" to \"1h\""),
        ("stream.retry = [\"3s\", \"1s\"]", "stream.retry: the first is longer"),
        ("stream.max_age_jitter = 1.5", "stream.max_age_jitter: found 1.5; accepted are 0.0 to 1.0"),
        ("stream.max_age_jitter = nan", "stream.max_age_jitter: found NaN"),
        (
            "stream.queue_max_bytes = 1000",
            "stream.queue_max_bytes: found 1000; accepted is 4 times `limits.max_data_bytes`",
        ),
        ("limits.ip_burst = -1", "limits.ip_burst: found -1; accepted is a whole number from 0 to 4294967295"),
        ("limits.ip_burst = 0", "limits.ip_burst: found 0; accepted are 1 to"),
        (
            "limits.max_url_bytes = 1e3",
            "limits.max_url_bytes: found a number with a fraction; accepted is a whole number",
        ),
        ("log.level = \"info,=x\"", "log.level: "),
        ("log.format = \"xml\"", "log.format: found \"xml\"; accepted are \"auto\", \"json\", \"pretty\""),
        ("broker.url = \"redis://x\"", "broker.url: not a broker of this version; accepted is \"embedded\""),
        ("server.trusted_proxies = [\"10.0.0.0/99\"]", "server.trusted_proxies: \"10.0.0.0/99\" is no network"),
        ("server.cors_origins = [\"https://a.example/\"]", "server.cors_origins: \"https://a.example/\" is no origin"),
        ("auth.api_keys = [\"tk_short\"]", "auth.api_keys: entry 1 is not accepted"),
        ("auth.jwt_hs256_secret = \"short\"", "auth.jwt_hs256_secret: found 5 bytes; accepted are 32 or more"),
        ("auth.jwt_public_keys = [\"/no/such/file\"]", "auth.jwt_public_keys: cannot read the file \"/no/such/file\""),
        ("auth.jwks_url = \"file:///etc/passwd\"", "auth.jwks_url: not a URL"),
        ("auth.cookie = \"a b\"\nserver.cors_origins = [\"https://a.example\"]", "auth.cookie: not a cookie's name"),
        ("namespaces.\"a:b\".retain = true", "namespaces.\"a:b\": not a namespace's name"),
        ("namespaces.a.history_size = 1000001", "namespaces.a.history_size: found 1000001; accepted are 0 to 1000000"),
        ("namespaces.a = {retain = true, history_size = 0}", "namespaces.a.retain: the retained event"),
        (
            "namespaces.a.subscribe = [\"all\"]",
            "found \"all\"; accepted are \"anyone\", \"user\", \"token\", \"nobody\"",
        ),
        ("namespaces.a.subscribe = []", "namespaces.a.subscribe: found an empty list"),
        ("namespaces.a.publish = [\"nobody\", \"user\"]", "namespaces.a.publish: \"nobody\" stands alone"),
        ("namespaces.user.subscribe = [\"anyone\"]", "namespaces.user.subscribe: personal channels belong"),
        ("data_dir = 1979-05-27", "data_dir: found a date or time; accepted is"),
        ("listen = ", "tidings.toml:1: not TOML"),
        ("listen = [[[[[", "tidings.toml:1: not TOML: unclosed array"),
        ("data_dir = \"a\"\ndata_dir = \"b\"", "tidings.toml:2: not TOML: duplicate key"),
    ] {
        let said = problems(toml, &[]);
        assert_eq!(said.len(), 1, "{toml}: {said:?}");
        assert!(said[0].contains(wanted), "{toml}: {said:?}");
    }
}

#[test]
fn tables_of_applications_are_a_list() {
    let url = "postgres://tidings:hunter2@db/shop";
    let toml =
        format!("[[outbox]]\nurl = \"{url}\"\n[[outbox]]\nurl = \"sqlite:a.db\"\ntable = \"t\"\npoll = \"2s\"\n");
    let loaded = load(&toml, &[], Flags::default()).unwrap();
    let [shop, file] = loaded.config.outbox.as_slice() else { panic!("{:?}", loaded.config.outbox) };
    assert_eq!((shop.url.expose(), shop.table.as_str(), shop.poll), (url, "tidings_outbox", Duration::from_secs(1)));
    assert_eq!((file.table.as_str(), file.poll), ("t", Duration::from_secs(2)));
    let shown = loaded.to_annotated_toml();
    assert!(shown.contains("tidings_outbox") && !shown.contains("hunter2"), "{shown}");
    let env = [("TIDINGS_OUTBOX", r#"[{"url":"mysql://db/shop"}]"#)];
    assert_eq!(load("", &env, Flags::default()).unwrap().config.outbox[0].url.expose(), "mysql://db/shop");

    for (entry, said) in [
        ("url = \"oracle://hunter2@db/x\"", "outbox: entry 1, url: \"oracle\" is no database; accepted are postgres,"),
        ("url = \"hunter2\"", "outbox: entry 1, url: \"\" is no database"),
        ("url = \"sqlite:a\"\ntable = \"a b\"", "outbox: entry 1, table: accepted is a name of"),
        ("url = \"sqlite:a\"\npoll = \"1m\"", "outbox: entry 1, poll: found \"1m\"; accepted are \"20ms\" to \"30s\""),
        ("url = \"sqlite:a\"\n[[outbox]]\nurl = \"sqlite:a\"", "outbox: entry 2 is the same table as"),
        ("url = \"sqlite:a\"\ntabel = \"t\"", "did you mean `table`?"),
        ("table = \"t\"", "missing field `url`"),
    ] {
        let problems = problems(&format!("[[outbox]]\n{entry}\n"), &[]).join("\n");
        assert!(problems.contains(said) && !problems.contains("hunter2"), "{entry}: {problems}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    let secret = "hunter2hunter2";
    for toml in [
        format!("auth.jwt_hs256_secret = \"{secret}\""),
        format!("auth.jwt_hs256_secret = \"{secret}"),
        format!("auth.api_keys = \"{secret}\""),
        format!("auth.api_keys = [\"{secret}\", 5]"),
        format!("auth.allow_token_in_query = \"{secret}\""),
        format!("auth.jwt_leeway = [\"{secret}\"]"),
        format!("broker.url = \"redis://:{secret}@host\""),
    ] {
        let said = problems(&toml, &[]);
        assert!(!said.is_empty() && !said.concat().contains("hunter2"), "{toml}: {said:?}");
    }
    for name in ["TIDINGS_AUTH__TICKET_SECRET", "TIDINGS_AUTH__API_KEYS", "TIDINGS_AUTH", "TIDINGS_AUTH__JWT_SECRET"] {
        let said = problems("", &[(name, secret)]);
        assert!(!said.is_empty() && !said.concat().contains("hunter2"), "{name}: {said:?}");
    }
    let toml = format!("auth.jwt_hs256_secret = \"{}\"", secret.repeat(4));
    let loaded = load(&toml, &[], Flags::default()).unwrap();
    assert!(!format!("{loaded:?}{}", loaded.to_annotated_toml()).contains("hunter2"));
}

/// In Kubernetes, a Service called `tidings` gives every pod of its namespace these variables.
/// Taken for keys, they kept the server from starting.
#[test]
fn the_variables_of_a_kubernetes_service_are_not_keys() {
    let env = [
        "TIDINGS_SERVICE_HOST",
        "TIDINGS_SERVICE_PORT",
        "TIDINGS_SERVICE_PORT_HTTP",
        "TIDINGS_PORT",
        "TIDINGS_PORT_7330_TCP",
        "TIDINGS_PORT_7330_TCP_ADDR",
        "TIDINGS_REDIS_PORT_6379_TCP_PROTO",
    ];
    assert_eq!(problems("", &env.map(|name| (name, "tcp://10.0.0.1:7330"))), Vec::<String>::new());
    assert_eq!(problems("", &[("TIDINGS_PORT_X", "1")]).len(), 1);
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let sources = Sources { file: Some("/no/such/tidings.toml".into()), ..Sources::<Vec<_>>::default() };
    let said = Config::load(sources).unwrap_err().to_string();
    assert!(said.starts_with("/no/such/tidings.toml: cannot read the configuration file"), "{said}");
}

#[test]
fn public_keys_are_told_apart() {
    let mut config = Config::default();
    for (pem, algorithm) in [
        (include_str!("../../tests/keys/ed25519.pub.pem"), PublicKeyAlgorithm::EdDsa),
        (include_str!("../../tests/keys/p256.pub.pem"), PublicKeyAlgorithm::Es256),
        (include_str!("../../tests/keys/rsa.pub.pem"), PublicKeyAlgorithm::Rs256),
    ] {
        config.auth.jwt_public_keys = vec![pem.to_owned()];
        assert_eq!(config.auth.public_keys().unwrap()[0].algorithm, algorithm);
    }
    config.auth.jwt_public_keys = vec!["-----BEGIN PRIVATE KEY-----".to_owned()];
    assert!(config.auth.public_keys().unwrap_err().contains("private key"));
}

#[test]
fn dev_is_for_this_machine_only() {
    let secrets = crate::dev::DevSecrets { api_key: Secret::new("tk_dev_x"), jwt_hs256_secret: Secret::new("y") };
    let mut config = Config::default();
    config.apply_dev(&secrets).unwrap();
    assert_eq!(config.namespaces.get("chat").publish, [Access::Anyone]);
    assert!(config.auth.has_credentials());
    config.listen = "0.0.0.0:7330".parse().unwrap();
    assert!(config.apply_dev(&secrets).unwrap_err().to_string().contains("not a loopback address"));
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,200}") {
        let _either = Config::from_toml(&text, Path::new("any.toml"));
    }

    #[test]
    fn no_toml_makes_the_loader_panic(
        lines in prop::collection::vec((
            "(\\[?\\[?[a-z_.\"]{1,20}\\]?\\]?)|listen|stream\\.retry|namespaces\\.[a-z]\\.subscribe|\\[auth\\]|auth\\.api_keys",
            "( = ?)?",
            "-?[0-9]{1,20}|\"[a-z0-9:.]{0,20}\"|\\[[\"a-z0-9,]{0,9}\\]|\\{[a-z]= ?1\\}|[a-z]{0,4}|inf|1e400|0x[0-9a-f]{1,17}",
        ), 0..8)
    ) {
        let text: String = lines.into_iter().map(|(key, equals, value)| format!("{key}{equals}{value}\n")).collect();
        if let Ok(loaded) = Config::from_toml(&text, Path::new("any.toml")) {
            let shown = loaded.to_annotated_toml();
            prop_assert!(shown.parse::<toml::Table>().is_ok(), "{}", shown);
        }
    }

    #[test]
    fn no_variable_makes_the_loader_panic(name in "[A-Z_]{0,20}", text in "\\PC{0,40}") {
        let env = vec![(format!("TIDINGS_{name}"), text)];
        let _either = Config::load(Sources { file: None, env, flags: Flags::default() });
    }
}
