//! `POST /v1/me/ack`: a client's word that it has notifications, so that they need not be pushed.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use tidings_core::notifications::Ack;
use tidings_protocol::me::AckBody;

use crate::{
    api::wire::{JsonBody, Me, invalid_body, unavailable},
    app::App,
    problem::{Problem, ProblemBody},
};

/// How many deliveries were open.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Acknowledged {
    /// How many.
    acknowledged: usize,
}

/// What a client has: exactly one of these.
#[derive(utoipa::ToSchema)]
#[schema(as = Ack)]
#[allow(dead_code, reason = "it describes what tidings_protocol::me reads")]
struct AckSchema {
    /// This notification.
    id: Option<String>,
    /// All that its stream brought up to here: the `id:` of the last event.
    cursor: Option<String>,
}

/// Acknowledge notifications: they are not pushed to devices.
///
/// Behind a proxy the server cannot see whether the client's machine has received what it was sent, so a
/// client that wants to be spared the push says so. A stream that comes back with a cursor says it by that.
#[utoipa::path(
    post, path = "/v1/me/ack", operation_id = "acknowledge_notifications", tag = "inbox", request_body = AckSchema,
    responses(
        (status = 200, body = Acknowledged),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn acknowledge(
    State(app): State<Arc<App>>,
    Me(user): Me,
    JsonBody(body): JsonBody,
) -> Result<Json<Acknowledged>, Problem> {
    let ack = match AckBody::parse(&body).map_err(invalid_body)? {
        AckBody::Id(id) => Ack::Id(id),
        AckBody::Cursor(cursor) => Ack::Cursor(cursor),
    };
    let acknowledged = app.notifier.acknowledge(&user, ack).await.map_err(unavailable)?;
    Ok(Json(Acknowledged { acknowledged }))
}
