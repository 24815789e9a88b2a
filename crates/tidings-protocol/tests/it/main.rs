//! What the formats promise, checked from outside.

mod arbitrary;
mod bodies;
mod golden;
mod properties;
mod reference;
