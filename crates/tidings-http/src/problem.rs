//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable `code`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Declares the codes once: the enum, its words, statuses and titles, and the table of them all.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:ident, $title:literal;)*) => {
        /// The stable codes. Clients may rely on them; the texts may change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word that clients match on.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The HTTP status that it comes with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it means in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not what the call takes.
    InvalidBody = "invalid_body", BAD_REQUEST, "The body is not accepted";
    /// A query parameter is not what the call takes.
    InvalidQuery = "invalid_query", BAD_REQUEST, "A query parameter is not accepted";
    /// A part of the path is not what the call takes.
    InvalidPath = "invalid_path", BAD_REQUEST, "A part of the path is not accepted";
    /// A stream without any channel.
    ChannelMissing = "channel_missing", BAD_REQUEST, "No channel is named";
    /// A stream with more channels than it may have.
    TooManyChannels = "too_many_channels", BAD_REQUEST, "Too many channels";
    /// No credentials where some are needed.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Credentials are needed";
    /// Credentials that cannot be read.
    CredentialsMalformed = "credentials_malformed", UNAUTHORIZED, "The credentials cannot be read";
    /// An API key that is not configured.
    ApiKeyUnknown = "api_key_unknown", UNAUTHORIZED, "The API key is not accepted";
    /// A token whose signature or claims do not hold.
    TokenInvalid = "token_invalid", UNAUTHORIZED, "The token is not accepted";
    /// A token past its `exp`.
    TokenExpired = "token_expired", UNAUTHORIZED, "The token has expired";
    /// A token before its `nbf`.
    TokenNotYetValid = "token_not_yet_valid", UNAUTHORIZED, "The token is not valid yet";
    /// A token for somebody else.
    TokenAudience = "token_audience", UNAUTHORIZED, "The token is for another audience";
    /// A token in a URL, where logs would keep it.
    TokenInUrl = "token_in_url", UNAUTHORIZED, "Tokens are not taken from URLs";
    /// A cookie from a page that may not send it.
    CookieOrigin = "cookie_origin", FORBIDDEN, "The cookie is not taken from this page";
    /// A ticket that is spent, expired or forged.
    TicketInvalid = "ticket_invalid", UNAUTHORIZED, "The ticket is not accepted";
    /// Not permitted.
    Forbidden = "forbidden", FORBIDDEN, "Not permitted";
    /// Credentials without a user, where it is about one's own things.
    UserRequired = "user_required", FORBIDDEN, "A user's token is needed";
    /// No such thing.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// None of the forms that the client accepts.
    NotAcceptable = "not_acceptable", NOT_ACCEPTABLE, "No acceptable representation";
    /// The body did not come in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    /// A key used again for another event or notification.
    KeyConflict = "key_conflict", CONFLICT, "The key belongs to something else";
    /// A user follows as many channels as one may.
    TooManyFollows = "too_many_follows", CONFLICT, "Too many follows";
    /// A user has as many devices as one may.
    TooManyDevices = "too_many_devices", CONFLICT, "Too many devices";
    /// A body over the limit.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// `data` over the limit.
    DataTooLarge = "data_too_large", PAYLOAD_TOO_LARGE, "The data is too large";
    /// More events than one call may carry.
    BatchTooLarge = "batch_too_large", PAYLOAD_TOO_LARGE, "The batch is too large";
    /// A request target over the limit.
    UrlTooLong = "url_too_long", URI_TOO_LONG, "The URL is too long";
    /// A body of another type than the call takes.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The content type is not accepted";
    /// Too fast.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// More streams than one user or address may have.
    TooManyConnections = "too_many_connections", TOO_MANY_REQUESTS, "Too many connections";
    /// A failure on this side.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// The log cannot be written or read now.
    BrokerUnavailable = "broker_unavailable", SERVICE_UNAVAILABLE, "The log is unavailable";
    /// The store of notifications cannot be used now.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The store is unavailable";
    /// The keys that tokens are checked with cannot be had now.
    KeysUnavailable = "keys_unavailable", SERVICE_UNAVAILABLE, "Token keys are unavailable";
    /// More streams than the node may have.
    Overload = "overload", SERVICE_UNAVAILABLE, "Too many streams";
    /// The node is shutting down.
    Draining = "draining", SERVICE_UNAVAILABLE, "The server is shutting down";
    /// More blocked users than a node keeps.
    TooManyBlocks = "too_many_blocks", SERVICE_UNAVAILABLE, "Too many users are blocked";
    /// More tickets are in use than are remembered.
    TicketsExhausted = "tickets_exhausted", SERVICE_UNAVAILABLE, "Too many tickets are in use";
}

/// An error for a client.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: String,
    retry_after_secs: Option<u64>,
}

/// How a problem is written (RFC 9457 §3).
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// A URI that names the kind of problem.
    #[schema(example = "urn:tidings:problem:invalid_body")]
    pub r#type: String,
    /// What the kind means.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    #[schema(example = "invalid_body")]
    pub code: &'static str,
    /// What is wrong here, and what would be accepted.
    pub detail: String,
}

impl Problem {
    /// A problem of this kind. The detail names the field and says what would be accepted.
    pub fn new(code: Code, detail: impl ToString) -> Self {
        Self { code, detail: detail.to_string(), retry_after_secs: None }
    }

    /// When it makes sense to try again.
    pub fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong here.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// How it is written.
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            r#type: format!("urn:tidings:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.as_str(),
            detail: self.detail.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of strings and numbers always serializes.
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1 asks for a challenge with every 401.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
