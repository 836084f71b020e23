//! The module's C functions as they are linked into this program.

use std::ffi::c_void;

use swtpm_tests::door::Library;

// The functions' own crate, so that they are linked.
use tpm11 as _;

macro_rules! functions {
    ($($name:ident)*) => {
        unsafe extern "C" {
            $(fn $name();)*
        }

        fn find(name: &str) -> Option<*const c_void> {
            // Only the addresses are taken; who calls knows the parameters.
            match name {
                $(stringify!($name) => Some($name as *const c_void),)*
                _ => None,
            }
        }
    };
}

functions! {
    C_Initialize C_Finalize C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_InitToken C_InitPIN C_SetPIN
    C_OpenSession C_CloseSession C_CloseAllSessions C_Login C_Logout C_CreateObject C_CopyObject
    C_DestroyObject C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects
    C_FindObjectsFinal C_GenerateKeyPair C_SignInit C_Sign
}

/// The module.
pub fn library() -> Library {
    Library::linked(find)
}
