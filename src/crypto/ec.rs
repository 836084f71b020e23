//! Elliptic curves: parameters, points, ECDSA verification.

/// A NIST prime curve (SP 800-186).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}
