//! Message-based encryption, decryption, signing and verification: PKCS#11 3.2 §5.9, §5.11, §5.14,
//! §5.16. They serve authenticated encryption with keys that are not there yet.

use cryptoki_sys::*;

use super::unsupported;

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    unsupported("C_MessageEncryptInit")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
    _pPlaintext: CK_BYTE_PTR,
    _ulPlaintextLen: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _pulCiphertextLen: CK_ULONG_PTR,
) -> CK_RV {
    unsupported("C_EncryptMessage")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_EncryptMessageBegin")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pPlaintextPart: CK_BYTE_PTR,
    _ulPlaintextPartLen: CK_ULONG,
    _pCiphertextPart: CK_BYTE_PTR,
    _pulCiphertextPartLen: CK_ULONG_PTR,
    _flags: CK_FLAGS,
) -> CK_RV {
    unsupported("C_EncryptMessageNext")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    unsupported("C_MessageEncryptFinal")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    unsupported("C_MessageDecryptInit")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _ulCiphertextLen: CK_ULONG,
    _pPlaintext: CK_BYTE_PTR,
    _pulPlaintextLen: CK_ULONG_PTR,
) -> CK_RV {
    unsupported("C_DecryptMessage")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    unsupported("C_DecryptMessageBegin")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pCiphertextPart: CK_BYTE_PTR,
    _ulCiphertextPartLen: CK_ULONG,
    _pPlaintextPart: CK_BYTE_PTR,
    _pulPlaintextPartLen: CK_ULONG_PTR,
    _flags: CK_FLAGS,
) -> CK_RV {
    unsupported("C_DecryptMessageNext")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    unsupported("C_MessageDecryptFinal")
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
