//! The model finds what it is there to find.

use tidings_protocol::{Cursor, Epoch, EventId, Partition, PartitionCursor, Position};
use tidings_testkit::{
    client::Received,
    model::{Ledger, Place, Violation},
    resuming::Record,
};

fn id(position: u64) -> String {
    let at = PartitionCursor { epoch: Epoch(7), position: Position(position) };
    EventId { partition: Partition::ZERO, at }.to_string()
}

fn place(position: u64) -> Place {
    Place { partition: Partition::ZERO, epoch: Epoch(7), position: Position(position) }
}

/// Four events: a1, b1, a2, b2 at 1, 2, 3, 4.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for (position, data) in (1..).zip(["\"a1\"", "\"b1\"", "\"a2\"", "\"b2\""]) {
        ledger.acknowledge(&data[1..2], data, &id(position)).unwrap();
    }
    ledger
}

/// What a subscriber was given: data and the position of the cursor.
fn record(events: &[(&str, u64)]) -> Record {
    let received = |(data, position): &(&str, u64)| Received {
        event: "message".to_owned(),
        data: format!("\"{data}\""),
        id: id(*position),
    };
    Record { events: events.iter().map(received).collect(), ..Record::default() }
}

fn check(channels: &[&str], events: &[(&str, u64)]) -> Vec<Violation> {
    let channels: Vec<_> = channels.iter().map(|name| (*name).to_owned()).collect();
    ledger().check(&channels, false, &record(events))
}

#[test]
fn what_is_right_is_right() {
    assert_eq!(check(&["a", "b"], &[("a1", 1), ("b1", 2), ("a2", 3), ("b2", 4)]), []);
    // A cursor may be ahead of its event: the node has read other channels too.
    assert_eq!(check(&["a"], &[("a1", 2), ("a2", 4)]), []);
    assert_eq!(ledger().count_on(&["a".to_owned()]), 2);
}

#[test]
fn what_is_wrong_is_found() {
    let (channel, data) = ("a".to_owned(), "\"a2\"".to_owned());
    assert_eq!(check(&["a"], &[("a1", 1)]), [Violation::Missing { channel, data, place: place(3) }]);
    let data = "\"a1\"".to_owned();
    assert_eq!(check(&["a"], &[("a1", 1), ("a1", 1), ("a2", 3)]), [Violation::Repeated { data }]);
    let data = "\"a1\"".to_owned();
    assert_eq!(
        check(&["a"], &[("a2", 3), ("a1", 3)]),
        [Violation::OutOfOrder { data, place: place(1), after: place(3) }]
    );
    let data = "\"x\"".to_owned();
    assert_eq!(check(&["a"], &[("a1", 1), ("x", 2), ("a2", 3)]), [Violation::Unknown { data }]);
    let (channel, data) = ("b".to_owned(), "\"b1\"".to_owned());
    assert_eq!(check(&["a"], &[("a1", 1), ("b1", 2), ("a2", 3)]), [Violation::OtherChannel { channel, data }]);
    assert_eq!(check(&["a"], &[("a1", 1), ("a2", 2)]), [Violation::CursorBehind { cursor: id(2), place: place(3) }]);
    assert_eq!(check(&["a"], &[("a1", 4), ("a2", 3)]), [Violation::CursorWentBack { from: id(4), to: id(3) }]);
}

#[test]
fn a_frame_without_a_cursor_and_a_gap_are_wrong_too() {
    let mut record = record(&[("a1", 1), ("a2", 3)]);
    record.events[1].id.clear();
    record.gaps.push(Received { event: "gap".to_owned(), data: "{}".to_owned(), id: id(3) });
    let from = Cursor::from(EventId {
        partition: Partition::ZERO,
        at: PartitionCursor { epoch: Epoch(7), position: Position(1) },
    });
    assert_eq!(
        ledger().check(&["a".to_owned()], false, &record),
        [
            Violation::Gap { data: "{}".to_owned() },
            Violation::CursorBehind { cursor: String::new(), place: place(3) },
            Violation::CursorWentBack { from: from.to_string(), to: String::new() },
        ]
    );
}

#[test]
fn the_id_in_an_envelope_is_the_acknowledged_one() {
    let envelope = |position, text: &str| Received {
        event: "message".to_owned(),
        data: format!(r#"{{"id":"{}","channel":"a","event":"message","data":"{text}","sent_at":1}}"#, id(position)),
        id: id(3),
    };
    let record = Record { events: vec![envelope(1, "a1"), envelope(2, "a2")], ..Record::default() };
    assert_eq!(
        ledger().check(&["a".to_owned()], true, &record),
        [Violation::OtherId { acknowledged: id(3), received: id(2) }]
    );
}

#[test]
fn no_place_is_acknowledged_twice() {
    let mut ledger = ledger();
    assert!(ledger.acknowledge("a", "\"a1\"", &id(1)).is_ok(), "a repeated answer");
    assert!(ledger.acknowledge("a", "\"a3\"", &id(1)).is_err(), "two events at one place");
    assert!(ledger.acknowledge("a", "\"a1\"", &id(9)).is_err(), "one event at two places");
    assert!(ledger.acknowledge("a", "\"a4\"", "garbage").is_err(), "no event id");
}
