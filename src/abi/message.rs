//! Message-based encryption, decryption, signing and verification: PKCS#11 3.2 §5.9, §5.11, §5.14,
//! §5.16. Messages are encrypted and decrypted by the authenticated modes; signing them one after another
//! is what C_SignInit and C_Sign do in one command a signature, so those functions are not built.

use cryptoki_sys::*;

use super::params::Tag;
use super::ptr::{Input, Output, wide};
use super::{both, enter, params, session, unsupported};
use crate::crypto::secret::Wiped;
use crate::error::{Error, Result};
use crate::token::{Kind, Module};

/// A message's parameter as the caller gives it.
#[derive(Clone, Copy)]
struct Parameter(CK_VOID_PTR, CK_ULONG);

/// What becomes of the tag at the end of a message.
fn tag_of(kind: Kind) -> Tag {
    if kind == Kind::MessageDecrypt { Tag::Read } else { Tag::Written }
}

/// C_MessageEncryptInit and its like.
///
/// # Safety
/// `mechanism` is NULL or points to a mechanism.
unsafe fn init(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kind: Kind,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    if mechanism.is_null() {
        module.session(wide(handle))?.end(kind);
        return Ok(());
    }
    // SAFETY: this function's own contract.
    let mechanism = unsafe { params::message_mechanism(mechanism)? };
    let session = module.session(wide(handle))?;
    session.message_init(kind, mechanism.id, &mechanism.params, wide(key))
}

/// C_EncryptMessage and its like.
///
/// # Safety
/// The parameter is what the process's mechanism says, as for [`params::message`].
unsafe fn whole(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kind: Kind,
    parameter: Parameter,
    associated: Result<Wiped>,
    input: Result<Wiped>,
    output: Output,
) -> Result<()> {
    let arguments = both(both(associated, input), output.room());
    let (session, ((associated, input), room)) = session(module, handle, arguments)?;
    let mechanism = session.message_mechanism(kind)?;
    // SAFETY: this function's own contract.
    let message = unsafe { params::message(mechanism, parameter.0, parameter.1, tag_of(kind))? };
    let sealed = session.message(kind, &message.given, &associated, &input, room)?;
    output.put(sealed.answer)?;
    message.put(sealed.nonce.as_deref(), sealed.tag.as_ref().map(|tag| &tag[..]))
}

/// C_EncryptMessageBegin and its like.
///
/// # Safety
/// As for [`whole`].
unsafe fn begin(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kind: Kind,
    parameter: Parameter,
    associated: Result<Wiped>,
) -> Result<()> {
    let (session, associated) = session(module, handle, associated)?;
    let mechanism = session.message_mechanism(kind)?;
    // SAFETY: this function's own contract.
    let message = unsafe { params::message(mechanism, parameter.0, parameter.1, Tag::Later)? };
    let nonce = session.message_begin(kind, &message.given, &associated)?;
    message.put(nonce.as_deref(), None)
}

/// C_EncryptMessageNext and its like: an error ends the message.
///
/// # Safety
/// As for [`whole`].
unsafe fn next(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kind: Kind,
    parameter: Parameter,
    input: Result<Wiped>,
    output: Output,
    flags: CK_FLAGS,
) -> Result<()> {
    let last = flags == CKF_END_OF_MESSAGE;
    let arguments = if last || flags == 0 {
        both(input, output.room())
    } else {
        Err(Error::ArgumentsBad("flags are neither 0 nor CKF_END_OF_MESSAGE"))
    };
    if arguments.is_err() {
        if let Ok(session) = module.session(wide(handle)) {
            session.end_message(kind);
        }
    }
    let (session, (input, room)) = session(module, handle, arguments)?;
    let mechanism = session.message_mechanism(kind)?;
    let tag = if last { tag_of(kind) } else { Tag::Later };
    // SAFETY: this function's own contract.
    let message = unsafe { params::message(mechanism, parameter.0, parameter.1, tag) };
    let message = message.inspect_err(|_| session.end_message(kind))?;
    let sealed = session.message_next(kind, &message.given, &input, room, last)?;
    output.put(sealed.answer)?;
    message.put(None, sealed.tag.as_ref().map(|tag| &tag[..]))
}

/// Starts an encryption of messages; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_MessageEncryptInit", |module| {
        // SAFETY: this function's own contract.
        unsafe { init(module, hSession, Kind::MessageEncrypt, pMechanism, hKey) }
    })
}

/// Encrypts a message in one part; the nonce, if the module makes it, and the tag are written to the parameter.
///
/// # Safety
/// `pParameter` is what the mechanism takes for a message, with pointers that are readable and writable for
/// the lengths beside them; the other pointers are NULL or valid, and as large as the lengths beside them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessage(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    pPlaintext: CK_BYTE_PTR,
    ulPlaintextLen: CK_ULONG,
    pCiphertext: CK_BYTE_PTR,
    pulCiphertextLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_EncryptMessage", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let associated =
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes();
            let input = Input::new("pPlaintext", pPlaintext, ulPlaintextLen).data();
            let output = Output::new(pCiphertext, pulCiphertextLen);
            whole(module, hSession, Kind::MessageEncrypt, parameter, associated, input, output)
        }
    })
}

/// Begins a message in parts; a nonce that the module makes is written to the parameter.
///
/// # Safety
/// As for [`C_EncryptMessage`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageBegin(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    enter("C_EncryptMessageBegin", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let associated =
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes();
            begin(module, hSession, Kind::MessageEncrypt, parameter, associated)
        }
    })
}

/// Encrypts a part of a message. At its end (CKF_END_OF_MESSAGE) the tag is written to the parameter.
///
/// # Safety
/// As for [`C_EncryptMessage`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageNext(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pPlaintextPart: CK_BYTE_PTR,
    ulPlaintextPartLen: CK_ULONG,
    pCiphertextPart: CK_BYTE_PTR,
    pulCiphertextPartLen: CK_ULONG_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    enter("C_EncryptMessageNext", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let input = Input::new("pPlaintextPart", pPlaintextPart, ulPlaintextPartLen).data();
            let output = Output::new(pCiphertextPart, pulCiphertextPartLen);
            next(module, hSession, Kind::MessageEncrypt, parameter, input, output, flags)
        }
    })
}

/// Ends an encryption of messages.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptFinal(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_MessageEncryptFinal", |module| {
        module.session(wide(hSession))?.message_final(Kind::MessageEncrypt)
    })
}

/// Starts a decryption of messages; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_MessageDecryptInit", |module| {
        // SAFETY: this function's own contract.
        unsafe { init(module, hSession, Kind::MessageDecrypt, pMechanism, hKey) }
    })
}

/// Decrypts a message in one part; the tag is read from the parameter.
///
/// # Safety
/// `pParameter` is what the mechanism takes for a message, with pointers that are readable and writable for
/// the lengths beside them; the other pointers are NULL or valid, and as large as the lengths beside them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessage(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    pCiphertext: CK_BYTE_PTR,
    ulCiphertextLen: CK_ULONG,
    pPlaintext: CK_BYTE_PTR,
    pulPlaintextLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DecryptMessage", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let associated =
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes();
            let input = Input::new("pCiphertext", pCiphertext, ulCiphertextLen).ciphertext();
            let output = Output::new(pPlaintext, pulPlaintextLen);
            whole(module, hSession, Kind::MessageDecrypt, parameter, associated, input, output)
        }
    })
}

/// Begins a message in parts; the tag comes with its end.
///
/// # Safety
/// As for [`C_DecryptMessage`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageBegin(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    enter("C_DecryptMessageBegin", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let associated =
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes();
            begin(module, hSession, Kind::MessageDecrypt, parameter, associated)
        }
    })
}

/// Decrypts a part of a message. At its end (CKF_END_OF_MESSAGE) the tag is read from the parameter, and the whole plaintext comes if it is right.
///
/// # Safety
/// As for [`C_DecryptMessage`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageNext(
    hSession: CK_SESSION_HANDLE,
    pParameter: CK_VOID_PTR,
    ulParameterLen: CK_ULONG,
    pCiphertextPart: CK_BYTE_PTR,
    ulCiphertextPartLen: CK_ULONG,
    pPlaintextPart: CK_BYTE_PTR,
    pulPlaintextPartLen: CK_ULONG_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    enter("C_DecryptMessageNext", |module| {
        let parameter = Parameter(pParameter, ulParameterLen);
        // SAFETY: this function's own contract.
        unsafe {
            let input =
                Input::new("pCiphertextPart", pCiphertextPart, ulCiphertextPartLen).ciphertext();
            let output = Output::new(pPlaintextPart, pulPlaintextPartLen);
            next(module, hSession, Kind::MessageDecrypt, parameter, input, output, flags)
        }
    })
}

/// Ends a decryption of messages.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptFinal(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_MessageDecryptFinal", |module| {
        module.session(wide(hSession))?.message_final(Kind::MessageDecrypt)
    })
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageSignInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    unsupported("C_MessageSignInit")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    unsupported("C_SignMessage")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_SignMessageBegin")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    unsupported("C_SignMessageNext")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageSignFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    unsupported("C_MessageSignFinal")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageVerifyInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    unsupported("C_MessageVerifyInit")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _ulSignatureLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_VerifyMessage")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_VerifyMessageBegin")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _ulSignatureLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_VerifyMessageNext")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageVerifyFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    unsupported("C_MessageVerifyFinal")
}
