//! Certificate attributes, derived from CKA_VALUE as exact slices of its DER.
