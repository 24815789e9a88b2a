//! `POST /v1/publish`: one event, or many.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header, request::Parts};
use serde::Serialize;
use tidings_core::{
    Principal,
    ports::{AppendError, Appended},
    publish::PublishRefused,
};
use tidings_protocol::{
    Channel, Event,
    limits::CHANNEL_MAX_BYTES,
    publish::{Publish, PublishError, PublishLimits},
};

use crate::{
    app::App,
    body::{self, MediaType},
    caller::Caller,
    problem::{Code, Problem},
    query::NoParameters,
    settings::Settings,
};

/// Room in a body besides its data and channels: field names, 200-byte texts, white space.
const BODY_SPARE_BYTES: usize = 64 * 1024;

/// A channel of the longest name in a list, with quotes, a comma and some white space.
const CHANNEL_JSON_BYTES: usize = CHANNEL_MAX_BYTES + 16;

/// The most bytes that JSON text may spend on one byte of compact data: `\u0041` for `A`.
const ESCAPE_FACTOR: usize = 6;

/// Lines of a batch that go to the log in one step.
const APPEND_LINES: usize = 1000;

/// The answer to an event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Published {
    /// The event id.
    #[schema(example = "AQEBAgMErAI")]
    id: String,
    /// Whether an earlier publish with the same key put it there.
    duplicate: bool,
}

/// The answer to an event for one of several channels.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ChannelResult {
    /// It is published there.
    Published {
        /// The channel.
        channel: String,
        /// The event id.
        id: String,
        /// Whether an earlier publish with the same key put it there.
        duplicate: bool,
    },
    /// It is not.
    Refused {
        /// The channel.
        channel: String,
        /// Why.
        error: LineError,
    },
}

/// The answer to an event for several channels.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ChannelResults {
    /// One for each channel, in their order.
    results: Vec<ChannelResult>,
}

/// Why a line, or one of several channels, was refused.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LineError {
    /// The stable code.
    code: &'static str,
    /// What is wrong, and what would be accepted.
    detail: String,
}

/// One event JSON, as in `{"channel":"chat:lobby","data":"hello"}`.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "it describes what tidings_protocol::publish reads")]
struct PublishBody {
    /// `namespace:name`: 1 to 200 bytes of `A-Z a-z 0-9 _ - . : / @`. This or `channels`.
    channel: Option<String>,
    /// The same event for several channels, not atomically.
    channels: Option<Vec<String>>,
    /// The event's type; `message` if left out.
    event: Option<String>,
    /// Any JSON value.
    data: serde_json::Value,
    /// Milliseconds since the epoch; the time of acceptance if left out.
    sent_at: Option<u64>,
    /// Makes a repeated publish harmless, per channel, within the idempotency window.
    key: Option<String>,
    /// A newer event of the same channel and value takes the place of an undelivered one.
    conflate: Option<String>,
    /// Seconds after which nobody needs it.
    expires_in: Option<u64>,
}

/// Publish one event (JSON) or many (NDJSON).
///
/// Answers when the event is as durable as its namespace promises. A batch is answered line by line
/// and never as a whole: lines that are refused do not keep others from being published.
#[utoipa::path(
    post, path = "/v1/publish", tag = "publish",
    request_body(content(
        (PublishBody = "application/json"),
        (String = "application/x-ndjson", example = "{\"channel\":\"chat:lobby\",\"data\":1}\n{\"channel\":\"chat:lobby\",\"data\":2}\n"),
    )),
    responses(
        (status = 200, description = "Published. With `channels`, `{\"results\":[…]}`; with NDJSON, a line for each line", body = Published),
        (status = "default", description = "A problem", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn publish(
    State(app): State<Arc<App>>,
    caller: Caller,
    _: NoParameters,
    PublishedAs(media_type): PublishedAs,
    body: Body,
) -> Result<Response, Problem> {
    let settings = app.settings();
    match media_type {
        MediaType::Json => {
            let limits = &settings.limits;
            let max_bytes = limits.data_max_bytes * ESCAPE_FACTOR
                + limits.channels_per_publish * CHANNEL_JSON_BYTES
                + BODY_SPARE_BYTES;
            let body = body::read(body, max_bytes, &settings).await?;
            publish_one(&app, &settings, &caller.principal, &body).await
        }
        MediaType::NdJson => {
            let body = body::read(body, settings.limits.batch_max_bytes, &settings).await?;
            publish_lines(&app, &settings, &caller.principal, &body).await
        }
    }
}

/// In what form events come.
pub struct PublishedAs(MediaType);

impl<S: Sync> FromRequestParts<S> for PublishedAs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        MediaType::of(&parts.headers, &[MediaType::Json, MediaType::NdJson]).map(Self)
    }
}

async fn publish_one(app: &App, settings: &Settings, who: &Principal, json: &[u8]) -> Result<Response, Problem> {
    let publish = parse(app, settings, json)?;
    let channels: Vec<Channel> = publish.events.iter().map(|event| event.channel.clone()).collect();
    let mut answers = answer(app, settings, who, publish.events).await.into_iter();
    if !publish.is_multi {
        let published = answers.next().unwrap_or_else(|| Err(no_answer()))?;
        return Ok(Json(published).into_response());
    }
    Ok(Json(channel_results(app, channels, answers)).into_response())
}

fn channel_results(
    app: &App,
    channels: Vec<Channel>,
    answers: impl Iterator<Item = Result<Published, Problem>>,
) -> ChannelResults {
    let results = channels.into_iter().zip(answers).map(|(channel, answer)| {
        let channel = channel.to_string();
        match answer {
            Ok(Published { id, duplicate }) => ChannelResult::Published { channel, id, duplicate },
            Err(problem) => ChannelResult::Refused { channel, error: line_error(app, &problem) },
        }
    });
    ChannelResults { results: results.collect() }
}

async fn publish_lines(app: &App, settings: &Settings, who: &Principal, body: &[u8]) -> Result<Response, Problem> {
    let lines: Vec<&[u8]> =
        body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let max = settings.limits.batch_max_events;
    if lines.len() > max {
        let detail = format!("{} lines; accepted are up to {max} (limits.max_batch_events)", lines.len());
        return Err(Problem::new(Code::BatchTooLarge, detail));
    }
    let mut answered = Vec::with_capacity(lines.len() * 48);
    for lines in lines.chunks(APPEND_LINES) {
        // Each line as it was read: its problem, or how many of the events are its own.
        let mut events = Vec::with_capacity(lines.len());
        let mut parsed = Vec::with_capacity(lines.len());
        for line in lines {
            parsed.push(parse(app, settings, line).map(|publish| {
                let channels: Vec<_> = publish.events.iter().map(|event| event.channel.clone()).collect();
                events.extend(publish.events);
                (publish.is_multi, channels)
            }));
        }
        let mut answers = answer(app, settings, who, events).await.into_iter();
        for line in parsed {
            let line = match line {
                Err(problem) => Line::Error { error: line_error(app, &problem) },
                Ok((false, _)) => match answers.next().unwrap_or_else(|| Err(no_answer())) {
                    Ok(published) => Line::Published(published),
                    Err(problem) => Line::Error { error: line_error(app, &problem) },
                },
                Ok((true, channels)) => Line::Results(channel_results(app, channels, answers.by_ref())),
            };
            // Structs of strings and booleans always serialize, and a Vec takes every write.
            let _infallible = serde_json::to_writer(&mut answered, &line);
            answered.push(b'\n');
        }
    }
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))];
    Ok((media_type, answered).into_response())
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Published(Published),
    Results(ChannelResults),
    Error { error: LineError },
}

fn line_error(app: &App, problem: &Problem) -> LineError {
    app.metrics.refused(problem.code().as_str());
    LineError { code: problem.code().as_str(), detail: problem.detail().to_owned() }
}

fn parse(app: &App, settings: &Settings, json: &[u8]) -> Result<Publish, Problem> {
    let limits = PublishLimits {
        data_max_bytes: settings.limits.data_max_bytes,
        channels_max: settings.limits.channels_per_publish,
    };
    Publish::parse(json, limits, app.clock().now()).map_err(|error| {
        let code = match &error {
            PublishError::DataTooLarge { .. } => Code::DataTooLarge,
            PublishError::NotAnObject | PublishError::Json(_) | PublishError::Field { .. } => Code::InvalidBody,
        };
        Problem::new(code, error)
    })
}

async fn answer(
    app: &App,
    settings: &Settings,
    who: &Principal,
    events: Vec<Event>,
) -> Vec<Result<Published, Problem>> {
    let channels: Vec<Channel> = events.iter().map(|event| event.channel.clone()).collect();
    let answers = app.publisher.publish(who, events).await;
    let namespaces = app.streams.namespaces.load();
    let answered = channels.iter().zip(answers).map(|(channel, answer)| match answer {
        Ok(Appended { id, is_duplicate }) => {
            app.metrics.published(namespaces.label(channel), is_duplicate);
            Ok(Published { id: id.to_string(), duplicate: is_duplicate })
        }
        Err(PublishRefused::Denied(denied)) => Err(crate::caller::denied(who, &denied, settings)),
        Err(PublishRefused::Append(AppendError::KeyConflict)) => {
            Err(Problem::new(Code::KeyConflict, format!("key: {}", AppendError::KeyConflict)))
        }
        Err(PublishRefused::Append(AppendError::Unavailable(unavailable))) => {
            tracing::warn!(cause = %unavailable.cause, "an event could not be appended");
            Err(no_answer())
        }
    });
    answered.collect()
}

fn no_answer() -> Problem {
    let detail =
        "the log cannot be written now; whether the event was taken is unknown, and a `key` makes trying again safe";
    Problem::new(Code::BrokerUnavailable, detail).retry_after(1)
}
