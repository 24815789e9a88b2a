//! The keys that tokens are checked with, and how they are read from PEM and JWK.
//!
//! A key says which algorithm it is for; the token's header can only agree. So a token that is
//! signed with a public key as if it were a secret, or not signed at all, meets no key.

use std::{fmt, ops::RangeInclusive};

use aws_lc_rs::signature::{self, ParsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// RSA moduli that are accepted, in bytes: 2048 bits (RFC 7518 §3.3) to 8192, the most that is verified.
const RSA_MODULUS_BYTES: RangeInclusive<usize> = 256..=1024;

/// Longest DER of an RSA key besides its modulus, in bytes: two headers, a sign byte and the exponent.
const RSA_DER_OVERHEAD_MAX_BYTES: usize = 32;

/// Most keys taken from one set. A token without `kid` is tried against each of them.
const KEY_SET_MAX_KEYS: usize = 64;

/// One key for one algorithm.
pub(crate) struct VerifyingKey {
    pub(crate) algorithm: Algorithm,
    /// The name that tokens may call it by. A key without one is tried for every token.
    pub(crate) key_id: Option<String>,
    decoding: DecodingKey,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, key_id, decoding: _ } = self;
        f.debug_struct("VerifyingKey").field("algorithm", algorithm).field("key_id", key_id).finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// A shared secret, for HS256.
    pub(crate) fn from_secret(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::HS256, key_id: None, decoding: DecodingKey::from_secret(secret) }
    }

    /// A public key in PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA).
    pub(crate) fn from_public_pem(pem: &str) -> Result<Self, KeyError> {
        let pem = pem.trim();
        let label = pem.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")).map(|(label, _)| label);
        match label {
            Some("PUBLIC KEY" | "RSA PUBLIC KEY") if pem.matches("-----BEGIN ").count() > 1 => {
                return Err(KeyError::SeveralKeys);
            }
            Some("PUBLIC KEY" | "RSA PUBLIC KEY") => {}
            Some(label) if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
            Some(_) | None => return Err(KeyError::NotPem),
        }
        let bytes = pem.as_bytes();
        // Each reader accepts only its own kind of key, except that a PKCS#1 key is always RSA.
        let (algorithm, decoding) = if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
            (Algorithm::EdDSA, key)
        } else if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
            (Algorithm::ES256, key)
        } else if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
            (Algorithm::RS256, key)
        } else {
            return Err(KeyError::Unsupported);
        };
        let material = decoding.try_get_as_bytes().map_err(|_| KeyError::Unsupported)?;
        check_material(algorithm, material)?;
        Ok(Self { algorithm, key_id: None, decoding })
    }

    fn from_jwk(jwk: Jwk) -> Result<Self, KeyError> {
        let is_for = |name: &str| jwk.alg.as_deref().is_none_or(|alg| alg == name);
        let may_verify = jwk.key_use.as_deref().is_none_or(|key_use| key_use == "sig")
            && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !may_verify {
            return Err(KeyError::OtherUse);
        }
        let (algorithm, decoding) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) if is_for("RS256") => {
                let (mut modulus, exponent) = (bytes_of(jwk.n)?, bytes_of(jwk.e)?);
                // Some issuers leave the sign byte of their big integers in, against RFC 7518 §6.3.1.1.
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                modulus.drain(..zeros);
                if !RSA_MODULUS_BYTES.contains(&modulus.len()) {
                    return Err(KeyError::Unsupported);
                }
                signature::RsaPublicKeyComponents { n: &modulus, e: &exponent }
                    .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
                    .map_err(|_| KeyError::Unsupported)?;
                (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
            }
            ("EC", Some("P-256")) if is_for("ES256") => {
                let point = [vec![4], bytes_of(jwk.x)?, bytes_of(jwk.y)?].concat();
                check_material(Algorithm::ES256, &point)?;
                (Algorithm::ES256, DecodingKey::from_ec_der(&point))
            }
            // RFC 9864 has since named the algorithm after its curve.
            ("OKP", Some("Ed25519")) if is_for("EdDSA") || is_for("Ed25519") => {
                let point = bytes_of(jwk.x)?;
                check_material(Algorithm::EdDSA, &point)?;
                (Algorithm::EdDSA, DecodingKey::from_ed_der(&point))
            }
            // A shared secret (`oct`) that can be fetched is none.
            _ => return Err(KeyError::Unsupported),
        };
        Ok(Self { algorithm, key_id: jwk.kid, decoding })
    }

    /// Whether the key made the signature over the message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, self.algorithm).unwrap_or(false)
    }
}

/// The name of an algorithm in a token's header, for those that are accepted.
pub(crate) fn algorithm_of(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// Reads a JWK set (RFC 7517 §5). Keys that are for something else, or that cannot be read, are
/// left out, as that section asks; a set that leaves none is an error.
pub(crate) fn read_key_set(body: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    let set: JwkSet = serde_json::from_slice(body).map_err(|_| KeyError::NotASet)?;
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .filter_map(|key| VerifyingKey::from_jwk(serde_json::from_value(key).ok()?).ok())
        .take(KEY_SET_MAX_KEYS)
        .collect();
    if keys.is_empty() { Err(KeyError::EmptySet) } else { Ok(keys) }
}

/// Refuses a key whose numbers cannot be one, so that a mistake shows at start and not as forged tokens.
fn check_material(algorithm: Algorithm, material: &[u8]) -> Result<(), KeyError> {
    let parsed = match algorithm {
        // Other sizes parse, and then verify nothing.
        Algorithm::RS256
            if material.len() >= *RSA_MODULUS_BYTES.start()
                && material.len() <= RSA_MODULUS_BYTES.end() + RSA_DER_OVERHEAD_MAX_BYTES =>
        {
            ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, material)
        }
        // An uncompressed point of P-256; a key of another curve is longer.
        Algorithm::ES256 if material.len() == 65 => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, material),
        Algorithm::EdDSA => ParsedPublicKey::new(&signature::ED25519, material),
        _ => return Err(KeyError::Unsupported),
    };
    parsed.map(|_| ()).map_err(|_| KeyError::Unsupported)
}

fn bytes_of(text: Option<String>) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(text.ok_or(KeyError::Unsupported)?).map_err(|_| KeyError::Unsupported)
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the text of a public key.
    #[error("not a public key in PEM; accepted are `-----BEGIN PUBLIC KEY-----` and `-----BEGIN RSA PUBLIC KEY-----`")]
    NotPem,
    /// The other half of the pair.
    #[error("a private key, which has no place here; give the public key (`openssl pkey -pubout`)")]
    Private,
    /// More than one.
    #[error("several keys in one text; give each as an element of the list")]
    SeveralKeys,
    /// An algorithm, curve or size that is not accepted.
    #[error("not a key that is supported; accepted are RSA of 2048 to 8192 bits, P-256 and Ed25519")]
    Unsupported,
    /// A key for encryption, for example.
    #[error("not a key for checking signatures")]
    OtherUse,
    /// Not a JWK set.
    #[error("not a JWK set; expected is a JSON object with the array `keys`")]
    NotASet,
    /// A JWK set without a key of use.
    #[error("the JWK set has no key for signatures of RS256, ES256 or EdDSA")]
    EmptySet,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The members of a JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2) that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    key_use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}
