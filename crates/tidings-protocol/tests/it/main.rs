//! What the formats promise, checked from outside.

mod arbitrary;
mod golden;
mod properties;
mod reference;
