//! Message encryption for Web Push (RFC 8291), in one record of `aes128gcm` (RFC 8188).
//!
//! Written here on the cryptography that TLS uses already, some sixty lines: the crates that do it bring
//! a second one along, or OpenSSL.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};

/// RFC 8291 §4: push services take at least 4096 bytes, and need not take more.
const MESSAGE_MAX_BYTES: usize = 4096;

/// The record size of the header: no record is longer, so that there is one.
const RECORD_SIZE: u32 = MESSAGE_MAX_BYTES as u32;

/// The header: salt, record size, length of the key's id, and the public key as that.
const HEADER_BYTES: usize = SALT_BYTES + 4 + 1 + PUBLIC_KEY_BYTES;

/// A byte that ends the text, and the tag of AES-GCM.
const OVERHEAD_BYTES: usize = 1 + 16;

/// Longest text that there is room for.
pub(super) const PLAINTEXT_MAX_BYTES: usize = MESSAGE_MAX_BYTES - HEADER_BYTES - OVERHEAD_BYTES;

/// RFC 8188 §2.1.
const SALT_BYTES: usize = 16;

/// An uncompressed point of P-256.
pub(super) const PUBLIC_KEY_BYTES: usize = 65;

/// RFC 8291 §3.2.
pub(super) const AUTH_SECRET_BYTES: usize = 16;

/// RFC 8188 §2: what follows the text of the last record.
const LAST_RECORD: u8 = 2;

/// Encrypts a text for a client.
pub(super) fn encrypt(
    text: &[u8],
    client_key: &[u8; PUBLIC_KEY_BYTES],
    auth_secret: &[u8; AUTH_SECRET_BYTES],
) -> Result<Vec<u8>, Unspecified> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt)?;
    encrypt_with(text, client_key, auth_secret, &PrivateKey::generate(&ECDH_P256)?, &salt)
}

/// The same with a key and a salt, which must never be used again.
fn encrypt_with(
    text: &[u8],
    client_key: &[u8; PUBLIC_KEY_BYTES],
    auth_secret: &[u8; AUTH_SECRET_BYTES],
    key: &PrivateKey,
    salt: &[u8; SALT_BYTES],
) -> Result<Vec<u8>, Unspecified> {
    if text.len() > PLAINTEXT_MAX_BYTES {
        return Err(Unspecified);
    }
    let public_key = key.compute_public_key()?;
    // RFC 8291 §3.3 and §3.4.
    let input = agreement::agree(key, UnparsedPublicKey::new(&ECDH_P256, client_key), Unspecified, |shared| {
        let secret = Salt::new(HKDF_SHA256, auth_secret).extract(shared);
        expand::<32>(&secret, &[b"WebPush: info\0", client_key, public_key.as_ref()])
    })?;
    // RFC 8188 §2.2 and §2.3; the nonce is that of the first record.
    let secret = Salt::new(HKDF_SHA256, salt).extract(&input);
    let content_key = expand::<16>(&secret, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce = expand::<12>(&secret, &[b"Content-Encoding: nonce\0"])?;

    let mut record = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
    record.extend_from_slice(text);
    record.push(LAST_RECORD);
    let sealing_key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key)?);
    sealing_key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record)?;

    let mut message = Vec::with_capacity(HEADER_BYTES + record.len());
    message.extend_from_slice(salt);
    message.extend_from_slice(&RECORD_SIZE.to_be_bytes());
    message.push(PUBLIC_KEY_BYTES as u8);
    message.extend_from_slice(public_key.as_ref());
    message.extend_from_slice(&record);
    Ok(message)
}

/// So many bytes of key material.
#[derive(Clone, Copy)]
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(secret: &aws_lc_rs::hkdf::Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    let mut out = [0; N];
    secret.expand(info, Length(N))?.fill(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// RFC 8291 §5 and appendix A.
    #[test]
    fn the_example_of_the_standard_comes_out_byte_for_byte() {
        let client_key =
            bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4");
        let key = PrivateKey::from_private_key(&ECDH_P256, &bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"));
        let message = encrypt_with(
            b"When I grow up, I want to be a watermelon",
            &client_key.try_into().unwrap(),
            &bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap(),
            &key.unwrap(),
            &bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap(),
        );
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml\
                        mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT\
                        pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(message.unwrap()), expected);
    }

    #[test]
    fn the_longest_text_makes_the_longest_message_and_no_longer_one_is_taken() {
        let key = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap();
        let key = key.as_ref().try_into().unwrap();
        assert_eq!(PLAINTEXT_MAX_BYTES, 3993);
        assert_eq!(encrypt(&[b'x'; PLAINTEXT_MAX_BYTES], &key, &[0; 16]).unwrap().len(), MESSAGE_MAX_BYTES);
        assert!(encrypt(&[b'x'; PLAINTEXT_MAX_BYTES + 1], &key, &[0; 16]).is_err());
    }

    #[test]
    fn no_two_messages_are_the_same() {
        let key = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap();
        let key = key.as_ref().try_into().unwrap();
        let [a, b] = [(); 2].map(|()| encrypt(b"x", &key, &[0; 16]).unwrap());
        assert_ne!(a[..16], b[..16], "salts");
        assert_ne!(a[21..86], b[21..86], "keys");
    }
}
