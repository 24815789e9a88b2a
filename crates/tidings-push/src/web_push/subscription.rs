//! Where a device is reached, checked.

use std::net::IpAddr;

use aws_lc_rs::agreement::{ECDH_P256, ParsedPublicKey, UnparsedPublicKey};
use ipnet::IpNet;
use reqwest::Url;
use tidings_core::ports::store::PushTarget;

use super::{
    address::is_permitted,
    encrypt::{AUTH_SECRET_BYTES, PUBLIC_KEY_BYTES, encrypt},
    vapid::decode,
};

/// Longest endpoint. Real ones have two to five hundred bytes.
const ENDPOINT_MAX_BYTES: usize = 2048;

/// Longest registration token of FCM. Google does not say; real ones have some two hundred bytes, and
/// more than 4 KiB is more than a message may have.
const FCM_TOKEN_MAX_BYTES: usize = 4096;

/// Longest Firebase installation id. Real ones have 22 characters of base64url.
const FCM_FID_MAX_BYTES: usize = 128;

/// Whether a device can be one, by its form. The error says what would be accepted.
pub fn validate_target(target: &PushTarget, allow_private: &[IpNet]) -> Result<(), String> {
    match target {
        PushTarget::FcmToken(token) => {
            let is_fit =
                (1..=FCM_TOKEN_MAX_BYTES).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
            is_fit.then_some(()).ok_or_else(|| {
                format!("`token` is not accepted; accepted are 1 to {FCM_TOKEN_MAX_BYTES} visible ASCII characters")
            })
        }
        PushTarget::FcmFid(fid) => {
            let is_fit = (1..=FCM_FID_MAX_BYTES).contains(&fid.len())
                && fid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            is_fit.then_some(()).ok_or_else(|| {
                format!("`fid` is not accepted; accepted are 1 to {FCM_FID_MAX_BYTES} of `A-Z a-z 0-9 _ -`")
            })
        }
        PushTarget::WebPush { endpoint, p256dh, auth } => {
            Subscription::parse(endpoint, p256dh, auth, allow_private).map(|_| ())
        }
    }
}

/// What a URL promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Security {
    /// https
    Tls,
    /// http
    Plain,
}

/// A subscription whose form is right.
#[derive(Clone)]
pub(super) struct Subscription {
    url: Url,
    security: Security,
    client_key: [u8; PUBLIC_KEY_BYTES],
    auth_secret: [u8; AUTH_SECRET_BYTES],
}

impl Subscription {
    pub(super) fn parse(endpoint: &str, p256dh: &str, auth: &str, allow_private: &[IpNet]) -> Result<Self, String> {
        let (url, security) = parse_endpoint(endpoint, allow_private)?;
        let client_key: [u8; PUBLIC_KEY_BYTES] = decode(p256dh)
            .and_then(|bytes| bytes.try_into().ok())
            .filter(is_point)
            .ok_or("`keys.p256dh` is not accepted; accepted is a point of P-256, 65 bytes in base64url")?;
        let auth_secret: [u8; AUTH_SECRET_BYTES] = decode(auth)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("`keys.auth` is not accepted; accepted are 16 bytes in base64url")?;
        Ok(Self { url, security, client_key, auth_secret })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn security(&self) -> Security {
        self.security
    }

    /// The push service, as VAPID names it.
    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(super) fn encrypt(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        encrypt(text, &self.client_key, &self.auth_secret).map_err(|_| "the message cannot be encrypted".to_owned())
    }
}

/// Whether the bytes are a point of the curve, uncompressed. Others are not a key, and some would give
/// away ours.
fn is_point(bytes: &[u8; PUBLIC_KEY_BYTES]) -> bool {
    bytes[0] == 4 && ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, bytes)).is_ok()
}

fn parse_endpoint(endpoint: &str, allow_private: &[IpNet]) -> Result<(Url, Security), String> {
    if endpoint.len() > ENDPOINT_MAX_BYTES {
        return Err(format!("`endpoint` is longer than {ENDPOINT_MAX_BYTES} bytes"));
    }
    let accepted = "accepted is the https URL of a push service";
    let mut url = Url::parse(endpoint).map_err(|error| format!("`endpoint` is not accepted: {error}; {accepted}"))?;
    let security = match url.scheme() {
        "https" => Security::Tls,
        // To a network that the operator allows, which the address decides; without any, to none.
        "http" if !allow_private.is_empty() => Security::Plain,
        _ => return Err(format!("`endpoint` is not accepted; {accepted}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`endpoint` is not accepted: it names a user; {accepted}"));
    }
    // It is not sent, so it can be no part of the address.
    url.set_fragment(None);
    let host = url.host_str().unwrap_or_default();
    // A name is checked when it is resolved; an address never is.
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
        && !is_permitted(address, security, allow_private)
    {
        return Err(format!("`endpoint` is not accepted: it does not lie in a public network; {accepted}"));
    }
    Ok((url, security))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    /// Those of RFC 8291, appendix A.
    const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn endpoint(text: &str, allow: &[&str]) -> Result<(Url, Security), String> {
        let allow: Vec<_> = allow.iter().map(|net| net.parse().unwrap()).collect();
        parse_endpoint(text, &allow)
    }

    #[test]
    fn an_endpoint_is_a_public_https_url() {
        for text in ["https://fcm.googleapis.com/fcm/send/x", "https://push.example:8443/?a=b", "https://1.1.1.1/"] {
            assert!(endpoint(text, &[]).is_ok(), "{text}");
        }
        for text in [
            "",
            "push.example",
            "http://push.example/",
            "ftp://push.example/",
            "file:///etc/passwd",
            "https://",
            "https://user@push.example/",
            "https://user:word@push.example/",
            "https://127.0.0.1/",
            // Other spellings of the same, which URLs have.
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fd00::1]/",
            "https://169.254.169.254/latest/meta-data/",
        ] {
            assert!(endpoint(text, &[]).is_err(), "{text}");
        }
        assert!(endpoint(&format!("https://push.example/{}", "x".repeat(ENDPOINT_MAX_BYTES)), &[]).is_err());
    }

    #[test]
    fn what_is_allowed_may_be_private_and_plain() {
        let allow = ["127.0.0.0/8", "fd00::/8"];
        for text in ["http://127.0.0.1:9/x", "https://127.0.0.1/", "http://[fd00::1]/", "http://localhost:9/"] {
            assert!(endpoint(text, &allow).is_ok(), "{text}");
        }
        for text in ["http://10.0.0.1/", "http://1.1.1.1/", "https://[::1]/", "gopher://127.0.0.1/"] {
            assert!(endpoint(text, &allow).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_a_point_and_a_secret_padded_or_not() {
        let parse = |p256dh: &str, auth: &str| Subscription::parse("https://push.example/", p256dh, auth, &[]);
        assert!(parse(P256DH, AUTH).is_ok());
        assert!(parse(&format!("{P256DH}="), &format!("{AUTH}==")).is_ok());
        let mut off_curve = BASE64_URL_SAFE_NO_PAD.decode(P256DH).unwrap();
        off_curve[64] ^= 1;
        let off_curve = BASE64_URL_SAFE_NO_PAD.encode(off_curve);
        for p256dh in ["", "AAAA", &P256DH[1..], &off_curve, &BASE64_URL_SAFE_NO_PAD.encode([0; 65])] {
            assert!(parse(p256dh, AUTH).is_err_and(|text| text.contains("p256dh")), "{p256dh}");
        }
        for auth in ["", "AAAA", &AUTH[1..], P256DH] {
            assert!(parse(P256DH, auth).is_err_and(|text| text.contains("auth")), "{auth}");
        }
    }

    #[test]
    fn what_fcm_gives_is_accepted_and_what_it_never_does_is_not() {
        let check = |target| validate_target(&target, &[]);
        assert!(check(PushTarget::FcmToken("dGVzd:APA91bH-_x".to_owned())).is_ok());
        assert!(check(PushTarget::FcmFid("cX0uGEH4TY6yJ-fTHF-8vU".to_owned())).is_ok());
        for text in ["", "a b", "제주", "a\n"] {
            assert!(check(PushTarget::FcmToken(text.to_owned())).is_err(), "{text:?}");
            assert!(check(PushTarget::FcmFid(text.to_owned())).is_err(), "{text:?}");
        }
        assert!(check(PushTarget::FcmToken("x".repeat(FCM_TOKEN_MAX_BYTES + 1))).is_err());
    }

    proptest! {
        #[test]
        fn any_subscription_is_taken_or_refused(endpoint in "\\PC{0,60}", p256dh in "\\PC{0,90}", auth in "\\PC{0,30}") {
            let _either = Subscription::parse(&endpoint, &p256dh, &auth, &["127.0.0.0/8".parse().unwrap()]);
        }

        #[test]
        fn any_host_is_taken_or_refused(host in "[0-9a-fx.:\\[\\]%]{1,30}") {
            let _either = endpoint(&format!("https://{host}/"), &[]);
        }

        #[test]
        fn any_bytes_are_a_point_that_can_be_encrypted_for_or_none(bytes in proptest::collection::vec(any::<u8>(), 65)) {
            let mut bytes: [u8; 65] = bytes.try_into().unwrap();
            bytes[0] = 4;
            prop_assert_eq!(is_point(&bytes), encrypt(b"x", &bytes, &[0; 16]).is_ok());
        }
    }
}
