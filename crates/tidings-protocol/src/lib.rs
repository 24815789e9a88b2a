//! The words and wire formats of Tidings.
//!
//! Everything here is a plain value or a pure function: no I/O, no clock, no runtime. Read in the
//! order in which an event passes: [`publish`] (what a backend sends) → [`event`] (what the log
//! keeps) → [`cursor`] (where it lies) → [`envelope`] and [`sse`] (what a client receives).

pub mod body;
pub mod channel;
pub mod cursor;
pub mod envelope;
pub mod event;
pub mod limits;
pub mod me;
pub mod notification;
pub mod notify;
pub mod publish;
pub mod reason;
pub mod sse;

pub use channel::{Channel, ChannelError, ChannelPattern, UserId};
pub use cursor::{Cursor, Epoch, EventId, Partition, PartitionCursor, Position};
pub use event::{Data, Event, EventType, LoggedEvent, Millis};
pub use reason::{CloseReason, GapReason};
