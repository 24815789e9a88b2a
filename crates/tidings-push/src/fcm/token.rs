//! The access token of a service account (RFC 7523 §2.1, as Google has it).

use std::{sync::Arc, time::Duration};

use http::header::CONTENT_TYPE;
use jsonwebtoken::{Algorithm, Header};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use tidings_hub::{Tick, Time};
use tokio::sync::Mutex;

use super::account::ServiceAccount;
use crate::exchange::{Answer, exchange, in_full, quote};

/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// How long the assertion is good for; Google takes an hour at most.
const ASSERTION_LIFETIME_SECS: u64 = 60 * 60;

/// How long before its end a token is used no more.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// A token that is refused is not replaced if it is as new as this: another would be refused as well, and
/// each push would ask for one.
const FRESH: Duration = Duration::from_secs(30);

/// How long nobody asks again after the issuer failed, so that the pushes that wait do not ask one after
/// the other.
const PAUSE: Duration = Duration::from_secs(2);

/// A token. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct AccessToken(Arc<str>);

impl AccessToken {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// No token was issued.
#[derive(Debug, Clone)]
pub(super) struct TokenFailure {
    pub(super) cause: String,
    pub(super) after_ms: Option<u64>,
}

struct Issued {
    token: AccessToken,
    at: Tick,
    usable_until: Tick,
}

#[derive(Default)]
struct State {
    issued: Option<Issued>,
    failed: Option<(Tick, TokenFailure)>,
}

/// Asks for tokens, one at a time however many pushes wait for one, and keeps the last.
pub(super) struct Tokens {
    account: ServiceAccount,
    client: Client,
    url: Url,
    time: Arc<dyn Time>,
    /// Held while a token is asked for: who comes meanwhile waits for it.
    state: Mutex<State>,
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: u64,
}

/// RFC 6749 §5.2.
#[derive(Deserialize)]
struct Denial {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    pub(super) fn new(account: ServiceAccount, client: Client, url: Url, time: Arc<dyn Time>) -> Self {
        Self { account, client, url, time, state: Mutex::default() }
    }

    /// The token at hand, or a new one.
    pub(super) async fn get(&self) -> Result<AccessToken, TokenFailure> {
        let mut state = self.state.lock().await;
        if let Some(issued) = &state.issued
            && self.time.tick() < issued.usable_until
        {
            return Ok(issued.token.clone());
        }
        self.ask(&mut state).await
    }

    /// A token that is newer than the one which was refused; that one, if it is new itself.
    pub(super) async fn other_than(&self, refused: &AccessToken) -> Result<AccessToken, TokenFailure> {
        let mut state = self.state.lock().await;
        if let Some(issued) = &state.issued
            && (!issued.token.is(refused) || self.time.tick().saturating_sub(issued.at) < FRESH)
        {
            return Ok(issued.token.clone());
        }
        state.issued = None;
        self.ask(&mut state).await
    }

    async fn ask(&self, state: &mut State) -> Result<AccessToken, TokenFailure> {
        if let Some((at, failure)) = &state.failed
            && self.time.tick().saturating_sub(*at) < PAUSE
        {
            return Err(failure.clone());
        }
        match self.request().await {
            Ok(grant) => {
                let now = self.time.tick();
                let lifetime = Duration::from_secs(grant.expires_in);
                // A token that lives shortly is used for half of that.
                let usable_until = now + lifetime.saturating_sub(MARGIN).max(lifetime / 2);
                let token = AccessToken(grant.access_token.into());
                *state = State { issued: Some(Issued { token: token.clone(), at: now, usable_until }), failed: None };
                Ok(token)
            }
            Err(failure) => {
                state.failed = Some((self.time.tick(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn request(&self) -> Result<Grant, TokenFailure> {
        let failure = |cause, after_ms| TokenFailure { cause, after_ms };
        let now = self.time.now();
        let mut header = Header::new(Algorithm::RS256);
        header.kid = self.account.key_id().map(str::to_owned);
        let iat = now / 1000;
        let assertion = Assertion {
            iss: self.account.email(),
            scope: SCOPE,
            // What the account says, also where the request goes by another way.
            aud: self.account.token_url().as_str(),
            iat,
            exp: iat + ASSERTION_LIFETIME_SECS,
        };
        let assertion = jsonwebtoken::encode(&header, &assertion, self.account.signing())
            .map_err(|error| failure(format!("the service account's assertion cannot be signed: {error}"), None))?;
        // An assertion is base64url and dots, which a form takes as they are.
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let answer = exchange(request, now)
            .await
            .map_err(|error| failure(format!("no access token: {}", in_full(&error)), None))?;
        if !answer.status.is_success() {
            return Err(failure(denial(&answer), answer.retry_after_ms));
        }
        let grant = serde_json::from_slice::<Grant>(&answer.body).ok().filter(|grant| is_bearer(&grant.access_token));
        grant.ok_or_else(|| failure("no access token: the issuer's answer holds none".to_owned(), None))
    }
}

fn denial(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    match serde_json::from_slice::<Denial>(&answer.body) {
        Ok(Denial { error, error_description }) => {
            let said = quote(&format!("{error}: {error_description}"));
            format!("no access token for the service account: {status} {said}")
        }
        Err(_) => format!("no access token for the service account: status {status}"),
    }
}

/// RFC 6750 §2.1; anything else is no header.
fn is_bearer(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}
