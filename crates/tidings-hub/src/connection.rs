//! What the node knows of each connected client.

use std::{fmt, net::IpAddr};

use smallvec::SmallVec;
use tidings_protocol::{Channel, Millis, UserId};

/// The id of a connection: 80 random bits, so that it cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId([u8; 10]);

impl ConnectionId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The id that [`Display`](fmt::Display) writes so; `None` if it writes none so.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 20 || !text.bytes().all(is_digit) {
            return None;
        }
        let mut id = [0; 10];
        for (byte, at) in id.iter_mut().zip((0..20).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(id))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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

/// Whose word it takes for an event to have reached a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ConfirmBy {
    /// The kernel's: the peer's TCP has acknowledged it, and the peer is the client.
    Tcp,
    /// The client's own: what its peer acknowledges may be on its way still, for the peer is a proxy.
    #[default]
    Client,
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
    /// Whose word counts for what has arrived.
    pub confirms: ConfirmBy,
    /// Where it comes from.
    pub remote: Option<IpAddr>,
    /// Since when.
    pub opened_at: Millis,
    /// What it listens to. Inline for one: a node may have very many streams of that kind.
    pub channels: SmallVec<[Channel; 1]>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = ConnectionId::random();
        assert_eq!(ConnectionId::parse(&id.to_string()), Some(id));
        for text in ["", "0", "+1020304050607080910", "0102030405060708091G", "010203040506070809AB", &"0".repeat(21)] {
            assert_eq!(ConnectionId::parse(text), None, "{text}");
        }
    }
}
