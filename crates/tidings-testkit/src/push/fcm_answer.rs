//! The answers that Google documents for `projects.messages.send`, and what they look like.

use serde_json::{Value, json};

use super::listener::Reply;

/// An answer of FCM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FcmAnswer {
    status: u16,
    retry_after: Option<String>,
    body: String,
}

impl FcmAnswer {
    /// Any status with any body.
    pub fn of(status: u16, body: impl Into<String>) -> Self {
        Self { status, retry_after: None, body: body.into() }
    }

    /// The same with `Retry-After`: seconds, or a date.
    pub fn retry_after(mut self, value: impl Into<String>) -> Self {
        self.retry_after = Some(value.into());
        self
    }

    /// The app was uninstalled, or its token is no longer good.
    pub fn unregistered() -> Self {
        Self::status(404, "NOT_FOUND", "Requested entity was not found.", &[fcm_error("UNREGISTERED")])
    }

    /// The token is none.
    pub fn invalid_token() -> Self {
        let text = "The registration token is not a valid FCM registration token";
        let details = [fcm_error("INVALID_ARGUMENT"), bad_request("message.token", "Invalid registration token")];
        Self::status(400, "INVALID_ARGUMENT", text, &details)
    }

    /// The same without a word on which field it was.
    pub fn invalid_token_without_field() -> Self {
        let text = "The registration token is not a valid FCM registration token";
        Self::status(400, "INVALID_ARGUMENT", text, &[fcm_error("INVALID_ARGUMENT")])
    }

    /// The fid is none.
    pub fn invalid_fid() -> Self {
        let details = [fcm_error("INVALID_ARGUMENT"), bad_request("message.fid", "Invalid value")];
        Self::status(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", &details)
    }

    /// Something else of the message is not as it should be.
    pub fn invalid_argument(field: &str) -> Self {
        let details = [fcm_error("INVALID_ARGUMENT"), bad_request(field, "Invalid value")];
        Self::status(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", &details)
    }

    /// The token belongs to another project.
    pub fn sender_id_mismatch() -> Self {
        Self::status(403, "PERMISSION_DENIED", "SenderId mismatch", &[fcm_error("SENDER_ID_MISMATCH")])
    }

    /// Too many messages.
    pub fn quota_exceeded() -> Self {
        Self::status(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", &[fcm_error("QUOTA_EXCEEDED")])
    }

    /// Overloaded.
    pub fn unavailable() -> Self {
        Self::status(503, "UNAVAILABLE", "The service is currently unavailable.", &[fcm_error("UNAVAILABLE")])
    }

    /// A fault of its own.
    pub fn internal() -> Self {
        Self::status(500, "INTERNAL", "Internal error encountered.", &[fcm_error("INTERNAL")])
    }

    /// Apple, or a browser's push service, does not take the project's credentials.
    pub fn third_party_auth_error() -> Self {
        let text = "Auth error from APNS or Web Push Service";
        Self::status(401, "UNAUTHENTICATED", text, &[fcm_error("THIRD_PARTY_AUTH_ERROR")])
    }

    /// The access token is not good.
    pub fn unauthenticated() -> Self {
        Self::status(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", &[])
    }

    /// The service account may not send.
    pub fn permission_denied() -> Self {
        let text = "Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/p' (or it may not exist).";
        let details = [json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": "cloudresourcemanager.googleapis.com",
        })];
        Self::status(403, "PERMISSION_DENIED", text, &details)
    }

    /// There is no such project.
    pub fn no_project() -> Self {
        Self::status(404, "NOT_FOUND", "Requested entity was not found.", &[])
    }

    fn status(code: u16, status: &str, message: &str, details: &[Value]) -> Self {
        let mut error = json!({ "code": code, "message": message, "status": status });
        if !details.is_empty() {
            error["details"] = json!(details);
        }
        Self::of(code, json!({ "error": error }).to_string())
    }
}

impl From<FcmAnswer> for Reply {
    fn from(answer: FcmAnswer) -> Self {
        let mut headers = vec![("content-type".to_owned(), "application/json; charset=UTF-8".to_owned())];
        headers.extend(answer.retry_after.map(|value| ("retry-after".to_owned(), value)));
        Self { status: answer.status, headers, body: answer.body.into() }
    }
}

fn fcm_error(code: &str) -> Value {
    json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code })
}

fn bad_request(field: &str, description: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{ "field": field, "description": description }],
    })
}
