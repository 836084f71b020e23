//! An operation in progress, and when it ends. PKCS#11 3.2 §5.2.
//!
//! The operation is moved out to be used and put back only where the specification says that it
//! goes on: on a length query, on a buffer that is too small, and after an update. Every other
//! path, an early `?` included, ends it.

use zeroize::Zeroizing;

/// Where an answer goes: what the caller's output pointers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// No buffer: only the length is asked for.
    Query,
    /// A buffer of so many bytes.
    Bytes(usize),
}

/// What a function with output gives back to the door.
#[derive(Debug)]
pub enum Answer {
    /// The bytes; they fit the room.
    Done(Zeroizing<Vec<u8>>),
    /// CKR_OK with this length; nothing else happened.
    Length(usize),
    /// CKR_BUFFER_TOO_SMALL with this length; nothing else happened.
    TooSmall(usize),
}

/// The kinds of operations; a session may have one of each in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// C_FindObjectsInit
    Find,
    /// C_EncryptInit
    Encrypt,
    /// C_DecryptInit
    Decrypt,
    /// C_DigestInit
    Digest,
    /// C_SignInit
    Sign,
    /// C_SignRecoverInit
    SignRecover,
    /// C_VerifyInit and C_VerifySignatureInit
    Verify,
    /// C_VerifyRecoverInit
    VerifyRecover,
}
