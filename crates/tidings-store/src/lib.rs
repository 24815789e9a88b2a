//! Where Tidings keeps notifications, inboxes, follows and devices.

pub mod outbox;
