//! An object as a row of the store, and a checked row as an object.
//!
//! A key's row keeps, before the TPM's private part, the 16 bytes its authorization is derived
//! from. They are the uuid of the object that the TPM created the key for: a copy has a uuid of its
//! own and the same key, with the same authorization.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki_sys::{CKA_UNIQUE_ID, CKA_VALUE, CKO_SECRET_KEY};
use zeroize::Zeroizing;

use super::object::{Material, Object, uuid_text};
use super::value::Attributes;
use crate::error::{Error, Result};
use crate::store::{Checked, NewRow, Row, Sealer};
use crate::tpm::{KeyBlob, key};

/// The row of a token object.
pub fn of(object: &Object) -> NewRow {
    let mut row = NewRow {
        class: object.class(),
        private: object.private(),
        attributes: object.attributes.as_map().clone(),
        uuid: Some(object.uuid),
        ..NewRow::default()
    };
    // Not read back from here, but searched for.
    row.attributes.insert(CKA_UNIQUE_ID, uuid_text(&object.uuid).into_bytes());
    // Not an attribute of the object, which has its uuid, but searched for like one.
    row.attributes.insert(CKA_UNIQUE_ID, object.unique_id().into_bytes());
    match &object.material {
        Material::None => {}
        Material::Key(blob) => {
            row.public_blob.clone_from(&blob.public);
            row.private_blob = [blob.id.as_slice(), &blob.private].concat();
            row.name = key::name_of(&blob.public).unwrap_or_default();
        }
        Material::Value(value) => {
            row.attributes.insert(CKA_VALUE, value.to_vec());
            row.guarded.push(CKA_VALUE);
        }
    }
    row
}

/// The object of a row that its owner is proven to have written.
///
/// # Errors
/// `Device` if the key in it is not one of ours.
pub fn object(row: Checked<Row>, sealer: &Sealer) -> Result<Object> {
    let Row { uuid, class, mut attributes, public_blob, private_blob, .. } = row.into_inner();
    attributes.remove(&CKA_UNIQUE_ID);
    let material = if !private_blob.is_empty() {
        let Some((seed, private)) = private_blob.split_first_chunk::<16>() else {
            return Err(Error::Device("the key's row is damaged".into()));
        };
        Material::Key(Arc::new(KeyBlob {
            id: *seed,
            public: public_blob,
            private: private.to_vec(),
            authorization: sealer.authorization(seed),
        }))
    } else if class == CKO_SECRET_KEY {
        let value = attributes.remove(&CKA_VALUE).unwrap_or_default();
        Material::Value(Arc::new(Zeroizing::new(value)))
    } else {
        Material::None
    };
    Ok(Object { uuid, attributes: Arc::new(without_unique_id(attributes)), material })
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
