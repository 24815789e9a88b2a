//! The store and the outbox, on real databases.

mod conformance;
mod outbox;
