//! Floor 1: host-side mathematics without keys of ours.

pub mod ec;
pub mod hash;
