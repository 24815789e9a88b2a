//! `[auth]`: who is who.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{Secret, human_duration};

/// What every API key begins with, so that it is told from a JWT, and found by secret scanners.
pub const API_KEY_PREFIX: &str = "tk_";

/// The keys that tokens are checked with, and how tokens travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Keys of backends.
    pub api_keys: Vec<Secret>,
    /// The key of HS256 tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_hs256_secret: Option<Secret>,
    /// Keys of RS256, ES256 and EdDSA tokens: PEM, or the path of a file with it. Read them with
    /// [`AuthConfig::public_keys`].
    pub jwt_public_keys: Vec<String>,
    /// Where keys are fetched from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// How often they are fetched.
    #[serde(with = "human_duration")]
    pub jwks_refresh: Duration,
    /// What `aud` must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_audience: Option<String>,
    /// What `iss` must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_issuer: Option<String>,
    /// By how much clocks may differ.
    #[serde(with = "human_duration")]
    pub jwt_leeway: Duration,
    /// The cookie that may carry a token, from `server.cors_origins` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Whether `?token=` is taken.
    pub allow_token_in_query: bool,
    /// The key that tickets are signed with; without one, one is made and kept in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_secret: Option<Secret>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            jwt_hs256_secret: None,
            jwt_public_keys: Vec::new(),
            jwks_url: None,
            jwks_refresh: Duration::from_secs(5 * 60),
            jwt_audience: None,
            jwt_issuer: None,
            jwt_leeway: Duration::from_secs(30),
            cookie: None,
            allow_token_in_query: false,
            ticket_secret: None,
        }
    }
}

/// The algorithm that a public key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKeyAlgorithm {
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// A public key that has been read and looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// What it checks.
    pub algorithm: PublicKeyAlgorithm,
    /// The key in PEM.
    pub pem: String,
}

/// Largest file that is read as a public key: an RSA key of 16384 bits takes 3 KiB in PEM.
const PUBLIC_KEY_MAX_BYTES: usize = 64 * 1024;

impl AuthConfig {
    /// Whether there is anything that a caller could prove to be somebody with.
    pub fn has_credentials(&self) -> bool {
        !self.api_keys.is_empty()
            || self.jwt_hs256_secret.is_some()
            || !self.jwt_public_keys.is_empty()
            || self.jwks_url.is_some()
    }

    /// Reads the public keys, from their files where they are paths. The error names the entry.
    pub fn public_keys(&self) -> Result<Vec<PublicKey>, String> {
        self.jwt_public_keys.iter().enumerate().map(|(at, entry)| read_public_key(at, entry)).collect()
    }
}

fn read_public_key(at: usize, entry: &str) -> Result<PublicKey, String> {
    let (name, pem) = if entry.contains("-----BEGIN") {
        (format!("entry {}", at + 1), entry.to_owned())
    } else {
        let pem = super::read_text(entry.as_ref(), PUBLIC_KEY_MAX_BYTES).map_err(|error| {
            format!("cannot read the file {entry:?}: {error}; accepted is PEM or the path of a file")
        })?;
        (format!("the file {entry:?}"), pem)
    };
    if pem.contains("PRIVATE KEY") {
        return Err(format!("{name} is a private key; accepted is its public half, to be kept here"));
    }
    use jsonwebtoken::DecodingKey;
    let algorithm = if DecodingKey::from_rsa_pem(pem.as_bytes()).is_ok() {
        PublicKeyAlgorithm::Rs256
    } else if DecodingKey::from_ec_pem(pem.as_bytes()).is_ok() {
        PublicKeyAlgorithm::Es256
    } else if DecodingKey::from_ed_pem(pem.as_bytes()).is_ok() {
        PublicKeyAlgorithm::EdDsa
    } else {
        return Err(format!(
            "{name} is no public key; accepted is PEM (`BEGIN PUBLIC KEY`) of an RSA, P-256 or Ed25519 key"
        ));
    };
    Ok(PublicKey { algorithm, pem })
}
