//! Channels, patterns over them, and the users that own personal channels.

use std::{fmt, sync::Arc};

use crate::limits::CHANNEL_MAX_BYTES;

/// The namespace of a channel whose name has no `:`.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The namespace of personal channels.
pub const USER_NAMESPACE: &str = "user";

/// The namespace of the server's own channels, which no client may name.
pub const INTERNAL_NAMESPACE: &str = "tidings";

/// The channel on which every signed-in user's stream is told of what is for everyone.
pub const EVERYONE: &str = "tidings:everyone";

/// What a channel name may consist of, in the words of an error.
const ACCEPTED: &str = "1 to 200 bytes of `A-Z a-z 0-9 _ - . : / @`, as `name` or `namespace:name`";

/// The name of a channel: `namespace:name`, or a bare name in the namespace `default`.
///
/// Cloning is a reference count: one name is shared by the index, the log and every frame.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is not a channel name. `Display` says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// No text at all.
    #[error("a channel name is empty; accepted are {ACCEPTED}")]
    Empty,
    /// More than [`CHANNEL_MAX_BYTES`].
    #[error("a channel name has {0} bytes; accepted are {ACCEPTED}")]
    TooLong(usize),
    /// A byte outside the alphabet.
    #[error("the channel name {name:?} has {found:?} at byte {at}; accepted are {ACCEPTED}")]
    Character {
        /// The refused name.
        name: String,
        /// The first character outside the alphabet.
        found: char,
        /// Where it is.
        at: usize,
    },
    /// Nothing before or after the first `:`.
    #[error("the channel name {0:?} has nothing before or after its first `:`; accepted are {ACCEPTED}")]
    EmptyPart(String),
}

impl Channel {
    /// Checks a name and takes it.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        if name.is_empty() {
            return Err(ChannelError::Empty);
        }
        if name.len() > CHANNEL_MAX_BYTES {
            return Err(ChannelError::TooLong(name.len()));
        }
        if let Some((at, found)) = name.char_indices().find(|(_, c)| !is_channel_char(*c)) {
            return Err(ChannelError::Character { name: name.to_owned(), found, at });
        }
        if let Some((namespace, rest)) = name.split_once(':')
            && (namespace.is_empty() || rest.is_empty())
        {
            return Err(ChannelError::EmptyPart(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The personal channel of a user.
    pub fn personal(user: &UserId) -> Self {
        Self(user.channel.clone())
    }

    /// [`EVERYONE`].
    pub fn everyone() -> Self {
        Self(EVERYONE.into())
    }

    /// Whether it is one of the server's own.
    pub fn is_internal(&self) -> bool {
        self.namespace() == INTERNAL_NAMESPACE
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `:`, or `default`.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or(DEFAULT_NAMESPACE, |(namespace, _)| namespace)
    }

    /// Whose personal channel this is, if it is one.
    pub fn owner(&self) -> Option<&str> {
        self.0.split_once(':').filter(|(namespace, _)| *namespace == USER_NAMESPACE).map(|(_, id)| id)
    }
}

fn is_channel_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '@')
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.0)
    }
}

impl std::str::FromStr for Channel {
    type Err = ChannelError;

    fn from_str(name: &str) -> Result<Self, ChannelError> {
        Self::parse(name)
    }
}

/// A user, as the `sub` claim names them. Made of channel characters, so that `user:<id>` is a channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId {
    /// The name of the personal channel: a user's connections share one text for both.
    channel: Arc<str>,
}

/// Why a text is not a user id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the user id {0:?} is not accepted: 1 to 195 bytes of `A-Z a-z 0-9 _ - . : / @`, as it names the channel `user:<id>`"
)]
pub struct UserIdError(String);

impl UserId {
    /// Checks an id and takes it.
    pub fn parse(id: &str) -> Result<Self, UserIdError> {
        let fits = id.len() < CHANNEL_MAX_BYTES - USER_NAMESPACE.len();
        if id.is_empty() || !fits || !id.chars().all(is_channel_char) {
            return Err(UserIdError(id.chars().take(64).collect()));
        }
        Ok(Self { channel: format!("{USER_NAMESPACE}:{id}").into() })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.channel[USER_NAMESPACE.len() + 1..]
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({self})")
    }
}

/// A channel name, or the beginning of one followed by a final `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelPattern {
    /// This channel only.
    Exact(Channel),
    /// Every channel whose name begins so; `*` alone is every channel.
    Prefix(String),
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the channel pattern {0:?} is not accepted: a channel name, or the beginning of one and a final `*`, as in `chat:*`"
)]
pub struct PatternError(String);

impl ChannelPattern {
    /// Checks a pattern and takes it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let refused = || PatternError(text.chars().take(64).collect());
        match text.strip_suffix('*') {
            Some(prefix) if prefix.len() <= CHANNEL_MAX_BYTES && prefix.chars().all(is_channel_char) => {
                Ok(Self::Prefix(prefix.to_owned()))
            }
            Some(_) => Err(refused()),
            None => Channel::parse(text).map(Self::Exact).map_err(|_| refused()),
        }
    }

    /// Whether the channel is among those the pattern names.
    pub fn matches(&self, channel: &Channel) -> bool {
        match self {
            Self::Exact(exact) => exact == channel,
            Self::Prefix(prefix) => channel.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(channel) => write!(f, "{channel}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_to_two_hundred_bytes_of_the_alphabet() {
        for name in ["a", "chat:lobby", "user:42", "A-z_0.9:/@", &"x".repeat(200)] {
            assert_eq!(Channel::parse(name).map(|c| c.as_str().to_owned()), Ok(name.to_owned()));
        }
        assert_eq!(Channel::parse(""), Err(ChannelError::Empty));
        assert_eq!(Channel::parse(&"x".repeat(201)), Err(ChannelError::TooLong(201)));
        assert!(matches!(Channel::parse("chat lobby"), Err(ChannelError::Character { found: ' ', at: 4, .. })));
        assert!(matches!(Channel::parse("제주"), Err(ChannelError::Character { at: 0, .. })));
        for name in [":x", "x:", ":"] {
            assert!(matches!(Channel::parse(name), Err(ChannelError::EmptyPart(_))), "{name}");
        }
    }

    #[test]
    fn the_namespace_ends_at_the_first_colon() {
        let namespace = |name| Channel::parse(name).unwrap().namespace().to_owned();
        assert_eq!(namespace("lobby"), "default");
        assert_eq!(namespace("chat:a:b"), "chat");
        let personal = Channel::personal(&UserId::parse("a:b").unwrap());
        assert_eq!((personal.as_str(), personal.owner()), ("user:a:b", Some("a:b")));
        assert_eq!(Channel::parse("users:1").unwrap().owner(), None);
        assert!(Channel::everyone().is_internal() && Channel::parse(EVERYONE) == Ok(Channel::everyone()));
        assert!(!Channel::parse("tidings").unwrap().is_internal() && !personal.is_internal());
    }

    #[test]
    fn a_star_ends_a_pattern_and_stands_nowhere_else() {
        let matches =
            |pattern: &str, name| ChannelPattern::parse(pattern).unwrap().matches(&Channel::parse(name).unwrap());
        assert!(matches("*", "anything"));
        assert!(matches("chat:*", "chat:lobby"));
        assert!(!matches("chat:*", "chatter:lobby"));
        assert!(matches("chat:lobby", "chat:lobby"));
        assert!(!matches("chat:lobby", "chat:lobby2"));
        for pattern in ["", "*:x", "a*b", "**", "a b*"] {
            assert!(ChannelPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
