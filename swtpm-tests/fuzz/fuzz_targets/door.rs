//! Calls of C functions in any order with arguments of the right kinds and any content, on a token
//! whose TPM is not there. (Memory is always as long as it is said to be; what C cannot promise is
//! the business of `tests/door.rs`.)
#![no_main]

use std::ptr::null_mut;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use cryptoki_sys::*;
use libfuzzer_sys::fuzz_target;
use tpm11 as _;

unsafe extern "C" {
    fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV;
}

#[derive(Debug, Arbitrary)]
enum Step {
    Open {
        flags: u8,
    },
    Close {
        session: u8,
    },
    Find {
        session: u8,
        template: Vec<(u16, Vec<u8>)>,
    },
    Create {
        session: u8,
        template: Vec<(u16, Vec<u8>)>,
    },
    Get {
        session: u8,
        object: u8,
        wanted: Vec<(u16, u8)>,
    },
    Set {
        session: u8,
        object: u8,
        template: Vec<(u16, Vec<u8>)>,
    },
    Copy {
        session: u8,
        object: u8,
        template: Vec<(u16, Vec<u8>)>,
    },
    Destroy {
        session: u8,
        object: u8,
    },
    Digest {
        session: u8,
        mechanism: u16,
        parts: Vec<Vec<u8>>,
        room: u8,
    },
    Verify {
        session: u8,
        mechanism: u16,
        parameter: Vec<u8>,
        key: u8,
        data: Vec<u8>,
        signature: Vec<u8>,
    },
    Encrypt {
        session: u8,
        mechanism: u16,
        parameter: Vec<u8>,
        key: u8,
        data: Vec<u8>,
        room: u16,
    },
}

/// The attribute numbers that exist lie below 0x700; CKA_ALLOWED_MECHANISMS has a high bit.
fn template(attributes: &mut [(u16, Vec<u8>)]) -> Vec<CK_ATTRIBUTE> {
    attributes
        .iter_mut()
        .map(|(kind, value)| CK_ATTRIBUTE {
            type_: CK_ULONG::from(*kind & 0x7FF)
                | if *kind & 0x8000 != 0 { 0x4000_0000 } else { 0 },
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        })
        .collect()
}

fn functions() -> &'static CK_FUNCTION_LIST {
    static LIST: OnceLock<usize> = OnceLock::new();
    let address = LIST.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory").keep();
        let config = directory.join("tpm11.toml");
        let text = format!(
            "[[tpm]]\ntcti = \"swtpm:path={0}/none\"\n[store]\npaths = [\"{0}\"]\n[log]\ntarget = \"none\"\n",
            directory.display()
        );
        std::fs::write(&config, text).expect("a file");
        let mut list = null_mut();
        // SAFETY: no other thread is there yet; the list is the module's own.
        unsafe {
            std::env::set_var("TPM11_CONFIG", &config);
            assert_eq!(C_GetFunctionList(&mut list), CKR_OK);
            assert_eq!((*list).C_Initialize.expect("it is there")(null_mut()), CKR_OK);
        }
        list as usize
    });
    // SAFETY: the module's table is never freed.
    unsafe { &*(*address as *const CK_FUNCTION_LIST) }
}

fn pick(handles: &[CK_ULONG], index: u8) -> CK_ULONG {
    handles.get(usize::from(index) % (handles.len() + 1)).copied().unwrap_or(CK_ULONG::from(index))
}

fuzz_target!(|steps: Vec<Step>| {
    let c = functions();
    let mut slot = [0; 1];
    let mut count = 1;
    let (mut sessions, mut objects) = (Vec::new(), Vec::new());
    // SAFETY: all memory lives as long as the call and is as long as it says.
    unsafe {
        assert_eq!(c.C_GetSlotList.expect("")(0, slot.as_mut_ptr(), &mut count), CKR_OK);
        for step in steps.into_iter().take(64) {
            match step {
                Step::Open { flags } => {
                    let mut session = 0;
                    let flags = CK_FLAGS::from(flags);
                    if c.C_OpenSession.expect("")(slot[0], flags, null_mut(), None, &mut session)
                        == CKR_OK
                    {
                        sessions.push(session);
                    }
                }
                Step::Close { session } => {
                    c.C_CloseSession.expect("")(pick(&sessions, session));
                }
                Step::Find { session, template: mut values } => {
                    let (session, mut template) = (pick(&sessions, session), template(&mut values));
                    c.C_FindObjectsInit.expect("")(
                        session,
                        template.as_mut_ptr(),
                        template.len() as _,
                    );
                    let (mut found, mut count) = ([0; 8], 0);
                    c.C_FindObjects.expect("")(session, found.as_mut_ptr(), 8, &mut count);
                    assert!(count <= 8);
                    c.C_FindObjectsFinal.expect("")(session);
                }
                Step::Create { session, template: mut values } => {
                    let mut template = template(&mut values);
                    let mut object = 0;
                    let rv = c.C_CreateObject.expect("")(
                        pick(&sessions, session),
                        template.as_mut_ptr(),
                        template.len() as _,
                        &mut object,
                    );
                    if rv == CKR_OK {
                        objects.push(object);
                    }
                }
                Step::Get { session, object, wanted } => {
                    let mut values: Vec<_> = wanted
                        .iter()
                        .map(|(kind, room)| (*kind, vec![0; usize::from(*room)]))
                        .collect();
                    let mut template = template(&mut values);
                    c.C_GetAttributeValue.expect("")(
                        pick(&sessions, session),
                        pick(&objects, object),
                        template.as_mut_ptr(),
                        template.len() as _,
                    );
                }
                Step::Set { session, object, template: mut values } => {
                    let mut template = template(&mut values);
                    c.C_SetAttributeValue.expect("")(
                        pick(&sessions, session),
                        pick(&objects, object),
                        template.as_mut_ptr(),
                        template.len() as _,
                    );
                }
                Step::Copy { session, object, template: mut values } => {
                    let mut template = template(&mut values);
                    let mut copy = 0;
                    let rv = c.C_CopyObject.expect("")(
                        pick(&sessions, session),
                        pick(&objects, object),
                        template.as_mut_ptr(),
                        template.len() as _,
                        &mut copy,
                    );
                    if rv == CKR_OK {
                        objects.push(copy);
                    }
                }
                Step::Destroy { session, object } => {
                    c.C_DestroyObject.expect("")(pick(&sessions, session), pick(&objects, object));
                }
                Step::Digest { session, mechanism, mut parts, room } => {
                    let session = pick(&sessions, session);
                    let mut mechanism = CK_MECHANISM {
                        mechanism: CK_ULONG::from(mechanism & 0x3FF),
                        pParameter: null_mut(),
                        ulParameterLen: 0,
                    };
                    c.C_DigestInit.expect("")(session, &mut mechanism);
                    for part in &mut parts {
                        c.C_DigestUpdate.expect("")(session, part.as_mut_ptr(), part.len() as _);
                    }
                    let mut out = vec![0; usize::from(room)];
                    let mut length = CK_ULONG::from(room);
                    c.C_DigestFinal.expect("")(session, out.as_mut_ptr(), &mut length);
                }
                Step::Verify {
                    session,
                    mechanism,
                    mut parameter,
                    key,
                    mut data,
                    mut signature,
                } => {
                    let session = pick(&sessions, session);
                    let mut mechanism = CK_MECHANISM {
                        mechanism: CK_ULONG::from(mechanism & 0x1FFF),
                        pParameter: parameter.as_mut_ptr().cast(),
                        // No structure with pointers inside: those would be anything.
                        ulParameterLen: parameter.len().min(23) as CK_ULONG,
                    };
                    c.C_VerifyInit.expect("")(session, &mut mechanism, pick(&objects, key));
                    c.C_Verify.expect("")(
                        session,
                        data.as_mut_ptr(),
                        data.len() as _,
                        signature.as_mut_ptr(),
                        signature.len() as _,
                    );
                }
                Step::Encrypt { session, mechanism, mut parameter, key, mut data, room } => {
                    let session = pick(&sessions, session);
                    let mut mechanism = CK_MECHANISM {
                        mechanism: CK_ULONG::from(mechanism & 0x1FFF),
                        pParameter: parameter.as_mut_ptr().cast(),
                        ulParameterLen: parameter.len().min(23) as CK_ULONG,
                    };
                    c.C_EncryptInit.expect("")(session, &mut mechanism, pick(&objects, key));
                    let mut out = vec![0; usize::from(room)];
                    let mut length = CK_ULONG::from(room);
                    c.C_Encrypt.expect("")(
                        session,
                        data.as_mut_ptr(),
                        data.len() as _,
                        out.as_mut_ptr(),
                        &mut length,
                    );
                }
            }
        }
        c.C_CloseAllSessions.expect("")(slot[0]);
    }
});
