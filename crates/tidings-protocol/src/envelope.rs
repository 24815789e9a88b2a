//! The JSON forms in which a client sees an event or a change of its stream.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{LoggedEvent, Millis};

/// An event with all that a plain frame leaves out: `?envelope=1`, history, long-poll.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<'a> {
    /// The event id.
    pub id: String,
    /// Its channel.
    pub channel: std::borrow::Cow<'a, str>,
    /// Its type.
    pub event: std::borrow::Cow<'a, str>,
    /// Its payload.
    pub data: std::borrow::Cow<'a, RawValue>,
    /// Milliseconds since the epoch.
    pub sent_at: Millis,
}

/// Writes the envelope of an event. By hand, because it is on the path of every event and its data
/// is JSON already.
pub fn write_envelope(out: &mut Vec<u8>, logged: &LoggedEvent) {
    use std::io::Write as _;
    let event = &logged.event;
    // Channels and ids are of an alphabet that JSON does not escape. A write to a Vec cannot fail.
    let _infallible = write!(out, r#"{{"id":"{}","channel":"{}","event":"#, logged.id(), event.channel);
    let _infallible = serde_json::to_writer(&mut *out, event.event_type.as_str());
    let _infallible = write!(out, r#","data":{},"sent_at":{}}}"#, event.data.as_json(), event.sent_at);
}

/// The data of `event: connected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The connection's id.
    pub connection: String,
    /// The node's id.
    pub node: String,
    /// The signed-in user, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// The stream's channels.
    pub channels: Vec<String>,
}

/// The data of `event: gap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The channels with events that history no longer holds.
    pub channels: Vec<String>,
    /// Why: `evicted`, `expired`, `restart`, `epoch` or `unusable`.
    pub reason: String,
}

/// The data of `event: closing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why the server ends the stream.
    pub reason: String,
    /// After how many milliseconds to come back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry: Option<u64>,
}
