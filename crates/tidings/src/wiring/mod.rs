//! From the configuration to the parts of a server.

pub(crate) mod notifications;
pub(crate) mod outbox;
pub(crate) mod presence;
pub(crate) mod store;
