//! The load generator behind `tidings bench`.
