//! Why a stream ended, and why a stretch of history is missing. The same words stand in frames,
//! metrics, logs and the admin API.

use std::fmt;

/// Why a stream ended. Each end is counted once, under one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed its side in order.
    ClientClosed,
    /// The connection was reset.
    ClientReset,
    /// The peer acknowledged nothing within the write deadline or `TCP_USER_TIMEOUT`.
    PeerTimeout,
    /// The queue was full and nothing in it could be conflated.
    SlowConsumer,
    /// The token behind the stream expired.
    TokenExpired,
    /// The stream reached its maximum age.
    MaxAge,
    /// The node is shutting down.
    Drain,
    /// An operator closed it.
    Kicked,
    /// The node had more streams than it may have.
    Overload,
    /// Something failed on this side.
    Error,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::ClientClosed,
        Self::ClientReset,
        Self::PeerTimeout,
        Self::SlowConsumer,
        Self::TokenExpired,
        Self::MaxAge,
        Self::Drain,
        Self::Kicked,
        Self::Overload,
        Self::Error,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientReset => "client_reset",
            Self::PeerTimeout => "peer_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::TokenExpired => "token_expired",
            Self::MaxAge => "max_age",
            Self::Drain => "drain",
            Self::Kicked => "kicked",
            Self::Overload => "overload",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why events between a client's cursor and what history holds cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GapReason {
    /// Newer events took their place: `history_size`, or the node's memory limit.
    Evicted,
    /// They were older than `history_ttl`.
    Expired,
    /// They were in a volatile namespace, and the node was restarted.
    Restart,
    /// The log was replaced; the cursor is of an earlier one.
    Epoch,
    /// The cursor cannot be read.
    Unusable,
}

impl GapReason {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Restart => "restart",
            Self::Epoch => "epoch",
            Self::Unusable => "unusable",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
