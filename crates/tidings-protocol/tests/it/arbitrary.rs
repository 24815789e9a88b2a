//! Events as nasty as a publisher may send them.

use proptest::{collection::vec, prelude::*};
use tidings_protocol::{
    Channel, Cursor, Data, Epoch, Event, EventType, LoggedEvent, Partition, PartitionCursor, Position,
    limits::{PARTITIONS_MAX, POSITION_MAX},
};

/// What a parser might take for something else.
const TRICKY: [&str; 22] = [
    "",
    "\n",
    "\r",
    "\r\n",
    "\n\r",
    " ",
    ":",
    ": ",
    "data: ",
    "id: 7",
    "event: gap",
    "retry: 1",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "\u{85}",
    "제주",
    "\u{1f34a}",
    "\"",
    "\\",
    "[DONE]",
    "message",
];

/// Text in which every line end and every word of the format is likely.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(&TRICKY[..]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[a-z]{1,5}",
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Every type that a publisher may use.
fn event_types() -> impl Strategy<Value = EventType> {
    prop_oneof![
        1 => Just(EventType::default()),
        4 => texts().prop_map(|text| text.chars().filter(|c| !c.is_control()).collect::<String>())
            .prop_filter_map("not a type", |text| EventType::parse(&text).ok()),
    ]
}

/// Any JSON value, with tricky text in its keys and strings.
pub(crate) fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9..1e9).prop_map(Into::into),
        texts().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(texts(), inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A value as a publisher may have laid it out.
fn data() -> impl Strategy<Value = Data> {
    (values(), any::<bool>()).prop_map(|(value, pretty)| {
        let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        Data::parse(&json.unwrap()).unwrap()
    })
}

/// An event in its place, and the cursor of the stream that carries it.
pub(crate) fn logged_events() -> impl Strategy<Value = (Cursor, LoggedEvent)> {
    let place = (0..PARTITIONS_MAX, any::<u32>(), 1..=POSITION_MAX);
    let channel = "[A-Za-z0-9_.@/-]{1,20}(:[A-Za-z0-9_.:@/-]{1,20})?";
    (vec(place, 1..4), channel, event_types(), data(), 0..=u64::from(u32::MAX)).prop_map(
        |(places, channel, event_type, data, sent_at)| {
            let mut cursor = Cursor::default();
            for &(partition, epoch, position) in &places {
                let at = PartitionCursor { epoch: Epoch(epoch), position: Position(position) };
                cursor.set(Partition::new(partition).unwrap(), at);
            }
            let (partition, epoch, position) = places[0];
            let logged = LoggedEvent {
                partition: Partition::new(partition).unwrap(),
                epoch: Epoch(epoch),
                position: Position(position),
                previous: Position(position - 1),
                accepted_at: sent_at,
                event: Event {
                    channel: Channel::parse(&channel).unwrap(),
                    event_type,
                    data,
                    sent_at,
                    key: None,
                    conflate: None,
                    expires_in_secs: None,
                    is_ephemeral: false,
                },
            };
            (cursor, logged)
        },
    )
}
