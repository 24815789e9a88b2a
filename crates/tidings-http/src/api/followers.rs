//! `POST /v1/channels/{channel}/followers`: by backends, for many users at once.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use tidings_protocol::{
    UserId,
    me::{FollowersBody, FollowsBody},
};

use crate::{
    api::wire::{JsonBody, invalid_body, invalid_path, unavailable},
    app::App,
    caller::{Caller, administer},
    path::PathText,
    problem::{Problem, ProblemBody},
};

/// What has changed. Who followed the channel, or did not, before is not listed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FollowersChanged {
    /// Who follows it from now on.
    followed: Vec<String>,
    /// Who does not any more.
    unfollowed: Vec<String>,
    /// Who was passed over, because they follow as many channels as a user may
    /// (`limits.max_follows_per_user`).
    over_limit: Vec<String>,
}

/// Up to 1,000 users in all.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "it describes what tidings_protocol::me reads")]
struct FollowersChange {
    /// Who is to follow it from now on.
    follow: Option<Vec<String>>,
    /// Who is not to any more.
    unfollow: Option<Vec<String>>,
}

/// Let up to 1,000 users follow a channel, or not follow it any more: for what an application's own tables say.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/followers", operation_id = "change_followers", tag = "channels", params(("channel" = String, Path)),
    request_body = FollowersChange,
    responses(
        (status = 200, body = FollowersChanged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(channel): PathText,
    JsonBody(body): JsonBody,
) -> Result<Json<FollowersChanged>, Problem> {
    administer(&app, &caller.principal)?;
    let channel = FollowsBody::followable(&channel).map_err(invalid_path)?;
    let FollowersBody { follow, unfollow } = FollowersBody::parse(&body).map_err(invalid_body)?;
    let changed = app.notifier.change_followers(channel, follow, unfollow).await.map_err(unavailable)?;
    let names = |users: Vec<UserId>| users.iter().map(ToString::to_string).collect();
    Ok(Json(FollowersChanged {
        followed: names(changed.followed),
        unfollowed: names(changed.unfollowed),
        over_limit: names(changed.over_limit),
    }))
}
