use std::collections::HashSet;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::command::{Done, run, run_in, tidings};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn claims(token: &str, secret: &str) -> Value {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = false;
    validation.required_spec_claims = HashSet::from(["exp".to_owned(), "sub".to_owned()]);
    jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(secret.as_bytes()), &validation).unwrap().claims
}

#[test]
fn a_token_says_who_and_what() {
    let output = tidings(&["token", "--sub", "42", "--subscribe", "chat:*", "--subscribe", "board:7", "--ttl", "10m"])
        .env("TIDINGS_AUTH__JWT_HS256_SECRET", SECRET)
        .env("TIDINGS_AUTH__JWT_AUDIENCE", "tidings")
        .env("TIDINGS_AUTH__JWT_ISSUER", "https://id.example")
        .output()
        .unwrap();
    let done = Done::from(output);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    let claims = claims(done.stdout.strip_suffix('\n').unwrap(), SECRET);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    assert_eq!(
        (&claims["sub"], &claims["aud"], &claims["iss"]),
        (&json!("42"), &json!("tidings"), &json!("https://id.example"))
    );
    assert_eq!(claims["tidings"], json!({"subscribe": ["chat:*", "board:7"], "publish": [], "admin": false}));
}

#[test]
fn a_development_token_is_signed_with_the_secret_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let arguments =
        ["token", "--dev", "--sub", "42", "--publish", "*", "--admin", "--audience", "x", "--data-dir", "data"];
    let done = run_in(dir.path(), &arguments);
    assert_eq!(done.code, Some(0), "{done:?}");
    let kept: toml::Table = std::fs::read_to_string(dir.path().join("data/dev-secrets.toml")).unwrap().parse().unwrap();
    let claims = claims(done.stdout.trim_end(), kept["jwt_hs256_secret"].as_str().unwrap());
    assert_eq!(claims["aud"], "x");
    assert_eq!(claims["tidings"], json!({"subscribe": [], "publish": ["*"], "admin": true}));
}

#[test]
fn without_a_secret_there_is_no_token() {
    let done = run(&["token", "--sub", "42"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert!(done.stderr.contains("set auth.jwt_hs256_secret in the configuration, or use --dev"), "{}", done.stderr);
}
