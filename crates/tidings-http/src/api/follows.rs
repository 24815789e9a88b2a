//! `/v1/me/follows`: the channels whose notifications reach a user; by backends too.
//!
//! To follow a channel is to have its notifications in one's inbox. It does not let anybody listen to
//! the channel's events: that is the namespace's business, and asked for when a stream is opened.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use tidings_core::ports::store::FollowError;
use tidings_protocol::{Channel, UserId, me::FollowsBody};

use crate::{
    api::wire::{JsonBody, Me, Them, invalid_body, invalid_path, unavailable},
    app::App,
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::{NoParameters, PageSize, Query, cut},
};

/// A channel that a user follows.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Follow {
    /// The channel.
    channel: String,
    /// Since when, in milliseconds since the epoch.
    since: u64,
}

/// A page of what a user follows.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Follows {
    /// By name.
    follows: Vec<Follow>,
    /// The `after` of the next page; null at the end.
    next: Option<String>,
}

/// What has changed. What was so before is not listed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FollowsChanged {
    /// Followed from now on.
    followed: Vec<String>,
    /// Not followed any more.
    unfollowed: Vec<String>,
}

/// Up to 1,000 channels in all.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "it describes what tidings_protocol::me reads")]
struct FollowsChange {
    /// To be followed from now on.
    follow: Option<Vec<String>>,
    /// Not to be followed any more.
    unfollow: Option<Vec<String>>,
}

/// List the channels that one follows, by name.
#[utoipa::path(
    get, path = "/v1/me/follows", operation_id = "list_my_follows", tag = "inbox",
    params(
        ("after" = Option<String>, Query, description = "Only those after this channel: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Channels of the page, up to 1000; 100 if left out"),
    ),
    responses(
        (status = 200, body = Follows),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    RawQuery(query): RawQuery,
) -> Result<Json<Follows>, Problem> {
    list(&app, &user, query.as_deref()).await
}

/// List the channels that a user follows, by name.
#[utoipa::path(
    get, path = "/v1/users/{user}/follows", operation_id = "list_user_follows", tag = "users",
    params(
        ("user" = String, Path),
        ("after" = Option<String>, Query, description = "Only those after this channel: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Channels of the page, up to 1000; 100 if left out"),
    ),
    responses(
        (status = 200, body = Follows),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    RawQuery(query): RawQuery,
) -> Result<Json<Follows>, Problem> {
    list(&app, &user, query.as_deref()).await
}

async fn list(app: &App, user: &UserId, query: Option<&str>) -> Result<Json<Follows>, Problem> {
    let query = Query::parse(query, &["after", "limit"])?;
    let after = query.parsed("after", Channel::parse)?;
    let limit = query.limit(PageSize::LIST)?;
    let mut found = app.notifier.store.follows(user, after.as_ref(), limit + 1).await.map_err(unavailable)?;
    let next = cut(&mut found, limit, |follow| follow.channel.to_string());
    let follows = found.into_iter().map(|follow| Follow { channel: follow.channel.to_string(), since: follow.since });
    Ok(Json(Follows { follows: follows.collect(), next }))
}

/// Follow a channel: its notifications reach the inbox from now on.
#[utoipa::path(
    put, path = "/v1/me/follows/{channel}", operation_id = "follow_channel", tag = "inbox", params(("channel" = String, Path)),
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn follow_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    _: NoParameters,
    PathText(channel): PathText,
) -> Result<Json<FollowsChanged>, Problem> {
    follow(&app, &user, &channel).await
}

/// Let a user follow a channel.
#[utoipa::path(
    put, path = "/v1/users/{user}/follows/{channel}", operation_id = "follow_channel_for_user", tag = "users",
    params(("user" = String, Path), ("channel" = String, Path)),
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn follow_theirs(
    State(app): State<Arc<App>>,
    Them { user, rest }: Them,
    _: NoParameters,
) -> Result<Json<FollowsChanged>, Problem> {
    follow(&app, &user, &rest.concat()).await
}

async fn follow(app: &App, user: &UserId, channel: &str) -> Result<Json<FollowsChanged>, Problem> {
    let follow = vec![FollowsBody::followable(channel).map_err(invalid_path)?];
    change(app, user, FollowsBody { follow, unfollow: Vec::new() }).await
}

/// Do not follow a channel any more. What is in the inbox stays there.
#[utoipa::path(
    delete, path = "/v1/me/follows/{channel}", operation_id = "unfollow_channel", tag = "inbox", params(("channel" = String, Path)),
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn unfollow_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    _: NoParameters,
    PathText(channel): PathText,
) -> Result<Json<FollowsChanged>, Problem> {
    unfollow(&app, &user, &channel).await
}

/// Let a user not follow a channel any more.
#[utoipa::path(
    delete, path = "/v1/users/{user}/follows/{channel}", operation_id = "unfollow_channel_for_user", tag = "users",
    params(("user" = String, Path), ("channel" = String, Path)),
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn unfollow_theirs(
    State(app): State<Arc<App>>,
    Them { user, rest }: Them,
    _: NoParameters,
) -> Result<Json<FollowsChanged>, Problem> {
    unfollow(&app, &user, &rest.concat()).await
}

async fn unfollow(app: &App, user: &UserId, channel: &str) -> Result<Json<FollowsChanged>, Problem> {
    let channel =
        Channel::parse(channel).map_err(|error| Problem::new(Code::InvalidPath, format!("channel: {error}")))?;
    change(app, user, FollowsBody { follow: Vec::new(), unfollow: vec![channel] }).await
}

/// Follow and unfollow up to 1,000 channels.
#[utoipa::path(
    post, path = "/v1/me/follows", operation_id = "change_my_follows", tag = "inbox", request_body = FollowsChange,
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn change_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    JsonBody(body): JsonBody,
) -> Result<Json<FollowsChanged>, Problem> {
    change(&app, &user, FollowsBody::parse(&body).map_err(invalid_body)?).await
}

/// Let a user follow and unfollow up to 1,000 channels.
#[utoipa::path(
    post, path = "/v1/users/{user}/follows", operation_id = "change_user_follows", tag = "users", params(("user" = String, Path)), request_body = FollowsChange,
    responses(
        (status = 200, body = FollowsChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn change_theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    JsonBody(body): JsonBody,
) -> Result<Json<FollowsChanged>, Problem> {
    change(&app, &user, FollowsBody::parse(&body).map_err(invalid_body)?).await
}

/// Unfollows first, so that a user at the limit can exchange channels in one call.
async fn change(app: &App, user: &UserId, change: FollowsBody) -> Result<Json<FollowsChanged>, Problem> {
    let names = |channels: Vec<Channel>| channels.iter().map(ToString::to_string).collect();
    let mut changed = FollowsChanged { followed: Vec::new(), unfollowed: Vec::new() };
    if !change.unfollow.is_empty() {
        changed.unfollowed = names(app.notifier.unfollow(user, change.unfollow).await.map_err(unavailable)?);
    }
    if !change.follow.is_empty() {
        let followed = app.notifier.follow(user, change.follow).await.map_err(|error| match error {
            FollowError::TooMany { max } => {
                let detail = format!("a user may follow {max} channels (limits.max_follows_per_user)");
                Problem::new(Code::TooManyFollows, detail)
            }
            FollowError::Store(error) => unavailable(error),
        })?;
        changed.followed = names(followed);
    }
    Ok(Json(changed))
}
