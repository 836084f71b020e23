//! Slot and token management functions: PKCS#11 3.2 §5.5. None but C_InitToken, C_InitPIN and
//! C_SetPIN sends a command to the TPM.

use cryptoki_sys::*;

use super::ptr::{self, Input, List, Place, wide};
use super::{both, enter, session};
use crate::error::Error;

/// The slots' ids, in an order that only grows. Asking for the count looks for new tokens.
///
/// # Safety
/// `pulCount` is NULL or valid; `pSlotList` is NULL or writable for `*pulCount` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotList(
    tokenPresent: CK_BBOOL,
    pSlotList: CK_SLOT_ID_PTR,
    pulCount: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_GetSlotList", |module| {
        // SAFETY: this function's own contract.
        let list = unsafe { List::new(pSlotList, pulCount)? };
        let slots = module.slot_list(tokenPresent != CK_FALSE, list.is_query())?;
        list.put(&narrow(&slots))
    })
}

/// What a slot is.
///
/// # Safety
/// `pInfo` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotInfo(slotID: CK_SLOT_ID, pInfo: CK_SLOT_INFO_PTR) -> CK_RV {
    enter("C_GetSlotInfo", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pInfo is NULL", pInfo)? };
        let info = module.slot_info(wide(slotID))?;
        place.put(CK_SLOT_INFO {
            slotDescription: info.description,
            manufacturerID: info.manufacturer,
            flags: info.flags as CK_FLAGS,
            hardwareVersion: version(info.hardware_version),
            firmwareVersion: version(info.firmware_version),
        });
        Ok(())
    })
}

/// What a token is, and what its PINs' flags said last.
///
/// # Safety
/// `pInfo` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetTokenInfo(slotID: CK_SLOT_ID, pInfo: CK_TOKEN_INFO_PTR) -> CK_RV {
    enter("C_GetTokenInfo", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pInfo is NULL", pInfo)? };
        let info = module.token_info(wide(slotID))?;
        place.put(CK_TOKEN_INFO {
            label: info.label,
            manufacturerID: info.manufacturer,
            model: info.model,
            serialNumber: info.serial,
            flags: info.flags as CK_FLAGS,
            ulMaxSessionCount: info.max_sessions as CK_ULONG,
            ulSessionCount: info.sessions as CK_ULONG,
            ulMaxRwSessionCount: info.max_rw_sessions as CK_ULONG,
            ulRwSessionCount: info.rw_sessions as CK_ULONG,
            ulMaxPinLen: info.max_pin_bytes as CK_ULONG,
            ulMinPinLen: info.min_pin_bytes as CK_ULONG,
            ulTotalPublicMemory: info.total_public_memory as CK_ULONG,
            ulFreePublicMemory: info.free_public_memory as CK_ULONG,
            ulTotalPrivateMemory: info.total_private_memory as CK_ULONG,
            ulFreePrivateMemory: info.free_private_memory as CK_ULONG,
            hardwareVersion: version(info.hardware_version),
            firmwareVersion: version(info.firmware_version),
            utcTime: info.utc_time,
        });
        Ok(())
    })
}

/// Waits for a token that another process makes; with CKF_DONT_BLOCK, only looks.
///
/// # Safety
/// `pSlot` is NULL or writable; `pReserved` is not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    pSlot: CK_SLOT_ID_PTR,
    pReserved: CK_VOID_PTR,
) -> CK_RV {
    enter("C_WaitForSlotEvent", |module| {
        if !pReserved.is_null() {
            return Err(Error::ArgumentsBad("pReserved is not NULL"));
        }
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pSlot is NULL", pSlot)? };
        let slot = module.wait_for_slot_event(flags & CKF_DONT_BLOCK == 0)?;
        place.put(slot as CK_SLOT_ID);
        Ok(())
    })
}

/// The mechanisms that this token's TPM and the host offer.
///
/// # Safety
/// `pulCount` is NULL or valid; `pMechanismList` is NULL or writable for `*pulCount` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismList(
    slotID: CK_SLOT_ID,
    pMechanismList: CK_MECHANISM_TYPE_PTR,
    pulCount: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_GetMechanismList", |module| {
        // SAFETY: this function's own contract.
        let list = unsafe { List::new(pMechanismList, pulCount)? };
        list.put(&narrow(&module.mechanism_list(wide(slotID))?))
    })
}

/// Key sizes and uses of one mechanism.
///
/// # Safety
/// `pInfo` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismInfo(
    slotID: CK_SLOT_ID,
    type_: CK_MECHANISM_TYPE,
    pInfo: CK_MECHANISM_INFO_PTR,
) -> CK_RV {
    enter("C_GetMechanismInfo", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pInfo is NULL", pInfo)? };
        let info = module.mechanism_info(wide(slotID), wide(type_))?;
        place.put(CK_MECHANISM_INFO {
            ulMinKeySize: info.min_key_size as CK_ULONG,
            ulMaxKeySize: info.max_key_size as CK_ULONG,
            flags: info.flags as CK_FLAGS,
        });
        Ok(())
    })
}

/// Makes a token in the empty slot, or makes one anew with its SO PIN; all its objects are gone.
///
/// # Safety
/// `pPin` is NULL or readable for `ulPinLen` bytes; `pLabel` is NULL or readable for 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitToken(
    slotID: CK_SLOT_ID,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
    pLabel: CK_UTF8CHAR_PTR,
) -> CK_RV {
    enter("C_InitToken", |module| {
        // SAFETY: this function's own contract.
        let (pin, label) = unsafe { (Input::new("pPin", pPin, ulPinLen), ptr::label(pLabel)?) };
        module.init_token(wide(slotID), &pin.pin()?, &label)
    })
}

/// Sets the user's PIN; the SO does.
///
/// # Safety
/// `pPin` is NULL or readable for `ulPinLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitPIN(
    hSession: CK_SESSION_HANDLE,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
) -> CK_RV {
    enter("C_InitPIN", |module| {
        // SAFETY: this function's own contract.
        let pin = unsafe { Input::new("pPin", pPin, ulPinLen) }.pin();
        let (session, pin) = session(module, hSession, pin)?;
        session.init_pin(&pin)
    })
}

/// Changes the PIN of who is logged in, or the user's. A wrong old PIN costs a try.
///
/// # Safety
/// `pOldPin` and `pNewPin` are NULL or readable for `ulOldLen` and `ulNewLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetPIN(
    hSession: CK_SESSION_HANDLE,
    pOldPin: CK_UTF8CHAR_PTR,
    ulOldLen: CK_ULONG,
    pNewPin: CK_UTF8CHAR_PTR,
    ulNewLen: CK_ULONG,
) -> CK_RV {
    enter("C_SetPIN", |module| {
        // SAFETY: this function's own contract.
        let (old, new) = unsafe {
            (Input::new("pOldPin", pOldPin, ulOldLen), Input::new("pNewPin", pNewPin, ulNewLen))
        };
        let (session, (old, new)) = session(module, hSession, both(old.pin(), new.pin()))?;
        session.set_pin(&old, &new)
    })
}

fn version((major, minor): (u8, u8)) -> CK_VERSION {
    CK_VERSION { major, minor }
}

/// Our 64-bit numbers as the caller's. None of ours is larger than 32 bits where CK_ULONG is.
fn narrow(numbers: &[u64]) -> Vec<CK_ULONG> {
    numbers.iter().map(|number| *number as CK_ULONG).collect()
}
