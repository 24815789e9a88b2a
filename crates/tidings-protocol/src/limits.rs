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

/// Longest kind of a notification, in bytes. Kinds are keys of preferences and of every user's counts.
pub const KIND_MAX_BYTES: usize = 100;

/// Longest title of a notification, in bytes: more than any device shows.
pub const TITLE_MAX_BYTES: usize = 500;

/// Longest body of a notification, in bytes: as much as a push message carries in all (FCM and Web Push
/// take 4 KiB).
pub const BODY_MAX_BYTES: usize = 4096;

/// Longest URL of a notification, in bytes: as much as browsers and proxies agree on.
pub const URL_MAX_BYTES: usize = 2048;

/// Most users that one notification names. Who has more sends it in several, or to the followers of a channel.
pub const USERS_MAX: usize = 1000;

/// Most items of one call on an inbox or on follows: what one transaction does in a few milliseconds.
pub const ITEMS_MAX: usize = 1000;

/// Most kinds for which a user has preferences.
pub const PREFERENCES_MAX: usize = 200;

/// Longest name of a device, in bytes.
pub const DEVICE_ID_MAX_BYTES: usize = 200;

/// Longest token, endpoint or key of a push target, in bytes. Real ones have a few hundred, and more than
/// this is more than a message may have.
pub const PUSH_ADDRESS_MAX_BYTES: usize = 4096;

/// Latest time that is taken, in milliseconds since the epoch: the end of the year 9999.
pub const MILLIS_MAX: u64 = 253_402_300_799_999;
