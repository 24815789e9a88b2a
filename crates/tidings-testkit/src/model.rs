//! What a subscriber must have been given: every acknowledged event of its channels, once, in the
//! order of the log, with cursors that never go back.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use anyhow::Context as _;
use tidings_protocol::{Cursor, Epoch, Partition, PartitionCursor, Position, envelope::Envelope};

use crate::resuming::Record;

/// Where an event lies, read from its event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The partition of the log.
    pub partition: Partition,
    /// That partition's life.
    pub epoch: Epoch,
    /// The place in it.
    pub position: Position,
}

impl Place {
    /// Reads an event id: a cursor of one partition.
    pub fn parse(event_id: &str) -> anyhow::Result<Self> {
        let cursor: Cursor = event_id.parse().with_context(|| format!("the event id {event_id:?}"))?;
        let mut entries = cursor.entries();
        match (entries.next(), entries.next()) {
            (Some((partition, PartitionCursor { epoch, position })), None) => Ok(Self { partition, epoch, position }),
            _ => anyhow::bail!("the event id {event_id:?} is not of one partition"),
        }
    }
}

/// An event that was acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    channel: String,
    event_id: String,
    place: Place,
}

/// All that was acknowledged. Events are told apart by their data, which must therefore differ.
#[derive(Debug, Default)]
pub struct Ledger {
    by_data: HashMap<String, Acknowledged>,
    places: HashMap<Place, String>,
}

/// One thing that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged event never came.
    Missing {
        /// Its channel.
        channel: String,
        /// Its data.
        data: String,
        /// Its place.
        place: Place,
    },
    /// An event came more than once.
    Repeated {
        /// Its data.
        data: String,
    },
    /// An event came after a later one of the same partition.
    OutOfOrder {
        /// Its data.
        data: String,
        /// Its place.
        place: Place,
        /// The place of the event before it.
        after: Place,
    },
    /// An event came that nobody was promised.
    Unknown {
        /// Its data.
        data: String,
    },
    /// An event of a channel that was not asked for.
    OtherChannel {
        /// Its channel.
        channel: String,
        /// Its data.
        data: String,
    },
    /// The event id in an envelope is not the one that was acknowledged.
    OtherId {
        /// The one that was acknowledged.
        acknowledged: String,
        /// The one in the envelope.
        received: String,
    },
    /// The cursor of a frame is no cursor, or does not cover the event in it.
    CursorBehind {
        /// The cursor.
        cursor: String,
        /// The event's place.
        place: Place,
    },
    /// The cursor of a frame is behind that of the frame before.
    CursorWentBack {
        /// The cursor before.
        from: String,
        /// The cursor.
        to: String,
    },
    /// A gap was announced where history holds everything.
    Gap {
        /// The data of the `gap`.
        data: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Ledger {
    /// Writes down that the server acknowledged an event: the channel, the data as a frame carries it,
    /// and the event id of the answer.
    ///
    /// It is an error if the same place was acknowledged for another event, or the same event at another place.
    pub fn acknowledge(&mut self, channel: &str, data: &str, event_id: &str) -> anyhow::Result<()> {
        let place = Place::parse(event_id)?;
        if let Some(other) = self.places.insert(place, data.to_owned()) {
            anyhow::ensure!(other == data, "{place:?} was acknowledged for {other} and for {data}");
        }
        let entry = Acknowledged { channel: channel.to_owned(), event_id: event_id.to_owned(), place };
        if let Some(other) = self.by_data.insert(data.to_owned(), entry) {
            anyhow::ensure!(other.place == place, "{data} was acknowledged at {:?} and at {place:?}", other.place);
        }
        Ok(())
    }

    /// How many events were acknowledged.
    pub fn len(&self) -> usize {
        self.by_data.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.by_data.is_empty()
    }

    /// How many were on these channels.
    pub fn count_on(&self, channels: &[String]) -> usize {
        self.by_data.values().filter(|event| channels.contains(&event.channel)).count()
    }

    /// What is wrong with what a subscriber of these channels was given since before the first event.
    /// `enveloped` says whether its stream was opened with `envelope=1`.
    pub fn check(&self, channels: &[String], enveloped: bool, record: &Record) -> Vec<Violation> {
        let mut violations: Vec<_> = record.gaps.iter().map(|gap| Violation::Gap { data: gap.data.clone() }).collect();
        let mut seen = HashSet::new();
        let mut last_place: HashMap<Partition, Place> = HashMap::new();
        let mut last_cursor = Cursor::default();
        for received in &record.events {
            let (data, envelope_id) = match enveloped.then(|| serde_json::from_str::<Envelope<'_>>(&received.data)) {
                None => (received.data.clone(), None),
                Some(Ok(envelope)) => (envelope.data.get().to_owned(), Some(envelope.id)),
                Some(Err(_)) => {
                    violations.push(Violation::Unknown { data: received.data.clone() });
                    continue;
                }
            };
            let Some(event) = self.by_data.get(&data) else {
                violations.push(Violation::Unknown { data });
                continue;
            };
            if let Some(received) = envelope_id.filter(|id| *id != event.event_id) {
                violations.push(Violation::OtherId { acknowledged: event.event_id.clone(), received });
            }
            if !channels.contains(&event.channel) {
                violations.push(Violation::OtherChannel { channel: event.channel.clone(), data: data.clone() });
            }
            let cursor = received.id.parse::<Cursor>().unwrap_or_default();
            let covers = cursor
                .get(event.place.partition)
                .is_some_and(|at| at.epoch == event.place.epoch && at.position >= event.place.position);
            if !covers {
                violations.push(Violation::CursorBehind { cursor: received.id.clone(), place: event.place });
            }
            if !cursor.is_at_or_after(&last_cursor) {
                let (from, to) = (last_cursor.to_string(), received.id.clone());
                violations.push(Violation::CursorWentBack { from, to });
            }
            last_cursor = cursor;
            let before = last_place.insert(event.place.partition, event.place);
            if !seen.insert(data.clone()) {
                violations.push(Violation::Repeated { data });
            } else if let Some(after) = before.filter(|before| before.position > event.place.position) {
                violations.push(Violation::OutOfOrder { data, place: event.place, after });
            }
        }
        let missing =
            self.by_data.iter().filter(|(data, event)| channels.contains(&event.channel) && !seen.contains(*data));
        let mut missing: Vec<_> = missing.collect();
        missing.sort_by_key(|(_, event)| (event.place.partition, event.place.position));
        violations.extend(missing.into_iter().map(|(data, event)| Violation::Missing {
            channel: event.channel.clone(),
            data: data.clone(),
            place: event.place,
        }));
        violations
    }
}
