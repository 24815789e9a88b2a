//! The HTTP side of Tidings: API, transports, authentication, problems.
