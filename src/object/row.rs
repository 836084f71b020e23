//! An object as a row of the store, and a checked row as an object.
//!
//! A key's row keeps, before the TPM's private part, the 16 bytes its authorization is derived
//! from. They are the uuid of the object that the TPM created the key for: a copy has a uuid of its
//! own and the same key, with the same authorization.
//!
//! Beside the TPM's object stand, never searched for and only in rows that are encrypted: the value of a
//! readable secret key, and the authorization of a key that was made before anybody logged in, which
//! nothing could derive.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use cryptoki_sys::{CKA_UNIQUE_ID, CKA_VALUE, CKO_PRIVATE_KEY, CKO_SECRET_KEY};
use zeroize::Zeroizing;

use super::keyspec::secret_spec;
use super::object::{Material, Object, Residence, SecretKey, uuid_text};
use super::rules::CKA_TPM11_RESIDENCE;
use super::value::Attributes;
use crate::error::{Error, Result};
use crate::store::{Checked, NewRow, Row, Sealer};
use crate::tpm::{KeyBlob, key};

/// Where a row keeps an authorization that is not derived: a number that no CK_ULONG of a caller's
/// template can be on 32-bit hosts, and no specification's on any.
const AUTHORIZATION: u64 = u64::MAX - 1;

/// The row of a token object.
pub fn of(object: &Object, sealer: &Sealer) -> NewRow {
    let mut row = NewRow {
        class: object.class(),
        private: object.private(),
        attributes: object.attributes.as_map().clone(),
        uuid: Some(object.uuid),
        ..NewRow::default()
    };
    // Not an attribute of the object, which has its uuid, but searched for like one.
    row.attributes.insert(CKA_UNIQUE_ID, uuid_text(&object.uuid).into_bytes());
    match &object.material {
        Material::None => {}
        Material::Key(blob) => keep(&mut row, blob, sealer),
        Material::Secret(key) => {
            if let Some(blob) = key.blob.get() {
                keep(&mut row, blob, sealer);
            }
            if let Some(value) = &key.value {
                hide(&mut row, CKA_VALUE, value);
            }
        }
    }
    row
}

/// The TPM's object of a key.
fn keep(row: &mut NewRow, blob: &KeyBlob, sealer: &Sealer) {
    row.public_blob.clone_from(&blob.public);
    row.private_blob = [blob.id.as_slice(), &blob.private].concat();
    row.name = key::name_of(&blob.public).unwrap_or_default();
    if sealer.authorization(&blob.id) != blob.authorization {
        hide(row, AUTHORIZATION, blob.authorization.as_slice());
    }
}

/// A secret beside the attributes: only where the row is encrypted.
fn hide(row: &mut NewRow, id: u64, value: &[u8]) {
    if row.private {
        row.attributes.insert(id, value.to_vec());
        row.guarded.push(id);
    }
}

/// The object of a row that its owner is proven to have written.
///
/// # Errors
/// `Device` if the key in it is not one of ours.
pub fn object(row: Checked<Row>, sealer: &Sealer) -> Result<Object> {
    let Row { uuid, class, mut attributes, public_blob, private_blob, .. } = row.into_inner();
    let damaged = || Error::Device("the key's row is damaged".into());
    let kept = attributes.remove(&AUTHORIZATION).map(Zeroizing::new);
    let blob = match private_blob.split_first_chunk::<16>() {
        Some((id, private)) => {
            let authorization = match &kept {
                Some(bytes) => {
                    Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| damaged())?)
                }
                None => sealer.authorization(id),
            };
            let private = private.to_vec();
            Some(Arc::new(KeyBlob { id: *id, public: public_blob, private, authorization }))
        }
        None if private_blob.is_empty() => None,
        None => return Err(damaged()),
    };
    let value = match class {
        CKO_SECRET_KEY => attributes.remove(&CKA_VALUE).map(Zeroizing::new),
        _ => None,
    };
    let mut attributes = without_unique_id(attributes);
    if class == CKO_PRIVATE_KEY && !attributes.has(CKA_TPM11_RESIDENCE) {
        // Of a version that brought no keys in.
        attributes.set(CKA_TPM11_RESIDENCE, Residence::Tpm.text());
    }
    let material = match (class, blob) {
        (CKO_SECRET_KEY, blob) => {
            let id = blob.as_ref().map_or(uuid, |blob| blob.id);
            let authorization = blob
                .as_ref()
                .map_or_else(|| sealer.authorization(&id), |blob| blob.authorization.clone());
            let known = OnceLock::new();
            if let Some(blob) = blob {
                let _ = known.set(blob);
            }
            let spec = secret_spec(&attributes);
            Material::Secret(Arc::new(SecretKey { id, authorization, spec, blob: known, value }))
        }
        (_, Some(blob)) => Material::Key(blob),
        (_, None) => Material::None,
    };
    Ok(Object { uuid, attributes: Arc::new(attributes), material })
}

/// The object of a public row before anybody logged in: nobody has proven who wrote it. It never
/// has a key of the TPM or a secret value.
pub fn unauthenticated(row: Row) -> Object {
    Object {
        uuid: row.uuid,
        attributes: Arc::new(without_unique_id(row.attributes)),
        material: Material::None,
    }
}

fn without_unique_id(mut attributes: BTreeMap<u64, Vec<u8>>) -> Attributes {
    attributes.remove(&CKA_UNIQUE_ID);
    Attributes::from_map(attributes)
}
