//! `DELETE /v1/users/{user}`: forgetting somebody.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use tidings_hub::ConnectionFilter;
use tidings_protocol::{Channel, CloseReason};

use crate::{
    api::wire::{Them, unavailable},
    app::App,
    problem::{Code, Problem, ProblemBody},
    query::NoParameters,
};

/// What went.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Erased {
    /// Notifications that were in the inbox.
    notifications: usize,
    /// Events of the personal channel that history held.
    events: usize,
    /// Streams that were closed.
    closed: usize,
}

/// Erase a user: inbox, counts, follows, devices, preferences, what waits to be told or pushed, and the
/// history of the personal channel. Their streams are closed.
///
/// Whoever still has a token of theirs may come back, as a user that nothing is known of.
#[utoipa::path(
    delete, path = "/v1/users/{user}", operation_id = "erase_user", tag = "users", params(("user" = String, Path)),
    responses(
        (status = 200, body = Erased),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn erase(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    _: NoParameters,
) -> Result<Json<Erased>, Problem> {
    let notifications = app.notifier.erase_user(&user).await.map_err(unavailable)?;
    let events = app.broker().purge(&Channel::personal(&user)).await.map_err(|unavailable| {
        tracing::warn!(cause = %unavailable.cause, "a user's channel could not be purged");
        Problem::new(Code::BrokerUnavailable, "the user's channel could not be purged; try again").retry_after(1)
    })?;
    // Last, or a stream that comes back meanwhile begins with what is then erased.
    let filter = ConnectionFilter { user: Some(user.clone()), ..ConnectionFilter::default() };
    let closed = app.streams.hub.close_all(&filter, CloseReason::Kicked);
    tracing::info!(notifications, events, closed, "a user was erased");
    Ok(Json(Erased { notifications, events, closed }))
}
