//! Tests of the senders against stand-ins of their providers, over real connections.

mod fcm;
mod support;
mod web_push;
