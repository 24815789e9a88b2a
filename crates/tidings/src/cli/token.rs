//! `tidings token`

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{Exit, Failure, TokenArguments, print};
use crate::{config::Config, dev::DevSecrets};

/// RFC 7519 §4.1, and the claim that says what Tidings allows.
#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    tidings: Permissions,
}

#[derive(Serialize)]
struct Permissions {
    subscribe: Vec<String>,
    publish: Vec<String>,
    admin: bool,
}

pub(super) fn run(arguments: TokenArguments) -> Result<(), Failure> {
    let mut config = arguments.config.load(None)?.config;
    if arguments.dev {
        let secrets = DevSecrets::load_or_create(&config.data_dir)
            .map_err(|error| Failure::of(Exit::Failed, "no development secret", &error))?;
        config.apply_dev(&secrets).map_err(|problem| Failure::new(Exit::Usage, problem.to_string()))?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    print(&format!("{}\n", sign(&config, &arguments, now)?))
}

fn sign(config: &Config, arguments: &TokenArguments, now: u64) -> Result<String, Failure> {
    let Some(secret) = &config.auth.jwt_hs256_secret else {
        let text = "there is no secret to sign with; set auth.jwt_hs256_secret in the configuration, or use --dev";
        return Err(Failure::new(Exit::Usage, text));
    };
    // A life below a second is over before it begins, and one without an end is none to sign.
    let exp = now.checked_add(arguments.ttl.as_secs()).filter(|exp| *exp > now);
    let Some(exp) = exp else {
        return Err(Failure::new(Exit::Usage, "--ttl is not accepted; accepted is one second or more, as in 15m"));
    };
    let patterns = |patterns: &[tidings_protocol::ChannelPattern]| patterns.iter().map(ToString::to_string).collect();
    let claims = Claims {
        sub: arguments.sub.as_str(),
        iat: now,
        exp,
        aud: arguments.audience.as_deref().or(config.auth.jwt_audience.as_deref()),
        iss: config.auth.jwt_issuer.as_deref(),
        tidings: Permissions {
            subscribe: patterns(&arguments.subscribe),
            publish: patterns(&arguments.publish),
            admin: arguments.admin,
        },
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| Failure::of(Exit::Failed, "cannot sign the token", &error))
}
