//! Keys that are fetched from an issuer, which is a real server here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidings_http::auth::{AuthConfig, Authenticator};
use tidings_http::problem::Code;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    SECRET, all_keys, claims, hs256, raw,
    signer::{EC, ED, OTHER_RSA, RSA},
    verdict,
};

/// An issuer of tokens that serves its keys, as the test says.
struct Issuer {
    url: String,
    served: Arc<Served>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Served {
    answer: Mutex<(StatusCode, Option<String>, Vec<u8>)>,
    requests: AtomicUsize,
}

impl Issuer {
    async fn start(keys: &[Value]) -> Self {
        let served = Arc::new(Served::default());
        let router = axum::Router::new().fallback(Self::answer).with_state(served.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        let issuer = Self { url, served, _stop: stop.drop_guard() };
        issuer.publish(keys);
        issuer
    }

    async fn answer(State(served): State<Arc<Served>>) -> Response {
        served.requests.fetch_add(1, Ordering::Relaxed);
        let (status, location, body) = served.answer.lock().clone();
        let location = location.map(|location| [("location", location)]);
        (status, location.map(axum::response::AppendHeaders), body).into_response()
    }

    fn publish(&self, keys: &[Value]) {
        *self.served.answer.lock() = (StatusCode::OK, None, json!({ "keys": keys }).to_string().into_bytes());
    }

    fn answer_with(&self, status: StatusCode, location: Option<&str>, body: &[u8]) {
        *self.served.answer.lock() = (status, location.map(str::to_owned), body.to_vec());
    }

    fn requests(&self) -> usize {
        self.served.requests.load(Ordering::Relaxed)
    }

    fn config(&self) -> AuthConfig {
        AuthConfig { jwks_url: Some(self.url.clone()), ..AuthConfig::default() }
    }
}

/// An authenticator whose fetching task runs until the guard is dropped.
fn running(config: &AuthConfig) -> (Arc<Authenticator>, DropGuard) {
    let authenticator = Arc::new(Authenticator::new(config).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(authenticator.clone().run(stop.clone()));
    (authenticator, stop.drop_guard())
}

#[tokio::test]
async fn fetched_keys_let_their_tokens_in() {
    let issuer = Issuer::start(&[RSA.jwk("rsa"), EC.jwk("ec"), ED.jwk("ed")]).await;
    let (authenticator, _stop) = running(&issuer.config());
    for (signer, kid) in [(&*RSA, "rsa"), (&*EC, "ec"), (&*ED, "ed")] {
        assert_eq!(verdict(&authenticator, &signer.token(Some(kid), &claims())).await, "user", "{kid}");
        assert_eq!(verdict(&authenticator, &signer.token(None, &claims())).await, "user", "{kid}");
    }
    let status = authenticator.key_fetch_status().unwrap();
    assert_eq!((status.keys, status.successes, status.failures, status.last_error), (3, 1, 0, None));
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn a_key_id_has_to_name_the_key_that_signed() {
    let issuer = Issuer::start(&[RSA.jwk("one"), OTHER_RSA.jwk("two"), EC.jwk("ec")]).await;
    let (authenticator, _stop) = running(&issuer.config());
    assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
    assert_eq!(verdict(&authenticator, &RSA.token(Some("two"), &claims())).await, "token_invalid");
    assert_eq!(verdict(&authenticator, &RSA.token(Some("ec"), &claims())).await, "token_invalid");
    assert_eq!(issuer.requests(), 1, "those were known, and nothing is fetched for them");
    let number = raw(&json!({"alg": "RS256", "kid": 1}), &claims(), b"x");
    assert_eq!(verdict(&authenticator, &number).await, "token_invalid");
    for kid in ["", "../../one", "one\0", "one\r\nx: y", &"k".repeat(4000)] {
        assert_eq!(verdict(&authenticator, &RSA.token(Some(kid), &claims())).await, "token_invalid", "{kid:?}");
    }
    assert_eq!(issuer.requests(), 2, "one more, for all that were not");
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_its_first_token_comes() {
    let issuer = Issuer::start(&[RSA.jwk("old")]).await;
    let (authenticator, _stop) = running(&issuer.config());
    assert_eq!(verdict(&authenticator, &RSA.token(Some("old"), &claims())).await, "user");
    issuer.publish(&[OTHER_RSA.jwk("new")]);
    // Many at once cause one fetch.
    let token = OTHER_RSA.token(Some("new"), &claims());
    let verdicts: Vec<_> = (0..20)
        .map(|_| {
            let (authenticator, token) = (authenticator.clone(), token.clone());
            tokio::spawn(async move { verdict(&authenticator, &token).await })
        })
        .collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), "user");
    }
    assert_eq!(issuer.requests(), 2);
    assert_eq!(verdict(&authenticator, &RSA.token(Some("old"), &claims())).await, "token_invalid");
}

#[tokio::test]
async fn unknown_key_ids_do_not_make_the_server_fetch_again_and_again() {
    let issuer = Issuer::start(&[RSA.jwk("one")]).await;
    let (authenticator, _stop) = running(&issuer.config());
    for attempt in 0..50 {
        let forged = OTHER_RSA.token(Some(&format!("unknown-{attempt}")), &claims());
        assert_eq!(verdict(&authenticator, &forged).await, "token_invalid");
    }
    assert_eq!(issuer.requests(), 2);
}

#[tokio::test]
async fn old_keys_stay_when_a_fetch_fails() {
    let issuer = Issuer::start(&[RSA.jwk("one")]).await;
    for (status, location, body, said) in [
        (StatusCode::INTERNAL_SERVER_ERROR, None, Vec::new(), "500"),
        (StatusCode::NO_CONTENT, None, Vec::new(), "204"),
        (StatusCode::OK, None, b"<html>".to_vec(), "not a JWK set"),
        (StatusCode::OK, None, br#"{"keys":[]}"#.to_vec(), "no key"),
        (StatusCode::OK, None, vec![b' '; 1024 * 1024 + 1], "longer than"),
        (StatusCode::FOUND, Some(issuer.url.replace("http:", "https:")), Vec::new(), "another scheme"),
        (StatusCode::FOUND, Some(issuer.url.clone()), Vec::new(), "too many redirects"),
    ] {
        issuer.publish(&[RSA.jwk("one")]);
        let (authenticator, _stop) = running(&issuer.config());
        assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
        issuer.answer_with(status, location.as_deref(), &body);
        // Whether this key is new cannot be told.
        assert_eq!(verdict(&authenticator, &RSA.token(Some("two"), &claims())).await, "keys_unavailable");
        assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
        let status = authenticator.key_fetch_status().unwrap();
        assert_eq!((status.keys, status.successes, status.failures > 0), (1, 1, true), "{status:?}");
        let error = status.last_error.unwrap();
        assert!(error.contains(said) && !error.contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn without_any_fetched_keys_their_tokens_are_to_be_tried_again() {
    let unreachable = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/keys", listener.local_addr().unwrap())
    };
    let (authenticator, _stop) = running(&AuthConfig { jwks_url: Some(unreachable), ..all_keys() });
    assert_eq!(verdict(&authenticator, &OTHER_RSA.token(None, &claims())).await, "keys_unavailable");
    assert_eq!(Code::KeysUnavailable.status(), 503);
    // Those that need none do not wait.
    assert_eq!(verdict(&authenticator, &RSA.token(None, &claims())).await, "user");
    assert_eq!(verdict(&authenticator, &hs256(b"another", &claims())).await, "token_invalid");
    assert_eq!(verdict(&authenticator, "tk_backend").await, "key");
}

#[tokio::test]
async fn keys_for_something_else_are_left_out() {
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256", "kid": "oct"});
    let issuer = Issuer::start(&[
        with(RSA.jwk("enc"), "use", json!("enc")),
        with(RSA.jwk("ops"), "key_ops", json!(["sign"])),
        with(RSA.jwk("alg"), "alg", json!("RS512")),
        with(RSA.jwk("short"), "n", json!("AQAB")),
        with(EC.jwk("crv"), "crv", json!("P-384")),
        with(EC.jwk("off"), "y", json!("AAAA")),
        with(EC.jwk("kty"), "kty", json!("OKP")),
        secret,
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
        json!("not a key"),
        json!(null),
        with(ED.jwk("good"), "alg", json!("Ed25519")),
    ])
    .await;
    let (authenticator, _stop) = running(&issuer.config());
    assert_eq!(verdict(&authenticator, &ED.token(Some("good"), &claims())).await, "user");
    assert_eq!(authenticator.key_fetch_status().unwrap().keys, 1);
    for refused in [RSA.token(None, &claims()), EC.token(None, &claims()), hs256(SECRET.as_bytes(), &claims())] {
        assert_eq!(verdict(&authenticator, &refused).await, "token_invalid");
    }
}

/// Issuers written in Java were seen to send the modulus with its sign byte.
#[tokio::test]
async fn a_modulus_may_begin_with_a_zero() {
    let mut jwk = RSA.jwk("one");
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    jwk["n"] = json!(URL_SAFE_NO_PAD.encode([vec![0], modulus].concat()));
    let issuer = Issuer::start(&[jwk]).await;
    let (authenticator, _stop) = running(&issuer.config());
    assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
}

#[tokio::test]
async fn fetched_keys_survive_a_reload_that_keeps_their_url() {
    let (one, two) = (Issuer::start(&[RSA.jwk("one")]).await, Issuer::start(&[EC.jwk("two")]).await);
    let (authenticator, _stop) = running(&one.config());
    assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
    let kept =
        AuthConfig { api_keys: vec!["tk_new".to_owned()], jwks_refresh: Duration::from_secs(900), ..one.config() };
    authenticator.reload(&kept).unwrap();
    assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "user");
    assert_eq!(one.requests(), 1);
    authenticator.reload(&two.config()).unwrap();
    assert_eq!(verdict(&authenticator, &EC.token(Some("two"), &claims())).await, "user");
    assert_eq!((one.requests(), two.requests()), (1, 1));
    // Nothing of the other issuer is left.
    assert_eq!(verdict(&authenticator, &RSA.token(Some("one"), &claims())).await, "token_invalid");
    authenticator.reload(&all_keys()).unwrap();
    assert!(authenticator.key_fetch_status().is_none());
}
