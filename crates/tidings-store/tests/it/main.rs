//! The store and the outbox, on real databases.

mod outbox;
