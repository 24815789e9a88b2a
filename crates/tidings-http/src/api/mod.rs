//! The calls of `/v1`, and what stands beside them.

pub mod channels;
pub mod connections;
pub mod operations;
pub mod publish;
pub mod subscribe;
pub mod tickets;
