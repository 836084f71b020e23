//! CK_MECHANISM and the CK_*_PARAMS that it points to, copied once, deeply, at Init: the caller may
//! free or change them as soon as the call returns. PKCS#11 3.2 §6.

use std::mem::{offset_of, size_of};
use std::os::unix::fs::FileExt as _;

use cryptoki_sys::*;

use super::ptr::{self, Fill, Input, Place, Template, wide};
use crate::crypto::hash::Hash;
use crate::crypto::secret::Wiped;
use crate::error::{Error, Result};
use crate::mechanism::params::{
    self, KeyBlock, Number, Part, Password, PrfType, Salt, Sp800, TlsMac,
};
use crate::mechanism::{self, Params};

/// The longest mechanism parameter, and the longest of what it points to: 64 KiB.
const PARAMETER_LIMIT: usize = 64 << 10;

/// A mechanism in our own memory: its number and its parameter.
pub(super) struct Mechanism {
    /// CKM_ number.
    pub(super) id: u64,
    /// Its parameter.
    pub(super) params: Params,
    /// What C_DeriveKey gives besides the key.
    pub(super) gives: Gives,
}

/// Places that a parameter has for what C_DeriveKey gives.
#[derive(Default)]
pub(super) struct Gives {
    /// Where the handles of the keys go that the parameter asks for.
    pub(super) places: Vec<Place<CK_OBJECT_HANDLE>>,
    /// Where it is said that there is no such key.
    pub(super) absent: Vec<Place<CK_OBJECT_HANDLE>>,
    /// Whether these are all keys, so that `phKey` "should be a NULL_PTR".
    pub(super) alone: bool,
    /// Where bytes go that are no key: a version, IVs.
    pub(super) told: Vec<Fill>,
}

/// Copies a mechanism.
///
/// # Errors
/// [`Error::ArgumentsBad`] for NULL, [`Error::HostMemory`]. A parameter that is not what the mechanism
/// takes is [`Params::Invalid`]: the key is judged before it.
///
/// # Safety
/// `at` is NULL or points to a mechanism whose parameter is what its type and length say: structures
/// whose pointers are readable for the lengths beside them, and writable where handles go, until the C_
/// function returns.
pub(super) unsafe fn mechanism(at: *const CK_MECHANISM) -> Result<Mechanism> {
    // SAFETY: this function's own contract.
    let given = unsafe { ptr::read("pMechanism is NULL", at)? };
    // SAFETY: this function's own contract.
    let bytes = unsafe { Input::new("pParameter", given.pParameter.cast(), given.ulParameterLen) };
    let bytes = bytes
        .at_most(PARAMETER_LIMIT, Error::MechanismParamInvalid("longer than any parameter is"));
    let mut gives = Gives::default();
    // SAFETY: the parameter's pointers are readable by this function's own contract.
    let params =
        match bytes.and_then(|bytes| unsafe { parameter(given.mechanism, &bytes, &mut gives) }) {
            Err(Error::MechanismParamInvalid(why)) => Params::Invalid(why),
            other => other?,
        };
    Ok(Mechanism { id: wide(given.mechanism), params, gives })
}

/// Copies the mechanism of C_MessageEncryptInit or its like. Its parameter may be missing, or look like
/// that of a message, and says nothing: each message brings its own.
///
/// # Errors
/// As [`mechanism`].
///
/// # Safety
/// `at` is NULL or points to a mechanism.
pub(super) unsafe fn message_mechanism(at: *const CK_MECHANISM) -> Result<Mechanism> {
    // SAFETY: this function's own contract.
    let given = unsafe { ptr::read("pMechanism is NULL", at)? };
    let size = match given.mechanism {
        CKM_AES_GCM => size_of::<CK_GCM_MESSAGE_PARAMS>(),
        CKM_AES_CCM => size_of::<CK_CCM_MESSAGE_PARAMS>(),
        _ => 0,
    };
    let params = match given.ulParameterLen {
        0 => Params::None,
        _ if given.pParameter.is_null() => return Err(Error::ArgumentsBad("pParameter")),
        length if length == size as CK_ULONG => Params::None,
        _ => Params::Invalid("neither missing nor the size of a message's structure"),
    };
    Ok(Mechanism { id: wide(given.mechanism), params, gives: Gives::default() })
}

/// What a C_EncryptMessage or its like says of its message, and where the answer goes.
pub(super) struct Message {
    /// In our own memory.
    pub(super) given: params::Message,
    nonce: Fill,
    tag: Fill,
}

impl Message {
    /// Writes what the message gave beside its bytes.
    ///
    /// # Errors
    /// [`Error::Bug`] if nonce or tag have another length than the caller's.
    pub(super) fn put(self, nonce: Option<&[u8]>, tag: Option<&[u8]>) -> Result<()> {
        nonce.map_or(Ok(()), |nonce| self.nonce.put(nonce))?;
        tag.map_or(Ok(()), |tag| self.tag.put(tag))
    }
}

/// The mechanism of C_WrapKey or C_UnwrapKey.
pub(super) enum Wrapping {
    /// One with a parameter of its own.
    Plain(Mechanism),
    /// The key is one message, its tag behind it: the mechanism, and what is said of it with the additional
    /// data.
    Message(u64, Result<(Message, Vec<u8>)>),
}

/// Copies a mechanism that wraps.
///
/// # Errors
/// As [`mechanism`].
///
/// # Safety
/// As [`mechanism`]; of CKM_AES_GCM and CKM_AES_CCM the pointers are writable, too, until the C_ function
/// returns.
pub(super) unsafe fn wrapping(at: *const CK_MECHANISM) -> Result<Wrapping> {
    // SAFETY: this function's own contract.
    let given = unsafe { ptr::read("pMechanism is NULL", at)? };
    if !matches!(given.mechanism, CKM_AES_GCM | CKM_AES_CCM) {
        // SAFETY: this function's own contract.
        return unsafe { mechanism(at).map(Wrapping::Plain) };
    }
    there(&given)?;
    // SAFETY: this function's own contract.
    let message =
        unsafe { wrapped_message(given.mechanism, given.pParameter, given.ulParameterLen) };
    Ok(Wrapping::Message(wide(given.mechanism), message))
}

/// Copies the mechanism of C_WrapKeyAuthenticated, or with `decrypts` of C_UnwrapKeyAuthenticated: its
/// parameter is that of a message.
///
/// # Errors
/// As [`mechanism`]; in the inner result [`Error::MechanismInvalid`], and those of [`message`].
///
/// # Safety
/// As [`message`].
pub(super) unsafe fn authenticated(
    at: *const CK_MECHANISM,
    tag: Tag,
) -> Result<(u64, Result<Message>)> {
    // SAFETY: this function's own contract.
    let given = unsafe { ptr::read("pMechanism is NULL", at)? };
    there(&given)?;
    let id = wide(given.mechanism);
    if !matches!(given.mechanism, CKM_AES_GCM | CKM_AES_CCM) {
        return Ok((id, Err(Error::MechanismInvalid(id))));
    }
    // SAFETY: this function's own contract.
    let message = unsafe { message(given.mechanism, given.pParameter, given.ulParameterLen, tag) };
    Ok((id, message))
}

/// A parameter that has a length is not NULL.
fn there(given: &CK_MECHANISM) -> Result<()> {
    if given.pParameter.is_null() && given.ulParameterLen != 0 {
        return Err(Error::ArgumentsBad("pParameter"));
    }
    Ok(())
}

/// A parameter that must be there, copied.
///
/// # Safety
/// `at` is NULL or readable for `length` bytes.
unsafe fn present(at: CK_VOID_PTR, length: CK_ULONG) -> Result<Wiped> {
    // SAFETY: this function's own contract.
    let bytes = unsafe { Input::new("pParameter", at.cast(), length) };
    let wrong = || Error::MechanismParamInvalid("not the structure of this mechanism's messages");
    bytes.at_most(PARAMETER_LIMIT, wrong()).map_err(|error| match error {
        Error::ArgumentsBad(_) => wrong(),
        other => other,
    })
}

/// CK_GCM_WRAP_PARAMS, CK_CCM_WRAP_PARAMS. PKCS#11 3.2 §6.13.4, §6.13.6. How long the key is, the token knows
/// itself.
///
/// # Safety
/// As [`message`].
unsafe fn wrapped_message(
    mechanism: CK_MECHANISM_TYPE,
    at: CK_VOID_PTR,
    length: CK_ULONG,
) -> Result<(Message, Vec<u8>)> {
    // SAFETY: this function's own contract.
    let bytes = unsafe { present(at, length)? };
    let (nonce, additional, given) = if mechanism == CKM_AES_GCM {
        // SAFETY: numbers and pointers.
        let given: CK_GCM_WRAP_PARAMS = unsafe { structure(&bytes)? };
        let message = params::Message {
            fixed_bits: wide(given.ulIvFixedBits),
            generator: wide(given.ivGenerator),
            tag_bits: wide(given.ulTagBits),
            ..params::Message::default()
        };
        ((given.pIv, given.ulIvLen), (given.pAAD, given.ulAADLen), message)
    } else {
        // SAFETY: numbers and pointers.
        let given: CK_CCM_WRAP_PARAMS = unsafe { structure(&bytes)? };
        let message = params::Message {
            fixed_bits: wide(given.ulNonceFixedBits),
            generator: wide(given.nonceGenerator),
            tag_bits: wide(given.ulMACLen).saturating_mul(8),
            ..params::Message::default()
        };
        ((given.pNonce, given.ulNonceLen), (given.pAAD, given.ulAADLen), message)
    };
    // SAFETY: this function's own contract.
    unsafe {
        let additional = nested(additional.0, additional.1)?;
        Ok((placed(given, nonce, std::ptr::null_mut(), Tag::Later)?, additional))
    }
}

/// What becomes of the tag that a message's parameter points to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// It is read: the message is decrypted whole, or ends.
    Read,
    /// It is written: the message is encrypted whole, or ends.
    Written,
    /// Nothing yet, so the pointer may be NULL.
    Later,
}

/// Copies the parameter of one message of this mechanism, with its tag where that is read.
///
/// # Errors
/// [`Error::MechanismParamInvalid`], [`Error::HostMemory`].
///
/// # Safety
/// `at` is NULL or points to the structure of this mechanism's messages, whose pointers are readable and
/// writable for the lengths beside them until the C_ function returns.
pub(super) unsafe fn message(
    mechanism: CK_MECHANISM_TYPE,
    at: CK_VOID_PTR,
    length: CK_ULONG,
    tag: Tag,
) -> Result<Message> {
    // SAFETY: this function's own contract.
    let bytes = unsafe { present(at, length)? };
    let (nonce, at, given) = match mechanism {
        CKM_AES_GCM => {
            // SAFETY: numbers and pointers.
            let given: CK_GCM_MESSAGE_PARAMS = unsafe { structure(&bytes)? };
            let message = params::Message {
                fixed_bits: wide(given.ulIvFixedBits),
                generator: wide(given.ivGenerator),
                tag_bits: wide(given.ulTagBits),
                ..params::Message::default()
            };
            ((given.pIv, given.ulIvLen), given.pTag, message)
        }
        CKM_AES_CCM => {
            // SAFETY: numbers and pointers.
            let given: CK_CCM_MESSAGE_PARAMS = unsafe { structure(&bytes)? };
            let message = params::Message {
                fixed_bits: wide(given.ulNonceFixedBits),
                generator: wide(given.nonceGenerator),
                tag_bits: wide(given.ulMACLen).saturating_mul(8),
                length: wide(given.ulDataLen),
                ..params::Message::default()
            };
            ((given.pNonce, given.ulNonceLen), given.pMAC, message)
        }
        _ => return Err(Error::Bug("a mechanism without messages")),
    };
    // SAFETY: this function's own contract.
    unsafe { placed(given, nonce, at, tag) }
}

/// A message with the nonce that is given, the places where nonce and tag go, and the tag where it is read.
///
/// # Safety
/// The pointers are NULL, or readable and writable for the lengths beside them until the C_ function returns.
unsafe fn placed(
    mut given: params::Message,
    nonce: (CK_BYTE_PTR, CK_ULONG),
    at: CK_BYTE_PTR,
    tag: Tag,
) -> Result<Message> {
    if given.tag_bits % 8 != 0 || given.tag_bits > 128 {
        return Err(Error::MechanismParamInvalid("no tag has so many bits"));
    }
    let length = if tag == Tag::Later { 0 } else { given.tag_bits as CK_ULONG / 8 };
    let wrong = || Error::MechanismParamInvalid("a pointer inside it is NULL");
    // SAFETY: this function's own contract.
    unsafe {
        given.nonce = nested(nonce.0, nonce.1)?;
        let place = |at, length| Fill::new(at, length, PARAMETER_LIMIT).map_err(|_| wrong());
        let (nonce, place) = (place(nonce.0, nonce.1)?, place(at, length)?);
        if tag == Tag::Read {
            given.tag = nested(at, length)?;
        }
        Ok(Message { given, nonce, tag: place })
    }
}

/// The copied parameter as the structure that the mechanism takes; into `gives`, where handles and bytes go.
///
/// # Safety
/// The pointers in it are readable for the lengths beside them, and writable where handles go, until the
/// C_ function returns.
unsafe fn parameter(id: CK_MECHANISM_TYPE, bytes: &[u8], gives: &mut Gives) -> Result<Params> {
    // §6.40.8: whatever becomes of the parameter.
    gives.alone = matches!(id, CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE);
    if bytes.is_empty() {
        return Ok(Params::None);
    }
    match id {
        CKM_RSA_PKCS_PSS
        | CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS_PSS
        | CKM_SHA384_RSA_PKCS_PSS
        | CKM_SHA512_RSA_PKCS_PSS
        | CKM_SHA3_224_RSA_PKCS_PSS
        | CKM_SHA3_256_RSA_PKCS_PSS
        | CKM_SHA3_384_RSA_PKCS_PSS
        | CKM_SHA3_512_RSA_PKCS_PSS => pss(bytes),
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_RSA_PKCS_OAEP => unsafe { oaep(bytes) },
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_RSA_AES_KEY_WRAP => unsafe { rsa_aes(bytes) },
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => unsafe { ecdh(bytes) },
        CKM_AES_CTR => counter(bytes),
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_HKDF_DERIVE | CKM_HKDF_DATA => unsafe { hkdf(bytes) },
        CKM_CONCATENATE_BASE_AND_KEY => {
            // SAFETY: one number.
            let handle: CK_OBJECT_HANDLE = unsafe { structure(bytes)? };
            Ok(Params::Key(wide(handle)))
        }
        CKM_CONCATENATE_BASE_AND_DATA
        | CKM_CONCATENATE_DATA_AND_BASE
        | CKM_XOR_BASE_AND_DATA
        | CKM_AES_ECB_ENCRYPT_DATA => {
            // SAFETY: a pointer and a number.
            let given: CK_KEY_DERIVATION_STRING_DATA = unsafe { structure(bytes)? };
            // SAFETY: the structure's pointer is readable by this function's own contract.
            Ok(Params::Data(unsafe { nested(given.pData, given.ulLen)? }))
        }
        CKM_AES_CBC_ENCRYPT_DATA => {
            // SAFETY: bytes, a pointer and a number.
            let given: CK_AES_CBC_ENCRYPT_DATA_PARAMS = unsafe { structure(bytes)? };
            // SAFETY: the structure's pointer is readable by this function's own contract.
            let data = unsafe { nested(given.pData, given.length)? };
            Ok(Params::Chained { iv: given.iv, data })
        }
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => unsafe {
            tls_master(bytes, gives)
        },
        // SAFETY: the structure's pointers are readable and writable by this function's own contract.
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH => unsafe {
            tls_extended_master(bytes, gives)
        },
        // SAFETY: the structure's pointers are readable and writable by this function's own contract.
        CKM_TLS12_KEY_AND_MAC_DERIVE => unsafe { tls_block(bytes, true, gives) },
        // SAFETY: the structure's pointers are readable and writable by this function's own contract.
        CKM_TLS12_KEY_SAFE_DERIVE => unsafe { tls_block(bytes, false, gives) },
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_TLS_KDF | CKM_TLS12_KDF => unsafe { tls_export(bytes) },
        CKM_TLS_MAC | CKM_TLS12_MAC => tls_mac(bytes),
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_PKCS5_PBKD2 => unsafe { pbkdf2(bytes) },
        // One number, too.
        CKM_EXTRACT_KEY_FROM_KEY => length(bytes),
        CKM_SP800_108_COUNTER_KDF
        | CKM_SP800_108_FEEDBACK_KDF
        | CKM_SP800_108_DOUBLE_PIPELINE_KDF => {
            // SAFETY: the structure's pointers are readable and writable by this function's own contract.
            unsafe { sp800(id, bytes, &mut gives.places) }
        }
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_AES_GCM | CKM_AES_GMAC => unsafe { gcm(bytes) },
        // SAFETY: the structure's pointers are readable by this function's own contract.
        CKM_AES_CCM => unsafe { ccm(bytes) },
        _ if mechanism::lookup(wide(id)).is_ok_and(|row| row.does.general) => length(bytes),
        _ => Ok(Params::Bytes(bytes.to_vec())),
    }
}

/// A structure out of the copied parameter, which must be exactly as long.
///
/// # Safety
/// `T` is a C structure of numbers and pointers: valid for any bytes.
unsafe fn structure<T: Copy>(bytes: &[u8]) -> Result<T> {
    if bytes.len() != size_of::<T>() {
        return Err(Error::MechanismParamInvalid("not the size of the mechanism's structure"));
    }
    // SAFETY: long enough, as just checked; any bytes are a valid `T` by this function's contract.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// CK_RSA_PKCS_PSS_PARAMS. PKCS#11 3.2 §6.1.8.
fn pss(bytes: &[u8]) -> Result<Params> {
    // SAFETY: three numbers.
    let given: CK_RSA_PKCS_PSS_PARAMS = unsafe { structure(bytes)? };
    Ok(Params::Pss {
        hash: hash(given.hashAlg)?,
        mgf: mgf(given.mgf)?,
        salt_length: usize::try_from(given.sLen)
            .ok()
            .filter(|length| *length <= PARAMETER_LIMIT)
            .ok_or(Error::MechanismParamInvalid("sLen is longer than any key"))?,
    })
}

/// CK_AES_CTR_PARAMS. PKCS#11 3.2 §6.11.
fn counter(bytes: &[u8]) -> Result<Params> {
    // SAFETY: a number and bytes.
    let given: CK_AES_CTR_PARAMS = unsafe { structure(bytes)? };
    Ok(Params::Counter { bits: wide(given.ulCounterBits), block: given.cb })
}

/// CK_GCM_PARAMS. PKCS#11 3.2 §6.13. ulIvBits says nothing.
///
/// # Safety
/// `pIv` and `pAAD` are NULL or readable for the lengths beside them.
unsafe fn gcm(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_GCM_PARAMS = unsafe { structure(bytes)? };
    // SAFETY: this function's own contract.
    let (iv, additional) =
        unsafe { (nested(given.pIv, given.ulIvLen)?, nested(given.pAAD, given.ulAADLen)?) };
    Ok(Params::Gcm { iv, additional, tag_bits: wide(given.ulTagBits) })
}

/// CK_CCM_PARAMS. PKCS#11 3.2 §6.13.
///
/// # Safety
/// `pNonce` and `pAAD` are NULL or readable for the lengths beside them.
unsafe fn ccm(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_CCM_PARAMS = unsafe { structure(bytes)? };
    // SAFETY: this function's own contract.
    let (nonce, additional) =
        unsafe { (nested(given.pNonce, given.ulNonceLen)?, nested(given.pAAD, given.ulAADLen)?) };
    let (length, mac_length) = (wide(given.ulDataLen), wide(given.ulMACLen));
    Ok(Params::Ccm { length, nonce, additional, mac_length })
}

/// CK_MAC_GENERAL_PARAMS. PKCS#11 3.2 §6.18.
fn length(bytes: &[u8]) -> Result<Params> {
    // SAFETY: one number.
    let given: CK_MAC_GENERAL_PARAMS = unsafe { structure(bytes)? };
    Ok(Params::Length(wide(given)))
}

/// CK_RSA_PKCS_OAEP_PARAMS. PKCS#11 3.2 §6.1.7.
///
/// # Safety
/// `pSourceData` is NULL or readable for `ulSourceDataLen` bytes.
unsafe fn oaep(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and a pointer.
    let given: CK_RSA_PKCS_OAEP_PARAMS = unsafe { structure(bytes)? };
    // SAFETY: this function's own contract.
    let label = unsafe { nested(given.pSourceData.cast(), given.ulSourceDataLen)? };
    // Some callers leave the source 0 where there is no label.
    if given.source != CKZ_DATA_SPECIFIED && !(given.source == 0 && label.is_empty()) {
        return Err(Error::MechanismParamInvalid("source is not CKZ_DATA_SPECIFIED"));
    }
    Ok(Params::Oaep { hash: hash(given.hashAlg)?, mgf: mgf(given.mgf)?, label })
}

/// CK_RSA_AES_KEY_WRAP_PARAMS. PKCS#11 3.2 §6.1.21.
///
/// # Safety
/// `pOAEPParams` is NULL or points to CK_RSA_PKCS_OAEP_PARAMS as [`oaep`] wants them.
unsafe fn rsa_aes(bytes: &[u8]) -> Result<Params> {
    // SAFETY: a number and a pointer.
    let given: CK_RSA_AES_KEY_WRAP_PARAMS = unsafe { structure(bytes)? };
    let inner = size_of::<CK_RSA_PKCS_OAEP_PARAMS>() as CK_ULONG;
    // SAFETY: this function's own contract.
    let oaep = unsafe { oaep(&nested(given.pOAEPParams.cast(), inner)?)? };
    Ok(Params::RsaAes { bits: wide(given.ulAESKeyBits), oaep: Box::new(oaep) })
}

/// CK_ECDH1_DERIVE_PARAMS. PKCS#11 3.2 §6.3.17.
///
/// # Safety
/// `pSharedData` and `pPublicData` are NULL or readable for the lengths beside them.
unsafe fn ecdh(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_ECDH1_DERIVE_PARAMS = unsafe { structure(bytes)? };
    // SAFETY: this function's own contract.
    let (shared, public) = unsafe {
        (
            nested(given.pSharedData, given.ulSharedDataLen)?,
            nested(given.pPublicData, given.ulPublicDataLen)?,
        )
    };
    Ok(Params::Ecdh { kdf: wide(given.kdf), shared, public })
}

/// CK_HKDF_PARAMS. PKCS#11 3.2 §6.62.2. What the parts that are not wanted have is not looked at.
///
/// # Safety
/// `pSalt` and `pInfo` are NULL or readable for the lengths beside them.
unsafe fn hkdf(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_HKDF_PARAMS = unsafe { structure(bytes)? };
    let (extract, expand) = (truth(given.bExtract)?, truth(given.bExpand)?);
    if !extract && !expand {
        return Err(Error::MechanismParamInvalid("neither bExtract nor bExpand"));
    }
    let extract = match (extract, given.ulSaltType) {
        (false, _) => None,
        (true, CKF_HKDF_SALT_NULL) => Some(Salt::Zeros),
        (true, CKF_HKDF_SALT_DATA) => {
            // SAFETY: this function's own contract.
            Some(Salt::Data(unsafe { nested(given.pSalt, given.ulSaltLen)? }))
        }
        (true, CKF_HKDF_SALT_KEY) => Some(Salt::Key(wide(given.hSaltKey))),
        (true, _) => return Err(Error::MechanismParamInvalid("no such ulSaltType")),
    };
    // SAFETY: this function's own contract.
    let info = || unsafe { nested(given.pInfo, given.ulInfoLen) };
    let expand = expand.then(info).transpose()?;
    Ok(Params::Hkdf { hash: hash(given.prfHashMechanism)?, extract, expand })
}

/// A label, the randoms of CK_SSL3_RANDOM_DATA in this order, and what else there is.
///
/// # Safety
/// The structure's pointers are NULL or readable for the lengths beside them.
unsafe fn seeded(
    label: &[u8],
    randoms: CK_SSL3_RANDOM_DATA,
    client_first: bool,
    more: &[u8],
) -> Result<Vec<u8>> {
    // SAFETY: this function's own contract.
    let (client, server) = unsafe {
        (
            nested(randoms.pClientRandom, randoms.ulClientRandomLen)?,
            nested(randoms.pServerRandom, randoms.ulServerRandomLen)?,
        )
    };
    let randoms = if client_first { [&client[..], &server] } else { [&server[..], &client] };
    Ok([label, &randoms.concat(), more].concat())
}

/// Where the version of a "pre_master" goes, if it is asked.
///
/// # Safety
/// `at` is NULL or writable until the C_ function returns.
unsafe fn tls_version(at: *mut CK_VERSION, gives: &mut Gives) -> Result<bool> {
    if at.is_null() {
        return Ok(false);
    }
    // SAFETY: this function's own contract; a CK_VERSION is two bytes.
    gives.told.push(unsafe { Fill::new(at.cast(), 2, 2)? });
    Ok(true)
}

/// CK_TLS12_MASTER_KEY_DERIVE_PARAMS. PKCS#11 3.2 §6.40.2.
///
/// # Safety
/// Its pointers are NULL or readable for the lengths beside them; `pVersion` is NULL or writable until the C_
/// function returns.
unsafe fn tls_master(bytes: &[u8], gives: &mut Gives) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_TLS12_MASTER_KEY_DERIVE_PARAMS = unsafe { structure(bytes)? };
    let hash = hash(given.prfHashMechanism)?;
    // SAFETY: this function's own contract.
    let (message, version) = unsafe {
        (
            seeded(b"master secret", given.RandomInfo, true, &[])?,
            tls_version(given.pVersion, gives)?,
        )
    };
    Ok(Params::TlsMaster { hash, message, version })
}

/// CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS. PKCS#11 3.2 §6.40.2, RFC 7627.
///
/// # Safety
/// As [`tls_master`].
unsafe fn tls_extended_master(bytes: &[u8], gives: &mut Gives) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS = unsafe { structure(bytes)? };
    let hash = hash(given.prfHashMechanism)?;
    // SAFETY: this function's own contract.
    let (session, version) = unsafe {
        (nested(given.pSessionHash, given.ulSessionHashLen)?, tls_version(given.pVersion, gives)?)
    };
    if session.is_empty() {
        return Err(Error::MechanismParamInvalid("the session's hash is missing"));
    }
    let message = [&b"extended master secret"[..], &session].concat();
    Ok(Params::TlsMaster { hash, message, version })
}

/// CK_TLS12_KEY_MAT_PARAMS. PKCS#11 3.2 §6.40.2. Without IVs their length is 0, whatever it says.
///
/// # Safety
/// Its pointers are NULL or readable for the lengths beside them; `pReturnedKeyMaterial` is NULL or readable and
/// writable, and so are the places for the IVs for as many bits as are asked, until the C_ function
/// returns.
unsafe fn tls_block(bytes: &[u8], ivs: bool, gives: &mut Gives) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_TLS12_KEY_MAT_PARAMS = unsafe { structure(bytes)? };
    let hash = hash(given.prfHashMechanism)?;
    if truth(given.bIsExport)? {
        return Err(Error::MechanismParamInvalid("bIsExport: there is no such thing any more"));
    }
    let in_bytes = |bits: CK_ULONG| match bits {
        _ if bits % 8 != 0 || bits > 8 * 1024 => {
            Err(Error::MechanismParamInvalid("a size is no whole number of bytes, or too much"))
        }
        _ => Ok((bits / 8) as usize),
    };
    let iv = if ivs { given.ulIVSizeInBits } else { 0 };
    let block = KeyBlock {
        mac: in_bytes(given.ulMacSizeInBits)?,
        key: in_bytes(given.ulKeySizeInBits)?,
        iv: in_bytes(iv)?,
    };
    if block == (KeyBlock { mac: 0, key: 0, iv: 0 }) {
        return Err(Error::MechanismParamInvalid("nothing is asked"));
    }
    // SAFETY: this function's own contract.
    let message = unsafe { seeded(b"key expansion", given.RandomInfo, false, &[])? };
    let null = |_| Error::MechanismParamInvalid("a place for what is asked is NULL");
    let out = given.pReturnedKeyMaterial;
    // SAFETY: this function's own contract.
    let found = unsafe { ptr::read("pReturnedKeyMaterial", out.cast_const()).map_err(null)? };
    for (at, length) in [
        (offset_of!(CK_SSL3_KEY_MAT_OUT, hClientMacSecret), block.mac),
        (offset_of!(CK_SSL3_KEY_MAT_OUT, hServerMacSecret), block.mac),
        (offset_of!(CK_SSL3_KEY_MAT_OUT, hClientKey), block.key),
        (offset_of!(CK_SSL3_KEY_MAT_OUT, hServerKey), block.key),
    ] {
        let places = if length > 0 { &mut gives.places } else { &mut gives.absent };
        // SAFETY: a field of the structure, which was not NULL and is writable by this function's own
        // contract.
        places.push(unsafe { Place::new("handle", out.byte_add(at).cast()).map_err(null)? });
    }
    if block.iv > 0 {
        for at in [found.pIVClient, found.pIVServer] {
            // SAFETY: this function's own contract.
            gives.told.push(unsafe { Fill::new(at, iv / 8, block.iv).map_err(null)? });
        }
    }
    Ok(Params::TlsBlock { hash, message, block })
}

/// CK_TLS_KDF_PARAMS. PKCS#11 3.2 §6.40.2, RFC 5705 §4: a context comes with its length, and an empty one is
/// another than none.
///
/// # Safety
/// Its pointers are NULL or readable for the lengths beside them.
unsafe fn tls_export(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_TLS_KDF_PARAMS = unsafe { structure(bytes)? };
    let hash = hash(given.prfMechanism)?;
    // SAFETY: this function's own contract.
    let (label, context) = unsafe {
        (
            nested(given.pLabel, given.ulLabelLength)?,
            nested(given.pContextData, given.ulContextDataLength)?,
        )
    };
    let context = if given.pContextData.is_null() {
        Vec::new()
    } else {
        let length = u16::try_from(context.len())
            .map_err(|_| Error::MechanismParamInvalid("the context is too long"))?;
        [&length.to_be_bytes()[..], &context].concat()
    };
    // SAFETY: this function's own contract.
    let message = unsafe { seeded(&label, given.RandomInfo, true, &context)? };
    Ok(Params::TlsExport { hash, message })
}

/// CK_TLS_MAC_PARAMS. PKCS#11 3.2 §6.40.2.
fn tls_mac(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers.
    let given: CK_TLS_MAC_PARAMS = unsafe { structure(bytes)? };
    let label: &[u8] = match given.ulServerOrClient {
        1 => b"server finished",
        2 => b"client finished",
        _ => return Err(Error::MechanismParamInvalid("ulServerOrClient is neither 1 nor 2")),
    };
    let length = match given.ulMacLength {
        12..=255 => given.ulMacLength as usize,
        _ => return Err(Error::MechanismParamInvalid("such a MAC has 12 bytes or some more")),
    };
    Ok(Params::TlsMac(TlsMac { hash: hash(given.prfHashMechanism)?, length, label }))
}

/// The number at an address where there may be nothing: the kernel looks.
fn number_at(address: u64) -> Option<CK_ULONG> {
    let mut number = [0; size_of::<CK_ULONG>()];
    let memory = std::fs::File::open("/proc/self/mem").ok()?;
    memory.read_exact_at(&mut number, address).ok()?;
    Some(CK_ULONG::from_ne_bytes(number))
}

/// CK_PKCS5_PBKD2_PARAMS2, PKCS#11 3.2 §6.37, or CK_PKCS5_PBKD2_PARAMS of older headers (NSS), which has as
/// many bytes, and a pointer to the password's length where its successor has the length. What is no length
/// for being too long is an address, if a length lies there.
///
/// # Safety
/// `pSaltSourceData` and `pPassword` are NULL or readable for the lengths beside them.
unsafe fn pbkdf2(bytes: &[u8]) -> Result<Params> {
    // SAFETY: numbers and pointers.
    let given: CK_PKCS5_PBKD2_PARAMS2 = unsafe { structure(bytes)? };
    if given.saltSource != CKZ_SALT_SPECIFIED {
        return Err(Error::MechanismParamInvalid("saltSource is not CKZ_SALT_SPECIFIED"));
    }
    if !given.pPrfData.is_null() || given.ulPrfDataLen != 0 {
        return Err(Error::MechanismParamInvalid("this prf has no data"));
    }
    let hash = match given.prf {
        CKP_PKCS5_PBKD2_HMAC_SHA1 => Hash::Sha1,
        CKP_PKCS5_PBKD2_HMAC_SHA224 => Hash::Sha224,
        CKP_PKCS5_PBKD2_HMAC_SHA256 => Hash::Sha256,
        CKP_PKCS5_PBKD2_HMAC_SHA384 => Hash::Sha384,
        CKP_PKCS5_PBKD2_HMAC_SHA512 => Hash::Sha512,
        CKP_PKCS5_PBKD2_HMAC_SHA512_224 => Hash::Sha512_224,
        CKP_PKCS5_PBKD2_HMAC_SHA512_256 => Hash::Sha512_256,
        _ => return Err(Error::MechanismParamInvalid("prf is no HMAC of ours")),
    };
    let length = match wide(given.ulPasswordLen) {
        address if address > PARAMETER_LIMIT as u64 => number_at(address),
        _ => Some(given.ulPasswordLen),
    };
    // SAFETY: this function's own contract.
    let (salt, password) = unsafe {
        (
            nested(given.pSaltSourceData.cast(), given.ulSaltSourceDataLen)?,
            nested(given.pPassword.cast(), length.unwrap_or(given.ulPasswordLen))?,
        )
    };
    let password = Password(password.into());
    Ok(Params::Pbkdf2 { hash, salt, iterations: wide(given.iterations), password })
}

/// The most data fields and the most additional keys.
const FIELDS: usize = 256;

/// CK_SP800_108_KDF_PARAMS and CK_SP800_108_FEEDBACK_KDF_PARAMS. PKCS#11 3.2 §6.42.2. All data fields
/// together have at most [`PARAMETER_LIMIT`] bytes.
///
/// # Safety
/// `pDataParams`, `pIV` and `pAdditionalDerivedKeys` are NULL or readable for the counts beside them, and
/// so is what they point to; each `phKey` is NULL or writable until the C_ function returns.
unsafe fn sp800(
    mechanism: CK_MECHANISM_TYPE,
    bytes: &[u8],
    places: &mut Vec<Place<CK_OBJECT_HANDLE>>,
) -> Result<Params> {
    let (prf, fields, keys, initial) = if mechanism == CKM_SP800_108_FEEDBACK_KDF {
        // SAFETY: numbers and pointers.
        let given: CK_SP800_108_FEEDBACK_KDF_PARAMS = unsafe { structure(bytes)? };
        // SAFETY: this function's own contract.
        let initial = unsafe { nested(given.pIV, given.ulIVLen)? };
        (
            given.prfType,
            (given.pDataParams, given.ulNumberOfDataParams),
            (given.pAdditionalDerivedKeys, given.ulAdditionalDerivedKeys),
            initial,
        )
    } else {
        // SAFETY: numbers and pointers.
        let given: CK_SP800_108_KDF_PARAMS = unsafe { structure(bytes)? };
        (
            given.prfType,
            (given.pDataParams, given.ulNumberOfDataParams),
            (given.pAdditionalDerivedKeys, given.ulAdditionalDerivedKeys),
            Vec::new(),
        )
    };
    let prf = prf_type(prf)?;
    // SAFETY: numbers and pointers, readable by this function's own contract.
    let (fields, keys): (Vec<CK_PRF_DATA_PARAM>, Vec<CK_DERIVED_KEY>) =
        unsafe { (array(fields.0, fields.1)?, array(keys.0, keys.1)?) };
    let mut parts = Vec::with_capacity(fields.len());
    let mut left = PARAMETER_LIMIT;
    for field in &fields {
        // SAFETY: this function's own contract.
        let value = unsafe { nested(field.pValue.cast(), field.ulValueLen)? };
        left = left
            .checked_sub(value.len())
            .ok_or(Error::MechanismParamInvalid("the data fields are too long"))?;
        parts.push(part(mechanism, field.type_, value)?);
    }
    let mut additional = Vec::with_capacity(keys.len());
    for key in &keys {
        let null = |_| Error::MechanismParamInvalid("phKey is NULL");
        // SAFETY: this function's own contract.
        places.push(unsafe { Place::new("phKey", key.phKey).map_err(null)? });
        // SAFETY: this function's own contract.
        let template = unsafe { Template::new(key.pTemplate, key.ulAttributeCount) }.read();
        if template.is_err() {
            // §6.42.6: the handle tells whose template it was.
            places.pop().into_iter().for_each(|place| place.put(CK_INVALID_HANDLE));
        }
        additional.push(template?);
    }
    Ok(Params::Sp800(Sp800 { prf, parts, initial, additional }))
}

/// One data field, from the bytes that it points to.
fn part(mechanism: CK_MECHANISM_TYPE, kind: CK_PRF_DATA_TYPE, value: Vec<u8>) -> Result<Part> {
    match kind {
        CK_SP800_108_ITERATION_VARIABLE if mechanism == CKM_SP800_108_COUNTER_KDF => {
            Ok(Part::Iteration(Some(counter_format(&value)?)))
        }
        CK_SP800_108_ITERATION_VARIABLE if value.is_empty() => Ok(Part::Iteration(None)),
        CK_SP800_108_COUNTER => Ok(Part::Counter(counter_format(&value)?)),
        CK_SP800_108_DKM_LENGTH => {
            // SAFETY: numbers.
            let given: CK_SP800_108_DKM_LENGTH_FORMAT = unsafe { structure(&value)? };
            let segments = match given.dkmLengthMethod {
                CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS => false,
                CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS => true,
                _ => return Err(Error::MechanismParamInvalid("no such dkmLengthMethod")),
            };
            let number = number(given.bLittleEndian, given.ulWidthInBits, 64)?;
            Ok(Part::Length { number, segments })
        }
        CK_SP800_108_BYTE_ARRAY if !value.is_empty() => Ok(Part::Bytes(value)),
        CK_SP800_108_KEY_HANDLE => {
            // SAFETY: one number.
            let handle: CK_OBJECT_HANDLE = unsafe { structure(&value)? };
            Ok(Part::Key(wide(handle)))
        }
        _ => Err(Error::MechanismParamInvalid("no such data field, or not its value")),
    }
}

/// CK_SP800_108_COUNTER_FORMAT: SP 800-108 has at most 32 bits.
fn counter_format(value: &[u8]) -> Result<Number> {
    // SAFETY: numbers.
    let given: CK_SP800_108_COUNTER_FORMAT = unsafe { structure(value)? };
    number(given.bLittleEndian, given.ulWidthInBits, 32)
}

fn number(little: CK_BBOOL, bits: CK_ULONG, most: CK_ULONG) -> Result<Number> {
    if bits == 0 || bits % 8 != 0 || bits > most {
        return Err(Error::MechanismParamInvalid("ulWidthInBits is no whole number of bytes"));
    }
    Ok(Number { little: truth(little)?, bytes: (bits / 8) as usize })
}

/// CK_SP800_108_PRF_TYPE
fn prf_type(id: CK_MECHANISM_TYPE) -> Result<PrfType> {
    Ok(PrfType::Hmac(match id {
        CKM_AES_CMAC => return Ok(PrfType::Cmac),
        CKM_SHA_1_HMAC => Hash::Sha1,
        CKM_SHA224_HMAC => Hash::Sha224,
        CKM_SHA256_HMAC => Hash::Sha256,
        CKM_SHA384_HMAC => Hash::Sha384,
        CKM_SHA512_HMAC => Hash::Sha512,
        CKM_SHA3_224_HMAC => Hash::Sha3_224,
        CKM_SHA3_256_HMAC => Hash::Sha3_256,
        CKM_SHA3_384_HMAC => Hash::Sha3_384,
        CKM_SHA3_512_HMAC => Hash::Sha3_512,
        _ => return Err(Error::MechanismParamInvalid("prfType is no function of ours")),
    }))
}

/// An array that a parameter points to.
///
/// # Safety
/// `T` is a C structure of numbers and pointers: valid for any bytes. `at` is NULL or readable for `count`
/// of them.
unsafe fn array<T: Copy>(at: *const T, count: CK_ULONG) -> Result<Vec<T>> {
    let too_many = Error::MechanismParamInvalid("too many of what it points to");
    let count = usize::try_from(count).ok().filter(|count| *count <= FIELDS).ok_or(too_many)?;
    if count != 0 && at.is_null() {
        return Err(Error::MechanismParamInvalid("a pointer inside it is NULL"));
    }
    // SAFETY: readable for `count` of them by this function's own contract.
    Ok((0..count).map(|i| unsafe { at.add(i).read_unaligned() }).collect())
}

/// A CK_BBOOL inside a parameter.
fn truth(given: CK_BBOOL) -> Result<bool> {
    match given {
        CK_TRUE => Ok(true),
        CK_FALSE => Ok(false),
        _ => Err(Error::MechanismParamInvalid("neither CK_TRUE nor CK_FALSE")),
    }
}

/// What a parameter points to.
///
/// # Safety
/// `at` is NULL or readable for `length` bytes.
unsafe fn nested(at: *const CK_BYTE, length: CK_ULONG) -> Result<Vec<u8>> {
    if at.is_null() && length != 0 {
        return Err(Error::MechanismParamInvalid("a pointer inside it is NULL"));
    }
    // SAFETY: this function's own contract.
    let input = unsafe { Input::new("mechanism parameter", at, length) };
    let too_long = Error::MechanismParamInvalid("what it points to is too long");
    Ok(input.at_most(PARAMETER_LIMIT, too_long)?.to_vec())
}

/// The hash of a digest mechanism's number.
fn hash(id: CK_MECHANISM_TYPE) -> Result<Hash> {
    let row = mechanism::lookup(wide(id)).ok().filter(|row| row.does.digest.is_some());
    row.and_then(|row| row.hash).ok_or(Error::MechanismParamInvalid("hashAlg is no hash of ours"))
}

/// The hash inside a mask generation function. PKCS#11 3.2 §6.1.7.
fn mgf(id: CK_RSA_PKCS_MGF_TYPE) -> Result<Hash> {
    Ok(match id {
        CKG_MGF1_SHA1 => Hash::Sha1,
        CKG_MGF1_SHA224 => Hash::Sha224,
        CKG_MGF1_SHA256 => Hash::Sha256,
        CKG_MGF1_SHA384 => Hash::Sha384,
        CKG_MGF1_SHA512 => Hash::Sha512,
        CKG_MGF1_SHA3_224 => Hash::Sha3_224,
        CKG_MGF1_SHA3_256 => Hash::Sha3_256,
        CKG_MGF1_SHA3_384 => Hash::Sha3_384,
        CKG_MGF1_SHA3_512 => Hash::Sha3_512,
        _ => return Err(Error::MechanismParamInvalid("mgf is no function of ours")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null_mut;

    fn given(id: CK_MECHANISM_TYPE, parameter: &mut [u8]) -> Result<Mechanism> {
        let mechanism = CK_MECHANISM {
            mechanism: id,
            pParameter: parameter.as_mut_ptr().cast(),
            ulParameterLen: parameter.len() as CK_ULONG,
        };
        // SAFETY: the parameter is readable; the tests' structures point to nothing or to a slice.
        unsafe { super::mechanism(&mechanism) }
    }

    fn bytes_of<T>(value: &T) -> Vec<u8> {
        // SAFETY: structures of numbers and pointers without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
            .to_vec()
    }

    #[test]
    fn a_parameter_outlives_the_callers_memory() {
        let label = b"label".to_vec();
        let mut parameter = bytes_of(&CK_RSA_PKCS_OAEP_PARAMS {
            hashAlg: CKM_SHA256,
            mgf: CKG_MGF1_SHA256,
            source: CKZ_DATA_SPECIFIED,
            pSourceData: label.as_ptr().cast_mut().cast(),
            ulSourceDataLen: 5,
        });
        let mechanism = given(CKM_RSA_PKCS_OAEP, &mut parameter).unwrap();
        drop((label, parameter));
        let Params::Oaep { label, .. } = mechanism.params else { panic!("not OAEP") };
        assert_eq!(label, b"label");
    }

    #[test]
    fn a_misaligned_parameter_is_read_all_the_same() {
        let plain = bytes_of(&CK_RSA_PKCS_PSS_PARAMS {
            hashAlg: CKM_SHA384,
            mgf: CKG_MGF1_SHA384,
            sLen: 48,
        });
        let mut shifted = vec![0; plain.len() + 1];
        shifted[1..].copy_from_slice(&plain);
        let mechanism = given(CKM_SHA384_RSA_PKCS_PSS, &mut shifted[1..]).unwrap();
        let expected = Params::Pss { hash: Hash::Sha384, mgf: Hash::Sha384, salt_length: 48 };
        assert_eq!(mechanism.params, expected);
    }

    #[test]
    fn a_parameter_of_the_wrong_size_or_with_a_null_inside_is_refused() {
        let invalid = |result: Result<Mechanism>| {
            assert!(matches!(result.map(|given| given.params), Ok(Params::Invalid(_))));
        };
        invalid(given(CKM_RSA_PKCS_PSS, &mut [0; 8]));
        invalid(given(CKM_RSA_PKCS_PSS, &mut [0xff; size_of::<CK_RSA_PKCS_PSS_PARAMS>()]));
        let mut null = bytes_of(&CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulSharedDataLen: 0,
            pSharedData: null_mut(),
            ulPublicDataLen: 65,
            pPublicData: null_mut(),
        });
        invalid(given(CKM_ECDH1_DERIVE, &mut null));
        let hkdf = |hkdf: CK_HKDF_PARAMS| given(CKM_HKDF_DERIVE, &mut bytes_of(&hkdf));
        let plain = CK_HKDF_PARAMS {
            bExpand: CK_TRUE,
            prfHashMechanism: CKM_SHA256,
            ulSaltType: CKF_HKDF_SALT_NULL,
            ..CK_HKDF_PARAMS::default()
        };
        assert_eq!(
            hkdf(plain).unwrap().params,
            Params::Hkdf { hash: Hash::Sha256, extract: None, expand: Some(Vec::new()) }
        );
        // What the part that is not wanted has is not looked at.
        let unused = CK_HKDF_PARAMS { ulSaltType: 77, ulSaltLen: 7, ..plain };
        assert_eq!(hkdf(unused).unwrap().params, hkdf(plain).unwrap().params);
        invalid(hkdf(CK_HKDF_PARAMS { bExpand: CK_FALSE, ..plain }));
        invalid(hkdf(CK_HKDF_PARAMS { bExpand: 2, ..plain }));
        invalid(hkdf(CK_HKDF_PARAMS { bExtract: CK_TRUE, ulSaltType: 3, ..plain }));
        invalid(hkdf(CK_HKDF_PARAMS { prfHashMechanism: CKM_SHA256_HMAC, ..plain }));
        invalid(hkdf(CK_HKDF_PARAMS { ulInfoLen: 1, ..plain }));
        let mut huge = bytes_of(&CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulSharedDataLen: 0,
            pSharedData: null_mut(),
            ulPublicDataLen: CK_ULONG::MAX,
            pPublicData: std::ptr::dangling_mut(),
        });
        invalid(given(CKM_ECDH1_DERIVE, &mut huge));
    }

    #[test]
    fn no_mechanism_and_an_unreadable_parameter_are_bad_arguments() {
        // SAFETY: NULL is allowed.
        let none = unsafe { super::mechanism(std::ptr::null()) };
        assert!(matches!(none.err(), Some(Error::ArgumentsBad(_))));
        let mechanism =
            CK_MECHANISM { mechanism: CKM_ECDSA, pParameter: null_mut(), ulParameterLen: 4 };
        // SAFETY: NULL is allowed.
        let null = unsafe { super::mechanism(&mechanism) };
        assert!(matches!(null.err(), Some(Error::ArgumentsBad(_))));
    }
}
