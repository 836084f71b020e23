//! How objects and bytes are printed.

use tpm11::token::trust::{Shown, ShownKind};

/// An object in one line.
pub(crate) fn line(object: &Shown) -> String {
    let kind = match &object.kind {
        ShownKind::PublicKey => "public key".to_owned(),
        ShownKind::StorageKey(name) => format!("storage key, Name {}", hex(name)),
        ShownKind::PrivateKey => "private key".to_owned(),
        ShownKind::SecretKey => "secret key".to_owned(),
        ShownKind::Certificate => "certificate".to_owned(),
        ShownKind::Other => "object".to_owned(),
    };
    format!("\"{}\" (id {}): {kind}", object.label, hex(&object.id))
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() % 2 != 0 || !text.is_ascii() {
        return None;
    }
    let digits =
        |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(digits).collect()
}
