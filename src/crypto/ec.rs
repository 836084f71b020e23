//! Elliptic curves: parameters, points, ECDSA verification, and the digest as ECDSA takes it.

use ecdsa::hazmat::VerifyPrimitive;
use ecdsa::{PrimeCurve, Signature, SignatureSize};
use elliptic_curve::generic_array::ArrayLength;
use elliptic_curve::sec1::{EncodedPoint, FromEncodedPoint, ModulusSize, ToEncodedPoint};
use elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytes, FieldBytesSize};

use super::{Fault, der};

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
pub fn parse_params(params: &[u8]) -> Result<Curve, Fault> {
    if let Some(curve) = Curve::ALL.into_iter().find(|curve| curve.params() == params) {
        return Ok(curve);
    }
    for tag in [0x06, 0x13, 0x0c] {
        let Ok((content, rest)) = der::value(tag, params) else { continue };
        if content.is_empty() || !rest.is_empty() {
            return Err(Fault::Encoding);
        }
        return match (tag, content) {
            (0x06, _) => Err(Fault::UnknownCurve),
            (_, b"secp256r1" | b"prime256v1" | b"P-256") => Ok(Curve::P256),
            (_, b"secp384r1" | b"P-384") => Ok(Curve::P384),
            (_, b"secp521r1" | b"P-521") => Ok(Curve::P521),
            (_, _) => Err(Fault::UnknownCurve),
        };
    }
    Err(Fault::Encoding)
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
pub fn parse_point(curve: Curve, bytes: &[u8]) -> Result<Point, Fault> {
    // Both forms may begin with 0x04; their lengths never meet.
    let bare = [1 + 2 * curve.len(), 1 + curve.len(), 1].contains(&bytes.len());
    let bytes = if bare {
        bytes
    } else {
        match der::value(0x04, bytes)? {
            (content, []) => content,
            _ => return Err(Fault::Encoding),
        }
    };
    let bytes = match (bytes.first(), bytes.len()) {
        (Some(0x00), 1) => return Err(Fault::NotOnCurve),
        (Some(0x02 | 0x03), length) if length == 1 + curve.len() => on_curve(curve, bytes)?,
        (Some(0x04), length) if length == 1 + 2 * curve.len() => on_curve(curve, bytes)?,
        _ => return Err(Fault::Encoding),
    };
    Ok(Point { curve, bytes })
}

/// Decodes, checks the curve's equation, and gives the uncompressed form.
fn on_curve(curve: Curve, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    match curve {
        Curve::P256 => {
            decode::<p256::NistP256>(bytes).map(|point| encode::<p256::NistP256>(&point))
        }
        Curve::P384 => {
            decode::<p384::NistP384>(bytes).map(|point| encode::<p384::NistP384>(&point))
        }
        Curve::P521 => {
            decode::<p521::NistP521>(bytes).map(|point| encode::<p521::NistP521>(&point))
        }
    }
}

fn decode<C>(bytes: &[u8]) -> Result<AffinePoint<C>, Fault>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromEncodedPoint<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let encoded = EncodedPoint::<C>::from_bytes(bytes).map_err(|_| Fault::Encoding)?;
    Option::from(AffinePoint::<C>::from_encoded_point(&encoded)).ok_or(Fault::NotOnCurve)
}

fn encode<C>(point: &AffinePoint<C>) -> Vec<u8>
where
    C: CurveArithmetic,
    AffinePoint<C>: ToEncodedPoint<C>,
    FieldBytesSize<C>: ModulusSize,
{
    point.to_encoded_point(false).as_bytes().to_vec()
}

impl Point {
    /// The point with these coordinates, big-endian; shorter ones are padded on the left, as a TPM
    /// may leave out leading zero bytes.
    ///
    /// # Errors
    /// [`Fault::Length`] if a coordinate is longer than the field; [`Fault::NotOnCurve`].
    pub fn from_coordinates(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, Fault> {
        let mut bytes = vec![0x04];
        for coordinate in [x, y] {
            let zeros = curve.len().checked_sub(coordinate.len()).ok_or(Fault::Length)?;
            bytes.resize(bytes.len() + zeros, 0);
            bytes.extend_from_slice(coordinate);
        }
        parse_point(curve, &bytes)
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
        der::octet_string(&self.bytes)
    }
}

/// The signature r ‖ s, each [`Curve::len`] bytes, of two numbers that may be shorter.
///
/// # Errors
/// [`Fault::Range`] unless both are above 0 and below the group order.
pub fn signature(curve: Curve, r: &[u8], s: &[u8]) -> Result<Vec<u8>, Fault> {
    match curve {
        Curve::P256 => signature_on::<p256::NistP256>(curve, r, s),
        Curve::P384 => signature_on::<p384::NistP384>(curve, r, s),
        Curve::P521 => signature_on::<p521::NistP521>(curve, r, s),
    }
}

fn signature_on<C>(curve: Curve, r: &[u8], s: &[u8]) -> Result<Vec<u8>, Fault>
where
    C: PrimeCurve + CurveArithmetic,
    SignatureSize<C>: ArrayLength<u8>,
{
    if r.len() > curve.len() || s.len() > curve.len() {
        return Err(Fault::Range);
    }
    Signature::<C>::from_scalars(field_bytes::<C>(r), field_bytes::<C>(s))
        .map(|signature| signature.to_vec())
        .map_err(|_| Fault::Range)
}

/// Verifies an ECDSA signature r ‖ s (equal lengths, at most [`Curve::len`] each) over a digest of
/// any length. FIPS 186-5 §6.4.2; PKCS#11 3.2 §6.3.1.
///
/// # Errors
/// [`Fault::Length`] if the signature cannot be one of this curve by its length, else
/// [`Fault::Invalid`].
pub fn verify(key: &Point, digest: &[u8], signature: &[u8]) -> Result<(), Fault> {
    match key.curve {
        Curve::P256 => verify_on::<p256::NistP256>(key, digest, signature),
        Curve::P384 => verify_on::<p384::NistP384>(key, digest, signature),
        Curve::P521 => verify_on::<p521::NistP521>(key, digest, signature),
    }
}

fn verify_on<C>(key: &Point, digest: &[u8], signature: &[u8]) -> Result<(), Fault>
where
    C: PrimeCurve + CurveArithmetic,
    AffinePoint<C>: FromEncodedPoint<C> + VerifyPrimitive<C>,
    FieldBytesSize<C>: ModulusSize,
    SignatureSize<C>: ArrayLength<u8>,
{
    let half = signature.len() / 2;
    if signature.len() % 2 != 0 || half == 0 || half > key.curve.len() {
        return Err(Fault::Length);
    }
    let (r, s) = signature.split_at(half);
    let signature = Signature::<C>::from_scalars(field_bytes::<C>(r), field_bytes::<C>(s))
        .map_err(|_| Fault::Invalid)?;
    let digest = field_bytes::<C>(&truncate(key.curve, digest));
    decode::<C>(key.uncompressed())?
        .verify_prehashed(&digest, &signature)
        .map_err(|_| Fault::Invalid)
}

/// `number`, not longer than a field element, padded on the left.
fn field_bytes<C: elliptic_curve::Curve>(number: &[u8]) -> FieldBytes<C> {
    let mut bytes = FieldBytes::<C>::default();
    for (to, from) in bytes.iter_mut().rev().zip(number.iter().rev()) {
        *to = *from;
    }
    bytes
}

/// The digest as ECDSA uses it: the leftmost bits, as many as the group order has, as a byte
/// string of at most [`Curve::len`] bytes. FIPS 186-5 §6.4.1 step 2.
pub fn truncate(curve: Curve, digest: &[u8]) -> Vec<u8> {
    let mut leftmost = digest.get(..curve.len()).unwrap_or(digest).to_vec();
    // P-521: 66 bytes are 528 bits, of which the leftmost 521 count.
    let excess = (8 * leftmost.len()).saturating_sub(curve.bits());
    if excess > 0 {
        let mut carry = 0;
        for byte in &mut leftmost {
            let next = *byte << (8 - excess);
            *byte = *byte >> excess | carry;
            carry = next;
        }
    }
    leftmost
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The base point of a curve, uncompressed.
    fn base(curve: Curve) -> Vec<u8> {
        match curve {
            Curve::P256 => encode::<p256::NistP256>(&p256::AffinePoint::GENERATOR),
            Curve::P384 => encode::<p384::NistP384>(&p384::AffinePoint::GENERATOR),
            Curve::P521 => encode::<p521::NistP521>(&p521::AffinePoint::GENERATOR),
        }
    }

    /// The same point, compressed.
    fn compressed(point: &[u8]) -> Vec<u8> {
        let half = point.len() / 2;
        let mut short = vec![2 + point[point.len() - 1] % 2];
        short.extend(&point[1..=half]);
        short
    }

    #[test]
    fn a_point_is_read_in_each_of_its_forms() {
        for curve in Curve::ALL {
            let base = base(curve);
            let expected = parse_point(curve, &base).unwrap();
            assert_eq!(expected.uncompressed(), base);
            assert_eq!([&[4], expected.x(), expected.y()].concat(), base);
            assert_eq!(parse_point(curve, &expected.der()).unwrap(), expected);
            assert_eq!(parse_point(curve, &compressed(&base)).unwrap(), expected);
            let wrapped = der::octet_string(&compressed(&base));
            assert_eq!(parse_point(curve, &wrapped).unwrap(), expected);
            let again = Point::from_coordinates(curve, expected.x(), expected.y());
            assert_eq!(again.unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_point_is_refused() {
        for curve in Curve::ALL {
            let base = base(curve);
            let n = curve.len();
            let changed = |at: usize, to: u8| {
                let mut point = base.clone();
                point[at] = to;
                point
            };
            for (what, bytes) in [
                ("empty", vec![]),
                ("infinity", vec![0]),
                ("infinity, wrapped", vec![4, 1, 0]),
                ("all zero", vec![0; 1 + 2 * n]),
                ("zero coordinates", [vec![4], vec![0; 2 * n]].concat()),
                ("off the curve", changed(2 * n, base[2 * n] ^ 1)),
                ("x not below p", [vec![4], vec![0xff; n], base[1 + n..].to_vec()].concat()),
                ("hybrid, even", changed(0, 6)),
                ("hybrid, odd", changed(0, 7)),
                ("compact", changed(0, 5)),
                ("cut", base[..2 * n].to_vec()),
                ("too long", [&base[..], &[0]].concat()),
                ("wrapped and more", [&der::octet_string(&base)[..], &[0]].concat()),
                ("wrapped twice", der::octet_string(&der::octet_string(&base))),
                ("wrapped in a longer form", [&[4, 0x82, 0, base.len() as u8], &base[..]].concat()),
                ("a MiB", vec![4; 1 << 20]),
            ] {
                assert!(parse_point(curve, &bytes).is_err(), "{curve:?}: {what}");
            }
            for other in Curve::ALL.into_iter().filter(|other| *other != curve) {
                assert!(parse_point(other, &base).is_err(), "{curve:?} as {other:?}");
            }
        }
        // No square root: some x have no point. Half of them, so one of these has none.
        let mut x = compressed(&base(Curve::P256));
        let refused = (0..=255).filter(|last| {
            x[32] = *last;
            parse_point(Curve::P256, &x) == Err(Fault::NotOnCurve)
        });
        assert!((64..192).contains(&refused.count()));
    }

    #[test]
    fn curves_are_known_by_number_and_by_name() {
        let name = |name: &str| der::tagged(0x13, &[name.as_bytes()]);
        for curve in Curve::ALL {
            assert_eq!(parse_params(curve.params()), Ok(curve));
        }
        assert_eq!(parse_params(&name("secp256r1")), Ok(Curve::P256));
        assert_eq!(parse_params(&name("prime256v1")), Ok(Curve::P256));
        assert_eq!(parse_params(&name("secp384r1")), Ok(Curve::P384));
        assert_eq!(parse_params(&name("secp521r1")), Ok(Curve::P521));
        assert_eq!(parse_params(&name("edwards25519")), Err(Fault::UnknownCurve));
        // secp256k1
        let other = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
        assert_eq!(parse_params(&other), Err(Fault::UnknownCurve));
        for bad in [&[][..], &[0x30, 0x00], &[0x05, 0x00], &[0x06, 0x00], &[0x06, 0x08, 0x2a]] {
            assert_eq!(parse_params(bad), Err(Fault::Encoding), "{bad:?}");
        }
        let longer = [Curve::P256.params(), &[0]].concat();
        assert_eq!(parse_params(&longer), Err(Fault::Encoding));
    }

    #[test]
    fn a_digest_is_cut_to_the_bits_of_the_order() {
        let digest: Vec<u8> = (1..=100).collect();
        assert_eq!(truncate(Curve::P256, &digest), digest[..32]);
        assert_eq!(truncate(Curve::P384, &digest[..20]), digest[..20]);
        let cut = truncate(Curve::P521, &[0xff; 66]);
        assert_eq!((cut.len(), cut[0], cut[65]), (66, 0x01, 0xff));
        assert_eq!(truncate(Curve::P521, &[0xff; 65]), [0xff; 65]);
        assert!(truncate(Curve::P256, &[]).is_empty());
    }

    #[test]
    fn a_signature_with_a_number_out_of_range_is_refused() {
        for curve in Curve::ALL {
            let one = [1];
            let over = vec![0xff; curve.len()];
            assert_eq!(signature(curve, &one, &one).unwrap().len(), 2 * curve.len());
            for bad in [&[][..], &[0], &over, &[&[0][..], &over].concat()] {
                assert_eq!(signature(curve, bad, &one), Err(Fault::Range));
                assert_eq!(signature(curve, &one, bad), Err(Fault::Range));
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..140),
            digest in prop::collection::vec(any::<u8>(), 0..140),
        ) {
            let _ = parse_params(&bytes);
            for curve in Curve::ALL {
                let _ = parse_point(curve, &bytes);
                let point = parse_point(curve, &base(curve)).unwrap();
                prop_assert!(verify(&point, &digest, &bytes).is_err());
            }
        }
    }
}
