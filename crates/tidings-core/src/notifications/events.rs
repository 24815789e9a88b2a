//! The events by which streams are told, and the forms that notifications have in them.

use std::borrow::Cow;

use serde_json::value::RawValue;
use tidings_protocol::{
    Channel, Data, Event, EventId, EventType, LoggedEvent, Millis, Position, UserId,
    notification::{
        CountsBody, KindCountsBody, NOTIFICATION, NotificationBody, NotificationEvent, UNREAD, UnreadEvent,
    },
};

use super::{Counts, InboxEntry, Notification, State};

/// The form in which a client sees a notification.
pub fn notification_body(notification: &Notification, state: State, is_seen: bool) -> NotificationBody<'_> {
    let content = &notification.content;
    // It was checked on the way in, so it is JSON; were it not so, none is the honest answer.
    let data = content.data.as_ref().and_then(|data| serde_json::from_str::<&RawValue>(data.as_json()).ok());
    NotificationBody {
        id: notification.id.to_string().into(),
        kind: content.kind.as_str().into(),
        title: content.title.as_str().into(),
        body: content.body.as_deref().map(Cow::Borrowed),
        url: content.url.as_deref().map(Cow::Borrowed),
        data: data.map(Cow::Borrowed),
        state: state.as_str().into(),
        seen: is_seen,
        collapse: content.collapse.as_deref().map(Cow::Borrowed),
        created_at: notification.created_at,
        expires_at: notification.expires_at,
    }
}

/// The form in which a client sees counts.
pub fn counts_body(counts: &Counts) -> CountsBody {
    CountsBody {
        unread: counts.total.unread,
        unseen: counts.total.unseen,
        kinds: counts
            .kinds
            .iter()
            .map(|(kind, of)| (kind.as_str().to_owned(), KindCountsBody { unread: of.unread, unseen: of.unseen }))
            .collect(),
    }
}

/// The event that tells streams of a notification: one user's, or everyone's by one event.
pub(super) fn notification_event(
    user: Option<&UserId>,
    notification: &Notification,
    counts: Option<&Counts>,
) -> Result<Event, serde_json::Error> {
    let channel = user.map_or_else(Channel::everyone, Channel::personal);
    let body = notification_body(notification, State::Unread, false);
    let data = NotificationEvent { notification: body, counts: counts.map(counts_body) };
    Ok(event(channel, NOTIFICATION, serde_json::to_string(&data)?, notification.created_at))
}

/// The event that tells a user's streams of changed counts.
pub(super) fn unread_event(user: &UserId, counts: &Counts, now: Millis) -> Result<Event, serde_json::Error> {
    let data = UnreadEvent { counts: counts_body(counts) };
    Ok(event(Channel::personal(user), UNREAD, serde_json::to_string(&data)?, now))
}

/// What a stream that missed a notification is told: the event in its place, with the state as it is now and
/// the counts of now. One that was never told has the place that is given, which no stream shows as its own.
pub(crate) fn missed_event(
    user: &UserId,
    entry: &InboxEntry,
    counts: Option<&Counts>,
    fallback: EventId,
) -> Result<LoggedEvent, serde_json::Error> {
    let notification = &entry.notification;
    let channel = if entry.is_for_everyone { Channel::everyone() } else { Channel::personal(user) };
    let body = notification_body(notification, entry.state, entry.is_seen);
    let data = NotificationEvent { notification: body, counts: counts.map(counts_body) };
    let id = entry.told_at.unwrap_or(fallback);
    Ok(LoggedEvent {
        partition: id.partition,
        epoch: id.at.epoch,
        position: id.at.position,
        previous: Position::ZERO,
        accepted_at: notification.created_at,
        event: event(channel, NOTIFICATION, serde_json::to_string(&data)?, notification.created_at),
    })
}

/// Passes by: the inbox keeps what it tells of.
fn event(channel: Channel, event_type: &'static str, json: String, sent_at: Millis) -> Event {
    Event {
        channel,
        event_type: EventType::trusted(event_type),
        data: Data::trusted(json),
        sent_at,
        key: None,
        conflate: None,
        expires_in_secs: None,
        is_ephemeral: true,
    }
}
