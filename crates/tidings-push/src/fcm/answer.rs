//! What FCM's answers mean: `google.rpc.Status`, with details of its own.

use http::StatusCode;
use serde::Deserialize;
use tidings_core::ports::PushVerdict;

use super::{PROJECT, THIRD_PARTY};
use crate::exchange::{Answer, quote};

/// What FCM asks for where it says nothing: "retry after 60 seconds", of 429.
const QUOTA_PAUSE_MS: u64 = 60 * 1000;

/// Shorter than this is no token and no fid of FCM (22 characters).
const ADDRESS_MIN_BYTES: usize = 8;

/// What FCM made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It has it.
    Taken,
    /// It does not take our access token.
    Unauthorized {
        /// In its words.
        cause: String,
    },
    /// It does not take the message.
    Refused(Refusal),
}

/// A message that was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) verdict: PushVerdict,
    pub(super) cause: String,
    /// What the operator has to look after, if it is that.
    pub(super) about: Option<&'static str>,
}

#[derive(Deserialize, Default)]
struct Body {
    #[serde(default)]
    error: Status,
}

/// `google.rpc.Status`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
    details: Vec<Detail>,
}

/// `google.firebase.fcm.v1.FcmError` and `google.rpc.BadRequest`, as far as they are looked at.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    error_code: String,
    field_violations: Vec<Violation>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Violation {
    field: String,
    description: String,
}

/// Reads an answer. `address` is left out of what is quoted.
pub(super) fn read(answer: &Answer, address: &str) -> Reading {
    if answer.status.is_success() {
        return Reading::Taken;
    }
    // Not everything that answers is FCM: a proxy's page is as good as no body.
    let status = serde_json::from_slice::<Body>(&answer.body).unwrap_or_default().error;
    let code = status.details.iter().map(|detail| detail.error_code.as_str()).find(|code| !code.is_empty());
    // A real address is long; a short one would be found in every word.
    let is_secret = address.len() >= ADDRESS_MIN_BYTES;
    let said = if is_secret { status.message.replace(address, "…") } else { status.message.clone() };
    let cause = format!("FCM answered {} {}: {}", answer.status.as_u16(), code.unwrap_or("-"), quote(&said));
    let retry = PushVerdict::Retry { after_ms: answer.retry_after_ms };
    let refused = |verdict, about| Reading::Refused(Refusal { verdict, cause: cause.clone(), about });
    match (code, answer.status) {
        // The app was uninstalled, or its token has been replaced.
        (Some("UNREGISTERED"), _) => refused(PushVerdict::DeviceGone, None),
        (Some("SENDER_ID_MISMATCH"), _) => refused(PushVerdict::Quarantine, None),
        // The project's APNs or Web Push credentials, which are not ours: a new token of ours is of no use.
        (Some("THIRD_PARTY_AUTH_ERROR"), _) => refused(retry, Some(THIRD_PARTY)),
        (Some("QUOTA_EXCEEDED"), _) | (_, StatusCode::TOO_MANY_REQUESTS) => {
            refused(PushVerdict::Retry { after_ms: answer.retry_after_ms.or(Some(QUOTA_PAUSE_MS)) }, None)
        }
        (Some("UNAVAILABLE" | "INTERNAL"), _) | (_, StatusCode::REQUEST_TIMEOUT) => refused(retry, None),
        (_, StatusCode::BAD_REQUEST) if is_about_address(&status) => refused(PushVerdict::DeviceGone, None),
        (_, StatusCode::UNAUTHORIZED) => Reading::Unauthorized { cause },
        // May not send, or there is no such project: nothing that a device could be blamed for.
        (_, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => refused(retry, Some(PROJECT)),
        (_, status) if status.is_server_error() => refused(retry, None),
        _ => refused(PushVerdict::GiveUp, None),
    }
}

/// Whether an invalid argument is the token or the fid. What is wrong with the message would be wrong for
/// every device, and none is to be forgotten for it.
fn is_about_address(status: &Status) -> bool {
    let mut violations = status.details.iter().flat_map(|detail| &detail.field_violations).peekable();
    if violations.peek().is_some() {
        return violations.any(|violation| {
            matches!(violation.field.as_str(), "message.token" | "message.fid") || names_address(&violation.description)
        });
    }
    names_address(&status.message)
}

fn names_address(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("registration token") || text.contains("installation id")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), retry_after_ms: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn no_device_is_forgotten_for_what_is_not_its_fault() {
        // A project that does not exist, a path that does not, a proxy's page.
        for body in [
            r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND"}}"#,
            "<html>404</html>",
            "",
        ] {
            let Reading::Refused(refusal) = read(&answer(404, body), "t") else { panic!("{body}") };
            assert_eq!((refusal.verdict, refusal.about), (PushVerdict::Retry { after_ms: None }, Some(PROJECT)));
        }
        // Something of the message that has the words in another field.
        let body = r#"{"error":{"message":"Invalid value at 'message.android.ttl'","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.android.ttl","description":"Illegal duration"}]}]}}"#;
        let Reading::Refused(refusal) = read(&answer(400, body), "t") else { panic!() };
        assert_eq!(refusal.verdict, PushVerdict::GiveUp);
    }

    #[test]
    fn what_is_quoted_names_no_device_and_is_short() {
        let body = format!(r#"{{"error":{{"message":"no secret-token here\n{}"}}}}"#, "x".repeat(1000));
        let Reading::Refused(refusal) = read(&answer(400, &body), "secret-token") else { panic!() };
        assert!(!refusal.cause.contains("secret-token") && !refusal.cause.contains('\n'));
        assert!(refusal.cause.chars().count() < 300);
    }

    proptest! {
        #[test]
        fn any_body_of_any_status_means_something(status in 100u16..1000, body in "\\PC{0,200}") {
            let is_success = (200..300).contains(&status);
            prop_assert_eq!(read(&answer(status, &body), "t") == Reading::Taken, is_success);
        }

        #[test]
        fn json_of_other_shapes_forgets_no_device(
            status in 400u16..600,
            details in proptest::collection::vec("(\"[a-z]{0,4}\"|[0-9]{1,3}|null|\\{\\}|\\[\\]|\\{\"errorCode\":[0-9]\\})", 0..4),
        ) {
            let body = format!(r#"{{"error":{{"message":null,"details":[{}]}}}}"#, details.join(","));
            if let Reading::Refused(refusal) = read(&answer(status, &body), "t") {
                prop_assert_ne!(refusal.verdict, PushVerdict::DeviceGone);
            }
        }
    }
}
