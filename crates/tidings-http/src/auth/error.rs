//! Why credentials were refused.

use crate::problem::Code;

/// Longest part of a cause that comes from the outside, in characters: enough to recognise a
/// value, too little to fill a log with.
const QUOTE_MAX_CHARS: usize = 100;

/// A refusal of credentials. `Display` is the cause: for logs, and for answers in development.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct AuthError {
    code: Code,
    cause: String,
}

impl AuthError {
    pub(crate) fn new(code: Code, cause: impl Into<String>) -> Self {
        Self { code, cause: cause.into() }
    }

    /// What was wrong, in the word of the answer.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What was wrong in detail. It names no secret, and text from outside is shortened and escaped.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// What anybody may read. It tells a developer what to look at, and a guesser nothing.
    pub fn public_text(&self) -> &'static str {
        match self.code {
            Code::TokenExpired => "the token has expired; get a new one",
            Code::TokenAudience => "the token is meant for another audience or comes from another issuer",
            Code::TokenNotYetValid => "the token is not valid yet",
            Code::ApiKeyUnknown => "the API key is not known",
            Code::TicketInvalid => "the ticket is not accepted; get a new one from POST /v1/tickets",
            Code::TokenInUrl => {
                "tokens and API keys are not accepted in the URL; send `Authorization: Bearer …`, \
                 or get a ticket from POST /v1/tickets and send `?ticket=…`"
            }
            Code::CookieOrigin => "the cookie is not accepted from this origin",
            Code::CredentialsMalformed => {
                "the credentials cannot be read; accepted are `Authorization: Bearer <token or API key>` and `?ticket=…`"
            }
            Code::KeysUnavailable => "the token cannot be checked at the moment; try again",
            Code::TicketsExhausted => "too many tickets are in use at the moment; try again",
            // `token_invalid`; the others are not of credentials.
            _ => "the token is not accepted",
        }
    }

    /// How long to wait before the same credentials may be accepted, where waiting helps.
    pub fn retry_after_secs(&self) -> Option<u64> {
        matches!(self.code, Code::KeysUnavailable | Code::TicketsExhausted).then_some(5)
    }

    /// Whether it looks like guessing and should cost the client's address something.
    ///
    /// What honest clients come back with after an outage does not: expired tokens and spent tickets.
    /// Many of them may share an address.
    pub fn is_suspicious(&self) -> bool {
        matches!(self.code, Code::TokenInvalid | Code::TokenAudience | Code::ApiKeyUnknown | Code::CredentialsMalformed)
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
}
