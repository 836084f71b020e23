//! Elliptic curves: parameters, points, ECDSA verification, and the digest as ECDSA takes it.

use super::Fault;

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

impl Curve {
    /// Every curve that we have.
    pub const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    /// The size of the field and of the group order, in bits (the same on these curves).
    pub const fn bits(self) -> usize {
        match self {
            Curve::P256 => 256,
            Curve::P384 => 384,
            Curve::P521 => 521,
        }
    }

    /// The size of a field element, a coordinate, or a number modulo the order, in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a curve is not a container")]
    pub const fn len(self) -> usize {
        self.bits().div_ceil(8)
    }

    /// CKA_EC_PARAMS as we store it: the DER of the curve's object identifier.
    pub const fn params(self) -> &'static [u8] {
        match self {
            Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
            Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        }
    }
}

/// Reads CKA_EC_PARAMS: the DER of the curve's object identifier (namedCurve) or of its name as a
/// PrintableString (curveName). Explicit parameters are not read.
///
/// # Errors
/// [`Fault::UnknownCurve`] if it names a curve that is not ours, [`Fault::Encoding`] if it names none.
pub fn parse_params(_params: &[u8]) -> Result<Curve, Fault> {
    todo!()
}

/// A point of a curve: on it, and not the point at infinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    curve: Curve,
    /// 0x04, x, y
    bytes: Vec<u8>,
}

/// Reads a point in the forms of SEC 1 §2.3.3, uncompressed or compressed, bare or as the DER
/// OCTET STRING that CKA_EC_POINT holds.
///
/// # Errors
/// [`Fault::Encoding`] for the hybrid forms, a wrong length and anything else unreadable;
/// [`Fault::NotOnCurve`] for what is no point of the curve, infinity included.
pub fn parse_point(_curve: Curve, _bytes: &[u8]) -> Result<Point, Fault> {
    todo!()
}

impl Point {
    /// The point with these coordinates, big-endian; shorter ones are padded on the left, as a TPM
    /// may leave out leading zero bytes.
    ///
    /// # Errors
    /// [`Fault::Length`] if a coordinate is longer than the field; [`Fault::NotOnCurve`].
    pub fn from_coordinates(_curve: Curve, _x: &[u8], _y: &[u8]) -> Result<Self, Fault> {
        todo!()
    }

    /// Its curve.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// [`Curve::len`] bytes, big-endian.
    pub fn x(&self) -> &[u8] {
        self.bytes.get(1..1 + self.curve.len()).unwrap_or_default()
    }

    /// [`Curve::len`] bytes, big-endian.
    pub fn y(&self) -> &[u8] {
        self.bytes.get(1 + self.curve.len()..).unwrap_or_default()
    }

    /// The uncompressed form, 0x04 ‖ x ‖ y.
    pub fn uncompressed(&self) -> &[u8] {
        &self.bytes
    }

    /// CKA_EC_POINT as we store it: the uncompressed form in a DER OCTET STRING.
    pub fn der(&self) -> Vec<u8> {
        super::der::octet_string(&self.bytes)
    }
}

/// Verifies an ECDSA signature r ‖ s (equal lengths, at most [`Curve::len`] each) over a digest of
/// any length. FIPS 186-5 §6.4.2.
///
/// # Errors
/// [`Fault::Length`] if the signature cannot be one of this curve by its length, else
/// [`Fault::Invalid`].
pub fn verify(_key: &Point, _digest: &[u8], _signature: &[u8]) -> Result<(), Fault> {
    todo!()
}

/// The digest as ECDSA uses it: the leftmost bits, as many as the group order has, as a byte
/// string of at most [`Curve::len`] bytes. FIPS 186-5 §6.4.1 step 2.
pub fn truncate(_curve: Curve, _digest: &[u8]) -> Vec<u8> {
    todo!()
}
