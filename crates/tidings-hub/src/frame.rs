//! Frames: an event as it is written to a stream, encoded once per format and shared by all.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tidings_protocol::{Cursor, LoggedEvent, envelope, sse};

use crate::Tick;

/// The forms in which streams carry events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// An SSE frame whose data is the event's data.
    Sse,
    /// An SSE frame whose data is the whole event.
    SseEnvelope,
    /// The whole event as JSON, without framing.
    Json,
}

impl Format {
    /// Encodes an event that is stamped for one subscriber alone, or not at all.
    pub fn encode<'a>(self, cursor: impl Into<Option<&'a Cursor>>, logged: &LoggedEvent) -> Bytes {
        let mut bytes = Vec::with_capacity(logged.event.data.as_json().len() + 128);
        match self {
            Self::Sse => sse::write_event(&mut bytes, cursor, logged),
            Self::SseEnvelope => sse::write_enveloped(&mut bytes, cursor, logged),
            Self::Json => envelope::write_envelope(&mut bytes, logged),
        }
        bytes.into()
    }
}

/// A live event with the node's cursor as it stood when the node had read it. A function of the
/// event and the node, never of the subscriber.
#[derive(Debug)]
pub struct SharedFrame {
    /// The event in its place.
    pub logged: Arc<LoggedEvent>,
    /// What a client that comes back after this frame has seen.
    pub cursor: Cursor,
    /// How long it may wait for a newer one of the same channel and value. Zero for events that do
    /// not conflate.
    pub conflate_window: Tick,
    encoded: [OnceLock<Bytes>; 3],
}

impl SharedFrame {
    /// A frame that nobody has asked for yet.
    pub fn new(logged: Arc<LoggedEvent>, cursor: Cursor, conflate_window: Tick) -> Self {
        Self { logged, cursor, conflate_window, encoded: [const { OnceLock::new() }; 3] }
    }

    /// Its bytes, encoded by whoever asks first.
    pub fn bytes(&self, format: Format) -> &Bytes {
        self.encoded[format as usize].get_or_init(|| format.encode(&self.cursor, &self.logged))
    }

    /// Whether this event makes the older one pointless.
    pub fn replaces(&self, older: &Self) -> bool {
        let (new, old) = (&self.logged.event, &older.logged.event);
        new.conflate.is_some() && new.conflate == old.conflate && new.channel == old.channel
    }
}
