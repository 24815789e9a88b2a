//! `/v1/me/devices`: where a user is pushed to; by backends too. No answer shows a token or a key.

use std::sync::Arc;

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Serialize;
use tidings_core::ports::store::{Device, DeviceError, PushTarget, Put};
use tidings_protocol::{
    UserId,
    me::{DeviceBody, device_id},
};

use crate::{
    api::wire::{JsonBody, Me, Them, invalid_body, invalid_path, unavailable},
    app::App,
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::NoParameters,
};

/// A device.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Device)]
pub struct DeviceAnswer {
    /// Its name, of the application's choice.
    id: String,
    /// `fcm` or `web_push`.
    provider: &'static str,
    /// When it was put last, in milliseconds since the epoch.
    updated_at: u64,
    /// Why it is not pushed to until it is put again, if it is not.
    quarantined: Option<String>,
    /// Whether this server is configured to push by that provider.
    configured: bool,
}

/// A user's devices.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Devices {
    /// By name.
    devices: Vec<DeviceAnswer>,
}

/// Whether there was such a device.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeviceRemoved {
    /// Whether there was.
    removed: bool,
}

/// A push target: `provider` `fcm` with `token` or `fid`, or `web_push` with `subscription`.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceTarget)]
#[allow(dead_code, reason = "it describes what tidings_protocol::me reads")]
struct TargetSchema {
    /// `fcm` or `web_push`.
    #[schema(example = "fcm")]
    provider: String,
    /// FCM's registration token.
    token: Option<String>,
    /// A Firebase installation id.
    fid: Option<String>,
    /// What a browser's `PushSubscription` says as JSON: `{"endpoint":"…","keys":{"p256dh":"…","auth":"…"}}`.
    #[schema(value_type = Option<Object>)]
    subscription: Option<serde_json::Value>,
}

/// List one's devices.
#[utoipa::path(
    get, path = "/v1/me/devices", operation_id = "list_my_devices", tag = "inbox",
    responses(
        (status = 200, body = Devices),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn mine(State(app): State<Arc<App>>, Me(user): Me, _: NoParameters) -> Result<Json<Devices>, Problem> {
    list(&app, &user).await
}

/// List a user's devices.
#[utoipa::path(
    get, path = "/v1/users/{user}/devices", operation_id = "list_user_devices", tag = "users", params(("user" = String, Path)),
    responses(
        (status = 200, body = Devices),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    _: NoParameters,
) -> Result<Json<Devices>, Problem> {
    list(&app, &user).await
}

async fn list(app: &App, user: &UserId) -> Result<Json<Devices>, Problem> {
    let devices = app.notifier.store.devices(user).await.map_err(unavailable)?;
    Ok(Json(Devices { devices: devices.into_iter().map(|device| answer(app, device)).collect() }))
}

fn answer(app: &App, device: Device) -> DeviceAnswer {
    let provider = device.target.provider();
    DeviceAnswer {
        id: device.id,
        provider,
        updated_at: device.updated_at,
        quarantined: device.quarantine,
        configured: app.push.serves(provider),
    }
}

/// Add or replace a device.
///
/// A token or subscription that was another user's is theirs no more: a phone has one owner.
#[utoipa::path(
    put, path = "/v1/me/devices/{device}", operation_id = "put_my_device", tag = "inbox", params(("device" = String, Path)), request_body = TargetSchema,
    responses(
        (status = 200, description = "Replaced", body = DeviceAnswer),
        (status = 201, description = "Added", body = DeviceAnswer),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn put_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    PathText(device): PathText,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<DeviceAnswer>), Problem> {
    put(&app, &user, &device, &body).await
}

/// Add or replace a device of a user.
#[utoipa::path(
    put, path = "/v1/users/{user}/devices/{device}", operation_id = "put_user_device", tag = "users",
    params(("user" = String, Path), ("device" = String, Path)), request_body = TargetSchema,
    responses(
        (status = 200, description = "Replaced", body = DeviceAnswer),
        (status = 201, description = "Added", body = DeviceAnswer),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn put_theirs(
    State(app): State<Arc<App>>,
    Them { user, rest }: Them,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<DeviceAnswer>), Problem> {
    put(&app, &user, &rest.concat(), &body).await
}

async fn put(app: &App, user: &UserId, device: &str, body: &[u8]) -> Result<(StatusCode, Json<DeviceAnswer>), Problem> {
    let id = device_id(device).map_err(invalid_path)?;
    let target = match DeviceBody::parse(body).map_err(invalid_body)? {
        DeviceBody::FcmToken(token) => PushTarget::FcmToken(token),
        DeviceBody::FcmFid(fid) => PushTarget::FcmFid(fid),
        DeviceBody::WebPush { endpoint, p256dh, auth } => PushTarget::WebPush { endpoint, p256dh, auth },
    };
    app.push.check(&target).map_err(|detail| Problem::new(Code::InvalidBody, detail))?;
    let device = Device { id, target, updated_at: app.clock().now(), quarantine: None };
    let max = app.settings().limits.devices_per_user;
    let put = app.notifier.store.put_device(user, device.clone(), max).await.map_err(|error| match error {
        DeviceError::TooMany { max } => {
            let detail = format!("a user may have {max} devices (limits.max_devices_per_user)");
            Problem::new(Code::TooManyDevices, detail)
        }
        DeviceError::Store(error) => unavailable(error),
    })?;
    let status = match put {
        Put::Created => StatusCode::CREATED,
        Put::Replaced => StatusCode::OK,
    };
    Ok((status, Json(answer(app, device))))
}

/// Remove a device.
#[utoipa::path(
    delete, path = "/v1/me/devices/{device}", operation_id = "remove_my_device", tag = "inbox", params(("device" = String, Path)),
    responses(
        (status = 200, body = DeviceRemoved),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn remove_mine(
    State(app): State<Arc<App>>,
    Me(user): Me,
    _: NoParameters,
    PathText(device): PathText,
) -> Result<Json<DeviceRemoved>, Problem> {
    remove(&app, &user, &device).await
}

/// Remove a device of a user.
#[utoipa::path(
    delete, path = "/v1/users/{user}/devices/{device}", operation_id = "remove_user_device", tag = "users",
    params(("user" = String, Path), ("device" = String, Path)),
    responses(
        (status = 200, body = DeviceRemoved),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn remove_theirs(
    State(app): State<Arc<App>>,
    Them { user, rest }: Them,
    _: NoParameters,
) -> Result<Json<DeviceRemoved>, Problem> {
    remove(&app, &user, &rest.concat()).await
}

async fn remove(app: &App, user: &UserId, device: &str) -> Result<Json<DeviceRemoved>, Problem> {
    let id = device_id(device).map_err(invalid_path)?;
    let removed = app.notifier.store.remove_device(user, &id).await.map_err(unavailable)?;
    Ok(Json(DeviceRemoved { removed }))
}
