//! Objects and their handles: create, copy, destroy, read, change. PKCS#11 3.2 §5.7.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cryptoki_sys::{
    CKA_CLASS, CKA_ID, CKA_PRIVATE, CKA_PUBLIC_KEY_INFO, CKA_TOKEN, CKA_VALUE, CKF_GENERATE,
    CKO_CERTIFICATE,
};
use zeroize::Zeroizing;

use crate::crypto::drbg;
use crate::error::{Error, Refusal, Result};
use crate::mechanism::Value;
use crate::object::keyspec::Secret;
use crate::object::rule::Creation;
use crate::object::rules::CKA_TPM11_RESIDENCE;
use crate::object::{Attributes, Material, Object, Residence, Setting, Template, row, rule};
use crate::store::{Fault, seal};

use super::session::Session;
use super::token::Token;

/// How often a change begins again because another process changed the object in between.
const CHANGE_TRIES: usize = 10;

/// Which objects have handles.
#[derive(Default)]
pub(super) struct Objects {
    places: BTreeMap<u64, Place>,
    by_row: HashMap<i64, u64>,
}

/// Where the object of a handle is.
pub(super) enum Place {
    /// In the store.
    Stored {
        /// Its row.
        id: i64,
        /// CKA_PRIVATE
        private: bool,
        /// The object as last read and checked; forgotten whenever the store changes.
        content: Option<Object>,
    },
    /// In this process, until its session closes.
    Session {
        /// The object.
        object: Object,
        /// The handle of the session that made it.
        session: u64,
    },
}

impl Objects {
    pub(super) fn place(&self, handle: u64) -> Option<&Place> {
        self.places.get(&handle)
    }

    pub(super) fn handle_of(&self, row: i64) -> Option<u64> {
        self.by_row.get(&row).copied()
    }

    pub(super) fn add(&mut self, handle: u64, place: Place) {
        if let Place::Stored { id, .. } = &place {
            self.by_row.insert(*id, handle);
        }
        self.places.insert(handle, place);
    }

    pub(super) fn forget(&mut self, handle: u64) {
        if let Some(Place::Stored { id, .. }) = self.places.remove(&handle) {
            self.by_row.remove(&id);
        }
    }

    pub(super) fn keep_content(&mut self, handle: u64, object: &Object) {
        if let Some(Place::Stored { content, .. }) = self.places.get_mut(&handle) {
            *content = Some(object.clone());
        }
    }

    /// False if it is no longer as `base` was, from which `new` was made.
    pub(super) fn replace_session_object(
        &mut self,
        handle: u64,
        base: &Object,
        new: Object,
    ) -> bool {
        match self.places.get_mut(&handle) {
            Some(Place::Session { object, .. })
                if Arc::ptr_eq(&object.attributes, &base.attributes) =>
            {
                *object = new;
                true
            }
            _ => false,
        }
    }

    /// The store changed: what was read from it may be old.
    pub(super) fn forget_content(&mut self) {
        for place in self.places.values_mut() {
            if let Place::Stored { content, .. } = place {
                *content = None;
            }
        }
    }

    /// Logout: handles of private objects are dead for ever, private session objects gone.
    pub(super) fn forget_private(&mut self) {
        self.retain(|place| match place {
            Place::Stored { private, .. } => !private,
            Place::Session { object, .. } => !object.private(),
        });
    }

    /// A session closed, and its objects with it.
    pub(super) fn forget_session(&mut self, closed: u64) {
        self.retain(|place| !matches!(place, Place::Session { session, .. } if *session == closed));
    }

    /// The session objects with their handles, oldest first.
    pub(super) fn of_sessions(&self) -> impl Iterator<Item = (u64, &Object)> {
        self.places.iter().filter_map(|(handle, place)| match place {
            Place::Session { object, .. } => Some((*handle, object)),
            Place::Stored { .. } => None,
        })
    }

    fn retain(&mut self, keep: impl Fn(&Place) -> bool) {
        self.places.retain(|_, place| keep(place));
        let places = &self.places;
        self.by_row.retain(|_, handle| places.contains_key(handle));
    }
}

impl Session {
    /// C_CreateObject. A certificate without CKA_ID gets that of its key, where there is one.
    ///
    /// # Errors
    /// Those of the rules (`object/rule.rs`); `SessionReadOnly`, `NotLoggedIn`,
    /// `TokenWriteProtected` for token objects.
    pub fn create_object(&self, template: &Template) -> Result<u64> {
        self.alive()?;
        let setting = self.token.setting()?;
        self.may_make(template)?;
        let mut attributes = match rule::create(template, &setting)? {
            Creation::Object(attributes) => attributes,
            Creation::Secret(plan, value) => return self.bring_in(plan, value),
            Creation::Private(key) => {
                return self.make_private(&self.call(CKF_GENERATE), key).map_err(size);
            }
        };
        let certificate = attributes.ulong(CKA_CLASS) == Some(CKO_CERTIFICATE);
        if certificate && template.get(CKA_ID).is_none() {
            let info = attributes.get(CKA_PUBLIC_KEY_INFO).filter(|info| !info.is_empty());
            if let Some(id) = info.map(|info| self.id_of_key(info)).transpose()?.flatten() {
                attributes.set(CKA_ID, id);
            }
        }
        self.place(attributes, Material::None)
    }

    /// A secret key that the caller knows, for the TPM.
    fn bring_in(&self, plan: Secret, value: Zeroizing<Vec<u8>>) -> Result<u64> {
        self.make_secret(&self.call(CKF_GENERATE), plan, Value::Known(value)).map_err(size)
    }

    /// What a key is made of under new attributes. A secret key that was readable and no longer is gets
    /// an object in the TPM that keeps it, and the host forgets its value; one that moves to the token
    /// is in the TPM at last.
    fn material(&self, object: &Object, attributes: &mut Attributes) -> Result<Material> {
        let Some(key) = object.secret() else { return Ok(object.material.clone()) };
        let Some(value) = &key.value else { return Ok(object.material.clone()) };
        let call = self.call(CKF_GENERATE);
        let size = |error| match error {
            Error::Refused(Refusal::KeySize, _) | Error::KeySizeRange(_) => {
                Error::TemplateInconsistent("no TPM holds a key of this size: it stays readable")
            }
            other => other,
        };
        if !rule::shown(attributes, self.token.home.policy) {
            attributes.set(CKA_TPM11_RESIDENCE, Residence::Imported.text());
            let (id, authorization) = self.name(&call, attributes.is(CKA_PRIVATE))?;
            let closed = self
                .with_chip(&call, None, |chip| chip.close(attributes, value, id, authorization));
            return closed.map_err(size);
        }
        if attributes.is(CKA_TOKEN) {
            self.with_chip(&call, None, |chip| chip.settle(key))?;
        }
        Ok(object.material.clone())
    }

    /// C_CopyObject: from session to token and back, and within.
    ///
    /// # Errors
    /// `ObjectInvalid`, `ActionProhibited`; else as [`Session::create_object`].
    pub fn copy_object(&self, object: u64, template: &Template) -> Result<u64> {
        self.alive()?;
        let object = self.token.object(object)?;
        let setting = self.token.setting()?;
        if template.bool(CKA_TOKEN).unwrap_or(object.token()) {
            self.may_write()?;
        }
        let mut attributes = rule::copy(&object.attributes, template, &setting)?;
        let material = self.material(&object, &mut attributes)?;
        self.place(attributes, material)
    }

    /// C_DestroyObject. The row is gone before the handle is; running operations keep their key.
    ///
    /// # Errors
    /// `ObjectInvalid`, `ActionProhibited`, `SessionReadOnly`, `TokenWriteProtected`, the store's:
    /// the object is still there then.
    pub fn destroy_object(&self, handle: u64) -> Result<()> {
        self.alive()?;
        let object = self.token.object(handle)?;
        if object.token() {
            self.may_write()?;
        }
        rule::destroy(&object.attributes)?;
        if object.token() {
            let opened = self.token.open(&self.call(0))?;
            let id = self.row_of(handle)?;
            self.token.store.delete(&self.token.serial, &opened.sealer, id)?;
        }
        self.token.known_state().objects.forget(handle);
        Ok(())
    }

    /// C_GetObjectSize, in bytes
    ///
    /// # Errors
    /// `ObjectInvalid`
    pub fn get_object_size(&self, object: u64) -> Result<u64> {
        self.alive()?;
        Ok(self.token.object(object)?.size())
    }

    /// C_GetAttributeValue: for each type its value in the library's own encoding (`object/`), or why
    /// there is none (`AttributeSensitive`, `AttributeTypeInvalid`); the door converts and copies.
    ///
    /// # Errors
    /// `ObjectInvalid`
    pub fn get_attribute_value(
        &self,
        object: u64,
        types: &[u64],
    ) -> Result<Vec<Result<Zeroizing<Vec<u8>>>>> {
        self.alive()?;
        let object = self.token.object(object)?;
        let policy = self.token.home.policy;
        Ok(types
            .iter()
            .map(|id| {
                rule::get(&object, *id, policy).map(|value| Zeroizing::new(value.into_owned()))
            })
            .collect())
    }

    /// C_SetAttributeValue: all of the template or nothing.
    ///
    /// # Errors
    /// `ObjectInvalid`, `ActionProhibited`, `SessionReadOnly`, `TokenWriteProtected`; those of the
    /// rules; `FunctionFailed` if another process changed the object at the same moment.
    pub fn set_attribute_value(&self, handle: u64, template: &Template) -> Result<()> {
        self.alive()?;
        self.change(handle, template, &self.token.setting()?)
    }

    /// The same, asked by whom `setting` says.
    pub(super) fn change(&self, handle: u64, template: &Template, setting: &Setting) -> Result<()> {
        let object = self.token.object(handle)?;
        if !object.token() {
            return self.change_session_object(handle, object, template, setting);
        }
        self.may_write()?;
        let opened = self.token.open(&self.call(0))?;
        let id = self.row_of(handle)?;
        let Token { store, serial, .. } = &*self.token;
        for _ in 0..CHANGE_TRIES {
            // The rules judge what stands in the store now.
            let unchecked = store.row(serial, id)?.ok_or(Error::ObjectInvalid)?;
            let base = seal::check(unchecked, &opened.sealer)?;
            let stored = row::object(base.clone(), &opened.sealer)?;
            let mut attributes = rule::set(&stored.attributes, template, setting)?;
            if attributes == *stored.attributes {
                return Ok(());
            }
            let material = self.material(&stored, &mut attributes)?;
            let changed = Object { attributes: Arc::new(attributes), material, ..stored };
            let changed = row::of(&changed, &opened.sealer);
            match store.update(serial, &opened.sealer, &base, &changed) {
                Err(Fault::Changed) => continue,
                outcome => return Ok(outcome?),
            }
        }
        Err(Fault::Changed.into())
    }

    /// The same of a session object, in which no change by another thread is lost.
    fn change_session_object(
        &self,
        handle: u64,
        mut object: Object,
        template: &Template,
        setting: &Setting,
    ) -> Result<()> {
        for _ in 0..CHANGE_TRIES {
            let mut attributes = rule::set(&object.attributes, template, setting)?;
            let material = self.material(&object, &mut attributes)?;
            let changed = Object { attributes: Arc::new(attributes), material, ..object.clone() };
            if self.token.known_state().objects.replace_session_object(handle, &object, changed) {
                return Ok(());
            }
            object = self.token.object(handle)?;
        }
        Err(Fault::Changed.into())
    }

    /// Puts a new object where its CKA_TOKEN says.
    pub(super) fn place(&self, attributes: Attributes, material: Material) -> Result<u64> {
        self.place_one(Object { uuid: new_uuid()?, attributes: Arc::new(attributes), material })
    }

    /// The same, of an object that has its uuid.
    pub(super) fn place_one(&self, object: Object) -> Result<u64> {
        match self.place_all(vec![object])?.as_slice() {
            [handle] => Ok(*handle),
            _ => Err(Error::Bug("one object, one handle")),
        }
    }

    /// Puts new objects where their CKA_TOKEN says: those of the token in one commit.
    pub(super) fn place_all(&self, objects: Vec<Object>) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        if objects.iter().any(Object::token) {
            self.may_write()?;
            let opened = self.token.open(&self.call(0))?;
            let stored = objects.iter().filter(|object| object.token());
            let rows: Vec<_> = stored.map(|object| row::of(object, &opened.sealer)).collect();
            ids = self.token.store.insert_all(&self.token.serial, &opened.sealer, &rows)?;
        }
        let mut ids = ids.into_iter();
        let mut handles = Vec::new();
        for object in objects {
            handles.push(if object.token() {
                let id = ids.next().ok_or(Error::Bug("a row for each object"))?;
                let private = object.attributes.is(CKA_PRIVATE);
                // It is there, so nothing may fail any more: the store is not asked again.
                self.token.stored_handle(&mut self.token.known_state(), id, private)?
            } else {
                self.token.add_session_object(self.handle, object)?
            });
        }
        Ok(handles)
    }

    fn row_of(&self, handle: u64) -> Result<i64> {
        match self.token.known_state().objects.place(handle) {
            Some(Place::Stored { id, .. }) => Ok(*id),
            _ => Err(Error::ObjectInvalid),
        }
    }
}

/// C_CreateObject has no code for a key that the TPM cannot hold.
fn size(error: Error) -> Error {
    match error {
        Error::KeySizeRange(why) => {
            log::info!("{why}");
            Error::AttributeValueInvalid(CKA_VALUE, "the TPM holds no key of this size")
        }
        other => other,
    }
}

/// A uuid of version 4: 122 random bits. RFC 9562 §5.4.
pub(super) fn new_uuid() -> Result<[u8; 16]> {
    let mut uuid = *drbg::os_bytes::<16>()?;
    uuid[6] = (uuid[6] & 0x0F) | 0x40;
    uuid[8] = (uuid[8] & 0x3F) | 0x80;
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(private: bool) -> Object {
        let mut attributes = Attributes::new();
        attributes.set_bool(CKA_PRIVATE, private);
        Object { uuid: [0; 16], attributes: Arc::new(attributes), material: Material::None }
    }

    fn stored(id: i64, private: bool) -> Place {
        Place::Stored { id, private, content: None }
    }

    fn of_session(session: u64, private: bool) -> Place {
        Place::Session { object: object(private), session }
    }

    fn filled() -> Objects {
        let mut objects = Objects::default();
        objects.add(1, stored(10, false));
        objects.add(2, stored(20, true));
        objects.add(3, of_session(7, false));
        objects.add(4, of_session(7, true));
        objects.add(5, of_session(8, false));
        objects
    }

    fn handles(objects: &Objects) -> Vec<u64> {
        objects.places.keys().copied().collect()
    }

    #[test]
    fn a_logout_takes_what_is_private_and_nothing_else() {
        let mut objects = filled();
        objects.forget_private();
        assert_eq!(handles(&objects), [1, 3, 5]);
        assert_eq!(objects.handle_of(10), Some(1));
        assert_eq!(objects.handle_of(20), None, "its next handle is another one");
    }

    #[test]
    fn a_closed_session_takes_its_own_objects_and_nothing_else() {
        let mut objects = filled();
        objects.forget_session(7);
        assert_eq!(handles(&objects), [1, 2, 5]);
    }

    #[test]
    fn a_change_of_the_store_costs_content_and_no_handle() {
        let mut objects = filled();
        objects.keep_content(1, &object(false));
        objects.forget_content();
        assert_eq!(handles(&objects), [1, 2, 3, 4, 5]);
        assert!(matches!(objects.place(1), Some(Place::Stored { content: None, .. })));
        assert_eq!(objects.of_sessions().count(), 3, "session objects are not in the store");
    }

    #[test]
    fn a_destroyed_object_has_no_handle_and_no_row() {
        let mut objects = filled();
        objects.forget(1);
        objects.forget(1);
        assert!(objects.place(1).is_none());
        assert_eq!(objects.handle_of(10), None);
    }

    #[test]
    fn a_uuid_says_that_it_is_random() {
        let one = new_uuid().expect("random bytes");
        assert_eq!((one[6] >> 4, one[8] >> 6), (4, 2));
        assert_ne!(one, new_uuid().expect("random bytes"));
    }
}
