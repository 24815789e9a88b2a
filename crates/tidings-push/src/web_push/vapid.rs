//! Who we are, to push services (RFC 8292).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    encoding::{AsBigEndian as _, EcPrivateKeyBin},
    error::Unspecified,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine as _,
    prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use hashlink::LruCache;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde::Serialize;
use tidings_hub::Tick;
use tidings_protocol::Millis;

/// How long a token is good for. RFC 8292 §2 allows 24 hours; half of it leaves room for a clock that is
/// off by hours.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// How long it is used.
const USED_FOR: Duration = Duration::from_secs(6 * 60 * 60);

/// Tokens that are kept, one for each origin. Browsers have a handful of push services.
const ORIGINS_MAX: usize = 128;

/// A key that says who sends. `Debug` shows its public half.
#[derive(Clone)]
pub struct VapidKey {
    private_key: String,
    public_key: String,
    signing: EncodingKey,
}

impl VapidKey {
    /// A new one.
    pub fn generate() -> Result<Self, String> {
        let failed = |_: Unspecified| "no key could be made".to_owned();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let private_key: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(failed)?;
        Self::from_bytes(private_key.as_ref()).map_err(failed)
    }

    /// Reads a private key as `tidings push keys` and most other tools write it: the 32 bytes of a P-256
    /// key in base64url.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refused =
            || "accepted are the 32 bytes of a P-256 key in base64url, as from `tidings push keys`".to_owned();
        let bytes = decode(text).filter(|bytes| bytes.len() == 32).ok_or_else(refused)?;
        Self::from_bytes(&bytes).map_err(|_| refused())
    }

    fn from_bytes(private_key: &[u8]) -> Result<Self, Unspecified> {
        let key = PrivateKey::from_private_key(&ECDH_P256, private_key).map_err(|_| Unspecified)?;
        let public_key = key.compute_public_key()?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            private_key,
            public_key.as_ref(),
        );
        let pkcs8 = pair.map_err(|_| Unspecified)?.to_pkcs8v1()?;
        Ok(Self {
            private_key: BASE64_URL_SAFE_NO_PAD.encode(private_key),
            public_key: BASE64_URL_SAFE_NO_PAD.encode(public_key),
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
        })
    }

    /// What the configuration takes: base64url.
    pub fn private_key(&self) -> &str {
        &self.private_key
    }

    /// What browsers take as `applicationServerKey`: an uncompressed point in base64url.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }
}

impl std::fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VapidKey({})", self.public_key)
    }
}

/// Reads base64url, padded or not.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).or_else(|_| BASE64_URL_SAFE.decode(text)).ok()
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: u64,
    sub: &'a str,
}

/// Signs, once for a while and an origin.
pub(super) struct Vapid {
    key: VapidKey,
    subject: String,
    signed: Mutex<LruCache<String, (Arc<str>, Tick)>>,
}

impl Vapid {
    pub(super) fn new(key: VapidKey, subject: String) -> Self {
        Self { key, subject, signed: Mutex::new(LruCache::new(ORIGINS_MAX)) }
    }

    pub(super) fn public_key(&self) -> &str {
        self.key.public_key()
    }

    /// The value of `Authorization` for a push service (RFC 8292 §3).
    pub(super) fn authorization(&self, origin: &str, now: Millis, tick: Tick) -> Result<Arc<str>, String> {
        let mut signed = self.signed.lock();
        if let Some((authorization, at)) = signed.get(origin)
            && tick.saturating_sub(*at) < USED_FOR
        {
            return Ok(authorization.clone());
        }
        let claims = Claims { aud: origin, exp: now / 1000 + LIFETIME.as_secs(), sub: &self.subject };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key.signing)
            .map_err(|error| format!("the VAPID token cannot be signed: {error}"))?;
        let authorization: Arc<str> = format!("vapid t={token}, k={}", self.key.public_key).into();
        signed.insert(origin.to_owned(), (authorization.clone(), tick));
        Ok(authorization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8291, appendix A, whose public half stands there too.
    #[test]
    fn a_key_is_read_and_has_its_public_half() {
        let key = VapidKey::parse("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw").unwrap();
        let public = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";
        assert_eq!(key.public_key(), public);
        assert_eq!(format!("{key:?}"), format!("VapidKey({public})"));
    }

    #[test]
    fn a_generated_key_is_one_and_no_two_are_the_same() {
        let [a, b] = [(); 2].map(|()| VapidKey::generate().unwrap());
        assert_ne!(a.private_key(), b.private_key());
        assert_eq!(VapidKey::parse(a.private_key()).unwrap().public_key(), a.public_key());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let beyond = "__________________________________________8";
        for text in ["", "hunter2", zero, beyond, "-----BEGIN PRIVATE KEY-----"] {
            let said = VapidKey::parse(text).unwrap_err();
            assert!(said.contains("tidings push keys") && (text.is_empty() || !said.contains(text)), "{said}");
        }
    }

    #[test]
    fn a_token_is_signed_once_for_each_origin_and_again_when_it_is_old() {
        let vapid = Vapid::new(VapidKey::generate().unwrap(), "mailto:ops@example.org".to_owned());
        let authorization = |origin, tick| vapid.authorization(origin, 0, tick).unwrap();
        let first = authorization("https://push.example", Duration::ZERO);
        assert!(Arc::ptr_eq(&first, &authorization("https://push.example", USED_FOR - Duration::from_secs(1))));
        assert!(!Arc::ptr_eq(&first, &authorization("https://push.example", USED_FOR)));
        assert_ne!(first, authorization("https://other.example", Duration::ZERO));
    }
}
