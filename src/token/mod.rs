//! Floor 5: what a token is.
