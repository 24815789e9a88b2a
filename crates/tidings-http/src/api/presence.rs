//! Who is there: a user's connections, and who listens to a channel.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use tidings_core::ports::Unavailable;
use tidings_protocol::{Channel, UserId};

use crate::{
    app::App,
    caller::{Caller, administer, denied},
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::{NoParameters, PageSize, Query},
};

/// Where a user is connected.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UserPresenceBody {
    /// Who.
    user: String,
    /// Whether there is any connection.
    online: bool,
    /// All of them.
    connections: Vec<UserConnectionBody>,
}

/// A user's connection.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UserConnectionBody {
    /// Its id.
    id: String,
    /// The node that it is connected to.
    node: String,
    /// `sse` or `long_poll`.
    transport: &'static str,
    /// Since when, in milliseconds since the epoch.
    since: u64,
}

/// Who listens to a channel.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ChannelPresenceBody {
    /// Which.
    channel: String,
    /// Users, by name.
    users: Vec<MemberBody>,
    /// How many users there are in all.
    user_count: usize,
    /// How many streams of nobody in particular.
    anonymous: usize,
    /// The `after` of the next page; null at the end.
    next: Option<String>,
}

/// A user who listens to a channel.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MemberBody {
    /// Who.
    user: String,
    /// By how many streams; 0 for a moment, while somebody who is gone may come back.
    connections: usize,
}

/// Where a user is connected.
#[utoipa::path(
    get, path = "/v1/users/{user}/presence", operation_id = "get_user_presence", tag = "presence", params(("user" = String, Path)),
    responses(
        (status = 200, body = UserPresenceBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn user_presence(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(user): PathText,
) -> Result<Json<UserPresenceBody>, Problem> {
    administer(&app, &caller.principal)?;
    let user = UserId::parse(&user).map_err(|error| Problem::new(Code::InvalidPath, format!("user: {error}")))?;
    let found = app.presence.user(&user).await.map_err(unavailable)?;
    let connections = found.into_iter().map(|connection| UserConnectionBody {
        id: connection.id.to_string(),
        node: connection.node.to_string(),
        transport: connection.transport.as_str(),
        since: connection.since,
    });
    let connections: Vec<_> = connections.collect();
    Ok(Json(UserPresenceBody { user: user.to_string(), online: !connections.is_empty(), connections }))
}

/// Who listens to a channel, for whoever may listen to it too. In namespaces with `presence = true`.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/presence", operation_id = "get_channel_presence", tag = "presence",
    params(
        ("channel" = String, Path),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u64>, Query, description = "Users of one page, up to 1000; 100 by default"),
    ),
    responses(
        (status = 200, body = ChannelPresenceBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn channel_presence(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(channel): PathText,
    RawQuery(query): RawQuery,
) -> Result<Json<ChannelPresenceBody>, Problem> {
    let channel =
        Channel::parse(&channel).map_err(|error| Problem::new(Code::InvalidPath, format!("channel: {error}")))?;
    let who = &caller.principal;
    if who.may_administer().is_err() {
        let namespaces = app.streams.namespaces.load();
        who.may_subscribe(&channel, &namespaces).map_err(|refusal| denied(who, &refusal, &app.settings()))?;
    }
    let query = Query::parse(query.as_deref(), &["after", "limit"])?;
    let limit = query.limit(PageSize::LIST)?;
    let after = query.parsed("after", UserId::parse)?;
    let found = app.presence.channel(&channel, after.as_ref(), limit).await.map_err(unavailable)?;
    let Some(found) = found else {
        let detail = "no account is kept of who listens to this channel (presence, in its namespace's configuration)";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let next = found.users.last().filter(|_| found.has_more).map(|member| member.user.to_string());
    let users = found.users.into_iter();
    let users = users.map(|member| MemberBody { user: member.user.to_string(), connections: member.connections });
    Ok(Json(ChannelPresenceBody {
        channel: channel.to_string(),
        users: users.collect(),
        user_count: found.user_count,
        anonymous: found.anonymous,
        next,
    }))
}

fn unavailable(error: Unavailable) -> Problem {
    tracing::warn!(cause = %error.cause, "it could not be found out who is there");
    Problem::new(Code::BrokerUnavailable, "it cannot be found out now who is there").retry_after(1)
}
