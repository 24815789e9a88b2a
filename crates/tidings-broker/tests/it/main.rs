//! Tests of the brokers from outside, on real files and real processes.

mod crash;
mod embedded;
mod restart;
mod simulation;
mod support;
mod sync;
