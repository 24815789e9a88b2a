//! The Tidings push server: configuration, wiring and command line.

pub mod cli;
mod clock;
pub mod config;
pub mod dev;
mod secret_file;
pub mod server;
mod wiring;

pub use server::{Builder, Tidings, VERSION};
