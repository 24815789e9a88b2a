//! `/v1/me/notifications`: a user's inbox and its counts; by backends, to be looked at.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use tidings_core::{
    notifications::{
        InboxEntry, State as EntryState,
        events::{counts_body, notification_body},
    },
    ports::store::{InboxQuery, Mark, Which},
};
use tidings_protocol::{
    UserId,
    me::MarkBody,
    notification::{CountsBody, NotificationBody},
};

use crate::{
    api::wire::{CountsSchema, JsonBody, Me, NotificationSchema, Them, invalid_body, unavailable},
    app::App,
    problem::{Problem, ProblemBody},
    query::{NoParameters, PageSize, Query},
};

/// A page of an inbox.
#[derive(utoipa::ToSchema)]
#[schema(as = Inbox)]
#[allow(dead_code, reason = "it describes `Page`, which borrows")]
pub struct InboxSchema {
    /// Newest first.
    notifications: Vec<NotificationSchema>,
    /// The `before` of the next page; null at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct Page<'a> {
    notifications: Vec<NotificationBody<'a>>,
    next: Option<String>,
}

/// Which notifications: exactly one of these.
#[derive(utoipa::ToSchema)]
#[schema(as = Which)]
#[allow(dead_code, reason = "it describes what tidings_protocol::me reads")]
struct WhichSchema {
    /// These, up to 1,000. Those that are not in the inbox are passed over.
    ids: Option<Vec<String>>,
    /// This one and all older ones.
    through: Option<String>,
    /// `true`: all.
    all: Option<bool>,
}

/// What a mark did.
#[derive(utoipa::ToSchema)]
#[schema(as = Marked)]
#[allow(dead_code, reason = "it describes `Marked`")]
pub struct MarkedSchema {
    /// How many it changed.
    changed: usize,
    /// The counts after it.
    counts: CountsSchema,
}

#[derive(Serialize)]
struct Marked {
    changed: usize,
    counts: CountsBody,
}

/// Read one's inbox, newest first.
#[utoipa::path(
    get, path = "/v1/me/notifications", operation_id = "list_my_notifications", tag = "inbox",
    params(
        ("state" = Option<String>, Query, description = "`unread`, `read` or `archived`; `all`, as if left out: all but the archived"),
        ("before" = Option<String>, Query, description = "Only those older than this one: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Notifications of the page, up to 100; 50 if left out"),
    ),
    responses(
        (status = 200, body = InboxSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn mine(State(app): State<Arc<App>>, Me(user): Me, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    inbox(&app, &user, query.as_deref()).await
}

/// Read a user's inbox, newest first. Nothing is marked by it.
#[utoipa::path(
    get, path = "/v1/users/{user}/notifications", operation_id = "list_user_notifications", tag = "users",
    params(
        ("user" = String, Path),
        ("state" = Option<String>, Query, description = "`unread`, `read` or `archived`; `all`, as if left out: all but the archived"),
        ("before" = Option<String>, Query, description = "Only those older than this one: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "Notifications of the page, up to 100; 50 if left out"),
    ),
    responses(
        (status = 200, body = InboxSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn theirs(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    inbox(&app, &user, query.as_deref()).await
}

async fn inbox(app: &App, user: &UserId, query: Option<&str>) -> Result<Response, Problem> {
    let query = Query::parse(query, &["state", "before", "limit"])?;
    let state = query.parsed("state", |word| match word {
        "all" => Ok(None),
        _ => {
            let found = EntryState::ALL.into_iter().find(|state| state.as_str() == word);
            found.map(Some).ok_or("accepted are unread, read, archived and all")
        }
    })?;
    let state = state.flatten();
    let before = query.parsed("before", |id| {
        id.parse().map_err(|()| "accepted is the id of a notification, such as `next` of a page")
    })?;
    let limit = query.limit(PageSize::INBOX)?;
    let asked = InboxQuery { state, before, limit };
    let page = app.notifier.store.inbox(user, asked, app.clock().now()).await.map_err(unavailable)?;
    let body = |entry| {
        let InboxEntry { notification, state, is_seen, .. }: &InboxEntry = entry;
        notification_body(notification, *state, *is_seen)
    };
    let notifications = page.entries.iter().map(body).collect();
    Ok(Json(Page { notifications, next: page.next.map(|id| id.to_string()) }).into_response())
}

/// Count one's notifications, exactly.
#[utoipa::path(
    get, path = "/v1/me/notifications/counts", operation_id = "count_my_notifications", tag = "inbox",
    responses(
        (status = 200, body = CountsSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn my_counts(
    State(app): State<Arc<App>>,
    Me(user): Me,
    _: NoParameters,
) -> Result<Json<CountsBody>, Problem> {
    counts(&app, &user).await
}

/// Count a user's notifications, exactly.
#[utoipa::path(
    get, path = "/v1/users/{user}/notifications/counts", operation_id = "count_user_notifications", tag = "users", params(("user" = String, Path)),
    responses(
        (status = 200, body = CountsSchema),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn their_counts(
    State(app): State<Arc<App>>,
    Them { user, .. }: Them,
    _: NoParameters,
) -> Result<Json<CountsBody>, Problem> {
    counts(&app, &user).await
}

async fn counts(app: &App, user: &UserId) -> Result<Json<CountsBody>, Problem> {
    let counts = app.notifier.store.counts(user, app.clock().now()).await.map_err(unavailable)?;
    Ok(Json(counts_body(&counts)))
}

/// The four marks, each a call of its own.
macro_rules! marks {
    ($($name:ident = $mark:ident, $path:literal, $id:literal, $doc:literal;)*) => {$(
        #[doc = $doc]
        ///
        /// The user's open streams are told the new counts by `event: unread`.
        #[utoipa::path(
            post, path = $path, operation_id = $id, tag = "inbox", request_body = WhichSchema,
            responses(
                (status = 200, body = MarkedSchema),
                (status = "default", body = ProblemBody, content_type = "application/problem+json"),
            ),
        )]
        pub async fn $name(State(app): State<Arc<App>>, me: Me, body: JsonBody) -> Result<Response, Problem> {
            mark(&app, &me.0, &body, Mark::$mark).await
        }
    )*};
}

marks! {
    read = Read, "/v1/me/notifications/read", "mark_read",
        "Mark notifications as read. They need not be pushed any more.";
    unread = Unread, "/v1/me/notifications/unread", "mark_unread",
        "Mark notifications as unread. Archived ones leave the archive.";
    archive = Archive, "/v1/me/notifications/archive", "mark_archived",
        "Put notifications away: they are in no list but that of the archive.";
    seen = Seen, "/v1/me/notifications/seen", "mark_seen",
        "Mark notifications as seen: they were in a list that the user has looked at.";
}

async fn mark(app: &App, user: &UserId, body: &JsonBody, mark: Mark) -> Result<Response, Problem> {
    let which = match MarkBody::parse(&body.0).map_err(invalid_body)? {
        MarkBody::Ids(ids) => Which::Ids(ids),
        MarkBody::Through(id) => Which::Through(id),
        MarkBody::All => Which::All,
    };
    let marked = app.notifier.mark(user, which, mark).await.map_err(unavailable)?;
    Ok(Json(Marked { changed: marked.changed, counts: counts_body(&marked.counts) }).into_response())
}
