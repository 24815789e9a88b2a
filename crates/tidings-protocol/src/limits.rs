//! Limits that are part of the formats. Limits that an operator may change are configuration.

/// Longest channel name, in bytes. Channels travel in URLs, where 20 of them must still fit.
pub const CHANNEL_MAX_BYTES: usize = 200;

/// Longest event type, in bytes. It is repeated in every frame.
pub const EVENT_TYPE_MAX_BYTES: usize = 200;

/// Longest idempotency key or conflation value, in bytes: room for any UUID, hash or order number.
pub const KEY_MAX_BYTES: usize = 200;

/// Longest `expires_in`, in seconds: a year.
pub const EXPIRES_IN_MAX_SECS: u64 = 366 * 24 * 60 * 60;

/// Most partitions a broker may have, so that a cursor stays below [`CURSOR_MAX_BYTES`].
pub const PARTITIONS_MAX: usize = 16;

/// Longest cursor in text, in bytes. Sixteen partitions need 240.
pub const CURSOR_MAX_BYTES: usize = 256;

/// Highest position in a log: 2^49 − 1, seven LEB128 bytes. At 100,000 events a second it is
/// reached after 178 years.
pub const POSITION_MAX: u64 = (1 << 49) - 1;
