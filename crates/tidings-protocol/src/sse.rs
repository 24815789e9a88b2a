//! The event stream format (WHATWG HTML §9.2): an encoder for the server, a parser for our own clients.

use crate::{
    cursor::Cursor,
    envelope::{Closing, Connected, Gap, write_envelope},
    event::LoggedEvent,
};

/// A comment line and no blank line: some clients fire an empty message at each blank line.
pub const HEARTBEAT: &[u8] = b":\n";

/// The reconnection time, as a block of its own without an event.
pub fn write_retry(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(format!("retry: {retry_ms}\n").as_bytes());
}

/// An event, stamped with the cursor that a client comes back with after it. Without one it comes back as
/// if it had not seen it.
pub fn write_event<'a>(out: &mut Vec<u8>, cursor: impl Into<Option<&'a Cursor>>, logged: &LoggedEvent) {
    write_head(out, cursor.into(), logged.event.event_type.explicit());
    write_data(out, &logged.event.data.as_text());
}

/// The same with `?envelope=1`: the data is the whole event, in JSON.
pub fn write_enveloped<'a>(out: &mut Vec<u8>, cursor: impl Into<Option<&'a Cursor>>, logged: &LoggedEvent) {
    write_head(out, cursor.into(), logged.event.event_type.explicit());
    out.extend_from_slice(b"data: ");
    // JSON in compact form has no line ends.
    write_envelope(out, logged);
    out.extend_from_slice(b"\n\n");
}

/// The first block of a stream. Without a cursor where the client's own was unusable.
pub fn write_connected(out: &mut Vec<u8>, cursor: Option<&Cursor>, connected: &Connected) {
    write_json(out, cursor, "connected", connected);
}

/// A stretch of history that cannot be delivered; the cursor is the first one past it.
pub fn write_gap<'a>(out: &mut Vec<u8>, cursor: impl Into<Option<&'a Cursor>>, gap: &Gap) {
    write_json(out, cursor.into(), "gap", gap);
}

/// The last block of a stream that the server ends.
pub fn write_closing(out: &mut Vec<u8>, closing: &Closing) {
    if let Some(retry_ms) = closing.retry {
        write_retry(out, retry_ms);
    }
    write_json(out, None, "closing", closing);
}

fn write_json(out: &mut Vec<u8>, cursor: Option<&Cursor>, event_type: &str, data: &impl serde::Serialize) {
    write_head(out, cursor, Some(event_type));
    out.extend_from_slice(b"data: ");
    // Structs of strings and numbers always serialize, and a Vec takes every write.
    let _infallible = serde_json::to_writer(&mut *out, data);
    out.extend_from_slice(b"\n\n");
}

fn write_head(out: &mut Vec<u8>, cursor: Option<&Cursor>, event_type: Option<&str>) {
    use std::io::Write as _;
    if let Some(cursor) = cursor {
        let _infallible = writeln!(out, "id: {cursor}");
    }
    if let Some(event_type) = event_type {
        let _infallible = writeln!(out, "event: {event_type}");
    }
}

/// One `data:` line for each line of the text, whatever ends it: a bare CR left inside would end
/// the line for the parser, and what follows would be read as a field.
fn write_data(out: &mut Vec<u8>, text: &str) {
    for line in lines(text) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// The lines of a text that are ended by CR LF, LF or CR; a line end at the very end opens one more.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = text.find(['\r', '\n']) else {
            rest = None;
            return Some(text);
        };
        let end = if text[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[at + end..]);
        Some(&text[..at])
    })
}

/// What a parser has made of a stream's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// An event was dispatched.
    Event {
        /// `event`, or `message`.
        event: String,
        /// The data, its lines joined by LF.
        data: String,
        /// The last event id as it stood then.
        id: String,
    },
    /// The reconnection time was set, in milliseconds.
    Retry(u64),
    /// A comment line, such as a heartbeat.
    Comment(String),
}

/// A stream that a parser gives up on, so that no peer can make it hold any amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block of the event stream is longer than {max_bytes} bytes")]
pub struct TooLong {
    /// The limit.
    pub max_bytes: usize,
}

/// Reads an event stream in pieces of any size, as WHATWG HTML §9.2.6 says.
#[derive(Debug)]
pub struct Parser {
    max_bytes: usize,
    line: Vec<u8>,
    data: String,
    has_data: bool,
    event: String,
    id_buffer: String,
    last_id: String,
    after_cr: bool,
    at_start: bool,
}

impl Parser {
    /// A parser that takes blocks of up to `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            line: Vec::new(),
            data: String::new(),
            has_data: false,
            event: String::new(),
            id_buffer: String::new(),
            last_id: String::new(),
            after_cr: false,
            at_start: true,
        }
    }

    /// The id that a client comes back with. It moves when an event is dispatched, or an empty block
    /// with an id ends.
    pub fn last_event_id(&self) -> &str {
        &self.last_id
    }

    /// Takes the next bytes and hands over what they complete.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Parsed)) -> Result<(), TooLong> {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(at) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            self.grow(&rest[..at])?;
            let is_cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
            if is_cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            self.end_line(&mut take)?;
        }
        self.grow(rest)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + bytes.len() > self.max_bytes {
            return Err(TooLong { max_bytes: self.max_bytes });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, take: &mut impl FnMut(Parsed)) -> Result<(), TooLong> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&bytes);
        if std::mem::take(&mut self.at_start)
            && let Some(rest) = line.strip_prefix('\u{feff}')
        {
            line = rest.to_owned().into();
        }
        if line.is_empty() {
            self.dispatch(take);
        } else if let Some(comment) = line.strip_prefix(':') {
            take(Parsed::Comment(comment.to_owned()));
        } else {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            self.field(field, value.strip_prefix(' ').unwrap_or(value), take);
        }
        self.line = bytes;
        self.line.clear();
        Ok(())
    }

    fn field(&mut self, field: &str, value: &str, take: &mut impl FnMut(Parsed)) {
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id_buffer),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                if let Ok(retry_ms) = value.parse() {
                    take(Parsed::Retry(retry_ms));
                }
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, take: &mut impl FnMut(Parsed)) {
        self.id_buffer.clone_into(&mut self.last_id);
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            let event = if event.is_empty() { "message".to_owned() } else { event };
            take(Parsed::Event { event, data, id: self.last_id.clone() });
        }
    }
}
