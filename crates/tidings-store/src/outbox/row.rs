//! Rows, as they are read.

use sha2::{Digest as _, Sha256};

use super::OutboxRow;

/// Longest name of a table's source in a key; a key has at most 200 bytes.
const SOURCE_MAX_BYTES: usize = 100;

/// Where rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The log.
    Event,
    /// The store.
    Notification,
}

impl Target {
    /// The word for it in the column `target`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Notification => "notification",
        }
    }
}

/// A row as the database gives it.
#[derive(Debug)]
pub(super) struct RawRow {
    pub(super) id: i64,
    pub(super) target: Option<Vec<u8>>,
    /// Text that differs where an id was given twice.
    pub(super) created_at: Option<Vec<u8>>,
    /// How long it has waited.
    pub(super) age_ms: i64,
    /// The size of the payload.
    pub(super) length: i64,
    /// Absent if it is too large, too.
    pub(super) payload: Option<Vec<u8>>,
}

impl RawRow {
    /// Where it goes and what it holds; else, why it cannot be taken.
    pub(super) fn read(self, source: &str, payload_max_bytes: usize) -> Result<(Target, OutboxRow), String> {
        let target = match self.target.as_deref() {
            None | Some(b"event") => Target::Event,
            Some(b"notification") => Target::Notification,
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                return Err(format!("target: {other:?}; accepted are `event` and `notification`"));
            }
        };
        let payload = match self.payload {
            Some(payload) => payload,
            None if self.length > 0 => {
                return Err(format!("payload: {} bytes; accepted are up to {payload_max_bytes}", self.length));
            }
            None => return Err("payload: there is none, or it is no text".to_owned()),
        };
        let key = key(source, self.id, self.created_at.as_deref().unwrap_or_default(), &payload);
        Ok((target, OutboxRow { payload, key }))
    }
}

/// The key of a row. Its id is not enough: after `TRUNCATE`, or in a database that was restored, the same id
/// is another row's.
fn key(source: &str, id: i64, created_at: &[u8], payload: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(created_at);
    digest.update([0]);
    digest.update(payload);
    let digest = digest.finalize();
    let digest = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let end = source.floor_char_boundary(SOURCE_MAX_BYTES);
    format!("outbox:{}:{id}:{digest:016x}", &source[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_that_of_one_row() {
        let of = |id, at: &str, payload: &str| key("shop.tidings_outbox", id, at.as_bytes(), payload.as_bytes());
        assert!(of(7, "t", "p").starts_with("outbox:shop.tidings_outbox:7:"), "{}", of(7, "t", "p"));
        assert_eq!(of(7, "t", "p"), of(7, "t", "p"));
        for other in [of(8, "t", "p"), of(7, "u", "p"), of(7, "t", "q")] {
            assert_ne!(other, of(7, "t", "p"));
        }
        assert!(key(&"é".repeat(150), i64::MAX, b"", b"").len() <= tidings_protocol::limits::KEY_MAX_BYTES);
    }

    #[test]
    fn a_row_that_cannot_be_taken_says_why() {
        let row = |target: &str, length, payload: Option<&str>| RawRow {
            id: 1,
            target: Some(target.into()),
            created_at: None,
            age_ms: 0,
            length,
            payload: payload.map(Into::into),
        };
        assert_eq!(row("notification", 2, Some("{}")).read("s", 9).unwrap().0, Target::Notification);
        for (row, reason) in [
            (row("sms", 2, Some("{}")), "target: \"sms\"; accepted are `event` and `notification`"),
            (row("event", 10, None), "payload: 10 bytes; accepted are up to 9"),
            (row("event", 0, None), "payload: there is none, or it is no text"),
        ] {
            assert_eq!(row.read("s", 9).unwrap_err(), reason);
        }
    }
}
