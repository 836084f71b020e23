//! What a function returns: the one place that names `CKR_` codes. PKCS#11 3.2 §5.1.

use cryptoki_sys::*;
use log::Level;

use crate::error::{Error, Refusal};

/// Success, said here so that no other file needs a code's name.
pub(super) const OK: CK_RV = CKR_OK;

/// The code for an error. No `_` arm: a new error does not compile until someone has looked up
/// which code the specification has for it.
///
/// Never `CKR_DEVICE_REMOVED` and never `CKR_TOKEN_NOT_PRESENT`: applications answer these by
/// closing every session, and the token (a store on disk) is still there.
pub(super) fn of(error: &Error) -> CK_RV {
    match error {
        Error::Bug(_) => CKR_GENERAL_ERROR,
        Error::ArgumentsBad(_) => CKR_ARGUMENTS_BAD,
        Error::NotInitialized => CKR_CRYPTOKI_NOT_INITIALIZED,
        Error::AlreadyInitialized => CKR_CRYPTOKI_ALREADY_INITIALIZED,
        Error::CantLock => CKR_CANT_LOCK,
        Error::NotSupported(_) => CKR_FUNCTION_NOT_SUPPORTED,
        Error::NotParallel => CKR_FUNCTION_NOT_PARALLEL,
        Error::HostMemory => CKR_HOST_MEMORY,
        Error::Canceled => CKR_FUNCTION_CANCELED,
        Error::NoEvent => CKR_NO_EVENT,
        Error::BufferTooSmall => CKR_BUFFER_TOO_SMALL,

        Error::SlotInvalid => CKR_SLOT_ID_INVALID,
        Error::NoTokenYet | Error::TokenNotRecognized(_) => CKR_TOKEN_NOT_RECOGNIZED,
        Error::TokenWriteProtected(_) => CKR_TOKEN_WRITE_PROTECTED,

        Error::SessionInvalid => CKR_SESSION_HANDLE_INVALID,
        Error::SessionClosed => CKR_SESSION_CLOSED,
        Error::SessionReadOnly => CKR_SESSION_READ_ONLY,
        Error::SessionReadOnlyExists => CKR_SESSION_READ_ONLY_EXISTS,
        Error::SessionReadWriteSoExists => CKR_SESSION_READ_WRITE_SO_EXISTS,
        Error::SessionExists => CKR_SESSION_EXISTS,
        Error::SessionParallelNotSupported => CKR_SESSION_PARALLEL_NOT_SUPPORTED,
        Error::SessionAsyncNotSupported => CKR_SESSION_ASYNC_NOT_SUPPORTED,

        Error::AlreadyLoggedIn => CKR_USER_ALREADY_LOGGED_IN,
        Error::AnotherLoggedIn => CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
        Error::NotLoggedIn => CKR_USER_NOT_LOGGED_IN,
        Error::UserTypeInvalid => CKR_USER_TYPE_INVALID,
        Error::PinNotInitialized => CKR_USER_PIN_NOT_INITIALIZED,
        Error::WrongPin { .. } => CKR_PIN_INCORRECT,
        Error::PinLocked => CKR_PIN_LOCKED,
        Error::PinLength => CKR_PIN_LEN_RANGE,
        Error::PinInvalid(_) => CKR_PIN_INVALID,

        Error::ObjectInvalid => CKR_OBJECT_HANDLE_INVALID,
        Error::KeyInvalid => CKR_KEY_HANDLE_INVALID,
        Error::AttributeTypeInvalid(_) => CKR_ATTRIBUTE_TYPE_INVALID,
        Error::AttributeValueInvalid(..) => CKR_ATTRIBUTE_VALUE_INVALID,
        Error::AttributeReadOnly(_) => CKR_ATTRIBUTE_READ_ONLY,
        Error::AttributeSensitive(_) => CKR_ATTRIBUTE_SENSITIVE,
        Error::TemplateIncomplete(_) => CKR_TEMPLATE_INCOMPLETE,
        Error::TemplateInconsistent(_) => CKR_TEMPLATE_INCONSISTENT,
        Error::ActionProhibited(_) => CKR_ACTION_PROHIBITED,
        Error::CurveNotSupported => CKR_CURVE_NOT_SUPPORTED,
        Error::DomainParamsInvalid => CKR_DOMAIN_PARAMS_INVALID,

        Error::MechanismInvalid(_) => CKR_MECHANISM_INVALID,
        Error::MechanismParamInvalid(_) => CKR_MECHANISM_PARAM_INVALID,
        Error::KeyTypeInconsistent => CKR_KEY_TYPE_INCONSISTENT,
        Error::KeySizeRange(_) => CKR_KEY_SIZE_RANGE,
        Error::KeyFunctionNotPermitted(_) => CKR_KEY_FUNCTION_NOT_PERMITTED,
        Error::KeyIndigestible => CKR_KEY_INDIGESTIBLE,
        Error::KeyUnextractable => CKR_KEY_UNEXTRACTABLE,
        Error::KeyNotWrappable => CKR_KEY_NOT_WRAPPABLE,
        Error::PublicKeyInvalid => CKR_PUBLIC_KEY_INVALID,
        Error::WrappingKeyInvalid => CKR_WRAPPING_KEY_HANDLE_INVALID,
        Error::WrappingKeyType => CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
        Error::WrappingKeySize(_) => CKR_WRAPPING_KEY_SIZE_RANGE,
        Error::UnwrappingKeyInvalid => CKR_UNWRAPPING_KEY_HANDLE_INVALID,
        Error::UnwrappingKeyType => CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
        Error::UnwrappingKeySize(_) => CKR_UNWRAPPING_KEY_SIZE_RANGE,
        Error::WrappedKeyInvalid => CKR_WRAPPED_KEY_INVALID,
        Error::WrappedKeyLength => CKR_WRAPPED_KEY_LEN_RANGE,

        Error::OperationActive => CKR_OPERATION_ACTIVE,
        Error::OperationNotInitialized => CKR_OPERATION_NOT_INITIALIZED,
        Error::OperationCancelFailed => CKR_OPERATION_CANCEL_FAILED,
        Error::DataInvalid(_) => CKR_DATA_INVALID,
        Error::DataLenRange(_) => CKR_DATA_LEN_RANGE,
        Error::EncryptedDataInvalid => CKR_ENCRYPTED_DATA_INVALID,
        Error::EncryptedDataLenRange => CKR_ENCRYPTED_DATA_LEN_RANGE,
        Error::AeadDecryptFailed => CKR_AEAD_DECRYPT_FAILED,
        Error::SignatureInvalid => CKR_SIGNATURE_INVALID,
        Error::SignatureLenRange => CKR_SIGNATURE_LEN_RANGE,
        Error::StateUnsaveable => CKR_STATE_UNSAVEABLE,
        Error::SavedStateInvalid => CKR_SAVED_STATE_INVALID,
        Error::RandomSeedNotSupported => CKR_RANDOM_SEED_NOT_SUPPORTED,

        Error::Device(_) | Error::ForeignTpm => CKR_DEVICE_ERROR,
        Error::DeviceMemory(_) | Error::StoreFull(_) => CKR_DEVICE_MEMORY,
        Error::FunctionFailed(_) => CKR_FUNCTION_FAILED,
        Error::FunctionRejected(_) => CKR_FUNCTION_REJECTED,
        // Codes that every function may return; where a mechanism has a better one, it was taken.
        Error::Refused(Refusal::Command | Refusal::Policy, _) => CKR_DEVICE_ERROR,
        Error::Refused(Refusal::Curve | Refusal::KeySize | Refusal::Point, _) => {
            CKR_FUNCTION_FAILED
        }
    }
}

/// How loud an error is in the log: only our own mistakes are errors, what an administrator must
/// act on warns, and a caller's mistake whispers, for a program that probes is not an event.
pub(super) fn level(error: &Error) -> Level {
    match error {
        Error::Bug(_) => Level::Error,
        Error::HostMemory
        | Error::TokenNotRecognized(_)
        | Error::TokenWriteProtected(_)
        | Error::PinLocked
        | Error::Device(_)
        | Error::DeviceMemory(_)
        | Error::StoreFull(_)
        | Error::ForeignTpm
        | Error::FunctionFailed(_)
        | Error::FunctionRejected(_)
        | Error::Refused(..) => Level::Warn,
        _ => Level::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_mistake_is_no_event_and_our_own_is_an_error() {
        assert_eq!(level(&Error::ArgumentsBad("pData")), Level::Debug);
        // NSS opens a session with every slot.
        assert_eq!(level(&Error::NoTokenYet), Level::Debug);
        assert_eq!(level(&Error::ForeignTpm), Level::Warn);
        assert_eq!(level(&Error::Bug("test")), Level::Error);
    }

    #[test]
    fn no_error_makes_an_application_throw_its_sessions_away() {
        for error in [Error::Device("gone".into()), Error::ForeignTpm, Error::SlotInvalid] {
            assert_ne!(of(&error), CKR_DEVICE_REMOVED);
            assert_ne!(of(&error), CKR_TOKEN_NOT_PRESENT);
        }
    }
}
