//! The Tidings push server: configuration, wiring and command line.
