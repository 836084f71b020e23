//! Floor 2.

/// What went wrong below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {}
