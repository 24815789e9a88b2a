//! Keys that tokens are signed with, made anew for each run.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};

/// One key pair, in all the forms that somebody may have it in.
pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    pub(super) encoding: EncodingKey,
    pub(super) public_pem: String,
    pub(super) public_der: Vec<u8>,
}

pub(super) static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
pub(super) static OTHER_RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
pub(super) static EC: LazyLock<Signer> = LazyLock::new(Signer::ec);
pub(super) static ED: LazyLock<Signer> = LazyLock::new(Signer::ed);

impl Signer {
    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let encoding = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        Self::new(Algorithm::RS256, encoding, pair.public_key().as_der().unwrap())
    }

    fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let encoding = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        Self::new(Algorithm::ES256, encoding, pair.public_key().as_der().unwrap())
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self::new(Algorithm::EdDSA, EncodingKey::from_ed_der(private.as_ref()), pair.public_key().as_der().unwrap())
    }

    fn new(algorithm: Algorithm, encoding: EncodingKey, public: PublicKeyX509Der<'_>) -> Self {
        let public_der = public.as_ref().to_vec();
        Self { algorithm, encoding, public_pem: pem("PUBLIC KEY", &public_der), public_der }
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.encoding, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk
    }

    pub(super) fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
