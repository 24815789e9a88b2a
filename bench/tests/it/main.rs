//! The references as their clients see them.

mod references;
