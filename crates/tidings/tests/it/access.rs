//! Who may do what, with which credentials.

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, http::Answer, process::ServerOptions};

use crate::node::{
    API_KEY, JWT_SECRET, LIMIT, Node, assert_problem, bearer, now_secs, options, sign, token, user_token,
};

const NAMESPACES: &str = "[namespaces.members]\nsubscribe = [\"user\"]\npublish = [\"user\"]\n\
                          [namespaces.both]\nsubscribe = [\"user\", \"token\"]\npublish = [\"token\"]\n\
                          [namespaces.closed]\nsubscribe = [\"nobody\"]\npublish = [\"nobody\"]\n";

/// Opens a stream and gives its status, or the code of the problem.
async fn subscribe(node: &Node, channel: &str, credentials: Option<&str>) -> String {
    let authorization = credentials.map(bearer);
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    let path = format!("/v1/subscribe?channel={channel}");
    let mut stream = SseClient::connect(node.addr(), &path, &headers).await.unwrap();
    match stream.status() {
        200 => "200".to_owned(),
        _ => {
            let problem: Value = serde_json::from_slice(&stream.body(LIMIT).await.unwrap()).unwrap();
            problem["code"].as_str().unwrap().to_owned()
        }
    }
}

async fn publish(node: &Node, channel: &str, credentials: Option<&str>) -> String {
    let body = json!({"channel": channel, "data": 1}).to_string();
    let answer = node.post("/v1/publish", credentials, &body).await;
    match answer.status {
        200 => "200".to_owned(),
        _ => answer.json().unwrap()["code"].as_str().unwrap().to_owned(),
    }
}

#[tokio::test]
async fn each_namespace_lets_in_whom_it_names() {
    let node = Node::start(NAMESPACES).await;
    let claims =
        json!({"subscribe": ["chat:*", "both:a", "closed:*"], "publish": ["chat:lobby", "both:*", "closed:*"]});
    let user = token(json!({"sub": "42", "tidings": claims}));
    let nameless = token(json!({"tidings": {"subscribe": ["*"], "publish": ["*"]}}));
    let admin = token(json!({"sub": "1", "tidings": {"admin": true}}));
    let (none, key, user, nameless, admin) =
        (None, Some(API_KEY), Some(user.as_str()), Some(nameless.as_str()), Some(admin.as_str()));
    let (ok, anonymous, no) = ("200", "unauthorized", "forbidden");
    for (channel, who, subscribes, publishes) in [
        ("open:a", none, ok, ok),
        ("open:a", user, ok, ok),
        ("open:a", key, ok, ok),
        ("members:a", none, anonymous, anonymous),
        ("members:a", user, ok, ok),
        ("members:a", nameless, no, no),
        ("members:a", key, ok, ok),
        // `default` serves what is not listed: by the token's claim.
        ("chat:lobby", none, anonymous, anonymous),
        ("chat:lobby", user, ok, ok),
        ("chat:other", user, ok, no),
        ("chatter:a", user, no, no),
        ("lobby", user, no, no),
        ("lobby", nameless, ok, ok),
        ("lobby", key, ok, ok),
        ("both:a", user, ok, ok),
        ("both:b", user, ok, ok),
        ("both:b", nameless, ok, ok),
        ("closed:a", none, anonymous, anonymous),
        ("closed:a", user, no, no),
        ("closed:a", nameless, no, no),
        ("closed:a", admin, ok, ok),
        ("closed:a", key, ok, ok),
        // Personal channels: heard by their user, written by backends.
        ("user:42", user, ok, no),
        ("user:42", nameless, no, no),
        ("user:42", none, anonymous, anonymous),
        ("user:42", key, no, ok),
        ("user:7", user, no, no),
        ("user:42", admin, no, ok),
    ] {
        assert_eq!(subscribe(&node, channel, who).await, subscribes, "subscribe to {channel} as {who:?}");
        assert_eq!(publish(&node, channel, who).await, publishes, "publish to {channel} as {who:?}");
    }
    // One channel that is not permitted is enough.
    assert_eq!(subscribe(&node, "open:a&channel=closed:a", user).await, no);
    for (who, status) in [(none, 401), (user, 403), (admin, 200), (key, 200)] {
        let authorization = who.map(bearer);
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        assert_eq!(node.call(Method::GET, "/v1/connections", &headers, "").await.status, status, "{who:?}");
        let reads = node.call(Method::GET, "/v1/channels/closed:a/history", &headers, "").await.status;
        assert_eq!(reads, status, "{who:?}");
        let purges = node.call(Method::DELETE, "/v1/channels/open:a/history", &headers, "").await.status;
        assert_eq!(purges, status, "{who:?}");
    }
}

#[tokio::test]
async fn credentials_that_do_not_hold_are_refused_and_never_nobody() {
    let node = Node::start_with(options("").env("TIDINGS_AUTH__JWT_AUDIENCE", "tidings")).await;
    let exp = now_secs() as u64 + 3600;
    let good = json!({"sub": "42", "aud": ["x", "tidings"], "exp": exp});
    let unsigned = |header: Value| {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}.", part(&header), part(&good))
    };
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        sign(&claims, JWT_SECRET)
    };
    let tampered = {
        let token = sign(&good, JWT_SECRET);
        let parts: Vec<_> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(json!({"sub": "1", "aud": "tidings", "exp": exp}).to_string());
        format!("{}.{claims}.{}", parts[0], parts[2])
    };
    assert_eq!(subscribe(&node, "open:a", Some(&sign(&good, JWT_SECRET))).await, "200");
    for (credentials, code) in [
        (sign(&good, "another secret of thirty-two byte"), "token_invalid"),
        (tampered, "token_invalid"),
        (unsigned(json!({"alg": "none"})), "token_invalid"),
        (unsigned(json!({"alg": "None", "typ": "JWT"})), "token_invalid"),
        (unsigned(json!({"alg": "HS256"})), "token_invalid"),
        (with("exp", json!(exp - 7200)), "token_expired"),
        (with("exp", Value::Null), "token_invalid"),
        (with("exp", json!("tomorrow")), "token_invalid"),
        (with("nbf", json!(exp)), "token_not_yet_valid"),
        (with("aud", json!("another")), "token_audience"),
        (with("aud", Value::Null), "token_audience"),
        (with("sub", json!("a b")), "token_invalid"),
        (with("tidings", json!({"subscribe": ["a b*"]})), "token_invalid"),
        (with("tidings", json!({"subscribes": ["*"]})), "token_invalid"),
        ("tk_0123456789abcdeg".to_owned(), "api_key_unknown"),
        ("tk_".to_owned(), "api_key_unknown"),
        ("garbage".to_owned(), "credentials_malformed"),
        ("a.b".to_owned(), "credentials_malformed"),
        ("a.b.c".to_owned(), "token_invalid"),
        (format!("{}.b.c", "a".repeat(9000)), "credentials_malformed"),
    ] {
        // On a channel that anybody may have.
        assert_eq!(subscribe(&node, "open:a", Some(&credentials)).await, code, "{credentials}");
        assert_eq!(publish(&node, "open:a", Some(&credentials)).await, code, "{credentials}");
    }
    for authorization in ["", "Bearer", "Basic dXNlcjpwYXNz", "bearer  ", "Token x"] {
        let answer = node.call(Method::GET, "/v1/connections", &[("authorization", authorization)], "").await;
        assert_problem(&answer, 401, "credentials_malformed");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
}

#[tokio::test]
async fn a_token_is_not_taken_from_a_url_unless_it_is_configured() {
    let user = user_token("42", &[]);
    let node = Node::start("").await;
    for (name, value) in [("token", &user), ("access_token", &user), ("token", &API_KEY.to_owned())] {
        for path in ["/v1/subscribe", "/v1/channels/open:a/history"] {
            let answer = node.call(Method::GET, &format!("{path}?{name}={value}"), &[], "").await;
            assert_problem(&answer, 401, "token_in_url");
            assert!(!answer.text().contains(value.as_str()), "an error tells no secret");
        }
    }
    let node = Node::start_with(options("").env("TIDINGS_AUTH__ALLOW_TOKEN_IN_QUERY", "true")).await;
    let mut stream = node.stream(&format!("token={user}")).await;
    assert_eq!(stream.connected(LIMIT).await.unwrap().user.as_deref(), Some("42"));
    let history = node.call(Method::GET, &format!("/v1/channels/user:42/history?access_token={user}"), &[], "").await;
    assert_eq!(history.status, 200, "{}", history.text());
    let admin = token(json!({"tidings": {"admin": true}}));
    let listed = node.call(Method::GET, &format!("/v1/connections?token={admin}"), &[], "").await;
    assert_eq!(listed.status, 200, "{}", listed.text());
}

async fn preflight(node: &Node, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,last-event-id"),
    ];
    node.call(Method::OPTIONS, "/v1/publish", &headers, "").await
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_and_no_others() {
    let node = Node::start("[server]\ncors_origins = [\"https://app.example\"]\n").await;
    let allowed = preflight(&node, "https://app.example").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let methods = allowed.header("access-control-allow-methods").unwrap();
    assert!(["GET", "POST", "PUT", "DELETE"].iter().all(|method| methods.contains(method)), "{methods}");
    let headers = allowed.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    for header in ["authorization", "content-type", "last-event-id", "cache-control"] {
        assert!(headers.contains(header), "{headers}");
    }
    assert!(allowed.header("vary").unwrap().to_ascii_lowercase().contains("origin"));
    for origin in [
        "https://evil.example",
        "https://app.example.evil",
        "http://app.example",
        "https://app.example:444",
        "null",
        "http://localhost:3000",
    ] {
        assert_eq!(preflight(&node, origin).await.header("access-control-allow-origin"), None, "{origin}");
        let answer = node.call(Method::GET, "/v1/subscribe", &[("origin", origin)], "").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
    }
    // Streams and problems can be read by the page, too.
    let stream = node.stream_with("channel=open:a", &[("origin", "https://app.example")]).await;
    assert_eq!(stream.header("access-control-allow-origin"), Some("https://app.example"));
    let refused = node.call(Method::GET, "/v1/subscribe", &[("origin", "https://app.example")], "").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (400, Some("https://app.example")));

    let any = Node::start("[server]\ncors_origins = [\"*\"]\n").await;
    let allowed = preflight(&any, "https://any.example").await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://any.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn a_cookie_counts_for_pages_of_the_listed_origins() {
    let config = "[server]\ncors_origins = [\"https://app.example\"]\n";
    let node = Node::start_with(options(config).env("TIDINGS_AUTH__COOKIE", "session")).await;
    let cookie = format!("a=b; session={}", user_token("42", &[]));
    let headers = [("cookie", cookie.as_str()), ("origin", "https://app.example")];
    let mut stream = node.stream_with("", &headers).await;
    assert_eq!(stream.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(stream.connected(LIMIT).await.unwrap().user.as_deref(), Some("42"));
    let headers = [("cookie", cookie.as_str()), ("origin", "https://evil.example")];
    let answer = node.call(Method::GET, "/v1/subscribe", &headers, "").await;
    assert_problem(&answer, 403, "cookie_origin");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn causes_of_refusals_are_told_in_development_only() {
    let node = Node::start("").await;
    let forged = sign(&json!({"sub": "42", "exp": 1}), "another secret of thirty-two byte");
    let user = user_token("42", &[]);
    let detail = async |node: &Node, path: &str, credentials: &str| {
        let answer = node.call(Method::GET, path, &[("authorization", &bearer(credentials))], "").await;
        answer.json().unwrap()["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(detail(&node, "/v1/connections", &forged).await, "the token is not accepted");
    let refused = detail(&node, "/v1/channels/user:7", &user).await;
    assert!(!refused.contains("user:7") && !refused.contains("sub"), "{refused}");

    let dev = Node::start_with(ServerOptions::new("").binary(env!("CARGO_BIN_EXE_tidings")).arg("--dev")).await;
    let told = detail(&dev, "/v1/connections", &forged).await;
    assert!(told.contains("HS256"), "{told}");
    let user = crate::command::run_in(
        dev.server.config_path().parent().unwrap(),
        &["token", "--dev", "--sub", "42", "--config", "tidings.toml"],
    );
    let told = detail(&dev, "/v1/channels/user:7", user.stdout.trim()).await;
    assert!(told.contains("sub = \"7\""), "{told}");
    // Anybody may do everything but hear what is personal, from pages on this machine as well.
    assert_eq!(subscribe(&dev, "chat:a", None).await, "200");
    assert_eq!(publish(&dev, "chat:a", None).await, "200");
    assert_eq!(subscribe(&dev, "user:7", None).await, "unauthorized");
    assert_eq!(publish(&dev, "user:7", None).await, "unauthorized");
    let local = preflight(&dev, "http://localhost:3000").await;
    assert_eq!(local.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(preflight(&dev, "http://localhost.evil.example").await.header("access-control-allow-origin"), None);
    let key =
        dev.server.log().lines().find_map(|line| line.split_once("  key ")?.1.split(' ').next().map(str::to_owned));
    let answer = dev.call(Method::GET, "/v1/connections", &[("authorization", &bearer(&key.unwrap()))], "").await;
    assert_eq!(answer.status, 200);
}

#[test]
fn a_server_that_nobody_could_use_or_everybody_could_misuse_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let refused = crate::command::run_in(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("no credentials are configured") && refused.stderr.contains("--dev"),
        "{refused:?}"
    );
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = crate::command::run_in(dir.path(), &["serve", "--dev", "--listen", listen]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("not a loopback address"), "{refused:?}");
    }
}
