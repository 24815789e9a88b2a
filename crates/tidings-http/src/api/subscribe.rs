//! `GET /v1/subscribe`: the stream, as SSE or long-poll.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, StatusCode, request::Parts};
use tidings_core::{
    Principal,
    follow::{Followed, KeepUp},
    notifications::Ack,
    ports::store::StoreError,
    stream::Resume,
};
use tidings_hub::{ConfirmBy, ConnectionId, ConnectionInfo, Format, MayListen, Transport};
use tidings_protocol::{Channel, CloseReason, Cursor, UserId};

use crate::{
    api::wire::unavailable,
    app::App,
    caller::{Caller, StreamCaller, denied},
    problem::{Code, Problem, ProblemBody},
    query::{LAST_EVENT_ID, Query, last_event_id},
    settings::{Confirm, Settings},
    socket::SocketEnd,
    transport::{long_poll, sse, transport_of},
};

/// The query parameters of a stream.
const PARAMETERS: [&str; 7] =
    ["channel", "envelope", "replay", "follows", "last_event_id", "lastEventId", "Last-Event-ID"];

/// Headers of requests that a proxy passed on, be it one that nobody has configured (RFC 7239, RFC 9110 §7.6.3).
const FORWARDED: [&str; 3] = ["x-forwarded-for", "forwarded", "via"];

/// Open a stream of one or more channels.
///
/// `Accept: text/event-stream` (or none) is answered by server-sent events, `Accept: application/json`
/// by long-poll. A token's own personal channel is always included.
#[utoipa::path(
    get, path = "/v1/subscribe", tag = "subscribe",
    params(
        ("channel" = Option<Vec<String>>, Query, explode = true, description = "The channels, each as a parameter of its own"),
        ("envelope" = Option<bool>, Query, description = "1: the data of each frame is {id, channel, event, data, sent_at}"),
        ("replay" = Option<String>, Query, description = "A number or `all`: each channel's last events first; `unread`: the unread notifications of the inbox first, oldest first. Ignored with a cursor"),
        ("follows" = Option<bool>, Query, description = "1: the channels too that the token's user follows, as they change"),
        ("last_event_id" = Option<String>, Query, description = "A cursor to resume from; also lastEventId and Last-Event-ID. The header wins"),
        ("ticket" = Option<String>, Query, description = "A ticket from POST /v1/tickets, for clients that cannot set headers"),
        ("Last-Event-ID" = Option<String>, Header, description = "A cursor to resume from"),
    ),
    responses(
        (status = 200, description = "The stream", content((String = "text/event-stream"), (long_poll::Answer = "application/json"))),
        (status = 204, description = "Do not come back"),
        (status = "default", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub async fn subscribe(
    State(app): State<Arc<App>>,
    StreamCaller(caller): StreamCaller,
    Asked { transport, last_event_id: in_header, socket_end, peer, is_forwarded }: Asked,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let settings = app.settings();
    let query = Query::parse(query.as_deref(), &PARAMETERS)?;
    let mut channels = channels_of(&app, &settings, &caller.principal, &query)?;
    let follows = query.flag("follows")?;
    let format = match (transport, query.flag("envelope")?) {
        (Transport::LongPoll, _) => Format::Json,
        (Transport::Sse, true) => Format::SseEnvelope,
        (Transport::Sse, false) => Format::Sse,
    };
    let (replay, unread) = match query.one("replay")? {
        None => (0, false),
        Some("all") => (usize::MAX, false),
        Some("unread") if caller.principal.user().is_some() => (0, true),
        Some("unread") => {
            return Err(Problem::new(Code::InvalidQuery, "replay: `unread` is about the inbox of a token's user"));
        }
        Some(text) => {
            let replay = text.parse().map_err(|_| {
                Problem::new(Code::InvalidQuery, "replay: accepted are `all`, a number of events, and `unread`")
            })?;
            (replay, false)
        }
    };
    let last_event_id = last_event_id(in_header.as_ref(), &query)?;
    let resume = match &last_event_id {
        None => Resume::New { replay, unread },
        Some(text) => text.parse::<Cursor>().map_or(Resume::Unusable, Resume::After),
    };
    if caller.principal.user().is_some_and(|user| app.blocks.contains(user, app.clock().now())) {
        // The one answer after which an EventSource does not try again (WHATWG HTML §9.2.3).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    check_shares(&app, &settings, &caller)?;

    if let (Some(user), Resume::After(cursor)) = (caller.principal.user(), &resume) {
        acknowledge(&app, user, cursor);
    }
    let mut keep_up = None;
    if follows {
        match follow(&app, &settings, &caller.principal, &mut channels).await? {
            Ok(how) => keep_up = Some(how),
            Err(error) => return come_back(&app, &settings, transport, error),
        }
    }
    let now = app.clock().now();
    let is_resume = last_event_id.is_some();
    let expires_in = caller.principal.expires_at().map(|at| Duration::from_millis(at.saturating_sub(now)));
    let info = ConnectionInfo {
        id: ConnectionId::random(),
        user: caller.principal.user().cloned(),
        transport,
        confirms: confirms(&app, &settings, transport, socket_end.as_ref(), peer, is_forwarded),
        remote: caller.address,
        opened_at: now,
        // Collected anew, so that one channel lies within.
        channels: channels.into_iter().collect(),
    };
    let mut stream = app.streams.open(info, format, settings.stream.live.limits, resume);
    if let Some(how) = keep_up
        && let Err(error) = stream.keep_up(how).await
    {
        // It is closed, and says so itself.
        tracing::warn!(cause = %error.cause, "a stream cannot keep up with what is followed");
    }
    match transport {
        Transport::LongPoll => {
            let polled = long_poll::LongPoll {
                stream,
                own_cursor: last_event_id.unwrap_or_default(),
                held: settings.stream.long_poll,
                expires_in,
                metrics: app.metrics.clone(),
            };
            Ok(long_poll::respond(polled).await)
        }
        Transport::Sse => Ok(sse::respond(sse::SseStream {
            stream,
            format,
            settings,
            node: app.node.clone(),
            is_resume,
            expires_in,
            socket_end,
            metrics: app.metrics.clone(),
            hub: app.streams.hub.clone(),
            clock: app.clock().clone(),
        })),
    }
}

/// Who comes with a cursor has what was told up to there: it need not be pushed. On the side, for the stream
/// need not wait; where too many come at once some are left out, and pushed once too often.
fn acknowledge(app: &Arc<App>, user: &UserId, cursor: &Cursor) {
    let Ok(permit) = app.acknowledging.clone().try_acquire_owned() else { return };
    let (app, user, ack) = (app.clone(), user.clone(), Ack::Cursor(cursor.clone()));
    tokio::spawn(async move {
        if let Err(error) = app.notifier.acknowledge(&user, ack).await {
            tracing::debug!(cause = %error.cause, "a stream's cursor could not be taken as an acknowledgement");
        }
        drop(permit);
    });
}

/// What a request for a stream says in its head. Taken from there by itself, for a copy of all headers
/// costs more than the rest of the request.
pub struct Asked {
    transport: Transport,
    last_event_id: Option<HeaderValue>,
    socket_end: Option<SocketEnd>,
    peer: Option<IpAddr>,
    /// Whether it says that somebody passed it on.
    is_forwarded: bool,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self {
            transport: transport_of(&parts.headers)?,
            last_event_id: parts.headers.get(LAST_EVENT_ID).cloned(),
            socket_end: parts.extensions.get().cloned(),
            peer: parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip()),
            is_forwarded: FORWARDED.iter().any(|name| parts.headers.contains_key(*name)),
        })
    }
}

/// Whose word counts for what has reached the stream. TCP's only where a shard will have the socket: of what HTTP
/// itself still holds nobody knows.
fn confirms(
    app: &App,
    settings: &Settings,
    transport: Transport,
    socket_end: Option<&SocketEnd>,
    peer: Option<IpAddr>,
    is_forwarded: bool,
) -> ConfirmBy {
    let is_on_a_socket = transport == Transport::Sse && socket_end.is_some_and(SocketEnd::may_leave);
    let is_own = match settings.stream.confirm {
        Confirm::Tcp => true,
        Confirm::Client => false,
        // A header that says so is believed of anybody: who makes it up has to acknowledge, and no more.
        Confirm::Auto => !is_forwarded && peer.is_some_and(|peer| !app.trusted_proxies.load().contains(peer)),
    };
    if is_on_a_socket && is_own { ConfirmBy::Tcp } else { ConfirmBy::Client }
}

/// The channels of the stream, each once, each permitted.
fn channels_of(app: &App, settings: &Settings, who: &Principal, query: &Query) -> Result<Vec<Channel>, Problem> {
    let max = settings.limits.channels_per_stream;
    let named = query.all("channel").count();
    if named > max {
        let detail = format!("channel: {named} given; accepted are up to {max} (limits.max_channels_per_stream)");
        return Err(Problem::new(Code::TooManyChannels, detail));
    }
    let namespaces = app.streams.namespaces.load();
    let mut seen = HashSet::new();
    let mut channels = Vec::new();
    for name in query.all("channel") {
        let channel =
            Channel::parse(name).map_err(|error| Problem::new(Code::InvalidQuery, format!("channel: {error}")))?;
        who.may_subscribe(&channel, &namespaces).map_err(|refusal| denied(who, &refusal, settings))?;
        if seen.insert(channel.clone()) {
            channels.push(channel);
        }
    }
    if let Some(user) = who.user() {
        let personal = Channel::personal(user);
        if seen.insert(personal.clone()) {
            channels.push(personal);
        }
    }
    if channels.is_empty() {
        let detail =
            "channel: name at least one, as in ?channel=chat:lobby; only a user's token has a channel of its own";
        return Err(Problem::new(Code::ChannelMissing, detail));
    }
    Ok(channels)
}

/// Adds what the user follows, as far as they may listen to it and there is room. Answers how the stream is to keep
/// up with it.
async fn follow<'a>(
    app: &'a App,
    settings: &Settings,
    who: &Principal,
    channels: &mut Vec<Channel>,
) -> Result<Result<KeepUp<'a>, StoreError>, Problem> {
    let Some(user) = who.user() else {
        return Err(Problem::new(Code::InvalidQuery, "follows: only a token's user follows channels"));
    };
    let store = &*app.notifier.store;
    let followed = match Followed::of(user, store, &app.streams.hub).await {
        Ok(followed) => followed,
        Err(error) => return Ok(Err(error)),
    };
    let (who, namespaces) = (who.clone(), app.streams.namespaces.clone());
    let may_listen: MayListen = Arc::new(move |channel| who.may_subscribe(channel, &namespaces.load()).is_ok());
    let (named, channels_max) = (channels.len(), settings.limits.channels_per_stream);
    let own: HashSet<_> = channels.iter().cloned().collect();
    let others = followed.channels.iter().filter(|channel| !own.contains(*channel) && may_listen(channel));
    channels.extend(others.take(channels_max.saturating_sub(named)).cloned());
    Ok(Ok(KeepUp { store, named, channels_max, may_listen, followed }))
}

/// The store cannot be used, and a stream needs it. A native EventSource would never come back from an error.
fn come_back(app: &App, settings: &Settings, transport: Transport, error: StoreError) -> Result<Response, Problem> {
    let problem = unavailable(error);
    if transport == Transport::LongPoll {
        return Err(problem);
    }
    app.streams.hub.counters().on_shed(transport, CloseReason::Error);
    Ok(sse::respond_ended(CloseReason::Error, settings.stream.random_retry_ms()))
}

/// One user or address must not take all the streams of a node.
fn check_shares(app: &App, settings: &Settings, caller: &Caller) -> Result<(), Problem> {
    let (per_user, per_address) = (settings.limits.connections_per_user, settings.limits.connections_per_address);
    if let Some(user) = caller.principal.user()
        && per_user > 0
        && app.streams.hub.count_of_user(user) >= per_user
    {
        let detail = format!("a user may have {per_user} streams (limits.max_connections_per_user)");
        return Err(Problem::new(Code::TooManyConnections, detail).retry_after(5));
    }
    if let Some(address) = caller.address
        && per_address > 0
        && app.streams.hub.count_from(address) >= per_address
    {
        let detail = format!("an address may have {per_address} streams (limits.max_streams_per_ip)");
        return Err(Problem::new(Code::TooManyConnections, detail).retry_after(5));
    }
    Ok(())
}
