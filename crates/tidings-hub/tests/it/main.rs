//! Tests of shards from outside: on real sockets with their threads, and by hand.

mod confirm;
mod follow;
mod simulated;
mod sockets;
mod support;
