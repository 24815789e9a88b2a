//! The references as their clients see them, and the driver at work.

mod driver;
mod references;
