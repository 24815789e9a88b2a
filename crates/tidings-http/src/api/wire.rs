//! What several calls of inboxes have in common: whose they are, how their bodies are read, and the JSON forms.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts as _, Request},
};
use tidings_core::ports::store::StoreError;
use tidings_protocol::{UserId, body::BodyError};

use crate::{
    app::App,
    body::{self, MediaType},
    caller::{Caller, administer, denied},
    problem::{Code, Problem},
    query::NoParameters,
};

/// Room for the bodies of the calls on inboxes: a thousand channels of the longest name, escaped.
const BODY_MAX_BYTES: usize = 512 * 1024;

/// A notification in an inbox, as it is also told by `event: notification`.
#[derive(utoipa::ToSchema)]
#[schema(as = Notification)]
#[allow(dead_code, reason = "it describes tidings_protocol::notification::NotificationBody")]
pub(crate) struct NotificationSchema {
    /// Its id. Later ones have greater ids, as numbers.
    #[schema(example = "17")]
    id: String,
    /// What sort it is.
    #[schema(example = "festival.added")]
    kind: String,
    /// One line.
    title: String,
    /// More than one line.
    body: Option<String>,
    /// Where a click leads.
    url: Option<String>,
    /// What the application makes of it.
    data: Option<serde_json::Value>,
    /// `unread`, `read` or `archived`.
    state: String,
    /// Whether it was in a list that the user has looked at.
    seen: bool,
    /// Replaces an unread one with the same value.
    collapse: Option<String>,
    /// When it was accepted, in milliseconds since the epoch.
    created_at: u64,
    /// When it leaves the inbox.
    expires_at: u64,
}

/// How many notifications a user has, exactly.
#[derive(utoipa::ToSchema)]
#[schema(as = Counts)]
#[allow(dead_code, reason = "it describes tidings_protocol::notification::CountsBody")]
pub(crate) struct CountsSchema {
    /// Not read.
    unread: u64,
    /// Not read and not seen either.
    unseen: u64,
    /// By kind; kinds without any are left out.
    kinds: std::collections::BTreeMap<String, KindCountsSchema>,
}

/// How many notifications of one kind.
#[derive(utoipa::ToSchema)]
#[schema(as = KindCounts)]
#[allow(dead_code, reason = "it describes tidings_protocol::notification::KindCountsBody")]
pub(crate) struct KindCountsSchema {
    /// Not read.
    unread: u64,
    /// Not read and not seen either.
    unseen: u64,
}

/// A request of the signed-in user, about themselves.
pub struct Me(pub UserId);

impl axum::extract::FromRequestParts<Arc<App>> for Me {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if let Some(user) = caller.principal.user() {
            return Ok(Self(user.clone()));
        }
        match &caller.principal {
            tidings_core::Principal::Anonymous => {
                let cause = "this is about the signed-in user, and nobody is signed in".to_owned();
                Err(denied(&caller.principal, &tidings_core::Denied { cause }, &app.settings()))
            }
            tidings_core::Principal::ApiKey { .. } | tidings_core::Principal::Token(_) => Err(Problem::new(
                Code::UserRequired,
                "this takes a token with a `sub`, whose user it is about; backends have /v1/users/{user}/…",
            )),
        }
    }
}

/// A request of a backend or an operator about a user, whom the path names before anything else.
pub struct Them {
    /// The user.
    pub user: UserId,
    /// What else the path names, in order.
    pub rest: Vec<String>,
}

impl axum::extract::FromRequestParts<Arc<App>> for Them {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        administer(app, &caller.principal)?;
        let invalid = |detail: String| Problem::new(Code::InvalidPath, detail);
        let mut names = match axum::extract::Path::<Vec<String>>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(names)) => names.into_iter(),
            Err(_) => return Err(invalid("accepted is UTF-8, percent-encoded where it has to be".to_owned())),
        };
        let user =
            UserId::parse(&names.next().unwrap_or_default()).map_err(|error| invalid(format!("user: {error}")))?;
        Ok(Self { user, rest: names.collect() })
    }
}

/// The JSON body of a call without query parameters.
pub struct JsonBody(pub Bytes);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let (mut parts, body): (_, Body) = request.into_parts();
        NoParameters::from_request_parts(&mut parts, app).await?;
        MediaType::of(&parts.headers, &[MediaType::Json])?;
        Ok(Self(body::read(body, BODY_MAX_BYTES, &app.settings()).await?))
    }
}

/// The refusal of a body.
pub(crate) fn invalid_body(error: BodyError) -> Problem {
    Problem::new(Code::InvalidBody, error)
}

/// The refusal of a name in a path.
pub(crate) fn invalid_path(error: BodyError) -> Problem {
    Problem::new(Code::InvalidPath, error)
}

/// What to say when the store cannot do it.
pub(crate) fn unavailable(error: StoreError) -> Problem {
    tracing::warn!(cause = %error.cause, "the store could not be used");
    let detail = "the store of notifications cannot be used now; whether a change took effect is unknown";
    Problem::new(Code::StoreUnavailable, detail).retry_after(1)
}
