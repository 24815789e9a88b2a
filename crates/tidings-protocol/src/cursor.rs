//! Where an event lies in the log, and how far a stream has read it.
//!
//! A cursor is a vector: for each partition of the log, its epoch and the last position read. An
//! event id is the vector of one entry, so with one partition the two are the same text.
//!
//! The text is unpadded base64url (RFC 4648 §5) of: a version byte (`1`), a LEB128 mask of the
//! partitions present, then for each of them in ascending order the epoch (4 bytes, big-endian)
//! and the position (LEB128). Exactly one text encodes a given vector; any other is refused.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use smallvec::SmallVec;

use crate::limits::{CURSOR_MAX_BYTES, PARTITIONS_MAX, POSITION_MAX};

const VERSION: u8 = 1;

/// One life of a log partition. A log that may have lost its tail starts a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// The number of a log partition, below [`PARTITIONS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u8);

impl Partition {
    /// The only partition of a log that has one.
    pub const ZERO: Self = Self(0);

    /// The partition of this number, if there can be one.
    pub fn new(number: usize) -> Option<Self> {
        (number < PARTITIONS_MAX).then_some(Self(number as u8))
    }

    /// Its number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The place of an event in its partition. The first event has 1; 0 is before all events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl Position {
    /// Before all events.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; 0 has none and stays.
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// How far one partition has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionCursor {
    /// The life of the partition that the position belongs to.
    pub epoch: Epoch,
    /// The last position read.
    pub position: Position,
}

/// An event's identity, the same on every node, in history, envelopes and publish answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The partition that holds the event.
    pub partition: Partition,
    /// Epoch and position within it.
    pub at: PartitionCursor,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(f, std::iter::once((self.partition, self.at)))
    }
}

impl From<EventId> for Cursor {
    fn from(id: EventId) -> Self {
        Self { entries: SmallVec::from_buf([(id.partition, id.at)]) }
    }
}

/// How far a stream has read each partition of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Cursor {
    /// Ascending by partition, each at most once. One inline entry: most logs have one partition.
    entries: SmallVec<[(Partition, PartitionCursor); 1]>,
}

/// A text that is no cursor. Clients are told so by a `gap` with reason `unusable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor that this server issued")]
pub struct CursorError;

impl Cursor {
    /// How far the partition has been read, if the cursor says so.
    pub fn get(&self, partition: Partition) -> Option<PartitionCursor> {
        self.slot(partition).ok().map(|at| self.entries[at].1)
    }

    /// Sets how far the partition has been read.
    pub fn set(&mut self, partition: Partition, to: PartitionCursor) {
        match self.slot(partition) {
            Ok(at) => self.entries[at].1 = to,
            Err(at) => self.entries.insert(at, (partition, to)),
        }
    }

    /// The partitions it speaks of, ascending.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Partition, PartitionCursor)> + Clone + '_ {
        self.entries.iter().copied()
    }

    /// Whether everything that `earlier` has read, this one has read too: same epochs, no position
    /// lower, no partition missing.
    pub fn is_at_or_after(&self, earlier: &Self) -> bool {
        earlier.entries().all(|(partition, old)| {
            self.get(partition).is_some_and(|new| new.epoch == old.epoch && new.position >= old.position)
        })
    }

    fn slot(&self, partition: Partition) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&partition, |(p, _)| *p)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(f, self.entries())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_MAX_BYTES {
            return Err(CursorError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let mut rest = bytes.strip_prefix(&[VERSION]).ok_or(CursorError)?;
        let mask = take_leb128(&mut rest)?;
        if mask == 0 || mask >= 1 << PARTITIONS_MAX {
            return Err(CursorError);
        }
        let mut entries = SmallVec::new();
        for number in (0..PARTITIONS_MAX as u8).filter(|number| mask & (1 << number) != 0) {
            let (epoch, after) = rest.split_first_chunk::<4>().ok_or(CursorError)?;
            rest = after;
            let position = Position(take_leb128(&mut rest)?);
            entries.push((Partition(number), PartitionCursor { epoch: Epoch(u32::from_be_bytes(*epoch)), position }));
        }
        rest.is_empty().then_some(Self { entries }).ok_or(CursorError)
    }
}

fn write_text(
    f: &mut fmt::Formatter<'_>,
    entries: impl Iterator<Item = (Partition, PartitionCursor)> + Clone,
) -> fmt::Result {
    let mut bytes: SmallVec<[u8; 32]> = SmallVec::new();
    bytes.push(VERSION);
    push_leb128(&mut bytes, entries.clone().fold(0, |mask, (partition, _)| mask | 1 << partition.0));
    for (_, at) in entries {
        bytes.extend_from_slice(&at.epoch.0.to_be_bytes());
        push_leb128(&mut bytes, at.position.0.min(POSITION_MAX));
    }
    let mut text = [0; CURSOR_MAX_BYTES];
    let length = URL_SAFE_NO_PAD.encode_slice(&bytes, &mut text).map_err(|_| fmt::Error)?;
    f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
}

fn push_leb128(bytes: &mut SmallVec<[u8; 32]>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes a number of at most seven bytes, in its shortest form only.
fn take_leb128(bytes: &mut &[u8]) -> Result<u64, CursorError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(7).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return if *byte == 0 && at > 0 { Err(CursorError) } else { Ok(value) };
        }
    }
    Err(CursorError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursors() -> impl Strategy<Value = Cursor> {
        let entry = (0..PARTITIONS_MAX, any::<u32>(), 0..=POSITION_MAX);
        proptest::collection::vec(entry, 1..=PARTITIONS_MAX).prop_map(|entries| {
            let mut cursor = Cursor::default();
            for (partition, epoch, position) in entries {
                let at = PartitionCursor { epoch: Epoch(epoch), position: Position(position) };
                cursor.set(Partition::new(partition).unwrap(), at);
            }
            cursor
        })
    }

    proptest! {
        #[test]
        fn text_reads_back_equal(cursor in cursors()) {
            let text = cursor.to_string();
            prop_assert!(text.len() <= CURSOR_MAX_BYTES);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn whatever_reads_is_the_one_text_of_its_value(text in "[A-Za-z0-9_-]{0,40}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _refused_or_not = text.parse::<Cursor>();
        }
    }

    #[test]
    fn the_widest_cursor_fits_and_a_single_one_is_short() {
        let widest = PartitionCursor { epoch: Epoch(u32::MAX), position: Position(POSITION_MAX) };
        let mut cursor = Cursor::default();
        for number in 0..PARTITIONS_MAX {
            cursor.set(Partition::new(number).unwrap(), widest);
        }
        assert_eq!(cursor.to_string().len(), 240);
        let id = EventId { partition: Partition::ZERO, at: widest };
        assert_eq!(id.to_string().len(), 18);
        assert_eq!(id.to_string(), Cursor::from(id).to_string());
    }

    #[test]
    fn golden() {
        let id = EventId {
            partition: Partition::ZERO,
            at: PartitionCursor { epoch: Epoch(0x0102_0304), position: Position(300) },
        };
        assert_eq!(id.to_string(), "AQEBAgMErAI");
        for refused in ["", "AQEBAgMErA", "AQEBAgMErAIA", "AgEBAgMErAI", "AQEBAgMErAI=", "AQEBAgMErII", "garbage!"] {
            assert_eq!(refused.parse::<Cursor>(), Err(CursorError), "{refused}");
        }
    }

    #[test]
    fn order_is_per_partition_and_epoch() {
        let of = |epoch, position| {
            Cursor::from(EventId {
                partition: Partition::ZERO,
                at: PartitionCursor { epoch: Epoch(epoch), position: Position(position) },
            })
        };
        assert!(of(1, 5).is_at_or_after(&of(1, 5)));
        assert!(!of(1, 4).is_at_or_after(&of(1, 5)));
        assert!(!of(2, 9).is_at_or_after(&of(1, 5)));
        assert!(!Cursor::default().is_at_or_after(&of(1, 5)));
    }
}
