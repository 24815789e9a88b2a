//! WHATWG HTML §9.2.6 read word by word, on a whole stream at once: slow, and easy to compare with
//! the page. [`tidings_protocol::sse::Parser`] has to agree with it on every input.

use tidings_protocol::sse::{Parsed, Parser};

/// What a parser makes of a stream, and the last event id it is left with.
pub(crate) type Outcome = (Vec<Parsed>, String);

/// The interpretation that the standard gives.
pub(crate) fn interpret(stream: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    // What follows the last line end is an unfinished line.
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();

    let mut parsed = Vec::new();
    let (mut data, mut event, mut id, mut last_id) = (String::new(), String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            last_id.clone_from(&id);
            if !data.is_empty() {
                data.pop();
                let event = if event.is_empty() { "message".to_owned() } else { event.clone() };
                parsed.push(Parsed::Event { event, data: data.clone(), id: id.clone() });
            }
            data.clear();
            event.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let unspaced = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => parsed.push(Parsed::Comment(value.to_owned())),
            "event" => event = unspaced.to_owned(),
            "data" => data = format!("{data}{unspaced}\n"),
            "id" if !unspaced.contains('\0') => id = unspaced.to_owned(),
            "retry" if unspaced.chars().all(|c| c.is_ascii_digit()) => {
                parsed.extend(unspaced.parse().map(Parsed::Retry));
            }
            _ => {}
        }
    }
    (parsed, last_id)
}

/// What our parser makes of a stream that comes in these pieces.
pub(crate) fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = Parser::new(1 << 20);
    let mut parsed = Vec::new();
    for piece in pieces {
        parser.push(piece, |one| parsed.push(one)).expect("the stream is below the limit");
    }
    (parsed, parser.last_event_id().to_owned())
}
