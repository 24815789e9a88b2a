//! `/v1/connections`: who is connected to this node, and ending that.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use tidings_hub::{ConnectionFilter, ConnectionId, Transport};
use tidings_protocol::{Channel, CloseReason, UserId};

use crate::{
    app::App,
    caller::{Caller, administer},
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::{NoParameters, Query},
};

/// Connections of one answer, at most; the filters narrow it down.
const PAGE: usize = 1000;

/// Channels of a connection that are listed.
const LISTED_CHANNELS: usize = 20;

/// Longest time that a user is kept away, in seconds: a day.
const BLOCK_MAX_SECS: u64 = 24 * 60 * 60;

/// A connection.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConnectionBody {
    /// Its id.
    id: String,
    /// The node that it is connected to.
    node: String,
    /// Who is signed in on it.
    user: Option<String>,
    /// `sse` or `long_poll`.
    transport: &'static str,
    /// Where it comes from.
    remote: Option<String>,
    /// Since when, in milliseconds since the epoch.
    since: u64,
    /// What it listens to; the first 20.
    channels: Vec<String>,
    /// How many channels that are in all.
    channel_count: usize,
}

/// Connections.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConnectionsBody {
    /// Up to 1,000 of them.
    connections: Vec<ConnectionBody>,
    /// How many there are.
    total: usize,
}

/// How many connections were closed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ClosedBody {
    /// How many.
    closed: usize,
}

/// List the connections of this node.
#[utoipa::path(
    get, path = "/v1/connections", tag = "connections",
    params(
        ("user" = Option<String>, Query, description = "Those of this user"),
        ("channel" = Option<String>, Query, description = "Those that listen to this channel"),
        ("transport" = Option<String>, Query, description = "`sse` or `long_poll`"),
    ),
    responses(
        (status = 200, body = ConnectionsBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<ConnectionsBody>, Problem> {
    administer(&app, &caller.principal)?;
    let query = Query::parse(query.as_deref(), &["user", "channel", "transport"])?;
    let user = query.parsed("user", UserId::parse)?;
    let channel = query.parsed("channel", Channel::parse)?;
    let transport = query.parsed("transport", |word| {
        let found = Transport::ALL.into_iter().find(|transport| transport.as_str() == word);
        found.ok_or("accepted are sse and long_poll")
    })?;
    let filter = ConnectionFilter { user, channel, transport, remote: None };
    let found = app.streams.hub.connections(&filter);
    let total = found.len();
    let connections = found.into_iter().take(PAGE).map(|info| ConnectionBody {
        id: info.id.to_string(),
        node: app.node.to_string(),
        user: info.user.as_ref().map(ToString::to_string),
        transport: info.transport.as_str(),
        remote: info.remote.map(|address| address.to_string()),
        since: info.opened_at,
        channels: info.channels.iter().take(LISTED_CHANNELS).map(ToString::to_string).collect(),
        channel_count: info.channels.len(),
    });
    Ok(Json(ConnectionsBody { connections: connections.collect(), total }))
}

/// Close one connection. Its client comes back unless its credentials have gone.
#[utoipa::path(
    delete, path = "/v1/connections/{id}", tag = "connections", params(("id" = String, Path)),
    responses(
        (status = 200, body = ClosedBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn close(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(id): PathText,
) -> Result<Json<ClosedBody>, Problem> {
    administer(&app, &caller.principal)?;
    match ConnectionId::parse(&id).is_some_and(|id| app.streams.hub.close(&id, CloseReason::Kicked)) {
        true => Ok(Json(ClosedBody { closed: 1 })),
        false => Err(Problem::new(Code::NotFound, "no connection of this node has this id")),
    }
}

/// Close all connections of a user.
#[utoipa::path(
    delete, path = "/v1/users/{user}/connections", tag = "connections",
    params(
        ("user" = String, Path),
        ("block" = Option<u64>, Query, description = "Seconds, up to 86400, for which this node answers the user's streams with 204, which clients take as the end"),
    ),
    responses(
        (status = 200, body = ClosedBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn close_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(user): PathText,
    RawQuery(query): RawQuery,
) -> Result<Json<ClosedBody>, Problem> {
    administer(&app, &caller.principal)?;
    let query = Query::parse(query.as_deref(), &["block"])?;
    let block_secs = query.number("block", 1..=BLOCK_MAX_SECS)?;
    let user = UserId::parse(&user).map_err(|error| Problem::new(Code::InvalidPath, format!("user: {error}")))?;
    if let Some(secs) = block_secs {
        let now = app.clock().now();
        if !app.blocks.add(user.clone(), now + secs * 1000, now) {
            return Err(Problem::new(Code::TooManyBlocks, "too many users are blocked at a time").retry_after(60));
        }
    }
    let filter = ConnectionFilter { user: Some(user), ..ConnectionFilter::default() };
    Ok(Json(ClosedBody { closed: app.streams.hub.close_all(&filter, CloseReason::Kicked) }))
}
