//! Events of a stream (WHATWG HTML §9.2.6), read in pieces of any size without an allocation for each.
//!
//! Only what accounting needs is kept of an event: which kind it is, and what its message carries. The
//! complete parser is `tidings_protocol::sse::Parser`; this one is held against it by a test.

use memchr::memchr2;

use crate::payload::Payload;

/// Longest line that is read.
const LINE_MAX_BYTES: usize = 1 << 20;

/// What a stream said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `connected`, the first event of Tidings.
    Connected,
    /// `gap`: Tidings says that something cannot be delivered.
    Gap,
    /// `closing`: Tidings says that it ends the stream.
    Closing,
    /// Any other event, with what it carries if it is a message of the generator's.
    Message(Option<Payload>),
    /// A comment, such as a heartbeat.
    Comment,
}

/// A line that is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of the event stream is longer than {LINE_MAX_BYTES} bytes")]
pub struct TooLong;

/// Reads one stream.
#[derive(Debug)]
pub struct Scanner {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    event: Event,
    payload: Option<Payload>,
    has_data: bool,
    after_cr: bool,
    at_start: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            line: Vec::new(),
            event: Event::Message(None),
            payload: None,
            has_data: false,
            after_cr: false,
            at_start: true,
        }
    }
}

impl Scanner {
    /// Takes the next bytes and hands over what they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Event)) -> Result<(), TooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            let is_cr = bytes[at] == b'\r';
            self.after_cr = is_cr && rest.is_empty();
            bytes = if is_cr { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
            if self.line.is_empty() {
                self.end_line(line, &mut take);
            } else {
                self.keep(line)?;
                let mut line = std::mem::take(&mut self.line);
                self.end_line(&line, &mut take);
                line.clear();
                self.line = line;
            }
        }
        self.keep(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > LINE_MAX_BYTES {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, mut line: &[u8], take: &mut impl FnMut(Event)) {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        match line {
            [] => {
                let event = std::mem::replace(&mut self.event, Event::Message(None));
                let payload = self.payload.take();
                if std::mem::take(&mut self.has_data) {
                    take(if event == Event::Message(None) { Event::Message(payload) } else { event });
                }
            }
            [b':', ..] => take(Event::Comment),
            [b'd', ..] => {
                if let Some(data) = value(line, b"data")
                    && !std::mem::replace(&mut self.has_data, true)
                {
                    self.payload = Payload::read(data);
                }
            }
            [b'e', ..] => {
                if let Some(name) = value(line, b"event") {
                    self.event = match name {
                        b"connected" => Event::Connected,
                        b"gap" => Event::Gap,
                        b"closing" => Event::Closing,
                        _ => Event::Message(None),
                    };
                }
            }
            _ => {}
        }
    }
}

/// The value of a line, if it is this field's.
fn value<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(field)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_protocol::sse::{Parsed, Parser};

    use super::*;

    fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let mut scanner = Scanner::default();
        let mut events = Vec::new();
        for piece in pieces {
            scanner.feed(piece, |event| events.push(event)).unwrap();
        }
        events
    }

    /// What the complete parser makes of it.
    fn parse(text: &[u8]) -> Vec<Event> {
        let mut parser = Parser::new(1 << 20);
        let mut events = Vec::new();
        let take = |parsed| match parsed {
            Parsed::Event { event, data, .. } => events.push(match event.as_str() {
                "connected" => Event::Connected,
                "gap" => Event::Gap,
                "closing" => Event::Closing,
                // The first line says it all: what the generator sends has no second one.
                _ => Event::Message(Payload::read(data.split('\n').next().unwrap().as_bytes())),
            }),
            Parsed::Comment(_) => events.push(Event::Comment),
            Parsed::Retry(_) => {}
        };
        parser.push(text, take).unwrap();
        events
    }

    #[test]
    fn each_kind_is_told_apart() {
        let text = "retry: 5\nid: c\nevent: connected\ndata: {}\n\n:\nid: d\ndata: {\"n\":3,\"t\":4,\"pad\":\"\"}\n\n\
                    event: gap\ndata: {}\n\nevent: said\ndata: x\n\nevent: closing\ndata: {}\n\nevent: gap\n\n";
        let message = Event::Message(Some(Payload { n: 3, t: 4 }));
        let kinds = [Event::Connected, Event::Comment, message, Event::Gap, Event::Message(None), Event::Closing];
        assert_eq!(scan([text.as_bytes()]), kinds);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.feed(&vec![b'x'; LINE_MAX_BYTES + 1], |_| {}), Err(TooLong));
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just(":".to_owned()),
            Just("data: {\"n\":1,\"t\":2,\"pad\":\"xx\"}".to_owned()),
            Just("data".to_owned()),
            Just("event:gap".to_owned()),
            Just("event: connected".to_owned()),
            Just("event".to_owned()),
            Just("dat: x".to_owned()),
            Just("\u{feff}data: x".to_owned()),
            "[a-z: ]{0,12}",
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_complete_parser_however_it_is_cut(
            lines in prop::collection::vec((line(), prop::sample::select(vec!["\n", "\r\n", "\r"])), 0..20),
            piece in 1..50_usize,
        ) {
            let text: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
            let whole = scan([text.as_bytes()]);
            prop_assert_eq!(&whole, &parse(text.as_bytes()));
            prop_assert_eq!(scan(text.as_bytes().chunks(piece)), whole);
        }
    }
}
