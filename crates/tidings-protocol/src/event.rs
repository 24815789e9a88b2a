//! Events: what is published, and what the log keeps of it.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    channel::Channel,
    cursor::{Epoch, EventId, Partition, PartitionCursor, Position},
    limits::EVENT_TYPE_MAX_BYTES,
};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// Types that only the server may use.
const RESERVED: [&str; 5] = ["connected", "gap", "closing", "notification", "unread"];

/// Types that begin so are kept for the server too.
const RESERVED_PREFIX: &str = "tidings.";

/// The type of an event, as in `event:` of a frame. `message` is the default and is not written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EventType(Option<Arc<str>>);

/// Why a text is not an event type that a publisher may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Empty, too long, or with a control character, which could end the line it stands on.
    #[error("an event type is 1 to 200 bytes of UTF-8 without control characters (no NUL, no line ends)")]
    Malformed,
    /// A word of the server's own.
    #[error(
        "the event type {0:?} is the server's own; accepted is any other than `connected`, `gap`, `closing`, \
         `notification`, `unread` and those that begin with `tidings.`"
    )]
    Reserved(String),
}

impl EventType {
    /// What EventSource calls an event without a type.
    pub const DEFAULT: &str = "message";

    /// Checks a publisher's type and takes it.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if text.is_empty() || text.len() > EVENT_TYPE_MAX_BYTES || text.chars().any(char::is_control) {
            return Err(EventTypeError::Malformed);
        }
        if RESERVED.contains(&text) || text.starts_with(RESERVED_PREFIX) {
            return Err(EventTypeError::Reserved(text.to_owned()));
        }
        Ok(Self::trusted(text))
    }

    /// Takes a type that has been checked before, such as one read back from the log.
    pub fn trusted(text: &str) -> Self {
        Self((text != Self::DEFAULT).then(|| text.into()))
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::DEFAULT)
    }

    /// The word, unless it is the default.
    pub fn explicit(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// The payload of an event: one JSON text (RFC 8259) in compact form, numbers and escapes as the
/// publisher wrote them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Data(Box<str>);

/// Why a text is not a payload.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Not one JSON value.
    #[error("data is not one JSON value")]
    Json(#[source] serde_json::Error),
    /// A JSON string with an unpaired surrogate escape has no text to send.
    #[error("data is a string with an unpaired surrogate escape (\\ud800 to \\udfff), which has no UTF-8 form")]
    Surrogate,
}

impl Data {
    /// Checks that the text is one JSON value and keeps it without the white space around its tokens.
    pub fn parse(json: &str) -> Result<Self, DataError> {
        let raw: &serde_json::value::RawValue = serde_json::from_str(json).map_err(DataError::Json)?;
        Self::from_raw(raw)
    }

    /// The same for a value that serde_json has already checked.
    pub fn from_raw(raw: &serde_json::value::RawValue) -> Result<Self, DataError> {
        let json = raw.get();
        if json.starts_with('"') && serde_json::from_str::<Cow<'_, str>>(json).is_err() {
            return Err(DataError::Surrogate);
        }
        Ok(Self(compact(json)))
    }

    /// Takes compact JSON that has been checked before, such as one read back from the log.
    pub fn trusted(json: impl Into<Box<str>>) -> Self {
        Self(json.into())
    }

    /// The compact JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// What an SSE frame carries: a JSON string bare, anything else as compact JSON.
    pub fn as_text(&self) -> Cow<'_, str> {
        match self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            None => Cow::Borrowed(&self.0),
            Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
            // Checked on the way in, so it does decode; were it not so, the JSON is the honest answer.
            Some(_) => serde_json::from_str::<String>(&self.0).map_or(Cow::Borrowed(&*self.0), Cow::Owned),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({})", self.0)
    }
}

/// Drops insignificant white space (RFC 8259 §2) from a valid JSON text.
fn compact(json: &str) -> Box<str> {
    let mut bytes = Vec::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        bytes.push(byte);
    }
    // Only whole ASCII characters were left out, so this is UTF-8 and the fallback is never taken.
    String::from_utf8(bytes).unwrap_or_else(|_| json.to_owned()).into()
}

/// One message on one channel, as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it is published.
    pub channel: Channel,
    /// Its type.
    pub event_type: EventType,
    /// Its payload.
    pub data: Data,
    /// When the publisher says it was sent, else when it was accepted.
    pub sent_at: Millis,
    /// Makes a repeated publish of the same event harmless.
    pub key: Option<Box<str>>,
    /// Events of one channel with one value stand for each other; only the newest need arrive.
    pub conflate: Option<Box<str>>,
    /// For how many seconds from its acceptance it is of use to anybody. Kept as it was given, so that
    /// a repeated publish of the same event can be told from another one.
    pub expires_in_secs: Option<u64>,
    /// Passes by: it goes to who is there, has a place in the order, and is never in history. For what is
    /// kept elsewhere (notifications, in the inbox), so that nobody is told of a gap that is none.
    pub is_ephemeral: bool,
}

impl Event {
    /// About how much memory it takes.
    pub fn cost_bytes(&self) -> usize {
        /// The struct itself, its reference counts and its slot in a history.
        const FIXED: usize = 200;
        let optional = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        FIXED + self.data.as_json().len() + optional(&self.key) + optional(&self.conflate)
    }
}

/// An event in its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// The partition that holds it.
    pub partition: Partition,
    /// The life of that partition.
    pub epoch: Epoch,
    /// Its place.
    pub position: Position,
    /// The place of the channel's event before it, or zero; those that are ephemeral do not count. A reader
    /// that has not seen that one has found a hole.
    pub previous: Position,
    /// When the log took it; its history lasts from here.
    pub accepted_at: Millis,
    /// The event.
    pub event: Event,
}

impl LoggedEvent {
    /// The identity that every client sees.
    pub fn id(&self) -> EventId {
        EventId { partition: self.partition, at: PartitionCursor { epoch: self.epoch, position: self.position } }
    }

    /// Whether the publisher's own limit on its life has passed.
    pub fn is_past(&self, now: Millis) -> bool {
        let lives_until = |secs: u64| self.accepted_at.saturating_add(secs.saturating_mul(1000));
        self.event.expires_in_secs.is_some_and(|secs| lives_until(secs) <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_type_cannot_end_its_line_or_pose_as_the_server() {
        assert_eq!(EventType::parse("message"), Ok(EventType::default()));
        assert_eq!(EventType::parse("order.filled").unwrap().explicit(), Some("order.filled"));
        for text in ["", "a\nb", "a\rb", "a\0b", "\u{7f}", "\u{85}", &"x".repeat(201)] {
            assert_eq!(EventType::parse(text), Err(EventTypeError::Malformed), "{text:?}");
        }
        for text in ["connected", "gap", "closing", "notification", "unread", "tidings.x"] {
            assert!(matches!(EventType::parse(text), Err(EventTypeError::Reserved(_))), "{text}");
        }
    }

    #[test]
    fn data_keeps_numbers_and_escapes_and_loses_white_space() {
        let json = "{ \"a\" : [ 1.10 , 1e400, 12345678901234567890123 ],\n\t\"b \\\" \\\\\" : \"x  y \\/ 제주\" }";
        let compact = "{\"a\":[1.10,1e400,12345678901234567890123],\"b \\\" \\\\\":\"x  y \\/ 제주\"}";
        assert_eq!(Data::parse(json).unwrap().as_json(), compact);
        assert_eq!(Data::parse(" \"a\\nb\" ").unwrap().as_text(), "a\nb");
        assert_eq!(Data::parse("\"plain\"").unwrap().as_text(), "plain");
        assert_eq!(Data::parse("null").unwrap().as_text(), "null");
        assert!(matches!(Data::parse("\"\\ud800\""), Err(DataError::Surrogate)));
        assert!(matches!(Data::parse("1 2"), Err(DataError::Json(_))));
        assert!(matches!(Data::parse(""), Err(DataError::Json(_))));
    }

    proptest! {
        #[test]
        fn compact_data_is_the_same_value(text in any::<String>(), spaces in "[ \t\r\n]{0,3}") {
            let value = serde_json::json!({ &text: [text, 1, null, true], "nested": { "a": [] } });
            let pretty = format!("{spaces}{}{spaces}", serde_json::to_string_pretty(&value).unwrap());
            let data = Data::parse(&pretty).unwrap();
            prop_assert_eq!(data.as_json(), serde_json::to_string(&value).unwrap());
        }
    }
}
