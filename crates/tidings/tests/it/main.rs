//! The `tidings` command as its users run it.

// First, for its macro.
#[macro_use]
mod ways;

mod access;
mod bad_input;
mod bench;
mod command;
mod config;
mod confirmation;
mod crash;
mod doctor;
mod documents;
mod embed;
mod following;
mod gaps;
mod guide;
mod hostile;
mod inbox_page;
mod nginx;
mod node;
mod notifications;
mod notify;
mod operations;
mod operations_page;
mod outbox;
mod page;
mod plain_server;
mod presence;
mod publish;
mod publish_api;
mod push_command;
mod rates;
mod raw;
mod readme;
mod resume;
mod server;
mod store_command;
mod stream;
mod subscribe;
mod tickets;
mod token;
