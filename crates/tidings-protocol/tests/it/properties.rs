//! What is written reads back equal, and what is read does not depend on how it was cut.

use proptest::{collection::vec, prelude::*};
use tidings_protocol::{
    Cursor, LoggedEvent,
    envelope::{Closing, Connected, Envelope, Gap},
    sse::{self, Parsed},
};

use crate::{
    arbitrary::{logged_events, texts, values},
    reference::{interpret, parse},
};

/// Pieces of a stream, cut at places given as fractions of its length.
fn pieces<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

/// What an EventSource must be given: a string bare with LF for every line end, any other value as JSON.
fn expected(cursor: &Cursor, logged: &LoggedEvent) -> Parsed {
    let json = logged.event.data.as_json();
    let data = match serde_json::from_str(json).unwrap() {
        serde_json::Value::String(text) => text.replace("\r\n", "\n").replace('\r', "\n"),
        _ => json.to_owned(),
    };
    Parsed::Event { event: logged.event.event_type.as_str().to_owned(), data, id: cursor.to_string() }
}

proptest! {
    #[test]
    fn events_read_back_equal_wherever_the_stream_is_cut(
        events in vec(logged_events(), 1..5),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        sse::write_retry(&mut stream, 1873);
        let mut wanted = vec![Parsed::Retry(1873)];
        for (cursor, logged) in &events {
            sse::write_event(&mut stream, cursor, logged);
            stream.extend_from_slice(sse::HEARTBEAT);
            wanted.extend([expected(cursor, logged), Parsed::Comment(String::new())]);
        }
        let last_id = events.last().unwrap().0.to_string();
        prop_assert_eq!(parse(pieces(&stream, &cuts)), (wanted, last_id));
    }

    #[test]
    fn an_envelope_holds_the_whole_event(
        (cursor, logged) in logged_events(),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut stream = Vec::new();
        sse::write_enveloped(&mut stream, &cursor, &logged);
        let (parsed, _) = parse(pieces(&stream, &cuts));
        let [Parsed::Event { event, data, id }] = &parsed[..] else { panic!("one event, not {parsed:?}") };
        prop_assert_eq!(event, logged.event.event_type.as_str());
        prop_assert_eq!(id, &cursor.to_string());
        let envelope: Envelope<'_> = serde_json::from_str(data).unwrap();
        prop_assert_eq!(envelope.id, logged.id().to_string());
        prop_assert_eq!(envelope.channel, logged.event.channel.as_str());
        prop_assert_eq!(envelope.event, logged.event.event_type.as_str());
        prop_assert_eq!(envelope.data.get(), logged.event.data.as_json());
        prop_assert_eq!(envelope.sent_at, logged.event.sent_at);
    }

    #[test]
    fn the_servers_own_events_read_back_equal(
        (cursor, _) in logged_events(),
        known in any::<bool>(),
        words in vec(texts(), 4),
        retry in proptest::option::of(any::<u64>()),
    ) {
        let connected = Connected {
            connection: words[0].clone(),
            node: words[1].clone(),
            user: known.then(|| words[2].clone()),
            channels: words.clone(),
        };
        let gap = Gap { channels: words.clone(), reason: words[3].clone() };
        let closing = Closing { reason: words[3].clone(), retry };
        let mut stream = Vec::new();
        sse::write_connected(&mut stream, known.then_some(&cursor), &connected);
        sse::write_gap(&mut stream, &cursor, &gap);
        sse::write_closing(&mut stream, &closing);
        let (parsed, last_id) = parse([&stream[..]]);
        prop_assert_eq!(last_id, cursor.to_string());
        let mut retries = Vec::new();
        let mut events = Vec::new();
        for one in &parsed {
            match one {
                Parsed::Retry(retry_ms) => retries.push(*retry_ms),
                Parsed::Event { event, data, id } => events.push((&**event, &**data, &**id)),
                Parsed::Comment(text) => prop_assert!(false, "a comment {text:?}"),
            }
        }
        prop_assert_eq!(retries, Vec::from_iter(retry));
        let text = cursor.to_string();
        prop_assert_eq!(events.len(), 3);
        prop_assert_eq!((events[0].0, events[0].2), ("connected", if known { &*text } else { "" }));
        prop_assert_eq!(serde_json::from_str::<Connected>(events[0].1).unwrap(), connected);
        prop_assert_eq!((events[1].0, events[1].2), ("gap", &*text));
        prop_assert_eq!(serde_json::from_str::<Gap>(events[1].1).unwrap(), gap);
        prop_assert_eq!((events[2].0, events[2].2), ("closing", &*text));
        prop_assert_eq!(serde_json::from_str::<Closing>(events[2].1).unwrap(), closing);
    }

    #[test]
    fn any_text_means_what_the_standard_says(
        lines in vec((prop::sample::select(&FIELDS[..]), texts(), prop::sample::select(&ENDS[..])), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let stream: String = lines.iter().map(|(field, value, end)| format!("{field}{value}{end}")).collect();
        prop_assert_eq!(parse(pieces(stream.as_bytes(), &cuts)), interpret(stream.as_bytes()));
    }

    #[test]
    fn any_bytes_mean_what_the_standard_says(
        stream in vec(prop_oneof![prop::sample::select(&b"\r\n: \xef\xbb\xbfdati\0"[..]), any::<u8>()], 0..80),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        prop_assert_eq!(parse(pieces(&stream, &cuts)), interpret(&stream));
    }

    #[test]
    fn a_value_that_is_laid_out_in_lines_goes_out_as_one(value in values()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let data = tidings_protocol::Data::parse(&pretty).unwrap();
        prop_assert_eq!(data.as_json(), value.to_string());
    }
}

const FIELDS: [&str; 14] = [
    "data:", "data: ", "data", "id:", "id: ", "id", "event:", "event: ", "retry:", "retry: ", ":", "", "\u{feff}",
    "x: ",
];
const ENDS: [&str; 7] = ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", ""];
