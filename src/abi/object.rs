//! Object management functions: PKCS#11 3.2 §5.7.

use cryptoki_sys::*;

use super::ptr::{Handles, Place, Template, wide};
use super::{enter, session};

/// Makes an object from a template.
///
/// # Safety
/// `pTemplate` is NULL or points to `ulCount` attributes, their values readable; `phObject` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    hSession: CK_SESSION_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phObject: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_CreateObject", |module| {
        // SAFETY: this function's own contract.
        let (template, place) = unsafe {
            (Template::new(pTemplate, ulCount), Place::new("phObject is NULL", phObject)?)
        };
        let (session, template) = session(module, hSession, template.read())?;
        let object = session.create_object(&template)?;
        place.put(object as CK_OBJECT_HANDLE);
        Ok(())
    })
}

/// Copies an object, with what the template changes.
///
/// # Safety
/// As [`C_CreateObject`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CopyObject(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phNewObject: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    enter("C_CopyObject", |module| {
        // SAFETY: this function's own contract.
        let (template, place) = unsafe {
            (Template::new(pTemplate, ulCount), Place::new("phNewObject is NULL", phNewObject)?)
        };
        let (session, template) = session(module, hSession, template.read())?;
        let copy = session.copy_object(wide(hObject), &template)?;
        place.put(copy as CK_OBJECT_HANDLE);
        Ok(())
    })
}

/// Destroys an object.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DestroyObject(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_DestroyObject", |module| module.session(wide(hSession))?.destroy_object(wide(hObject)))
}

/// How many bytes an object takes, roughly.
///
/// # Safety
/// `pulSize` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetObjectSize(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pulSize: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_GetObjectSize", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pulSize is NULL", pulSize)? };
        let size = module.session(wide(hSession))?.get_object_size(wide(hObject))?;
        place.put(size as CK_ULONG);
        Ok(())
    })
}

/// Reads attributes. Each is answered for itself; the return value tells of the first that was not.
///
/// # Safety
/// `pTemplate` is NULL or points to `ulCount` attributes, writable, their values NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetAttributeValue(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    enter("C_GetAttributeValue", |module| {
        // SAFETY: this function's own contract.
        let wanted = unsafe { Template::new(pTemplate, ulCount) }.wanted()?;
        let session = module.session(wide(hSession))?;
        wanted.answer(session.get_attribute_value(wide(hObject), &wanted.types())?)
    })
}

/// Changes attributes: all of them or none.
///
/// # Safety
/// `pTemplate` is NULL or points to `ulCount` attributes, their values readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetAttributeValue(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    enter("C_SetAttributeValue", |module| {
        // SAFETY: this function's own contract.
        let template = unsafe { Template::new(pTemplate, ulCount) }.read();
        let (session, template) = session(module, hSession, template)?;
        session.set_attribute_value(wide(hObject), &template)
    })
}

/// Starts a search for the objects that match a template; an empty one matches all.
///
/// # Safety
/// `pTemplate` is NULL or points to `ulCount` attributes, their values readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsInit(
    hSession: CK_SESSION_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    enter("C_FindObjectsInit", |module| {
        // SAFETY: this function's own contract.
        let template = unsafe { Template::new(pTemplate, ulCount) }.read_search();
        let (session, template) = session(module, hSession, template)?;
        session.find_objects_init(&template)
    })
}

/// More of what a search found; 0 handles when there are no more.
///
/// # Safety
/// `phObject` is NULL or writable for `ulMaxObjectCount` handles; `pulObjectCount` is NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    hSession: CK_SESSION_HANDLE,
    phObject: CK_OBJECT_HANDLE_PTR,
    ulMaxObjectCount: CK_ULONG,
    pulObjectCount: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_FindObjects", |module| {
        // SAFETY: this function's own contract.
        let handles = unsafe { Handles::new(phObject, ulMaxObjectCount, pulObjectCount) };
        // A search goes on until C_FindObjectsFinal, whatever a call in between was asked.
        let (session, handles) = session(module, hSession, handles)?;
        let found = session.find_objects(handles.room())?;
        handles.put(&found);
        Ok(())
    })
}

/// Ends a search.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsFinal(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_FindObjectsFinal", |module| module.session(wide(hSession))?.find_objects_final())
}
