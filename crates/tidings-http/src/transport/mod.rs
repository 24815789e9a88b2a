//! How a stream's items reach a client.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};
use tidings_hub::Transport;
use tidings_protocol::CloseReason;

use crate::{
    app::App,
    problem::{Code, Problem},
};

pub(crate) mod handoff;
pub mod long_poll;
pub mod sse;

/// What carries the stream that is asked for.
pub(crate) fn transport_of(headers: &HeaderMap) -> Result<Transport, Problem> {
    if headers.contains_key(header::UPGRADE) {
        return Err(Problem::new(
            Code::NotAcceptable,
            "upgrade: WebSocket is not in this version; accepted are SSE and long-poll",
        ));
    }
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<String> = accept
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .collect();
    let accepts = |names: &[&str]| ranges.iter().any(|range| names.contains(&range.as_str()));
    // Who accepts anything gets the stream, unless it names JSON.
    if accepts(&["text/event-stream"]) {
        Ok(Transport::Sse)
    } else if accepts(&["application/json"]) {
        Ok(Transport::LongPoll)
    } else if ranges.is_empty() || accepts(&["*/*", "text/*"]) {
        Ok(Transport::Sse)
    } else {
        Err(Problem::new(
            Code::NotAcceptable,
            "accept: there are text/event-stream (SSE) and application/json (long-poll)",
        ))
    }
}

/// Tells a client to come back later, in the words of its transport, if no stream can be had now.
pub(crate) fn turn_away(app: &App, headers: &HeaderMap) -> Option<Response> {
    let settings = app.settings();
    let is_full = app.streams.hub.connection_count() >= settings.limits.connections;
    let reason = match (app.is_draining(), is_full) {
        (true, _) => CloseReason::Drain,
        (false, true) => CloseReason::Overload,
        (false, false) => return None,
    };
    // Who asks for neither transport is refused for that.
    let transport = transport_of(headers).ok()?;
    app.streams.hub.counters().on_shed(transport, reason);
    // Longer than usual: coming back at once would not help.
    let retry_ms = settings.stream.random_retry_ms() * 5;
    let problem = match (transport, reason) {
        (Transport::Sse, reason) => return Some(sse::respond_ended(reason, retry_ms)),
        (Transport::LongPoll, CloseReason::Drain) => {
            Problem::new(Code::Draining, "this node is shutting down; come back, to another one")
        }
        (Transport::LongPoll, _) => Problem::new(Code::Overload, "this node takes no more streams now"),
    };
    Some(problem.retry_after(retry_ms.div_ceil(1000)).into_response())
}

/// The JSON that [`Format::Json`](tidings_hub::Format::Json) has encoded, to stand inside an answer.
pub(crate) fn envelope(json: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    // What the encoder wrote is JSON in UTF-8, so this is never `None`.
    serde_json::value::RawValue::from_string(String::from_utf8(json.to_vec()).ok()?).ok()
}
