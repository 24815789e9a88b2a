//! Which credentials a request carries. Nothing is checked here but form and origin.
//!
//! In order of precedence, the first that is there counts, and if that one cannot be read the
//! request is refused rather than tried with the next or taken for anonymous:
//!
//! 1. `Authorization: Bearer <JWT or API key>`
//! 2. `?ticket=<ticket>`
//! 3. `?access_token=<JWT>` or `?token=<JWT>`, if configured; otherwise refused
//! 4. the configured cookie, if the request comes from an accepted origin
//!
//! # Cookies and other people's pages
//!
//! A browser sends a cookie with requests that any page makes. So a cookie counts only where the
//! browser says which page that was: `Sec-Fetch-Site: same-origin`; or `none` (the address bar) of
//! a safe method; or an `Origin` among `cors_origins`. Where `Sec-Fetch-Site` is missing (old
//! browsers, plain HTTP) an `Origin` whose host and port are those of `Host` is accepted too. A
//! request with the cookie that says nothing of the kind, or something else, is refused. The origin
//! `null` and a `*` among `cors_origins` are never accepted.

use std::borrow::Cow;

use http::{HeaderMap, Method, header, request::Parts};

use crate::problem::Code;

use super::{
    config::{API_KEY_PREFIX, AuthConfig, is_token_byte},
    error::{AuthError, quoted},
};

/// Longest token, in bytes. Common proxies refuse longer header lines.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// What a request says about who sends it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// Nothing.
    None,
    /// An API key.
    ApiKey(Cow<'a, str>),
    /// A JWT.
    Token(Cow<'a, str>),
    /// A ticket.
    Ticket(Cow<'a, str>),
}

impl std::fmt::Debug for Credentials<'_> {
    /// Shows the kind, never the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::ApiKey(_) => "ApiKey(…)",
            Self::Token(_) => "Token(…)",
            Self::Ticket(_) => "Ticket(…)",
        })
    }
}

/// Which of the optional places credentials are taken from.
#[derive(Debug, Clone, Default)]
pub(crate) struct CredentialPolicy {
    allow_token_in_query: bool,
    cookie: Option<String>,
    origins: Vec<String>,
}

impl CredentialPolicy {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let origin = |text: &String| text.trim_end_matches('/').to_ascii_lowercase();
        Self {
            allow_token_in_query: config.allow_token_in_query,
            cookie: config.cookie.clone(),
            origins: config.cors_origins.iter().map(origin).collect(),
        }
    }
}

impl<'a> Credentials<'a> {
    /// Reads a token or an API key as it follows `Bearer`, or stands in a STOMP `passcode`.
    pub fn from_bearer(text: impl Into<Cow<'a, str>>) -> Result<Self, AuthError> {
        let text = text.into();
        if text.len() > TOKEN_MAX_BYTES {
            return Err(malformed(format!("the token has {} bytes; at most {TOKEN_MAX_BYTES} are read", text.len())));
        }
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            return Err(malformed("the token is empty or has characters that no token has"));
        }
        if text.starts_with(API_KEY_PREFIX) {
            return Ok(Self::ApiKey(text));
        }
        if text.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return Err(malformed(
                "neither a JWT (three parts with a dot between them) nor an API key (which begins with `tk_`)",
            ));
        }
        Ok(Self::Token(text))
    }

    /// Reads the value of an `Authorization` header.
    pub fn from_authorization(value: &'a [u8]) -> Result<Self, AuthError> {
        let text = std::str::from_utf8(value).map_err(|_| malformed("the Authorization header is not UTF-8"))?;
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return Err(malformed(format!(
                "the Authorization scheme is {:?}; accepted is Bearer",
                scheme_word(scheme)
            )));
        }
        Self::from_bearer(token.trim())
    }

    pub(crate) fn extract(parts: &'a Parts, policy: &CredentialPolicy) -> Result<Self, AuthError> {
        let mut authorizations = parts.headers.get_all(header::AUTHORIZATION).iter();
        if let Some(value) = authorizations.next() {
            if authorizations.next().is_some() {
                return Err(malformed("more than one Authorization header"));
            }
            return Self::from_authorization(value.as_bytes());
        }
        match Self::from_query(parts.uri.query().unwrap_or_default(), policy)? {
            Self::None => Self::from_cookie(parts, policy),
            found => Ok(found),
        }
    }

    fn from_query(query: &'a str, policy: &CredentialPolicy) -> Result<Self, AuthError> {
        let (mut ticket, mut token) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let found = match name.as_ref() {
                "ticket" => &mut ticket,
                "access_token" | "token" => &mut token,
                _ => continue,
            };
            if found.replace(value).is_some() {
                return Err(malformed("more than one ticket or token in the URL"));
            }
        }
        match (ticket, token) {
            (Some(ticket), _) if ticket.is_empty() => Err(malformed("the ticket in the URL is empty")),
            (Some(ticket), _) => Ok(Self::Ticket(ticket)),
            (None, Some(token)) if policy.allow_token_in_query => match Self::from_bearer(token)? {
                Self::ApiKey(_) => Err(AuthError::new(
                    Code::TokenInUrl,
                    "an API key in the URL is never accepted: URLs are kept in logs",
                )),
                token => Ok(token),
            },
            (None, Some(_)) => Err(AuthError::new(
                Code::TokenInUrl,
                "a token in the URL, which auth.allow_token_in_query does not allow",
            )),
            (None, None) => Ok(Self::None),
        }
    }

    fn from_cookie(parts: &'a Parts, policy: &CredentialPolicy) -> Result<Self, AuthError> {
        let Some(name) = policy.cookie.as_deref() else { return Ok(Self::None) };
        let mut found = None;
        for line in parts.headers.get_all(header::COOKIE) {
            // Other people's cookies may be anything; only ours has to be text.
            for pair in line.as_bytes().split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) else {
                    continue;
                };
                // A page on a sibling host can set a second one; which is meant cannot be told.
                if found.replace(value).is_some() {
                    return Err(malformed("the cookie is there more than once"));
                }
            }
        }
        let Some(value) = found else { return Ok(Self::None) };
        let value = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
        // What some frameworks leave behind when somebody signs out.
        if value.is_empty() {
            return Ok(Self::None);
        }
        check_origin(&parts.method, &parts.headers, &policy.origins)?;
        let value = std::str::from_utf8(value).map_err(|_| malformed("the cookie is not UTF-8"))?;
        match Self::from_bearer(value)? {
            Self::ApiKey(_) => Err(malformed("an API key in a cookie; a cookie carries a JWT")),
            token => Ok(token),
        }
    }
}

/// Whether the page that made the request may use its visitor's cookie. See the module's text.
fn check_origin(method: &Method, headers: &HeaderMap, origins: &[String]) -> Result<(), AuthError> {
    let refused = |cause: String| AuthError::new(Code::CookieOrigin, cause);
    let site = only_value(headers, "sec-fetch-site").map_err(|()| malformed("more than one Sec-Fetch-Site header"))?;
    let origin = only_value(headers, "origin").map_err(|()| malformed("more than one Origin header"))?;
    match site {
        Some("same-origin") => return Ok(()),
        Some("none") if method.is_safe() => return Ok(()),
        _ => {}
    }
    let Some(origin) = origin else {
        return Err(refused(
            "a cookie without an Origin header, and Sec-Fetch-Site does not say same-origin".to_owned(),
        ));
    };
    let origin = origin.to_ascii_lowercase();
    if origins.contains(&origin) && origin != "null" && origin != "*" {
        return Ok(());
    }
    if site.is_none() {
        let host = only_value(headers, "host").ok().flatten().map(str::to_ascii_lowercase);
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if host.is_some() && authority == host.as_deref() {
            return Ok(());
        }
    }
    Err(refused(format!("a cookie from the origin {:?}, which is not among server.cors_origins", quoted(&origin))))
}

/// The value of a header that may stand there once; one that is not text is as good as another origin.
fn only_value<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.to_str().unwrap_or("null"));
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

/// A scheme as it may be named in a log. Somebody may have sent a secret in its place.
fn scheme_word(scheme: &str) -> &str {
    match scheme.len() {
        0..=12 if scheme.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') => scheme,
        _ => "…",
    }
}

fn malformed(cause: impl Into<String>) -> AuthError {
    AuthError::new(Code::CredentialsMalformed, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "aGVhZGVy.Y2xhaW1z.c2lnbmF0dXJl";

    fn policy() -> CredentialPolicy {
        CredentialPolicy::new(&AuthConfig {
            cookie: Some("session".to_owned()),
            cors_origins: vec!["https://app.example/".to_owned(), "*".to_owned(), "null".to_owned()],
            ..AuthConfig::default()
        })
    }

    fn parts(method: &str, uri: &str, headers: &[(&'static str, &[u8])]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// What is found, in words, or the code of the error.
    fn found(policy: &CredentialPolicy, parts: &Parts) -> String {
        match Credentials::extract(parts, policy) {
            Ok(Credentials::None) => "nothing".to_owned(),
            Ok(Credentials::ApiKey(key)) => format!("key {key}"),
            Ok(Credentials::Token(token)) => format!("token {token}"),
            Ok(Credentials::Ticket(ticket)) => format!("ticket {ticket}"),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    fn in_header(value: &[u8]) -> String {
        found(&policy(), &parts("GET", "/", &[("authorization", value)]))
    }

    fn with_cookie(method: &str, headers: &[(&'static str, &str)]) -> String {
        let cookie = format!("other=\u{e9}; session={JWT}");
        let mut all = vec![("cookie", cookie.as_bytes()), ("host", b"push.example:7330")];
        all.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        found(&policy(), &parts(method, "/", &all))
    }

    #[test]
    fn the_header_takes_a_token_or_a_key() {
        let token = format!("token {JWT}");
        assert_eq!(in_header(format!("Bearer {JWT}").as_bytes()), token);
        assert_eq!(in_header(format!("bEARER   {JWT} ").as_bytes()), token);
        assert_eq!(in_header(b"Bearer tk_a.b.c"), "key tk_a.b.c");
        assert_eq!(found(&policy(), &parts("GET", "/?x=1", &[])), "nothing");
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_never_nobody() {
        let huge = format!("Bearer {}.b.c", "a".repeat(TOKEN_MAX_BYTES));
        let values: [&[u8]; 12] = [
            b"",
            b"Bearer",
            b"Bearer ",
            b"Basic dXNlcjpwYXNz",
            JWT.as_bytes(),
            b"Bearer abc",
            b"Bearer a.b",
            b"Bearer a.b.c.d",
            b"Bearer a.b.c d",
            b"Bearer a.b.\xff",
            "Bearer a.b.\u{e9}".as_bytes(),
            huge.as_bytes(),
        ];
        for value in values {
            assert_eq!(in_header(value), "credentials_malformed", "{:?}", String::from_utf8_lossy(value));
        }
        let twice = parts("GET", "/", &[("authorization", b"Bearer tk_a"), ("authorization", b"Bearer tk_a")]);
        assert_eq!(found(&policy(), &twice), "credentials_malformed");
        for uri in ["/?ticket=", "/?ticket=a&ticket=a", "/?ticket=a&ticket=b"] {
            assert_eq!(found(&policy(), &parts("GET", uri, &[])), "credentials_malformed", "{uri}");
        }
    }

    #[test]
    fn a_secret_in_the_place_of_the_scheme_is_not_repeated() {
        let error = Credentials::from_authorization(b"tk_0123456789 x").unwrap_err();
        assert!(!error.cause().contains("0123456789"), "{error}");
        let debug = format!("{:?}", Credentials::from_authorization(b"Bearer tk_0123456789").unwrap());
        assert!(!debug.contains("0123456789"), "{debug}");
    }

    #[test]
    fn the_url_takes_a_ticket_and_a_token_only_where_configured() {
        let allowing = CredentialPolicy { allow_token_in_query: true, ..policy() };
        let token = format!("token {JWT}");
        for (query, strict, allowed) in [
            ("ticket=abc".to_owned(), "ticket abc", "ticket abc"),
            ("channel=a&ticket=a%2Db".to_owned(), "ticket a-b", "ticket a-b"),
            (format!("access_token={JWT}"), "token_in_url", token.as_str()),
            (format!("token={JWT}"), "token_in_url", token.as_str()),
            (format!("token={JWT}&access_token={JWT}"), "credentials_malformed", "credentials_malformed"),
            ("token=".to_owned(), "token_in_url", "credentials_malformed"),
            ("access_token=tk_key".to_owned(), "token_in_url", "token_in_url"),
            (format!("ticket=abc&token={JWT}"), "ticket abc", "ticket abc"),
        ] {
            let parts = parts("GET", &format!("/v1/subscribe?{query}"), &[]);
            assert_eq!(found(&policy(), &parts), strict, "{query}");
            assert_eq!(found(&allowing, &parts), allowed, "{query}");
        }
    }

    #[test]
    fn the_header_wins_even_where_it_is_wrong() {
        let uri = format!("/?ticket=abc&token={JWT}");
        let cookie = format!("session={JWT}");
        for (header, expected) in [("Bearer tk_a", "key tk_a"), ("Bearer ?", "credentials_malformed")] {
            let headers = [("authorization", header.as_bytes()), ("cookie", cookie.as_bytes())];
            assert_eq!(found(&policy(), &parts("GET", &uri, &headers)), expected);
        }
    }

    #[test]
    fn a_cookie_counts_from_accepted_origins_only() {
        let token = format!("token {JWT}");
        let (refused, accepted) = ("cookie_origin", token.as_str());
        for (method, headers, expected) in [
            ("GET", vec![], refused),
            ("POST", vec![], refused),
            ("GET", vec![("sec-fetch-site", "same-origin")], accepted),
            ("POST", vec![("sec-fetch-site", "same-origin"), ("origin", "https://push.example:7330")], accepted),
            ("GET", vec![("sec-fetch-site", "none")], accepted),
            ("POST", vec![("sec-fetch-site", "none")], refused),
            ("GET", vec![("sec-fetch-site", "cross-site")], refused),
            ("GET", vec![("sec-fetch-site", "same-site")], refused),
            ("GET", vec![("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], refused),
            // A page on http:// is another origin, though its host and port are the same.
            ("POST", vec![("sec-fetch-site", "cross-site"), ("origin", "http://push.example:7330")], refused),
            ("POST", vec![("sec-fetch-site", "cross-site"), ("origin", "https://app.example")], accepted),
            ("POST", vec![("origin", "https://app.example")], accepted),
            ("POST", vec![("origin", "HTTPS://APP.example")], accepted),
            ("POST", vec![("origin", "https://app.example.evil.example")], refused),
            ("POST", vec![("origin", "http://app.example")], refused),
            ("POST", vec![("origin", "https://push.example:7330")], accepted),
            ("POST", vec![("origin", "https://push.example")], refused),
            ("POST", vec![("origin", "null")], refused),
            ("POST", vec![("origin", "*")], refused),
            ("POST", vec![("origin", "")], refused),
            ("GET", vec![("sec-fetch-site", "bogus"), ("origin", "https://push.example:7330")], refused),
            (
                "POST",
                vec![("origin", "https://app.example"), ("origin", "https://evil.example")],
                "credentials_malformed",
            ),
        ] {
            assert_eq!(with_cookie(method, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn only_the_configured_cookie_counts_and_only_once() {
        let cookie = |value: &str, policy: &CredentialPolicy| {
            found(policy, &parts("GET", "/", &[("cookie", value.as_bytes()), ("sec-fetch-site", b"same-origin")]))
        };
        let token = format!("token {JWT}");
        assert_eq!(cookie(&format!("a=1;session={JWT}"), &policy()), token);
        assert_eq!(cookie(&format!("session=\"{JWT}\"; b=2"), &policy()), token);
        assert_eq!(cookie(&format!("session2={JWT}; xsession={JWT}; session"), &policy()), "nothing");
        assert_eq!(cookie("session=; a=1", &policy()), "nothing");
        assert_eq!(cookie(&format!("session={JWT}; session={JWT}"), &policy()), "credentials_malformed");
        assert_eq!(cookie("session=garbage", &policy()), "credentials_malformed");
        assert_eq!(cookie("session=tk_key", &policy()), "credentials_malformed");
        assert_eq!(cookie(&format!("session={JWT}"), &CredentialPolicy::default()), "nothing");
    }
}
