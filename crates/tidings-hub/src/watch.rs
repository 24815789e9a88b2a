//! Who is told of streams that come and go.

use tidings_protocol::Channel;

use crate::connection::ConnectionInfo;

/// Whoever keeps account of who is there. Called with the hub's lock held, in the order in which things happen: it
/// must return at once and must not call back.
pub trait Watch: Send + Sync {
    /// A stream has been opened.
    fn on_opened(&self, info: &ConnectionInfo);
    /// A stream has ended. What it listened to last stands in `info`.
    fn on_ended(&self, info: &ConnectionInfo);
    /// An open stream listens to one more channel.
    fn on_joined(&self, info: &ConnectionInfo, channel: &Channel);
    /// An open stream listens to one channel less.
    fn on_left(&self, info: &ConnectionInfo, channel: &Channel);
}
