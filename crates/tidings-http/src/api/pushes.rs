//! `/v1/pushes`: pushes that were given up, for operators.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;

use crate::{
    api::wire::unavailable,
    app::App,
    caller::{Caller, administer},
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::{NoParameters, PageSize, Query, cut},
};

/// A push that was given up.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadPush {
    /// Its id.
    id: String,
    /// The notification.
    notification: String,
    /// To whom.
    user: String,
    /// To which of their devices.
    device: String,
    /// `fcm` or `web_push`.
    provider: String,
    /// How often it was tried.
    attempts: u32,
    /// Why it failed last.
    cause: String,
    /// When it was given up, in milliseconds since the epoch.
    died_at: u64,
}

/// Pushes that were given up.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadPushes {
    /// Newest first.
    pushes: Vec<DeadPush>,
    /// The `before` of the next page; null at the end.
    next: Option<String>,
}

/// Whether the push is tried again.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PushRetried {
    /// It is.
    retried: bool,
}

/// List the pushes that were given up, newest first.
#[utoipa::path(
    get, path = "/v1/pushes/dead", operation_id = "list_dead_pushes", tag = "pushes",
    params(
        ("before" = Option<String>, Query, description = "Only those before this one: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Pushes of the page, up to 1000; 100 if left out"),
    ),
    responses(
        (status = 200, body = DeadPushes),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn dead(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<DeadPushes>, Problem> {
    administer(&app, &caller.principal)?;
    let query = Query::parse(query.as_deref(), &["before", "limit"])?;
    let before = query.number("before", 1..=i64::MAX)?;
    let limit = query.limit(PageSize::LIST)?;
    let mut found = app.notifier.store.dead_pushes(before, limit + 1).await.map_err(unavailable)?;
    let next = cut(&mut found, limit, |push| push.id.to_string());
    let pushes = found.into_iter().map(|push| DeadPush {
        id: push.id.to_string(),
        notification: push.notification.to_string(),
        user: push.user.to_string(),
        device: push.device,
        provider: push.provider,
        attempts: push.attempts,
        cause: push.cause,
        died_at: push.died_at,
    });
    Ok(Json(DeadPushes { pushes: pushes.collect(), next }))
}

/// Try a push that was given up again.
#[utoipa::path(
    post, path = "/v1/pushes/{id}/retry", operation_id = "retry_push", tag = "pushes", params(("id" = String, Path)),
    responses(
        (status = 200, body = PushRetried),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn retry(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(id): PathText,
) -> Result<Json<PushRetried>, Problem> {
    administer(&app, &caller.principal)?;
    let found = match id.parse() {
        Ok(id) => app.notifier.retry_push(id).await.map_err(unavailable)?,
        Err(_) => false,
    };
    match found {
        true => Ok(Json(PushRetried { retried: true })),
        false => Err(Problem::new(Code::NotFound, "no push that was given up has this id")),
    }
}
