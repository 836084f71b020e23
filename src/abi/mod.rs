//! Floor 6: the C door.
