//! The calls of `/v1`, and what stands beside them.

pub mod ack;
pub mod channels;
pub mod connections;
pub mod devices;
pub mod followers;
pub mod follows;
pub mod inbox;
pub mod notifications;
pub mod operations;
pub mod preferences;
pub mod presence;
pub mod publish;
pub mod pushes;
pub mod subscribe;
pub mod tickets;
pub mod users;
mod wire;
