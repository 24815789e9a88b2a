//! Long-poll: the same stream, a request at a time.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_core::stream::{Item, Stream};
use tidings_hub::Format;
use tidings_protocol::CloseReason;
use tokio::time::{Instant, timeout_at};

use crate::{
    metrics::{Metrics, ResumeOutcome},
    transport::envelope,
};

/// Events of one answer, about: what has been handed over is never cut.
const ANSWER_EVENTS: usize = 1000;

/// What a request is served with.
pub struct LongPoll {
    /// The stream.
    pub stream: Stream,
    /// What the client came with, empty if with nothing: it stays there if it is told nothing else.
    pub own_cursor: String,
    /// How long the request is held.
    pub held: Duration,
    /// When the token behind it ends.
    pub expires_in: Option<Duration>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

/// An answer.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Answer {
    /// The events since the cursor, in order.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// What to come back with, as `last_event_id`.
    cursor: String,
    /// What history no longer holds.
    gaps: Vec<GapBody>,
}

/// A stretch of history that cannot be delivered.
#[derive(Serialize, utoipa::ToSchema)]
pub struct GapBody {
    /// Of these channels.
    channels: Vec<String>,
    /// Why: `evicted`, `expired`, `restart`, `epoch` or `unusable`.
    reason: &'static str,
}

/// Holds the request until there is something, or its time is over.
pub async fn respond(poll: LongPoll) -> Response {
    let LongPoll { mut stream, own_cursor, held, expires_in, metrics } = poll;
    let is_resume = !own_cursor.is_empty();
    // What was permitted by a token must not go on after it.
    let (held, at_deadline) = match expires_in {
        Some(left) if left < held => (left, CloseReason::TokenExpired),
        _ => (held, CloseReason::ClientClosed),
    };
    let deadline = Instant::now() + held;
    let mut answer = Answer { events: Vec::new(), cursor: own_cursor, gaps: Vec::new() };
    let mut items = Vec::new();
    let mut end = CloseReason::ClientClosed;
    // An inbox's unread ones are not cut in two: a client cannot say which of them it has.
    while answer.events.len() < ANSWER_EVENTS || stream.is_replaying_unread() {
        let has_news = !answer.events.is_empty() || !answer.gaps.is_empty();
        if has_news && stream.is_live() {
            break;
        }
        match timeout_at(deadline, stream.next(&mut items)).await {
            Err(_elapsed) => {
                end = at_deadline;
                break;
            }
            // The client comes back with its cursor, to this node or another.
            Ok(Err(reason)) => {
                end = reason;
                break;
            }
            Ok(Ok(())) => {}
        }
        for item in items.drain(..) {
            match item {
                Item::Connected { .. } => {}
                Item::Gap { channels, reason, .. } => {
                    let channels = channels.iter().map(ToString::to_string).collect();
                    answer.gaps.push(GapBody { channels, reason: reason.as_str() });
                }
                Item::Replayed { logged, cursor } => {
                    answer.events.extend(envelope(&Format::Json.encode(cursor.as_ref(), &logged)))
                }
                Item::Live(frame) => answer.events.extend(envelope(frame.bytes(Format::Json))),
            }
        }
        if !stream.is_replaying_unread() {
            answer.cursor = stream.cursor().to_string();
        }
    }
    if is_resume {
        metrics.resumed(if answer.gaps.is_empty() { ResumeOutcome::Complete } else { ResumeOutcome::Gap });
    }
    stream.subscription().ended(end);
    // The next request may have the same URL.
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(answer)).into_response()
}
