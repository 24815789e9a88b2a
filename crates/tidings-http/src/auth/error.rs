//! Why credentials were refused.

use http::StatusCode;

/// Longest part of a cause that comes from the outside, in characters: enough to recognise a
/// value, too little to fill a log with.
const QUOTE_MAX_CHARS: usize = 100;

/// What was wrong, in a word that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthErrorCode {
    /// The token has ended, or the one behind a ticket.
    TokenExpired,
    /// Not a token that a configured key signed, or its claims are not what is accepted.
    TokenInvalid,
    /// A token for somebody else, or from somebody else.
    TokenAudience,
    /// The token begins later.
    TokenNotYetValid,
    /// No such API key.
    ApiKeyUnknown,
    /// Not a ticket of this cluster, or one that is spent or old.
    TicketInvalid,
    /// A token or key in the URL, where logs and histories keep it.
    TokenInUrl,
    /// A cookie that came with a request of a page that is not among the accepted origins.
    CookieOrigin,
    /// Credentials that cannot be read.
    CredentialsMalformed,
    /// The keys that would tell whether the token is good have not been fetched yet.
    KeysUnavailable,
    /// More tickets are in use than a node remembers.
    TicketsExhausted,
}

impl AuthErrorCode {
    /// All of them, for the documentation.
    pub const ALL: [Self; 11] = [
        Self::TokenExpired,
        Self::TokenInvalid,
        Self::TokenAudience,
        Self::TokenNotYetValid,
        Self::ApiKeyUnknown,
        Self::TicketInvalid,
        Self::TokenInUrl,
        Self::CookieOrigin,
        Self::CredentialsMalformed,
        Self::KeysUnavailable,
        Self::TicketsExhausted,
    ];

    /// The stable word: `code` of the problem, and a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenExpired => "token_expired",
            Self::TokenInvalid => "token_invalid",
            Self::TokenAudience => "token_audience",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::TicketInvalid => "ticket_invalid",
            Self::TokenInUrl => "token_in_url",
            Self::CookieOrigin => "cookie_origin",
            Self::CredentialsMalformed => "credentials_malformed",
            Self::KeysUnavailable => "keys_unavailable",
            Self::TicketsExhausted => "tickets_exhausted",
        }
    }

    /// What anybody may read. It tells a developer what to look at, and a guesser nothing.
    pub fn public_text(self) -> &'static str {
        match self {
            Self::TokenExpired => "the token has expired; get a new one",
            Self::TokenInvalid => "the token is not accepted",
            Self::TokenAudience => "the token is meant for another audience or comes from another issuer",
            Self::TokenNotYetValid => "the token is not valid yet",
            Self::ApiKeyUnknown => "the API key is not known",
            Self::TicketInvalid => "the ticket is not accepted; get a new one from POST /v1/tickets",
            Self::TokenInUrl => {
                "tokens and API keys are not accepted in the URL; send `Authorization: Bearer …`, \
                 or get a ticket from POST /v1/tickets and send `?ticket=…`"
            }
            Self::CookieOrigin => "the cookie is not accepted from this origin",
            Self::CredentialsMalformed => {
                "the credentials cannot be read; accepted are `Authorization: Bearer <token or API key>` and `?ticket=…`"
            }
            Self::KeysUnavailable => "the token cannot be checked at the moment; try again",
            Self::TicketsExhausted => "too many tickets are in use at the moment; try again",
        }
    }

    /// The status of the answer. Clients look at 401 to learn that they need other credentials, so what
    /// cannot be read is no 400.
    pub fn status(self) -> StatusCode {
        match self {
            Self::KeysUnavailable | Self::TicketsExhausted => StatusCode::SERVICE_UNAVAILABLE,
            Self::CookieOrigin => StatusCode::FORBIDDEN,
            Self::CredentialsMalformed
            | Self::TokenInUrl
            | Self::TokenExpired
            | Self::TokenInvalid
            | Self::TokenAudience
            | Self::TokenNotYetValid
            | Self::ApiKeyUnknown
            | Self::TicketInvalid => StatusCode::UNAUTHORIZED,
        }
    }

    /// How long to wait before the same credentials may be accepted, where waiting helps.
    pub fn retry_after_secs(self) -> Option<u32> {
        match self {
            Self::KeysUnavailable | Self::TicketsExhausted => Some(5),
            _ => None,
        }
    }

    /// Whether it looks like guessing and should cost the client's address something.
    ///
    /// What honest clients come back with after an outage does not: expired tokens and spent tickets.
    /// Many of them may share an address.
    pub fn is_suspicious(self) -> bool {
        match self {
            Self::TokenInvalid | Self::TokenAudience | Self::ApiKeyUnknown | Self::CredentialsMalformed => true,
            Self::TokenExpired
            | Self::TicketInvalid
            | Self::TokenNotYetValid
            | Self::TokenInUrl
            | Self::CookieOrigin
            | Self::KeysUnavailable
            | Self::TicketsExhausted => false,
        }
    }
}

/// A refusal of credentials. `Display` is the cause: for logs, and for answers in development.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct AuthError {
    code: AuthErrorCode,
    cause: String,
}

impl AuthError {
    pub(crate) fn new(code: AuthErrorCode, cause: impl Into<String>) -> Self {
        Self { code, cause: cause.into() }
    }

    /// What was wrong, in a word.
    pub fn code(&self) -> AuthErrorCode {
        self.code
    }

    /// What was wrong in detail. It names no secret, and text from outside is shortened and escaped.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// See [`AuthErrorCode::public_text`].
    pub fn public_text(&self) -> &'static str {
        self.code.public_text()
    }

    /// See [`AuthErrorCode::status`].
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }
}

/// Text from outside in a form that may stand in a log line: escaped and short.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTE_MAX_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_on_its_line_and_short() {
        assert_eq!(quoted("a\r\nb\u{1b}"), "a\\r\\nb\\u{1b}");
        assert_eq!(quoted(&"x".repeat(5000)), format!("{}…", "x".repeat(QUOTE_MAX_CHARS)));
    }

    #[test]
    fn every_code_is_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = AuthErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), AuthErrorCode::ALL.len());
    }
}
