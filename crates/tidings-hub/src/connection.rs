//! What the node knows of each connected client.

use std::{fmt, net::IpAddr};

use tidings_protocol::{Channel, Millis, UserId};

/// The id of a connection: 80 random bits in text, so that it cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(Box<str>);

impl ConnectionId {
    /// A new one.
    pub fn random() -> Self {
        Self(format!("{:020x}", rand::random::<u128>() >> 48).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ConnectionId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Server-sent events.
    Sse,
    /// Held requests.
    LongPoll,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 2] = [Self::Sse, Self::LongPoll];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::LongPoll => "long_poll",
        }
    }
}

/// A connection, as an operator sees it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnectionId,
    /// Who is signed in on it.
    pub user: Option<UserId>,
    /// How it is connected.
    pub transport: Transport,
    /// Where it comes from.
    pub remote: Option<IpAddr>,
    /// Since when.
    pub opened_at: Millis,
    /// What it listens to.
    pub channels: Vec<Channel>,
}

/// Which connections are meant. An absent field means any.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFilter {
    /// Those of this user.
    pub user: Option<UserId>,
    /// Those that listen to this channel.
    pub channel: Option<Channel>,
    /// Those connected so.
    pub transport: Option<Transport>,
    /// Those from this address.
    pub remote: Option<IpAddr>,
}

impl ConnectionFilter {
    /// Whether the connection is meant.
    pub fn matches(&self, info: &ConnectionInfo) -> bool {
        self.user.as_ref().is_none_or(|user| info.user.as_ref() == Some(user))
            && self.channel.as_ref().is_none_or(|channel| info.channels.contains(channel))
            && self.transport.is_none_or(|transport| info.transport == transport)
            && self.remote.is_none_or(|remote| info.remote == Some(remote))
    }
}
