//! `/v1/me/preferences`: what a user wants of each kind of notification; by backends too.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Serialize;
use tidings_core::notifications::{KindPreference, Preferences};
use tidings_protocol::{
    UserId,
    me::{PreferenceBody, PreferencesBody},
};

use crate::{
    api::wire::{JsonBody, Me, Them, invalid_body, unavailable},
    app::App,
    problem::{Problem, ProblemBody},
    query::NoParameters,
};

/// What a user wants, by kind.
#[derive(utoipa::ToSchema)]
#[schema(as = Preferences)]
#[allow(dead_code, reason = "it describes `Answer`")]
pub struct PreferencesSchema {
    /// Kinds that are not listed are told live and pushed. Up to 200.
    kinds: BTreeMap<String, PreferenceSchema>,
}

/// What a user wants of one kind. The inbox has it in any case, unread and counted.
#[derive(utoipa::ToSchema)]
#[schema(as = Preference)]
#[allow(dead_code, reason = "it describes tidings_protocol::me::PreferenceBody")]
pub struct PreferenceSchema {
    /// Whether open streams are told; `true` if left out.
    live: Option<bool>,
    /// Whether devices are; `true` if left out.
    push: Option<bool>,
    /// Neither is, until then, in milliseconds since the epoch.
    mute_until: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct Answer {
    kinds: BTreeMap<String, PreferenceBody>,
}

/// See what one wants of each kind.
#[utoipa::path(
    get, path = "/v1/me/preferences", operation_id = "get_my_preferences", tag = "inbox",
    responses(
        (status = 200, body = PreferencesSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn mine(State(app): State<Arc<App>>, Me(user): Me, _: NoParameters) -> Result<Json<Answer>, Problem> {
    see(&app, &user).await
}

/// See what a user wants of each kind.
#[utoipa::path(
    get, path = "/v1/users/{user}/preferences", operation_id = "get_user_preferences", tag = "users", params(("user" = String, Path)),
    responses(
        (status = 200, body = PreferencesSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    _: NoParameters,
) -> Result<Json<Answer>, Problem> {
    see(&app, &user).await
}

async fn see(app: &App, user: &UserId) -> Result<Json<Answer>, Problem> {
    Ok(Json(answer(app.notifier.store.preferences(user).await.map_err(unavailable)?)))
}

fn answer(preferences: Preferences) -> Answer {
    let body =
        |wanted: KindPreference| PreferenceBody { live: wanted.live, push: wanted.push, mute_until: wanted.mute_until };
    Answer { kinds: preferences.into_iter().map(|(kind, wanted)| (kind.as_str().to_owned(), body(wanted))).collect() }
}

/// Say what one wants of each kind. It replaces what was said before.
#[utoipa::path(
    put, path = "/v1/me/preferences", operation_id = "put_my_preferences", tag = "inbox", request_body = PreferencesSchema,
    responses(
        (status = 200, body = PreferencesSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    JsonBody(body): JsonBody,
) -> Result<Json<Answer>, Problem> {
    put(&app, &user, &body).await
}

/// Say what a user wants of each kind. It replaces what was said before.
#[utoipa::path(
    put, path = "/v1/users/{user}/preferences", operation_id = "put_user_preferences", tag = "users", params(("user" = String, Path)),
    request_body = PreferencesSchema,
    responses(
        (status = 200, body = PreferencesSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put_theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    JsonBody(body): JsonBody,
) -> Result<Json<Answer>, Problem> {
    put(&app, &user, &body).await
}

async fn put(app: &App, user: &UserId, body: &[u8]) -> Result<Json<Answer>, Problem> {
    let wanted = PreferencesBody::parse(body).map_err(invalid_body)?;
    let of_kind =
        |body: PreferenceBody| KindPreference { live: body.live, push: body.push, mute_until: body.mute_until };
    let preferences: Preferences = wanted.kinds.into_iter().map(|(kind, body)| (kind, of_kind(body))).collect();
    app.notifier.store.set_preferences(user, &preferences).await.map_err(unavailable)?;
    Ok(Json(answer(preferences)))
}
