//! `POST /v1/tickets`: short-lived words that open one stream, for clients that cannot set headers.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tidings_core::{Grants, Principal};
use tidings_protocol::{ChannelPattern, UserId};

use crate::{
    app::App,
    body::{self, MediaType},
    caller::{Caller, denied},
    problem::{Code, Problem, ProblemBody},
    query::NoParameters,
};

/// Largest body: a few patterns.
const BODY_MAX_BYTES: usize = 16 * 1024;

/// Longest `ttl` that a backend may ask for on behalf of a user, in seconds: a day.
const TTL_MAX_SECS: u64 = 24 * 60 * 60;

/// How long a stream that a backend asked for lives, unless it says so, in seconds.
const TTL_DEFAULT_SECS: u64 = 60 * 60;

/// Most patterns of a ticket, which has to fit in a URL.
const PATTERNS_MAX: usize = 32;

/// For whom. A token's bearer sends `{}` and gets a ticket for what the token lets them hear; a
/// backend with an API key says who and what.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketBody {
    /// The user that the stream is for.
    #[serde(default)]
    sub: Option<String>,
    /// The channels that it may have; `*` ends a pattern.
    #[serde(default)]
    subscribe: Vec<String>,
    /// How long the stream may live, in seconds; 3600 if left out.
    #[serde(default)]
    ttl: Option<u64>,
}

/// A ticket.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TicketAnswer {
    /// For `?ticket=`.
    ticket: String,
    /// How long it opens a stream, in seconds.
    expires_in: u64,
}

/// Get a ticket for one stream.
///
/// Signed and valid for 30 seconds on any node. Once spent it still reopens its own stream, that is,
/// with a cursor of it, until the token behind it expires: EventSource reconnects to the same URL.
#[utoipa::path(
    post, path = "/v1/tickets", tag = "subscribe", request_body = TicketBody,
    responses(
        (status = 200, body = TicketAnswer),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn issue(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TicketAnswer>, Problem> {
    let settings = app.settings();
    // A POST without a body has no type either, and asks for a ticket of one's own.
    let body = match headers.contains_key(http::header::CONTENT_TYPE) {
        true => {
            MediaType::of(&headers, &[MediaType::Json])?;
            body::read(body, BODY_MAX_BYTES, &settings).await?
        }
        false => body::read(body, 0, &settings).await?,
    };
    let asked: TicketBody = match body.trim_ascii().is_empty() {
        true => TicketBody::default(),
        false => serde_json::from_slice(&body).map_err(|error| Problem::new(Code::InvalidBody, error))?,
    };
    let now = app.clock().now();
    let grants = match &caller.principal {
        Principal::Token(grants) => {
            if asked.sub.is_some() || !asked.subscribe.is_empty() || asked.ttl.is_some() {
                let detail = "sub, subscribe and ttl are for API keys; a token's ticket is for what the token permits";
                return Err(Problem::new(Code::InvalidBody, detail));
            }
            grants.clone()
        }
        Principal::ApiKey { .. } => grants_for(asked, now)?,
        Principal::Anonymous => {
            let cause = "a ticket stands for a token or is asked for by a backend".to_owned();
            return Err(denied(&caller.principal, &tidings_core::Denied { cause }, &settings));
        }
    };
    let issued = app.authenticator.issue_ticket(&grants, &app.streams.hub.cursor(), now);
    Ok(Json(TicketAnswer { ticket: issued.ticket, expires_in: issued.expires_in_secs }))
}

fn grants_for(asked: TicketBody, now: u64) -> Result<Grants, Problem> {
    let invalid = |detail: String| Problem::new(Code::InvalidBody, detail);
    let user = asked.sub.as_deref().map(UserId::parse).transpose().map_err(|error| invalid(format!("sub: {error}")))?;
    if asked.subscribe.len() > PATTERNS_MAX {
        return Err(invalid(format!("subscribe: {} given; accepted are up to {PATTERNS_MAX}", asked.subscribe.len())));
    }
    let subscribe = asked.subscribe.iter().map(|text| ChannelPattern::parse(text)).collect::<Result<Vec<_>, _>>();
    let subscribe = subscribe.map_err(|error| invalid(format!("subscribe: {error}")))?;
    if user.is_none() && subscribe.is_empty() {
        return Err(invalid("name a user (sub), channels (subscribe), or both".to_owned()));
    }
    let ttl_secs = match asked.ttl.unwrap_or(TTL_DEFAULT_SECS) {
        secs @ 1..=TTL_MAX_SECS => secs,
        secs => return Err(invalid(format!("ttl: {secs}; accepted are 1 to {TTL_MAX_SECS} seconds"))),
    };
    Ok(Grants { user, subscribe, publish: Vec::new(), admin: false, expires_at: Some(now + ttl_secs * 1000) })
}
