//! What a token says, once its signature holds.

use std::time::Duration;

use serde::Deserialize;
use tidings_core::Grants;
use tidings_protocol::{ChannelPattern, Millis, UserId};

use super::error::{AuthError, quoted};
use crate::problem::Code;

/// Latest end of a token, in milliseconds since the epoch: the year 9999, so that sums with it fit.
const EXPIRES_AT_MAX: Millis = 253_402_300_799_000;

/// What every token has to satisfy besides its signature.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimRules {
    pub(crate) audience: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) leeway: Duration,
}

/// The three parts of a token, of which the header has been read.
pub(crate) struct TokenParts<'a> {
    pub(crate) header: TokenHeader,
    /// What is signed: header and claims as they came.
    pub(crate) message: &'a str,
    pub(crate) signature: &'a str,
    claims: &'a str,
}

/// The members of the header (RFC 7515 §4.1) that matter. Keys that it brings or points to
/// (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenHeader {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    crit: Option<serde_json::Value>,
}

impl<'a> TokenParts<'a> {
    pub(crate) fn read(token: &'a str) -> Result<Self, AuthError> {
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| invalid("not three parts"))?;
        let (header, claims) = message.split_once('.').ok_or_else(|| invalid("not three parts"))?;
        let header: TokenHeader = from_part(header, "header")?;
        if header.crit.is_some() {
            // RFC 7515 §4.1.11: whoever does not understand all that is critical must refuse.
            return Err(invalid("the token's header has `crit`, and none of its extensions are supported"));
        }
        Ok(Self { header, message, signature, claims })
    }

    /// Reads and checks the claims. Only of use after the signature has been verified.
    pub(crate) fn grants(&self, rules: &ClaimRules, now: Millis) -> Result<Grants, AuthError> {
        from_part::<Claims>(self.claims, "claims")?.check(rules, now)
    }
}

/// The claims that matter (RFC 7519 §4.1); others are ignored.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    tidings: Option<TidingsClaim>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claim `tidings`. Unknown members are refused: one that a later version adds may take away
/// rights, and to ignore it would be to grant them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TidingsClaim {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    admin: bool,
}

impl Claims {
    fn check(self, rules: &ClaimRules, now: Millis) -> Result<Grants, AuthError> {
        let leeway = millis(rules.leeway.as_secs_f64());
        let exp = self.exp.ok_or_else(|| invalid("the token has no `exp`"))?;
        if exp < 0.0 || self.nbf.is_some_and(|nbf| nbf < 0.0) {
            return Err(invalid("the token's `exp` or `nbf` is before 1970"));
        }
        let expires_at = millis(exp);
        if now >= expires_at.saturating_add(leeway) {
            return Err(AuthError::new(
                Code::TokenExpired,
                format!("the token expired {} s ago", (now - expires_at) / 1000),
            ));
        }
        if let Some(begins_at) = self.nbf.map(millis)
            && now.saturating_add(leeway) < begins_at
        {
            return Err(AuthError::new(
                Code::TokenNotYetValid,
                format!("the token's `nbf` is {} s away", (begins_at - now).div_ceil(1000)),
            ));
        }
        self.check_audience(rules)?;
        let user = match self.sub {
            Some(sub) => Some(UserId::parse(&sub).map_err(|error| invalid(format!("the token's `sub`: {error}")))?),
            None => None,
        };
        let claim = self.tidings.unwrap_or_default();
        Ok(Grants {
            user,
            subscribe: patterns(&claim.subscribe, "subscribe")?,
            publish: patterns(&claim.publish, "publish")?,
            admin: claim.admin,
            // A token accepted in its leeway opens a stream that lasts as long as the leeway does,
            // not one that is closed at once and asked for again.
            expires_at: Some(if now < expires_at { expires_at } else { expires_at + leeway }),
        })
    }

    fn check_audience(&self, rules: &ClaimRules) -> Result<(), AuthError> {
        let refused = |cause: String| AuthError::new(Code::TokenAudience, cause);
        if let Some(wanted) = &rules.audience {
            let matches = match &self.aud {
                Some(Audience::One(aud)) => aud == wanted,
                Some(Audience::Many(auds)) => auds.contains(wanted),
                None => false,
            };
            if !matches {
                let found = match &self.aud {
                    Some(Audience::One(aud)) => quoted(aud),
                    Some(Audience::Many(auds)) => quoted(&auds.join(", ")),
                    None => "missing".to_owned(),
                };
                return Err(refused(format!("the token's `aud` is {found}, and auth.jwt_audience is {wanted}")));
            }
        }
        if let Some(wanted) = &rules.issuer
            && self.iss.as_ref() != Some(wanted)
        {
            let found = self.iss.as_deref().map_or_else(|| "missing".to_owned(), quoted);
            return Err(refused(format!("the token's `iss` is {found}, and auth.jwt_issuer is {wanted}")));
        }
        Ok(())
    }
}

fn patterns(texts: &[String], claim: &str) -> Result<Vec<ChannelPattern>, AuthError> {
    texts
        .iter()
        .map(|text| {
            ChannelPattern::parse(text).map_err(|error| invalid(format!("the token's `tidings.{claim}`: {error}")))
        })
        .collect()
}

/// NumericDate (RFC 7519 §2) in milliseconds. Not below zero; as large as it may be at most.
fn millis(seconds: f64) -> Millis {
    // `as` saturates and makes NaN zero.
    ((seconds * 1000.0) as Millis).min(EXPIRES_AT_MAX)
}

fn from_part<T: serde::de::DeserializeOwned>(part: &str, what: &str) -> Result<T, AuthError> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| invalid(format!("the token's {what} is not base64url")))?;
    serde_json::from_slice(&json)
        .map_err(|error| invalid(format!("the token's {what}: {}", quoted(&error.to_string()))))
}

fn invalid(cause: impl Into<String>) -> AuthError {
    AuthError::new(Code::TokenInvalid, cause)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Millis = 1_764_000_000_000;
    const NOW_SECS: u64 = NOW / 1000;

    fn check(rules: &ClaimRules, claims: serde_json::Value) -> Result<Grants, AuthError> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let text = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let token = format!("{}.{}.c2ln", text(&json!({"alg": "HS256"})), text(&claims));
        TokenParts::read(&token)?.grants(rules, NOW)
    }

    fn code(rules: &ClaimRules, claims: serde_json::Value) -> &'static str {
        check(rules, claims).map_or_else(|error| error.code().as_str(), |_| "accepted")
    }

    #[test]
    fn claims_become_grants() {
        let claims = json!({
            "sub": "42", "exp": NOW_SECS + 60, "iat": NOW_SECS, "name": {"nested": [1]},
            "tidings": {"subscribe": ["chat:*"], "publish": ["chat:lobby"], "admin": true},
        });
        let grants = check(&ClaimRules::default(), claims).unwrap();
        assert_eq!(grants.user, Some(UserId::parse("42").unwrap()));
        assert_eq!(grants.subscribe, [ChannelPattern::parse("chat:*").unwrap()]);
        assert_eq!(grants.publish, [ChannelPattern::parse("chat:lobby").unwrap()]);
        assert!(grants.admin);
        assert_eq!(grants.expires_at, Some(NOW + 60_000));
        let bare = check(&ClaimRules::default(), json!({"exp": NOW_SECS + 60})).unwrap();
        assert!(bare.user.is_none() && bare.subscribe.is_empty() && bare.publish.is_empty() && !bare.admin);
    }

    #[test]
    fn time_is_checked_with_leeway_and_a_stream_outlasts_its_opening() {
        let rules = ClaimRules { leeway: Duration::from_secs(5), ..ClaimRules::default() };
        for (claims, expected) in [
            (json!({"exp": NOW_SECS + 1}), Ok(NOW + 1000)),
            (json!({"exp": NOW_SECS as f64 + 0.5}), Ok(NOW + 500)),
            (json!({"exp": NOW_SECS}), Ok(NOW + 5000)),
            (json!({"exp": NOW_SECS - 4}), Ok(NOW + 1000)),
            (json!({"exp": NOW_SECS - 5}), Err("token_expired")),
            (json!({"exp": 0}), Err("token_expired")),
            (json!({"exp": 1e300}), Ok(EXPIRES_AT_MAX)),
            (json!({"exp": -1}), Err("token_invalid")),
            (json!({"exp": "soon"}), Err("token_invalid")),
            (json!({"exp": null}), Err("token_invalid")),
            (json!({}), Err("token_invalid")),
            (json!({"exp": NOW_SECS + 60, "nbf": NOW_SECS + 5}), Ok(NOW + 60_000)),
            (json!({"exp": NOW_SECS + 60, "nbf": NOW_SECS + 6}), Err("token_not_yet_valid")),
            (json!({"exp": NOW_SECS + 60, "nbf": 1e300}), Err("token_not_yet_valid")),
        ] {
            let outcome = check(&rules, claims.clone());
            let outcome = outcome.map(|grants| grants.expires_at.unwrap()).map_err(|error| error.code().as_str());
            assert_eq!(outcome, expected, "{claims}");
        }
    }

    #[test]
    fn audience_and_issuer_matter_where_configured() {
        let lax = ClaimRules::default();
        let strict = ClaimRules { audience: Some("tidings".into()), issuer: Some("me".into()), ..lax.clone() };
        for (aud, iss, expected) in [
            (json!("tidings"), json!("me"), "accepted"),
            (json!(["other", "tidings"]), json!("me"), "accepted"),
            (json!("other"), json!("me"), "token_audience"),
            (json!(["other"]), json!("me"), "token_audience"),
            (json!([]), json!("me"), "token_audience"),
            (json!(null), json!("me"), "token_audience"),
            (json!("tidings"), json!("you"), "token_audience"),
            (json!("tidings"), json!(null), "token_audience"),
        ] {
            let claims = json!({"exp": NOW_SECS + 60, "aud": aud, "iss": iss});
            assert_eq!(code(&lax, claims.clone()), "accepted", "{claims}");
            assert_eq!(code(&strict, claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn a_malformed_claim_is_refused_and_said() {
        for (name, value, said) in [
            ("sub", json!("a b"), "sub"),
            ("sub", json!(""), "sub"),
            ("sub", json!(42), "integer"),
            ("sub", json!("x".repeat(300)), "sub"),
            ("aud", json!(42), "Audience"),
            ("tidings", json!("chat:*"), "string"),
            ("tidings", json!({"subscribe": "chat:*"}), "sequence"),
            ("tidings", json!({"subscribe": ["a*b"]}), "tidings.subscribe"),
            ("tidings", json!({"publish": [""]}), "tidings.publish"),
            ("tidings", json!({"admin": "yes"}), "boolean"),
            ("tidings", json!({"subscribed": []}), "subscribed"),
        ] {
            let mut claims = json!({"exp": NOW_SECS + 60});
            claims[name] = value;
            let error = check(&ClaimRules::default(), claims.clone()).unwrap_err();
            assert_eq!(error.code(), Code::TokenInvalid, "{claims}");
            assert!(error.cause().contains(said), "{claims}: {error}");
        }
    }
}
