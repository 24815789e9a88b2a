//! What an operator says about credentials.

use std::{fmt, time::Duration};

use super::keys::KeyError;

/// What every API key begins with, so that it is never mistaken for a token (and is found by
/// scanners that look for leaked keys).
pub const API_KEY_PREFIX: &str = "tk_";

/// Shortest HS256 secret that carries the full strength of the algorithm, in bytes (RFC 7518 §3.2).
const SECRET_RECOMMENDED_BYTES: usize = 32;

/// Shortest API key that cannot be guessed, in bytes: 128 bits in base64url, and the prefix.
const API_KEY_RECOMMENDED_BYTES: usize = API_KEY_PREFIX.len() + 22;

/// Shortest period of fetching keys: the issuer is somebody else's server.
const JWKS_REFRESH_MIN: Duration = Duration::from_secs(1);

/// What credentials are accepted. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Keys of backends, each beginning with [`API_KEY_PREFIX`].
    pub api_keys: Vec<String>,
    /// The secret of tokens signed with HS256; its UTF-8 bytes are the key.
    pub jwt_hs256_secret: Option<String>,
    /// Public keys in PEM of tokens signed with RS256, ES256 or EdDSA.
    pub jwt_public_keys: Vec<String>,
    /// Where further public keys are fetched from, as a JWK set.
    pub jwks_url: Option<String>,
    /// How often they are fetched.
    pub jwks_refresh: Duration,
    /// What a token's `aud` must be or contain. Without it any token is accepted, with `aud` or without.
    pub jwt_audience: Option<String>,
    /// What a token's `iss` must be. Without it any token is accepted.
    pub jwt_issuer: Option<String>,
    /// How far the issuer's clock may be off.
    pub jwt_leeway: Duration,
    /// The cookie that may carry the JWT. Without it cookies are ignored.
    pub cookie: Option<String>,
    /// The origins whose pages may send the cookie, besides the server's own. `*` is none.
    pub cors_origins: Vec<String>,
    /// Whether a JWT is accepted as `?access_token=` or `?token=`.
    pub allow_token_in_query: bool,
    /// What tickets are signed with; the same on every node.
    pub ticket_secret: [u8; 32],
}

impl Default for AuthConfig {
    /// Nobody but anonymous clients, until keys are added. The ticket secret is zero and must be set.
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            jwt_hs256_secret: None,
            jwt_public_keys: Vec::new(),
            jwks_url: None,
            jwks_refresh: Duration::from_secs(300),
            jwt_audience: None,
            jwt_issuer: None,
            jwt_leeway: Duration::from_secs(5),
            cookie: None,
            cors_origins: Vec::new(),
            allow_token_in_query: false,
            ticket_secret: [0; 32],
        }
    }
}

impl AuthConfig {
    /// Whether any credentials could be accepted.
    pub fn has_keys(&self) -> bool {
        !self.api_keys.is_empty()
            || self.jwt_hs256_secret.is_some()
            || !self.jwt_public_keys.is_empty()
            || self.jwks_url.is_some()
    }

    /// Refuses what can be seen to be wrong without reading keys.
    pub(crate) fn check(&self) -> Result<(), AuthConfigError> {
        let is_api_key = |key: &String| {
            key.strip_prefix(API_KEY_PREFIX).is_some_and(|rest| !rest.is_empty()) && key.bytes().all(is_token_byte)
        };
        if let Some(index) = self.api_keys.iter().position(|key| !is_api_key(key)) {
            return Err(AuthConfigError::ApiKey(index));
        }
        match &self.jwt_hs256_secret {
            Some(secret) if secret.is_empty() => return Err(AuthConfigError::SecretEmpty),
            Some(secret) if secret.trim_start().starts_with("-----BEGIN ") => return Err(AuthConfigError::SecretIsPem),
            _ => {}
        }
        if self.jwks_refresh < JWKS_REFRESH_MIN {
            return Err(AuthConfigError::JwksRefresh);
        }
        if let Some(name) = &self.cookie
            && (name.is_empty() || !name.bytes().all(is_cookie_name_byte))
        {
            return Err(AuthConfigError::Cookie);
        }
        Ok(())
    }

    /// What is accepted but weak, in sentences for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.jwt_hs256_secret.as_ref().is_some_and(|secret| secret.len() < SECRET_RECOMMENDED_BYTES) {
            warnings.push(format!(
                "auth.jwt_hs256_secret is shorter than {SECRET_RECOMMENDED_BYTES} bytes and can be guessed offline \
                 from any one token"
            ));
        }
        let short = self.api_keys.iter().filter(|key| key.len() < API_KEY_RECOMMENDED_BYTES).count();
        if short > 0 {
            warnings.push(format!(
                "auth.api_keys: {short} of {} keys have fewer than {API_KEY_RECOMMENDED_BYTES} characters and may be \
                 guessed",
                self.api_keys.len()
            ));
        }
        if self.jwks_url.as_ref().is_some_and(|url| url.starts_with("http://")) {
            warnings.push(
                "auth.jwks_url is not https: whoever is on the way to it can replace the keys of tokens".to_owned(),
            );
        }
        warnings
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("api_keys", &self.api_keys.len())
            .field("jwt_hs256_secret", &self.jwt_hs256_secret.is_some())
            .field("jwt_public_keys", &self.jwt_public_keys.len())
            // The URL may carry a password.
            .field("jwks_url", &self.jwks_url.is_some())
            .field("jwks_refresh", &self.jwks_refresh)
            .field("jwt_audience", &self.jwt_audience)
            .field("jwt_issuer", &self.jwt_issuer)
            .field("jwt_leeway", &self.jwt_leeway)
            .field("cookie", &self.cookie)
            .field("cors_origins", &self.cors_origins)
            .field("allow_token_in_query", &self.allow_token_in_query)
            .finish_non_exhaustive()
    }
}

/// The alphabet of RFC 6750 §2.1, which holds every JWT and API key.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// `token` of RFC 9110 §5.6.2, which a cookie's name is.
fn is_cookie_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Why a configuration cannot be used. `Display` names the key and what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// Not an API key.
    #[error(
        "auth.api_keys[{0}] is not accepted: `{API_KEY_PREFIX}` followed by at least one of `A-Z a-z 0-9 - . _ ~ + / =`"
    )]
    ApiKey(usize),
    /// A secret that is none.
    #[error("auth.jwt_hs256_secret is empty")]
    SecretEmpty,
    /// A public key where a secret belongs: anybody who has it could sign tokens.
    #[error("auth.jwt_hs256_secret is a key in PEM, not a shared secret; public keys belong in auth.jwt_public_keys")]
    SecretIsPem,
    /// Not a public key.
    #[error("auth.jwt_public_keys[{index}] is not accepted")]
    PublicKey {
        /// Which of the list.
        index: usize,
        /// Why.
        source: KeyError,
    },
    /// Not a URL of keys.
    #[error("auth.jwks_url is not accepted: an http:// or https:// URL")]
    JwksUrl,
    /// A period that is none.
    #[error("auth.jwks_refresh is not accepted: at least 1s")]
    JwksRefresh,
    /// Not the name of a cookie.
    #[error("auth.cookie is not accepted: a name of `A-Z a-z 0-9` and `! # $ % & ' * + - . ^ _ | ~` (RFC 6265)")]
    Cookie,
    /// The HTTP client for keys cannot be made.
    #[error("the HTTP client for auth.jwks_url cannot be made")]
    HttpClient(#[source] reqwest::Error),
}
