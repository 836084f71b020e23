//! Key management functions: PKCS#11 3.2 §5.18. Encapsulation is not there yet.

use cryptoki_sys::*;

use super::params::{Mechanism, Tag, Wrapping};
use super::ptr::{Input, Output, Place, Template, wide};
use super::{both, enter, params, session, unsupported};
use crate::token::derive::Derived;

/// Makes a secret key, or domain parameters.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
/// `pTemplate` is NULL or points to `ulCount` attributes, their values readable; `phKey` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_GenerateKey", |module| {
        // SAFETY: this function's own contract.
        let (mechanism, template, place) = unsafe {
            (
                params::mechanism(pMechanism)?,
                Template::new(pTemplate, ulCount),
                Place::new("phKey is NULL", phKey)?,
            )
        };
        let (session, template) = session(module, hSession, template.read())?;
        let key = session.generate_key(mechanism.id, &mechanism.params, &template)?;
        place.put(key as CK_OBJECT_HANDLE);
        Ok(())
    })
}

/// Makes a key pair; the private half is made in the TPM and never leaves it in clear.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
/// The templates are NULL or point to as many attributes as their counts say, their values
/// readable; `phPublicKey` and `phPrivateKey` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKeyPair(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    pPublicKeyTemplate: CK_ATTRIBUTE_PTR,
    ulPublicKeyAttributeCount: CK_ULONG,
    pPrivateKeyTemplate: CK_ATTRIBUTE_PTR,
    ulPrivateKeyAttributeCount: CK_ULONG,
    phPublicKey: CK_OBJECT_HANDLE_PTR,
    phPrivateKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_GenerateKeyPair", |module| {
        // SAFETY: this function's own contract.
        let (mechanism, public, private, public_place, private_place) = unsafe {
            (
                params::mechanism(pMechanism)?,
                Template::new(pPublicKeyTemplate, ulPublicKeyAttributeCount),
                Template::new(pPrivateKeyTemplate, ulPrivateKeyAttributeCount),
                Place::new("phPublicKey is NULL", phPublicKey)?,
                Place::new("phPrivateKey is NULL", phPrivateKey)?,
            )
        };
        let templates = both(public.read(), private.read());
        let (session, (public, private)) = session(module, hSession, templates)?;
        let (public, private) =
            session.generate_key_pair(mechanism.id, &mechanism.params, &public, &private)?;
        public_place.put(public as CK_OBJECT_HANDLE);
        private_place.put(private as CK_OBJECT_HANDLE);
        Ok(())
    })
}

/// Wraps a key. Without a buffer, or with one that is too small, only the length is told.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter, of CKM_AES_GCM and CKM_AES_CCM a
/// writable one. `pulWrappedKeyLen` is NULL or
/// valid; `pWrappedKey` is NULL or writable for `*pulWrappedKeyLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hWrappingKey: CK_OBJECT_HANDLE,
    hKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    pulWrappedKeyLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_WrapKey", |module| {
        // SAFETY: this function's own contract.
        let (mechanism, output) =
            unsafe { (params::wrapping(pMechanism)?, Output::new(pWrappedKey, pulWrappedKeyLen)) };
        let (wrapping, key) = (wide(hWrappingKey), wide(hKey));
        match mechanism {
            Wrapping::Plain(Mechanism { id, params, .. }) => {
                let (session, room) = session(module, hSession, output.room())?;
                output.put(session.wrap_key(id, &params, wrapping, key, room)?)
            }
            Wrapping::Message(id, message) => {
                let arguments = both(message, output.room());
                let (session, ((message, aad), room)) = session(module, hSession, arguments)?;
                let how = (&aad[..], false);
                let sealed = session.wrap_message(id, &message.given, how, wrapping, key, room)?;
                output.put(sealed.answer)?;
                message.put(sealed.nonce.as_deref(), None)
            }
        }
    })
}

/// Unwraps a key, for the TPM.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter. `pWrappedKey` is NULL or
/// readable for `ulWrappedKeyLen` bytes. `pTemplate` is NULL or points to `ulAttributeCount` attributes,
/// their values readable; `phKey` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hUnwrappingKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    ulWrappedKeyLen: CK_ULONG,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_UnwrapKey", |module| {
        // SAFETY: this function's own contract.
        let (mechanism, wrapped, template, place) = unsafe {
            (
                params::wrapping(pMechanism)?,
                Input::new("pWrappedKey", pWrappedKey, ulWrappedKeyLen).wrapped(),
                Template::new(pTemplate, ulAttributeCount),
                Place::new("phKey is NULL", phKey)?,
            )
        };
        let (arguments, by) = (both(wrapped, template.read()), wide(hUnwrappingKey));
        let key = match mechanism {
            Wrapping::Plain(Mechanism { id, params, .. }) => {
                let (session, (wrapped, template)) = session(module, hSession, arguments)?;
                session.unwrap_key(id, &params, by, &wrapped, &template)?
            }
            Wrapping::Message(id, message) => {
                let arguments = both(message, arguments);
                let (session, ((message, aad), (wrapped, template))) =
                    session(module, hSession, arguments)?;
                let how = (&aad[..], false);
                session.unwrap_message(id, &message.given, how, by, &wrapped, &template)?
            }
        };
        place.put(key as CK_OBJECT_HANDLE);
        Ok(())
    })
}

/// Derives a key from another.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
/// `pTemplate` is NULL or points to `ulAttributeCount` attributes, their values readable; `phKey`
/// is NULL or writable, and so is each place in the parameter for what the mechanism gives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DeriveKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hBaseKey: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_DeriveKey", |module| {
        // SAFETY: this function's own contract.
        let (mechanism, template, place) = unsafe {
            (
                params::mechanism(pMechanism)?,
                Template::new(pTemplate, ulAttributeCount),
                Place::new("phKey is NULL", phKey),
            )
        };
        let Mechanism { id, params, gives } = mechanism;
        let place = if gives.alone { None } else { Some(place?) };
        let (session, template) = session(module, hSession, template.read())?;
        let (base, mut offending) = (wide(hBaseKey), None);
        let made = session.derive_key(id, &params, base, &template, &mut offending);
        let places = place.into_iter().chain(gives.places);
        match (made, offending) {
            (Ok(Derived { keys, told }), _) => {
                places.zip(keys).for_each(|(place, key)| place.put(key as CK_OBJECT_HANDLE));
                gives.absent.into_iter().for_each(|place| place.put(CK_INVALID_HANDLE));
                gives.told.into_iter().zip(told).try_for_each(|(place, bytes)| place.put(&bytes))
            }
            (Err(error), Some(number)) => {
                // §6.42.6: the handle tells whose template it was.
                places.skip(1 + number).take(1).for_each(|place| place.put(CK_INVALID_HANDLE));
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    })
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncapsulateKey(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hPublicKey: CK_OBJECT_HANDLE,
    _pTemplate: CK_ATTRIBUTE_PTR,
    _ulAttributeCount: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _pulCiphertextLen: CK_ULONG_PTR,
    _phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    unsupported("C_EncapsulateKey")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecapsulateKey(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hPrivateKey: CK_OBJECT_HANDLE,
    _pTemplate: CK_ATTRIBUTE_PTR,
    _ulAttributeCount: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _ulCiphertextLen: CK_ULONG,
    _phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    unsupported("C_DecapsulateKey")
}

/// Wraps a key as one message of an authenticated mechanism; nonce, if the module makes it, and tag are
/// written to the mechanism's parameter.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism whose parameter is that of a message, its pointers readable
/// and writable for the lengths beside them. `pAssociatedData` is NULL or readable for
/// `ulAssociatedDataLen` bytes; `pulWrappedKeyLen` is NULL or valid; `pWrappedKey` is NULL or writable for
/// `*pulWrappedKeyLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKeyAuthenticated(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hWrappingKey: CK_OBJECT_HANDLE,
    hKey: CK_OBJECT_HANDLE,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    pWrappedKey: CK_BYTE_PTR,
    pulWrappedKeyLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_WrapKeyAuthenticated", |module| {
        // SAFETY: this function's own contract.
        let ((id, message), associated, output) = unsafe {
            (
                params::authenticated(pMechanism, Tag::Written)?,
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes(),
                Output::new(pWrappedKey, pulWrappedKeyLen),
            )
        };
        let arguments = both(message, both(associated, output.room()));
        let (session, (message, (associated, room))) = session(module, hSession, arguments)?;
        let (wrapping, key) = (wide(hWrappingKey), wide(hKey));
        let how = (&associated[..], true);
        let sealed = session.wrap_message(id, &message.given, how, wrapping, key, room)?;
        output.put(sealed.answer)?;
        message.put(sealed.nonce.as_deref(), sealed.tag.as_ref().map(|tag| &tag[..]))
    })
}

/// Unwraps a key that was wrapped as one message, for the TPM.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism whose parameter is that of a message, its pointers readable
/// for the lengths beside them. `pWrappedKey` and `pAssociatedData` are NULL or readable for the lengths
/// beside them. `pTemplate` is NULL or points to `ulAttributeCount` attributes, their values readable;
/// `phKey` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKeyAuthenticated(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hUnwrappingKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    ulWrappedKeyLen: CK_ULONG,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_UnwrapKeyAuthenticated", |module| {
        // SAFETY: this function's own contract.
        let ((id, message), wrapped, template, associated, place) = unsafe {
            (
                params::authenticated(pMechanism, Tag::Read)?,
                Input::new("pWrappedKey", pWrappedKey, ulWrappedKeyLen).wrapped(),
                Template::new(pTemplate, ulAttributeCount),
                Input::new("pAssociatedData", pAssociatedData, ulAssociatedDataLen).bytes(),
                Place::new("phKey is NULL", phKey)?,
            )
        };
        let arguments = both(both(message, associated), both(wrapped, template.read()));
        let (session, ((message, associated), (wrapped, template))) =
            session(module, hSession, arguments)?;
        let how = (&associated[..], true);
        let by = wide(hUnwrappingKey);
        let key = session.unwrap_message(id, &message.given, how, by, &wrapped, &template)?;
        place.put(key as CK_OBJECT_HANDLE);
        Ok(())
    })
}
