//! What the encoder writes is what the parser reads: one event, with its type, its data and its
//! cursor, whatever they contain.
//!
//! The first line is the event type; the rest is the data, once as a string and once as JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings_protocol::{
    Channel, Cursor, Data, Epoch, Event, EventType, LoggedEvent, Partition, Position,
    envelope::Envelope,
    sse::{self, Parsed, Parser},
};

fn read_one(stream: &[u8]) -> (String, String, String) {
    let mut parsed = Vec::new();
    Parser::new(1 << 22).push(stream, |one| parsed.push(one)).expect("below the limit");
    match <[Parsed; 1]>::try_from(parsed) {
        Ok([Parsed::Event { event, data, id }]) => (event, data, id),
        other => panic!("one event was written and this was read: {other:?}"),
    }
}

fn check(event_type: &EventType, data: Data, text: &str) {
    let logged = LoggedEvent {
        partition: Partition::ZERO,
        epoch: Epoch(7),
        position: Position(300),
        previous: Position::ZERO,
        accepted_at: 1,
        event: Event {
            channel: Channel::parse("chat:lobby").expect("a name"),
            event_type: event_type.clone(),
            data,
            sent_at: 1,
            key: None,
            conflate: None,
            expires_in_secs: None,
            is_ephemeral: false,
        },
    };
    let cursor = Cursor::from(logged.id());
    let mut stream = Vec::new();
    sse::write_event(&mut stream, &cursor, &logged);
    assert_eq!(read_one(&stream), (event_type.as_str().to_owned(), text.to_owned(), cursor.to_string()));

    stream.clear();
    sse::write_enveloped(&mut stream, &cursor, &logged);
    let (event, data, id) = read_one(&stream);
    assert_eq!((&*event, id), (event_type.as_str(), cursor.to_string()));
    let envelope: Envelope<'_> = serde_json::from_str(&data).expect("an envelope");
    assert_eq!((&*envelope.event, envelope.data.get()), (event_type.as_str(), logged.event.data.as_json()));
}

fuzz_target!(|input: &str| {
    let (first, rest) = input.split_once('\n').unwrap_or(("message", input));
    let Ok(event_type) = EventType::parse(first) else { return };

    let string = serde_json::to_string(rest).expect("a string is JSON");
    let data = Data::parse(&string).expect("JSON is data");
    check(&event_type, data, &rest.replace("\r\n", "\n").replace('\r', "\n"));

    if let Ok(data) = Data::parse(rest)
        && !data.as_json().starts_with('"')
    {
        let text = data.as_json().to_owned();
        check(&event_type, data, &text);
    }
});
