//! Credentials, from the outside: what is let in and what is not, with keys made here.

mod fetched;
mod signer;

use std::time::Duration;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
    signature::RsaKeyPair,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tidings_core::Principal;
use tidings_http::auth::{AuthConfig, AuthConfigError, Authenticator, Credentials};
use tidings_http::problem::Code;
use tidings_protocol::{Cursor, Epoch, EventId, Millis, Partition, PartitionCursor, Position};

use signer::{EC, ED, OTHER_RSA, RSA, pem};

const NOW: Millis = 1_764_000_000_000;
const SECRET: &str = "a secret of at least thirty-two bytes";

fn claims() -> Value {
    json!({"sub": "42", "exp": NOW / 1000 + 600, "tidings": {"subscribe": ["chat:*"]}})
}

fn hs256(secret: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// A token of parts that no library would put together.
fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
}

/// Takes a request with the token as its header, all the way; the answer is in words.
async fn verdict(authenticator: &Authenticator, token: &str) -> &'static str {
    let request = http::Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let credentials = match authenticator.credentials(&parts) {
        Ok(credentials) => credentials,
        Err(error) => return error.code().as_str(),
    };
    match authenticator.authenticate(&credentials, NOW).await {
        Ok(Principal::Anonymous) => "anonymous",
        Ok(Principal::ApiKey { .. }) => "key",
        Ok(Principal::Token(grants)) => {
            assert_eq!(grants.user.unwrap().as_str(), "42");
            "user"
        }
        Err(error) => error.code().as_str(),
    }
}

fn authenticator(config: AuthConfig) -> Authenticator {
    Authenticator::new(&config).unwrap()
}

/// Every kind of key that a configuration can hold.
fn all_keys() -> AuthConfig {
    AuthConfig {
        api_keys: vec!["tk_backend".to_owned()],
        jwt_hs256_secret: Some(SECRET.to_owned()),
        jwt_public_keys: vec![RSA.public_pem.clone(), EC.public_pem.clone(), ED.public_pem.clone()],
        ticket_secret: [7; 32],
        ..AuthConfig::default()
    }
}

#[tokio::test]
async fn each_kind_of_key_lets_its_tokens_in() {
    let all = authenticator(all_keys());
    assert_eq!(verdict(&all, &hs256(SECRET.as_bytes(), &claims())).await, "user");
    for signer in [&*RSA, &*EC, &*ED] {
        assert_eq!(verdict(&all, &signer.token(None, &claims())).await, "user", "{:?}", signer.algorithm);
        // A key in the configuration has no name of its own, and does not mind the token's.
        assert_eq!(verdict(&all, &signer.token(Some("a"), &claims())).await, "user", "{:?}", signer.algorithm);
    }
    assert_eq!(verdict(&all, "tk_backend").await, "key");
    assert_eq!(verdict(&all, "tk_backen").await, "api_key_unknown");
    assert!(matches!(all.authenticate(&Credentials::None, NOW).await, Ok(Principal::Anonymous)));
}

#[tokio::test]
async fn tokens_of_other_keys_and_altered_ones_are_forged() {
    let all = authenticator(all_keys());
    assert_eq!(verdict(&all, &OTHER_RSA.token(None, &claims())).await, "token_invalid");
    assert_eq!(verdict(&all, &hs256(b"another secret", &claims())).await, "token_invalid");
    let admin = json!({"sub": "42", "exp": NOW / 1000 + 600, "tidings": {"admin": true}});
    for good in [hs256(SECRET.as_bytes(), &claims()), EC.token(None, &claims())] {
        let parts: Vec<_> = good.split('.').collect();
        let altered = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(admin.to_string()), parts[2]);
        assert_eq!(verdict(&all, &altered).await, "token_invalid");
        assert_eq!(verdict(&all, &format!("{}.{}.", parts[0], parts[1])).await, "token_invalid");
        assert_eq!(verdict(&all, &format!("{good}A")).await, "token_invalid");
        assert_eq!(verdict(&all, &format!("{good}=")).await, "token_invalid");
    }
    let nobody = authenticator(AuthConfig::default());
    assert_eq!(verdict(&nobody, &hs256(b"", &claims())).await, "token_invalid");
    assert_eq!(verdict(&nobody, "tk_").await, "api_key_unknown");
}

#[tokio::test]
async fn a_token_without_a_signature_is_none_however_it_is_written() {
    let all = authenticator(all_keys());
    for alg in [json!("none"), json!("None"), json!("NONE"), json!(""), json!(null), json!(["HS256"]), json!("HS512")] {
        for signature in [&b""[..], b"x"] {
            let token = raw(&json!({"alg": alg, "typ": "JWT"}), &claims(), signature);
            assert_eq!(verdict(&all, &token).await, "token_invalid", "{alg}");
        }
    }
    assert_eq!(verdict(&all, &raw(&json!({}), &claims(), b"")).await, "token_invalid");
    assert_eq!(verdict(&all, "..").await, "token_invalid");
}

#[tokio::test]
async fn a_public_key_is_not_taken_for_a_secret() {
    for config in [all_keys(), AuthConfig { jwt_hs256_secret: None, ..all_keys() }] {
        let authenticator = authenticator(config);
        for signer in [&*RSA, &*EC, &*ED] {
            let pem = signer.public_pem.as_bytes();
            for secret in [pem, pem.trim_ascii(), &signer.public_der] {
                assert_eq!(verdict(&authenticator, &hs256(secret, &claims())).await, "token_invalid");
            }
        }
    }
}

#[tokio::test]
async fn the_header_chooses_neither_algorithm_nor_key() {
    let all = authenticator(all_keys());
    // Signed by the EC key, and said to be RS256.
    let lie = raw(&json!({"alg": "RS256"}), &claims(), b"");
    let message = lie.trim_end_matches('.');
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EC.encoding, Algorithm::ES256).unwrap();
    assert_eq!(verdict(&all, &format!("{message}.{signature}")).await, "token_invalid");
    // RSA, but with an algorithm that was not asked for.
    let header = Header::new(Algorithm::PS256);
    let pss = jsonwebtoken::encode(&header, &claims(), &RSA.encoding).unwrap();
    assert_eq!(verdict(&all, &pss).await, "token_invalid");
    // A key that the token brings along.
    let jwk = Jwk::from_encoding_key(&OTHER_RSA.encoding, Algorithm::RS256).unwrap();
    let header = Header { jwk: Some(jwk), jku: Some("https://evil.example".into()), ..Header::new(Algorithm::RS256) };
    let own_key = jsonwebtoken::encode(&header, &claims(), &OTHER_RSA.encoding).unwrap();
    assert_eq!(verdict(&all, &own_key).await, "token_invalid");
    // An extension that changes what is signed.
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::RS256) };
    let critical = jsonwebtoken::encode(&header, &claims(), &RSA.encoding).unwrap();
    assert_eq!(verdict(&all, &critical).await, "token_invalid");
}

#[tokio::test]
async fn time_audience_and_issuer_are_checked() {
    let config = AuthConfig {
        jwt_audience: Some("tidings".to_owned()),
        jwt_issuer: Some("https://id.example".to_owned()),
        jwt_leeway: Duration::from_secs(10),
        ..all_keys()
    };
    let strict = authenticator(config);
    let now = NOW / 1000;
    for (changes, expected) in [
        (json!({}), "user"),
        (json!({"exp": now - 9}), "user"),
        (json!({"exp": now - 10}), "token_expired"),
        (json!({"exp": null}), "token_invalid"),
        (json!({"nbf": now + 10}), "user"),
        (json!({"nbf": now + 11}), "token_not_yet_valid"),
        (json!({"aud": "another"}), "token_audience"),
        (json!({"aud": ["another", "tidings"]}), "user"),
        (json!({"iss": "https://evil.example"}), "token_audience"),
        (json!({"sub": "not a channel"}), "token_invalid"),
        (json!({"tidings": {"subscribe": "chat:*"}}), "token_invalid"),
    ] {
        let mut claims = claims();
        claims["aud"] = json!("tidings");
        claims["iss"] = json!("https://id.example");
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        assert_eq!(verdict(&strict, &RSA.token(None, &claims)).await, expected, "{changes}");
    }
    // Who forges a token learns nothing of why it would not have done.
    let expired = json!({"sub": "42", "exp": 1});
    assert_eq!(verdict(&strict, &OTHER_RSA.token(None, &expired)).await, "token_invalid");
}

#[tokio::test]
async fn a_huge_token_and_a_header_that_is_not_text_are_refused() {
    let all = authenticator(all_keys());
    let mut claims = claims();
    claims["padding"] = json!("x".repeat(8 * 1024));
    assert_eq!(verdict(&all, &hs256(SECRET.as_bytes(), &claims)).await, "credentials_malformed");
    let value = http::HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap();
    let (parts, ()) = http::Request::builder().header("authorization", value).body(()).unwrap().into_parts();
    assert_eq!(all.credentials(&parts).unwrap_err().code(), Code::CredentialsMalformed);
}

#[tokio::test]
async fn a_ticket_opens_a_stream_and_nothing_else() {
    let all = authenticator(all_keys());
    let token = Credentials::from_bearer(hs256(SECRET.as_bytes(), &claims())).unwrap();
    let Principal::Token(grants) = all.authenticate(&token, NOW).await.unwrap() else { panic!("a token's principal") };
    let at = PartitionCursor { epoch: Epoch(1), position: Position(10) };
    let cursor = Cursor::from(EventId { partition: Partition::ZERO, at });
    let ticket = all.issue_ticket(&grants, &cursor, NOW).ticket;
    let uri = format!("/v1/subscribe?channel=a&ticket={ticket}");
    let (parts, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
    let credentials = all.credentials(&parts).unwrap();
    let refused = all.authenticate(&credentials, NOW).await.unwrap_err();
    assert_eq!(refused.code(), Code::TicketInvalid);
    let opened = all.authenticate_stream(&credentials, None, NOW).await.unwrap();
    assert_eq!(opened.user().unwrap().as_str(), "42");
    // A reload does not make it whole again.
    all.reload(&all_keys()).unwrap();
    assert!(all.authenticate_stream(&credentials, None, NOW).await.is_err());
    assert!(all.authenticate_stream(&credentials, Some(&cursor), NOW).await.is_ok());
    all.reload(&AuthConfig { ticket_secret: [8; 32], ..all_keys() }).unwrap();
    assert!(all.authenticate_stream(&credentials, Some(&cursor), NOW).await.is_err());
}

#[tokio::test]
async fn a_reload_replaces_keys_and_a_refused_one_does_not() {
    let authenticator = authenticator(AuthConfig { api_keys: vec!["tk_old".to_owned()], ..AuthConfig::default() });
    authenticator.reload(&AuthConfig { api_keys: vec!["tk_new".to_owned()], ..all_keys() }).unwrap();
    assert_eq!(verdict(&authenticator, "tk_old").await, "api_key_unknown");
    assert_eq!(verdict(&authenticator, "tk_new").await, "key");
    let broken = AuthConfig { api_keys: vec!["no prefix".to_owned()], ..AuthConfig::default() };
    assert!(matches!(authenticator.reload(&broken), Err(AuthConfigError::ApiKey(0))));
    assert_eq!(verdict(&authenticator, "tk_new").await, "key");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    let refused = |config: AuthConfig| {
        let error = Authenticator::new(&config).err().expect("a refusal");
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    };
    let private = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = AsDer::as_der(&private).unwrap();
    let public_key = |pem: &str| AuthConfig { jwt_public_keys: vec![RSA.public_pem.clone(), pem.into()], ..all_keys() };
    for (config, said) in [
        (AuthConfig { api_keys: vec!["tk_a b".into()], ..all_keys() }, "auth.api_keys[0]"),
        (AuthConfig { api_keys: vec!["tk_a".into(), "tk_".into()], ..all_keys() }, "auth.api_keys[1]"),
        (AuthConfig { jwt_hs256_secret: Some(String::new()), ..all_keys() }, "empty"),
        (AuthConfig { jwt_hs256_secret: Some(RSA.public_pem.clone()), ..all_keys() }, "auth.jwt_public_keys"),
        (public_key("garbage"), "auth.jwt_public_keys[1] is not accepted: not a public key in PEM"),
        (public_key(&pem("PRIVATE KEY", private.as_ref())), "a private key"),
        (public_key(&pem("PUBLIC KEY", b"garbage")), "not a key that is supported"),
        (public_key(&pem("CERTIFICATE", &RSA.public_der)), "not a public key in PEM"),
        (public_key(&format!("{}{}", EC.public_pem, ED.public_pem)), "several keys"),
        (AuthConfig { jwks_url: Some("ftp://id.example".into()), ..all_keys() }, "auth.jwks_url"),
        (AuthConfig { jwks_url: Some("id.example".into()), ..all_keys() }, "auth.jwks_url"),
        (AuthConfig { jwks_refresh: Duration::ZERO, ..all_keys() }, "auth.jwks_refresh"),
        (AuthConfig { cookie: Some("a b".into()), ..all_keys() }, "auth.cookie"),
    ] {
        let error = refused(config);
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("tk_a") && !error.contains(SECRET), "{error}");
    }
    let shown = format!("{:?}", all_keys());
    assert!(!shown.contains("tk_") && !shown.contains("secret of"), "{shown}");
    assert_eq!(all_keys().warnings().len(), 1, "an API key that can be guessed");
}

#[test]
fn authentication_can_run_on_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    let authenticator = authenticator(AuthConfig::default());
    is_send(&authenticator.authenticate(&Credentials::None, NOW));
    is_send(&authenticator.authenticate_stream(&Credentials::None, None, NOW));
}
