//! `/v1/channels/{channel}`: what history holds.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_core::{
    Principal,
    ports::{HistoryEntry, HistoryFrom, HistoryRequest, Unavailable},
};
use tidings_hub::Format;
use tidings_protocol::{Channel, Cursor, Position, limits::POSITION_MAX};

use crate::{
    app::App,
    caller::{Caller, administer, denied},
    path::PathText,
    problem::{Code, Problem, ProblemBody},
    query::{NoParameters, Query},
    settings::Settings,
    transport::envelope,
};

/// A channel.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ChannelBody {
    /// Its name.
    channel: String,
    /// Streams of it on this node.
    subscribers: usize,
    /// What history holds of it.
    history: HistoryBounds,
}

/// What history holds of a channel.
#[derive(Serialize, utoipa::ToSchema)]
pub struct HistoryBounds {
    /// How many events.
    events: usize,
    /// The id of the oldest.
    oldest: Option<String>,
    /// The id of the newest.
    newest: Option<String>,
}

/// Events of a channel.
#[derive(Serialize, utoipa::ToSchema)]
pub struct HistoryBody {
    /// In order, oldest first.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// The `after` of the next page; null at the end.
    next: Option<String>,
    /// Whether nothing is missing between `after` and the first event.
    complete: bool,
}

/// How many events went.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PurgeBody {
    /// How many events went.
    purged: usize,
}

/// See a channel: its subscribers on this node and the bounds of its history.
#[utoipa::path(
    get, path = "/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path)),
    responses(
        (status = 200, body = ChannelBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn channel(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(channel): PathText,
) -> Result<Json<ChannelBody>, Problem> {
    let channel = readable(&app, &caller.principal, &channel)?;
    let state = app.broker().channel(&channel).await.map_err(unavailable)?;
    Ok(Json(ChannelBody {
        subscribers: app.streams.hub.listener_count(&channel),
        channel: channel.to_string(),
        history: HistoryBounds {
            events: state.history_len,
            oldest: state.oldest.map(|id| id.to_string()),
            newest: state.newest.map(|id| id.to_string()),
        },
    }))
}

/// Read a channel's history, oldest first.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/history", tag = "channels",
    params(
        ("channel" = String, Path),
        ("after" = Option<String>, Query, description = "An event id or a cursor; from the oldest if left out"),
        ("limit" = Option<usize>, Query, description = "Events of the page; 100 if left out"),
    ),
    responses(
        (status = 200, body = HistoryBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn history(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(channel): PathText,
    RawQuery(query): RawQuery,
) -> Result<Json<HistoryBody>, Problem> {
    let channel = readable(&app, &caller.principal, &channel)?;
    let settings = app.settings();
    let query = Query::parse(query.as_deref(), &["after", "limit"])?;
    let limit =
        query.number("limit", 1..=settings.limits.history_page)?.unwrap_or(100.min(settings.limits.history_page));
    let partition = app.broker().partition_of(&channel);
    let from = match query.one("after")? {
        None => HistoryFrom::Last(vec![usize::MAX]),
        Some(text) => {
            let cursor = text.parse::<Cursor>().ok().and_then(|cursor| cursor.get(partition));
            HistoryFrom::Cursor(cursor.ok_or_else(|| {
                Problem::new(Code::InvalidQuery, "after: accepted is an event id or a cursor that this server issued")
            })?)
        }
    };
    let request = HistoryRequest {
        partition,
        channels: [channel].into(),
        from,
        // All that there is. The node's own place in the log may be behind what a publisher has just been
        // told is there.
        through: Position(POSITION_MAX),
        // A gap is an entry of its own.
        limit: limit + 1,
    };
    let page = app.broker().history(request).await.map_err(unavailable)?;
    let mut complete = true;
    let mut events = Vec::with_capacity(page.entries.len());
    let mut last = None;
    let mut has_more = page.next.is_some();
    for entry in page.entries {
        match entry {
            HistoryEntry::Gap { .. } => complete = false,
            HistoryEntry::Event(_) if events.len() == limit => has_more = true,
            HistoryEntry::Event(logged) => {
                let id = logged.id();
                events.extend(envelope(&Format::Json.encode(&Cursor::from(id), &logged)));
                last = Some(id);
            }
        }
    }
    let next = last.filter(|_| has_more).map(|id| id.to_string());
    Ok(Json(HistoryBody { events, next, complete }))
}

/// Forget a channel's history. Clients that come back from before get a `gap`.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}/history", tag = "channels", params(("channel" = String, Path)),
    responses(
        (status = 200, body = PurgeBody),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn purge(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PathText(channel): PathText,
) -> Result<Json<PurgeBody>, Problem> {
    administer(&app, &caller.principal)?;
    let channel = parse(&channel)?;
    let purged = app.broker().purge(&channel).await.map_err(unavailable)?;
    tracing::info!(%channel, purged, "history was purged");
    Ok(Json(PurgeBody { purged }))
}

fn parse(name: &str) -> Result<Channel, Problem> {
    Channel::parse(name).map_err(|error| Problem::new(Code::InvalidPath, format!("channel: {error}")))
}

fn readable(app: &App, principal: &Principal, name: &str) -> Result<Channel, Problem> {
    let channel = parse(name)?;
    let settings: Arc<Settings> = app.settings();
    principal
        .may_subscribe(&channel, &app.streams.namespaces.load())
        .map_err(|refusal| denied(principal, &refusal, &settings))?;
    Ok(channel)
}

fn unavailable(unavailable: Unavailable) -> Problem {
    tracing::warn!(cause = %unavailable.cause, "history could not be read");
    Problem::new(Code::BrokerUnavailable, "the log cannot be read now").retry_after(1)
}
