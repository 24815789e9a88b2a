//! Who is asking: API keys, tokens, tickets.
//!
//! A request passes [`credentials`] (what it carries) → [`Authenticator::authenticate`] (whether that
//! holds) → `tidings_core::Principal` (what it may do). The keys come from the configuration and
//! from a JWKS URL, and may be replaced while the server runs.
//!
//! Credentials that cannot be read or do not hold are an error and never make the request an
//! anonymous one: a client whose token ended should learn so, not silently hear less.

mod api_keys;
mod config;
pub mod credentials;
mod error;
mod jwks;
mod keys;
pub mod ticket;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::request::Parts;
use tidings_core::{Grants, Principal};
use tidings_protocol::{Cursor, Millis};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::problem::Code;
use api_keys::ApiKeys;
use credentials::CredentialPolicy;
use jwks::{KeyCache, NoKeys, UrlSource};
use keys::VerifyingKey;
use ticket::{SpentTickets, Tickets};
use token::{ClaimRules, TokenParts};

pub use config::{API_KEY_PREFIX, AuthConfig, AuthConfigError};
pub use credentials::{Credentials, TOKEN_MAX_BYTES};
pub use error::AuthError;
pub use jwks::KeyFetchStatus;
pub use keys::KeyError;
pub use ticket::IssuedTicket;

/// Tells who is asking. One per server, shared by everything that asks.
pub struct Authenticator {
    settings: ArcSwap<Settings>,
    /// Outlives a reload: a ticket stays spent.
    spent: SpentTickets,
    /// Tells the fetching task that the settings are other ones.
    reloaded: Notify,
}

/// All that a reload replaces.
struct Settings {
    api_keys: ApiKeys,
    /// The keys of tokens that the configuration holds.
    keys: Vec<VerifyingKey>,
    fetched: Option<FetchedKeys>,
    claims: ClaimRules,
    policy: CredentialPolicy,
    tickets: Tickets,
}

struct FetchedKeys {
    url: reqwest::Url,
    refresh: std::time::Duration,
    /// Outlives a reload that leaves the URL as it is.
    cache: Arc<KeyCache>,
}

impl Authenticator {
    /// Takes a configuration. Nothing is fetched before [`Self::run`] runs.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        Ok(Self {
            settings: ArcSwap::from_pointee(Settings::new(config, None)?),
            spent: SpentTickets::new(),
            reloaded: Notify::new(),
        })
    }

    /// Takes another configuration for all requests from now on. Streams that are open stay open. If
    /// it is refused, the one before stays.
    pub fn reload(&self, config: &AuthConfig) -> Result<(), AuthConfigError> {
        let settings = Settings::new(config, self.settings.load().fetched.as_ref())?;
        self.settings.store(Arc::new(settings));
        self.reloaded.notify_one();
        Ok(())
    }

    /// Fetches keys and keeps them fresh, until `shutdown`. Call it once; without it, tokens that
    /// need fetched keys are refused as [`Code::KeysUnavailable`].
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let fetched = self.settings.load().fetched.as_ref().map(|fetched| (fetched.cache.clone(), fetched.refresh));
            let fetching = async {
                match fetched {
                    Some((cache, refresh)) => cache.run(refresh).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.reloaded.notified() => {}
                () = fetching => {}
            }
        }
    }

    /// How fetching keys fares; `None` without a JWKS URL.
    pub fn key_fetch_status(&self) -> Option<KeyFetchStatus> {
        self.settings.load().fetched.as_ref().map(|fetched| fetched.cache.status())
    }

    /// Reads what credentials a request carries; see [`credentials`] for which of several counts.
    pub fn credentials<'a>(&self, parts: &'a Parts) -> Result<Credentials<'a>, AuthError> {
        Credentials::extract(parts, &self.settings.load().policy)
    }

    /// Checks credentials of a request that is not for a stream; a ticket is refused there.
    pub async fn authenticate(&self, credentials: &Credentials<'_>, now: Millis) -> Result<Principal, AuthError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::ApiKey(key) => match self.settings.load().api_keys.label_of(key) {
                Some(label) => Ok(Principal::ApiKey { label: label.to_owned() }),
                None => Err(AuthError::new(Code::ApiKeyUnknown, "the API key is not among auth.api_keys")),
            },
            // The settings are held across a wait there, which the quick kind of loading is not for.
            Credentials::Token(token) => self.settings.load_full().grants(token, now).await.map(Principal::Token),
            Credentials::Ticket(_) => {
                Err(AuthError::new(Code::TicketInvalid, "a ticket opens a stream and is good for nothing else"))
            }
        }
    }

    /// Checks credentials of a request for a stream. `last_event_id` is the cursor that came with it,
    /// if one did that can be read; a ticket may need it.
    pub async fn authenticate_stream(
        &self,
        credentials: &Credentials<'_>,
        last_event_id: Option<&Cursor>,
        now: Millis,
    ) -> Result<Principal, AuthError> {
        match credentials {
            Credentials::Ticket(ticket) => {
                self.settings.load().tickets.redeem(ticket, last_event_id, &self.spent, now).map(Principal::Token)
            }
            others => self.authenticate(others, now).await,
        }
    }

    /// Issues a ticket for a stream with these grants; `cursor` is this node's at this moment.
    ///
    /// It takes grants and not a principal: what an API key may do has no place in a URL.
    pub fn issue_ticket(&self, grants: &Grants, cursor: &Cursor, now: Millis) -> IssuedTicket {
        self.settings.load().tickets.issue(grants, cursor, now)
    }
}

impl Settings {
    fn new(config: &AuthConfig, before: Option<&FetchedKeys>) -> Result<Self, AuthConfigError> {
        config.check()?;
        let mut keys = Vec::new();
        if let Some(secret) = &config.jwt_hs256_secret {
            keys.push(VerifyingKey::from_secret(secret.as_bytes()));
        }
        for (index, pem) in config.jwt_public_keys.iter().enumerate() {
            let key = VerifyingKey::from_public_pem(pem);
            keys.push(key.map_err(|source| AuthConfigError::PublicKey { index, source })?);
        }
        let fetched = match &config.jwks_url {
            Some(url) => Some(FetchedKeys::new(url, config.jwks_refresh, before)?),
            None => None,
        };
        Ok(Self {
            api_keys: ApiKeys::new(&config.api_keys),
            keys,
            fetched,
            claims: ClaimRules {
                audience: config.jwt_audience.clone(),
                issuer: config.jwt_issuer.clone(),
                leeway: config.jwt_leeway,
            },
            policy: CredentialPolicy::new(config),
            tickets: Tickets::new(&config.ticket_secret),
        })
    }

    async fn grants(&self, token: &str, now: Millis) -> Result<Grants, AuthError> {
        let parts = TokenParts::read(token)?;
        self.verify(&parts).await?;
        parts.grants(&self.claims, now)
    }

    /// Finds a key that made the token's signature.
    async fn verify(&self, token: &TokenParts<'_>) -> Result<(), AuthError> {
        let algorithm = keys::algorithm_of(&token.header.alg).ok_or_else(|| {
            let alg = error::quoted(&token.header.alg);
            invalid(format!("the token's `alg` is {alg}; accepted are HS256, RS256, ES256 and EdDSA"))
        })?;
        let verifies = |keys: &[VerifyingKey]| {
            let suits = |key: &&VerifyingKey| {
                key.algorithm == algorithm
                    && match (&key.key_id, &token.header.kid) {
                        (Some(of_key), Some(of_token)) => of_key == of_token,
                        // A key without a name, or a token that does not say.
                        _ => true,
                    }
            };
            keys.iter().filter(suits).any(|key| key.verifies(token.message.as_bytes(), token.signature))
        };
        if verifies(&self.keys) {
            return Ok(());
        }
        if let Some(fetched) = &self.fetched
            && algorithm != jsonwebtoken::Algorithm::HS256
        {
            let unavailable = |none: NoKeys| AuthError::new(Code::KeysUnavailable, none.cause);
            let keys = fetched.cache.keys().await.map_err(unavailable)?;
            if verifies(&keys) {
                return Ok(());
            }
            if let Some(kid) = &token.header.kid
                && !keys.iter().any(|key| key.key_id.as_ref() == Some(kid))
            {
                // The issuer may have a new key.
                let keys = fetched.cache.newer_keys().await.map_err(unavailable)?;
                if verifies(&keys) {
                    return Ok(());
                }
                let kid = error::quoted(kid);
                return Err(invalid(format!("no key named {kid}, which is the token's `kid`, made its signature")));
            }
        }
        Err(invalid(format!("no {} key that is configured made the token's signature", token.header.alg)))
    }
}

impl FetchedKeys {
    fn new(url: &str, refresh: std::time::Duration, before: Option<&Self>) -> Result<Self, AuthConfigError> {
        let url = reqwest::Url::parse(url).map_err(|_| AuthConfigError::JwksUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AuthConfigError::JwksUrl);
        }
        let cache = match before {
            Some(before) if before.url == url => before.cache.clone(),
            _ => {
                let source = UrlSource::new(url.clone()).map_err(AuthConfigError::HttpClient)?;
                Arc::new(KeyCache::new(Box::new(source)))
            }
        };
        Ok(Self { url, refresh, cache })
    }
}

fn invalid(cause: String) -> AuthError {
    AuthError::new(Code::TokenInvalid, cause)
}
