//! Who makes a request: authenticated, and not too fast.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    response::{IntoResponse as _, Response},
};
use http::request::Parts;
use tidings_core::{Denied, Principal};
use tidings_protocol::Cursor;

use crate::{
    app::App,
    auth::{AuthError, Credentials},
    problem::{Code, Problem},
    query::{LAST_EVENT_ID, Query, last_event_id},
    rate_limit::RateLimited,
    settings::Settings,
    transport,
};

/// Whoever makes a request.
pub struct Caller {
    /// Who they are.
    pub principal: Principal,
    /// Where they are, if the server knows: an application that embeds it may not say.
    pub address: Option<IpAddr>,
}

/// Whoever asks for a stream: they may come with a ticket.
pub struct StreamCaller(pub Caller);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let credentials = app.authenticator.credentials(parts);
        identify(parts, app, credentials, None).await
    }
}

impl FromRequestParts<Arc<App>> for StreamCaller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        // Before a ticket is spent: who is told to come back comes with the same one.
        if let Some(turned_away) = transport::turn_away(app, &parts.headers) {
            return Err(turned_away);
        }
        let query = Query::any(parts.uri.query());
        let text = last_event_id(parts.headers.get(LAST_EVENT_ID), &query).map_err(Problem::into_response)?;
        // None came, or one that cannot be read: neither belongs to a ticket's stream.
        let cursor = text.and_then(|text| text.parse().ok());
        let credentials = app.authenticator.credentials(parts);
        identify(parts, app, credentials, Some(cursor)).await.map(Self).map_err(Problem::into_response)
    }
}

/// `stream` is the cursor of a request for a stream, if it is one.
async fn identify(
    parts: &Parts,
    app: &App,
    credentials: Result<Credentials<'_>, AuthError>,
    stream: Option<Option<Cursor>>,
) -> Result<Caller, Problem> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let address = peer.map(|peer| app.trusted_proxies.load().client_address(peer, &parts.headers));
    let counted = address.filter(|address| !address.to_canonical().is_loopback() || is_relayed(parts, app, peer));
    // A backend with a key has a limit of its own; before the key is known to be good, it has none.
    if !matches!(credentials, Ok(Credentials::ApiKey(_)))
        && let Some(address) = counted
    {
        app.rate_limiter.check_address(address).map_err(|limited| too_fast(limited, "this address"))?;
    }
    let now = app.clock().now();
    let checked = match (credentials, stream) {
        (Err(malformed), _) => Err(malformed),
        (Ok(credentials), None) => app.authenticator.authenticate(&credentials, now).await,
        (Ok(credentials), Some(cursor)) => {
            app.authenticator.authenticate_stream(&credentials, cursor.as_ref(), now).await
        }
    };
    match checked {
        Ok(principal) => {
            if let Principal::ApiKey { label } = &principal {
                app.rate_limiter.check_key(label).map_err(|limited| too_fast(limited, "this API key"))?;
            }
            Ok(Caller { principal, address })
        }
        Err(error) => {
            if let Some(address) = counted.filter(|_| error.is_suspicious()) {
                app.rate_limiter.charge_failure(address).map_err(|limited| too_fast(limited, "this address"))?;
            }
            tracing::debug!(code = error.code().as_str(), cause = error.cause(), "credentials refused");
            Err(refused(&error, &app.settings()))
        }
    }
}

/// Whether a proxy passed the request on. One on loopback must not lend its freedom from limits to a
/// client whose own address it does not tell, be it that the client has seen to that.
fn is_relayed(parts: &Parts, app: &App, peer: Option<IpAddr>) -> bool {
    peer.is_some_and(|peer| app.trusted_proxies.load().is_relayed(peer, &parts.headers))
}

fn too_fast(limited: RateLimited, whose: &str) -> Problem {
    let detail = format!("the request limit of {whose} is reached; see limits in the configuration");
    Problem::new(Code::RateLimited, detail).retry_after(limited.retry_after_secs.into())
}

fn refused(error: &AuthError, settings: &Settings) -> Problem {
    let problem = Problem::new(error.code(), if settings.dev { error.cause() } else { error.public_text() });
    match error.retry_after_secs() {
        Some(secs) => problem.retry_after(secs),
        None => problem,
    }
}

/// The answer to somebody who may not do what they ask for. In production it does not say why: the
/// rules of a namespace are nobody's business who is not let in.
pub(crate) fn denied(who: &Principal, refusal: &Denied, settings: &Settings) -> Problem {
    let (code, public) = match who {
        Principal::Anonymous => {
            (Code::Unauthorized, "send Authorization: Bearer with an API key or a token, or ?ticket= for a stream")
        }
        Principal::ApiKey { .. } | Principal::Token(_) => (Code::Forbidden, "these credentials do not permit it"),
    };
    Problem::new(code, if settings.dev { &refusal.cause } else { public })
}

/// Lets only backends and operators pass.
pub(crate) fn administer(app: &App, who: &Principal) -> Result<(), Problem> {
    who.may_administer().map_err(|refusal| denied(who, &refusal, &app.settings()))
}
