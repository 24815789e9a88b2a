//! `/v1/notifications`: sending messages to people, and what became of them.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_core::{
    notifications::{Audience, NotificationId},
    ports::{AcceptError, store::Report},
};
use tidings_protocol::{
    body::BodyError,
    notify::{Notify, NotifyError, NotifyLimits},
};

use crate::{
    api::wire::unavailable,
    app::App,
    body::{self, MediaType},
    caller::{Caller, administer},
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::NoParameters,
};

/// Room in a body besides its data: a thousand users of the longest id, and the texts, all escaped.
const BODY_SPARE_BYTES: usize = 512 * 1024;

/// The most bytes that JSON text may spend on one byte of compact data: `\u0041` for `A`.
const ESCAPE_FACTOR: usize = 6;

/// The answer to a notification.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Accepted {
    /// Its id.
    #[schema(example = "17")]
    id: String,
    /// Whether an earlier request with the same key put it there.
    duplicate: bool,
}

/// One notification, as in `{"to":{"user":"42"},"title":"Hello"}`.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "it describes what tidings_protocol::notify reads")]
struct NotifyBody {
    /// Whom it is for.
    to: ToBody,
    /// What sort it is: preferences and counts go by it. 1 to 100 bytes of `A-Z a-z 0-9 _ - . : /`; `default` if left out.
    #[schema(example = "festival.added")]
    kind: Option<String>,
    /// One line, up to 500 bytes.
    title: String,
    /// Up to 4,096 bytes.
    body: Option<String>,
    /// Where a click leads: `http(s)://…`, or a path that begins with `/`. Up to 2,048 bytes.
    url: Option<String>,
    /// Any JSON value.
    data: Option<serde_json::Value>,
    /// Makes a repeated request harmless, for as long as the notification is kept.
    key: Option<String>,
    /// Seconds after which it is of no more use and leaves every inbox.
    expires_in: Option<u64>,
    /// `offline`: to the devices of those who are not known to have it in time. `always`, `never`.
    #[schema(example = "offline")]
    push: Option<String>,
    /// Replaces an unread one of the same user with the same value.
    collapse: Option<String>,
}

/// Exactly one of these.
#[derive(utoipa::ToSchema)]
#[schema(as = Recipients)]
#[allow(dead_code, reason = "it describes what tidings_protocol::notify reads")]
struct ToBody {
    /// One user.
    user: Option<String>,
    /// Up to 1,000 users.
    users: Option<Vec<String>>,
    /// Who follows this channel.
    followers_of: Option<String>,
    /// `true`: every user that there is or will be, until it expires.
    everyone: Option<bool>,
}

/// What became of a notification.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReportBody {
    /// Its id.
    id: String,
    /// What sort it is.
    kind: String,
    /// One line.
    title: String,
    /// More than one line.
    body: Option<String>,
    /// Where a click leads.
    url: Option<String>,
    /// What the application makes of it.
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
    /// Replaces an unread one with the same value.
    collapse: Option<String>,
    /// `offline`, `always` or `never`.
    push: &'static str,
    /// When it was accepted, in milliseconds since the epoch.
    created_at: u64,
    /// When it leaves every inbox.
    expires_at: u64,
    /// For whom it was: `users`, `followers_of` or `everyone`.
    audience: &'static str,
    /// The channel whose followers it was for.
    channel: Option<String>,
    /// Whether it is still being written out.
    fanning_out: bool,
    /// In how many inboxes it is or was; for everyone, of those who have looked.
    recipients: u64,
    /// How many have it by a stream, for certain.
    delivered_live: u64,
    /// How many have at least one push that a provider has taken.
    pushed: u64,
    /// How many have only pushes that were given up.
    failed: u64,
    /// How many have read it.
    read: u64,
    /// How many deliveries are still open.
    pending: u64,
}

/// Send a notification to users, to a channel's followers, or to everyone.
///
/// Answered once it is durable, with the inboxes and counts of users that are named. Those of followers are
/// written right afterwards; `fanning_out` of its report says until when.
#[utoipa::path(
    post, path = "/v1/notifications", operation_id = "send_notification", tag = "notifications", request_body = NotifyBody,
    responses(
        (status = 202, body = Accepted),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn notify(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    administer(&app, &caller.principal)?;
    let settings = app.settings();
    MediaType::of(&headers, &[MediaType::Json])?;
    let limits = NotifyLimits { data_max_bytes: settings.limits.data_max_bytes };
    let max_bytes = limits.data_max_bytes * ESCAPE_FACTOR + BODY_SPARE_BYTES;
    let body = body::read(body, max_bytes, &settings).await?;
    let notify = Notify::parse(&body, limits).map_err(refused)?;
    let accepted = app.notifier.notify(notify).await.map_err(|error| match error {
        AcceptError::KeyConflict => Problem::new(Code::KeyConflict, format!("key: {}", AcceptError::KeyConflict)),
        AcceptError::Store(error) => {
            tracing::warn!(cause = %error.cause, "a notification could not be stored");
            let detail = "the store cannot be written now; whether the notification was taken is unknown, and a \
                          `key` makes trying again safe";
            Problem::new(Code::StoreUnavailable, detail).retry_after(1)
        }
    })?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { id: accepted.id.to_string(), duplicate: accepted.is_duplicate })))
}

fn refused(error: NotifyError) -> Problem {
    let code = match &error {
        NotifyError::DataTooLarge { .. } => Code::DataTooLarge,
        NotifyError::Body(BodyError::NotAnObject(_) | BodyError::Json(_) | BodyError::Field { .. }) => {
            Code::InvalidBody
        }
    };
    Problem::new(code, error)
}

/// What became of a notification: how many have it, by which way, and who has read it.
#[utoipa::path(
    get, path = "/v1/notifications/{id}", operation_id = "get_notification_report", tag = "notifications", params(("id" = String, Path)),
    responses(
        (status = 200, body = ReportBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn report(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(id): PathText,
) -> Result<Json<ReportBody>, Problem> {
    administer(&app, &caller.principal)?;
    let not_found = || Problem::new(Code::NotFound, "there is no notification of this id, or it has expired");
    let id: NotificationId = id.parse().map_err(|()| not_found())?;
    let report = app.notifier.store.report(id, app.clock().now()).await.map_err(unavailable)?;
    Ok(Json(report_body(report.ok_or_else(not_found)?)))
}

fn report_body(report: Report) -> ReportBody {
    let (audience, channel) = match report.audience {
        Audience::Users => ("users", None),
        Audience::FollowersOf(channel) => ("followers_of", Some(channel.to_string())),
        Audience::Everyone => ("everyone", None),
    };
    let notification = report.notification;
    let content = notification.content;
    ReportBody {
        id: notification.id.to_string(),
        kind: content.kind.as_str().to_owned(),
        title: content.title,
        body: content.body,
        url: content.url,
        // It has been checked to be JSON on the way in.
        data: content.data.and_then(|data| RawValue::from_string(data.as_json().to_owned()).ok()),
        collapse: content.collapse,
        push: notification.push.as_str(),
        created_at: notification.created_at,
        expires_at: notification.expires_at,
        audience,
        channel,
        fanning_out: report.is_fanning_out,
        recipients: report.recipients,
        delivered_live: report.delivered_live,
        pushed: report.pushed,
        failed: report.failed,
        read: report.read,
        pending: report.pending,
    }
}
