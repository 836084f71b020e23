//! The tables of functions, and the three functions that hand them out and may be called before
//! C_Initialize. PKCS#11 3.2 §5.4.4 to §5.4.6.
//!
//! 2.40 is the beginning of 3.0, and 3.0 of 3.2, field for field. So one table is written out, as a
//! literal without `..` (a function that is missing does not compile), and the older two are its
//! beginning, read as the shorter structure, with another version number.

use std::mem::{offset_of, size_of};

use cryptoki_sys::*;

use super::decrypt::*;
use super::digest::*;
use super::dual::*;
use super::encrypt::*;
use super::enter_early;
use super::general::*;
use super::key::*;
use super::legacy::*;
use super::message::*;
use super::object::*;
use super::ptr::{self, List, Place};
use super::random::*;
use super::session::*;
use super::sign::*;
use super::slot::*;
use super::verify::*;
use crate::error::Error;

static V3_2: CK_FUNCTION_LIST_3_2 = TABLE;
static V3_0: CK_FUNCTION_LIST_3_0 = CK_FUNCTION_LIST_3_0 {
    version: CK_VERSION { major: 3, minor: 0 },
    // SAFETY: the structure is the beginning of the table's, as asserted below.
    ..unsafe { beginning(&TABLE) }
};
static V2_40: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
    version: CK_VERSION { major: 2, minor: 40 },
    // SAFETY: the structure is the beginning of the table's, as asserted below.
    ..unsafe { beginning(&TABLE) }
};

/// The beginning of the table, as a shorter structure.
///
/// # Safety
/// `T`'s fields are the first of the table's.
const unsafe fn beginning<T: Copy>(table: &CK_FUNCTION_LIST_3_2) -> T {
    assert!(size_of::<T>() < size_of::<CK_FUNCTION_LIST_3_2>());
    // SAFETY: the table is longer and its fields are the same, by this function's own contract.
    unsafe { std::ptr::from_ref(table).cast::<T>().read() }
}

// The first field, the last one, and as many between.
const _: () = {
    let first = offset_of!(CK_FUNCTION_LIST_3_2, C_Initialize);
    assert!(offset_of!(CK_FUNCTION_LIST_3_0, C_Initialize) == first);
    assert!(offset_of!(CK_FUNCTION_LIST, C_Initialize) == first);

    let last = offset_of!(CK_FUNCTION_LIST_3_2, C_MessageVerifyFinal);
    assert!(offset_of!(CK_FUNCTION_LIST_3_0, C_MessageVerifyFinal) == last);
    assert!(size_of::<CK_FUNCTION_LIST_3_0>() == last + size_of::<CK_C_Initialize>());

    let last = offset_of!(CK_FUNCTION_LIST_3_2, C_WaitForSlotEvent);
    assert!(offset_of!(CK_FUNCTION_LIST, C_WaitForSlotEvent) == last);
    assert!(size_of::<CK_FUNCTION_LIST>() == last + size_of::<CK_C_Initialize>());
};

/// The name of every interface of the specification.
const NAME: &[u8] = b"PKCS 11";

/// An interface that may be shared between threads: its pointers lead to statics alone.
#[repr(transparent)]
struct Interface(CK_INTERFACE);

// SAFETY: the pointers lead to statics, which nobody writes to.
unsafe impl Sync for Interface {}

/// What there is, the newest first: it is the default.
static INTERFACES: [Interface; 3] = [
    interface((&raw const V3_2).cast()),
    interface((&raw const V3_0).cast()),
    interface((&raw const V2_40).cast()),
];

/// The versions of [`INTERFACES`], in the same order.
const VERSIONS: [(u8, u8); 3] = [(3, 2), (3, 0), (2, 40)];

/// No flags: whether a child may go on after fork is not known before the configuration is read.
const fn interface(table: *const std::ffi::c_void) -> Interface {
    Interface(CK_INTERFACE {
        pInterfaceName: c"PKCS 11".as_ptr().cast_mut().cast(),
        pFunctionList: table.cast_mut(),
        flags: 0,
    })
}

/// The functions of PKCS#11 2.40.
///
/// # Safety
/// `ppFunctionList` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(ppFunctionList: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    enter_early("C_GetFunctionList", || {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("ppFunctionList is NULL", ppFunctionList)? };
        place.put((&raw const V2_40).cast_mut());
        Ok(())
    })
}

/// All interfaces, the newest first.
///
/// # Safety
/// `pulCount` is NULL or valid; `pInterfacesList` is NULL or writable for `*pulCount` interfaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(
    pInterfacesList: CK_INTERFACE_PTR,
    pulCount: CK_ULONG_PTR,
) -> CK_RV {
    enter_early("C_GetInterfaceList", || {
        // SAFETY: this function's own contract.
        let list = unsafe { List::new(pInterfacesList, pulCount)? };
        list.put(&INTERFACES.each_ref().map(|interface| interface.0))
    })
}

/// The interface of a name and version, or the newest.
///
/// # Safety
/// `pInterfaceName` is NULL or a string that ends with a zero byte; `pVersion` is NULL or readable;
/// `ppInterface` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    pInterfaceName: CK_UTF8CHAR_PTR,
    pVersion: CK_VERSION_PTR,
    ppInterface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    enter_early("C_GetInterface", || {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("ppInterface is NULL", ppInterface)? };
        // SAFETY: a string by this function's own contract.
        if !pInterfaceName.is_null() && !unsafe { ptr::is_string(pInterfaceName, NAME) } {
            return Err(Error::ArgumentsBad("no interface has this name"));
        }
        if flags != 0 {
            return Err(Error::ArgumentsBad("no interface has these flags"));
        }
        let wanted = if pVersion.is_null() {
            None
        } else {
            // SAFETY: this function's own contract.
            let version = unsafe { ptr::read("pVersion", pVersion)? };
            Some((version.major, version.minor))
        };
        let found = VERSIONS
            .iter()
            .zip(&INTERFACES)
            .find(|(version, _)| wanted.is_none_or(|wanted| wanted == **version))
            .ok_or(Error::ArgumentsBad("no interface has this version"))?;
        place.put((&raw const found.1.0).cast_mut());
        Ok(())
    })
}

/// Every function of PKCS#11 3.2.
const TABLE: CK_FUNCTION_LIST_3_2 = CK_FUNCTION_LIST_3_2 {
    version: CK_VERSION { major: 3, minor: 2 },
    C_Initialize: Some(C_Initialize),
    C_Finalize: Some(C_Finalize),
    C_GetInfo: Some(C_GetInfo),
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetSlotList: Some(C_GetSlotList),
    C_GetSlotInfo: Some(C_GetSlotInfo),
    C_GetTokenInfo: Some(C_GetTokenInfo),
    C_GetMechanismList: Some(C_GetMechanismList),
    C_GetMechanismInfo: Some(C_GetMechanismInfo),
    C_InitToken: Some(C_InitToken),
    C_InitPIN: Some(C_InitPIN),
    C_SetPIN: Some(C_SetPIN),
    C_OpenSession: Some(C_OpenSession),
    C_CloseSession: Some(C_CloseSession),
    C_CloseAllSessions: Some(C_CloseAllSessions),
    C_GetSessionInfo: Some(C_GetSessionInfo),
    C_GetOperationState: Some(C_GetOperationState),
    C_SetOperationState: Some(C_SetOperationState),
    C_Login: Some(C_Login),
    C_Logout: Some(C_Logout),
    C_CreateObject: Some(C_CreateObject),
    C_CopyObject: Some(C_CopyObject),
    C_DestroyObject: Some(C_DestroyObject),
    C_GetObjectSize: Some(C_GetObjectSize),
    C_GetAttributeValue: Some(C_GetAttributeValue),
    C_SetAttributeValue: Some(C_SetAttributeValue),
    C_FindObjectsInit: Some(C_FindObjectsInit),
    C_FindObjects: Some(C_FindObjects),
    C_FindObjectsFinal: Some(C_FindObjectsFinal),
    C_EncryptInit: Some(C_EncryptInit),
    C_Encrypt: Some(C_Encrypt),
    C_EncryptUpdate: Some(C_EncryptUpdate),
    C_EncryptFinal: Some(C_EncryptFinal),
    C_DecryptInit: Some(C_DecryptInit),
    C_Decrypt: Some(C_Decrypt),
    C_DecryptUpdate: Some(C_DecryptUpdate),
    C_DecryptFinal: Some(C_DecryptFinal),
    C_DigestInit: Some(C_DigestInit),
    C_Digest: Some(C_Digest),
    C_DigestUpdate: Some(C_DigestUpdate),
    C_DigestKey: Some(C_DigestKey),
    C_DigestFinal: Some(C_DigestFinal),
    C_SignInit: Some(C_SignInit),
    C_Sign: Some(C_Sign),
    C_SignUpdate: Some(C_SignUpdate),
    C_SignFinal: Some(C_SignFinal),
    C_SignRecoverInit: Some(C_SignRecoverInit),
    C_SignRecover: Some(C_SignRecover),
    C_VerifyInit: Some(C_VerifyInit),
    C_Verify: Some(C_Verify),
    C_VerifyUpdate: Some(C_VerifyUpdate),
    C_VerifyFinal: Some(C_VerifyFinal),
    C_VerifyRecoverInit: Some(C_VerifyRecoverInit),
    C_VerifyRecover: Some(C_VerifyRecover),
    C_DigestEncryptUpdate: Some(C_DigestEncryptUpdate),
    C_DecryptDigestUpdate: Some(C_DecryptDigestUpdate),
    C_SignEncryptUpdate: Some(C_SignEncryptUpdate),
    C_DecryptVerifyUpdate: Some(C_DecryptVerifyUpdate),
    C_GenerateKey: Some(C_GenerateKey),
    C_GenerateKeyPair: Some(C_GenerateKeyPair),
    C_WrapKey: Some(C_WrapKey),
    C_UnwrapKey: Some(C_UnwrapKey),
    C_DeriveKey: Some(C_DeriveKey),
    C_SeedRandom: Some(C_SeedRandom),
    C_GenerateRandom: Some(C_GenerateRandom),
    C_GetFunctionStatus: Some(C_GetFunctionStatus),
    C_CancelFunction: Some(C_CancelFunction),
    C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
    C_GetInterfaceList: Some(C_GetInterfaceList),
    C_GetInterface: Some(C_GetInterface),
    C_LoginUser: Some(C_LoginUser),
    C_SessionCancel: Some(C_SessionCancel),
    C_MessageEncryptInit: Some(C_MessageEncryptInit),
    C_EncryptMessage: Some(C_EncryptMessage),
    C_EncryptMessageBegin: Some(C_EncryptMessageBegin),
    C_EncryptMessageNext: Some(C_EncryptMessageNext),
    C_MessageEncryptFinal: Some(C_MessageEncryptFinal),
    C_MessageDecryptInit: Some(C_MessageDecryptInit),
    C_DecryptMessage: Some(C_DecryptMessage),
    C_DecryptMessageBegin: Some(C_DecryptMessageBegin),
    C_DecryptMessageNext: Some(C_DecryptMessageNext),
    C_MessageDecryptFinal: Some(C_MessageDecryptFinal),
    C_MessageSignInit: Some(C_MessageSignInit),
    C_SignMessage: Some(C_SignMessage),
    C_SignMessageBegin: Some(C_SignMessageBegin),
    C_SignMessageNext: Some(C_SignMessageNext),
    C_MessageSignFinal: Some(C_MessageSignFinal),
    C_MessageVerifyInit: Some(C_MessageVerifyInit),
    C_VerifyMessage: Some(C_VerifyMessage),
    C_VerifyMessageBegin: Some(C_VerifyMessageBegin),
    C_VerifyMessageNext: Some(C_VerifyMessageNext),
    C_MessageVerifyFinal: Some(C_MessageVerifyFinal),
    C_EncapsulateKey: Some(C_EncapsulateKey),
    C_DecapsulateKey: Some(C_DecapsulateKey),
    C_VerifySignatureInit: Some(C_VerifySignatureInit),
    C_VerifySignature: Some(C_VerifySignature),
    C_VerifySignatureUpdate: Some(C_VerifySignatureUpdate),
    C_VerifySignatureFinal: Some(C_VerifySignatureFinal),
    C_GetSessionValidationFlags: Some(C_GetSessionValidationFlags),
    C_AsyncComplete: Some(C_AsyncComplete),
    C_AsyncGetID: Some(C_AsyncGetID),
    C_AsyncJoin: Some(C_AsyncJoin),
    C_WrapKeyAuthenticated: Some(C_WrapKeyAuthenticated),
    C_UnwrapKeyAuthenticated: Some(C_UnwrapKeyAuthenticated),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_tables_hold_the_same_functions_under_their_own_version() {
        assert_eq!((V2_40.version.major, V2_40.version.minor), (2, 40));
        assert_eq!((V3_0.version.major, V3_0.version.minor), (3, 0));
        assert_eq!((V3_2.version.major, V3_2.version.minor), (3, 2));
        assert_eq!(
            V2_40.C_Sign.map(|f| f as *const () as usize),
            Some(C_Sign as *const () as usize)
        );
        assert_eq!(
            V2_40.C_WaitForSlotEvent.map(|f| f as *const () as usize),
            Some(C_WaitForSlotEvent as *const () as usize)
        );
        assert_eq!(
            V3_0.C_SessionCancel.map(|f| f as *const () as usize),
            Some(C_SessionCancel as *const () as usize)
        );
        assert_eq!(
            V3_0.C_MessageVerifyFinal.map(|f| f as *const () as usize),
            Some(C_MessageVerifyFinal as *const () as usize)
        );
    }

    #[test]
    fn every_interface_is_found_by_its_version_and_the_newest_by_none() {
        let mut found: CK_INTERFACE_PTR = std::ptr::null_mut();
        for (major, minor) in VERSIONS {
            let mut version = CK_VERSION { major, minor };
            let name = c"PKCS 11".as_ptr().cast_mut().cast();
            // SAFETY: all pointers are to locals and literals.
            assert_eq!(unsafe { C_GetInterface(name, &mut version, &mut found, 0) }, CKR_OK);
            // SAFETY: just found: every table begins with its version.
            let table = unsafe { *(*found).pFunctionList.cast::<CK_VERSION>() };
            assert_eq!((table.major, table.minor), (major, minor));
        }
        let null = std::ptr::null_mut();
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { C_GetInterface(null, std::ptr::null_mut(), &mut found, 0) }, CKR_OK);
        assert!(std::ptr::eq(found, &INTERFACES[0].0));
    }

    #[test]
    fn an_unknown_name_version_or_flag_finds_no_interface() {
        let mut found: CK_INTERFACE_PTR = std::ptr::null_mut();
        let null = std::ptr::null_mut();
        for name in [c"PKCS 1", c"PKCS 11 ", c"Vendor tpm11", c""] {
            let name = name.as_ptr().cast_mut().cast();
            // SAFETY: all pointers are to locals and literals.
            let rv = unsafe { C_GetInterface(name, std::ptr::null_mut(), &mut found, 0) };
            assert_eq!(rv, CKR_ARGUMENTS_BAD);
        }
        let mut version = CK_VERSION { major: 3, minor: 1 };
        // SAFETY: all pointers are to locals.
        let rv = unsafe { C_GetInterface(null, &mut version, &mut found, 0) };
        assert_eq!(rv, CKR_ARGUMENTS_BAD);
        // SAFETY: all pointers are to locals.
        let rv = unsafe {
            C_GetInterface(null, std::ptr::null_mut(), &mut found, CKF_INTERFACE_FORK_SAFE)
        };
        assert_eq!(rv, CKR_ARGUMENTS_BAD);
        assert!(found.is_null(), "nothing is written on an error");
    }
}
