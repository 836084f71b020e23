//! Floor 3: attributes.
