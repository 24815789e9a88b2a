//! The bytes of a stream: those that Tidings sends, made by the same code.

use std::time::SystemTime;

use tidings_protocol::{Channel, Cursor, Data, Epoch, Event, EventType, LoggedEvent, Partition, Position, sse};

/// Any will do: an epoch has one length.
const EPOCH: Epoch = Epoch(0x7469_6469);

/// The head of a stream's answer, closed by the end of the connection.
pub(super) fn head() -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache, no-store, no-transform\r\n\
         x-accel-buffering: no\r\nconnection: close\r\ndate: {date}\r\n\r\n"
    )
    .into_bytes()
}

/// Makes frames. The position grows as Tidings's does, so that the cursor in `id:` has the same length.
pub(super) struct Frames {
    logged: LoggedEvent,
    bytes: Vec<u8>,
}

impl Frames {
    pub(super) fn new() -> anyhow::Result<Self> {
        let event = Event {
            // It does not stand in a frame.
            channel: Channel::parse("raw")?,
            event_type: EventType::default(),
            data: Data::trusted(""),
            sent_at: 0,
            key: None,
            conflate: None,
            expires_in_secs: None,
            is_ephemeral: false,
        };
        let logged = LoggedEvent {
            partition: Partition::ZERO,
            epoch: EPOCH,
            position: Position::ZERO,
            previous: Position::ZERO,
            accepted_at: 0,
            event,
        };
        Ok(Self { logged, bytes: Vec::new() })
    }

    /// The frame of the next message.
    pub(super) fn encode(&mut self, body: &[u8]) -> &[u8] {
        self.logged.position = self.logged.position.next();
        self.logged.event.data = Data::trusted(String::from_utf8_lossy(body));
        self.bytes.clear();
        sse::write_event(&mut self.bytes, &Cursor::from(self.logged.id()), &self.logged);
        &self.bytes
    }
}
