//! Where most tests play: a token, an application with a session at it, the user logged in; and what they do
//! with secret keys there.

use cryptoki_sys::*;

use crate::ck::{Attribute, CKA_TPM11_RESIDENCE, Mechanism, bytes, number};
use crate::{App, Bench, Setup, openssl};

/// A bench with its token [`crate::bench::LABEL`], and an application at it.
#[derive(Debug)]
pub struct Scene {
    /// All that there is.
    pub bench: Bench,
    /// The application.
    pub app: App,
    /// Its session, read-write.
    pub session: u64,
}

/// What a call gives, or the CKR_ that it returns.
type Answer<T> = Result<T, u64>;

impl Scene {
    /// With the usual configuration.
    pub fn start() -> Scene {
        Scene::on(Bench::start())
    }

    /// With these lines in it.
    pub fn configured(lines: &str) -> Scene {
        Scene::on(Setup::default().config(lines).start())
    }

    /// At a TPM without a token, which gets one.
    pub fn on(bench: Bench) -> Scene {
        bench.token();
        let (app, session) = bench.logged_in();
        Scene { bench, app, session }
    }

    /// C_CreateObject of a secret key.
    ///
    /// # Errors
    /// The call's.
    pub fn create(&self, key_type: u64, value: &[u8], more: &[Attribute]) -> Answer<u64> {
        let key = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, key_type),
            bytes(CKA_VALUE, value),
        ];
        let template = [&key[..], more].concat();
        self.app.create_object(self.session, &template).map_err(|rv| rv.0)
    }

    /// The same, which must succeed.
    ///
    /// # Panics
    /// If it did not.
    pub fn secret(&self, key_type: u64, value: &[u8], more: &[Attribute]) -> u64 {
        self.create(key_type, value, more).expect("C_CreateObject")
    }

    /// C_GenerateKey of so many bytes.
    ///
    /// # Errors
    /// The call's.
    pub fn generate(&self, mechanism: u64, length: u64, more: &[Attribute]) -> Answer<u64> {
        let template = [&[number(CKA_VALUE_LEN, length)], more].concat();
        self.app.generate_key(self.session, mechanism, &template).map_err(|rv| rv.0)
    }

    /// C_DeriveKey.
    ///
    /// # Errors
    /// The call's.
    pub fn derive(
        &self,
        mechanism: impl Into<Mechanism>,
        base: u64,
        template: &[Attribute],
    ) -> Answer<u64> {
        self.app.derive(self.session, mechanism, base, template).map_err(|rv| rv.0)
    }

    /// C_WrapKey of `key`.
    ///
    /// # Errors
    /// The call's.
    pub fn wrap(&self, mechanism: impl Into<Mechanism>, by: u64, key: u64) -> Answer<Vec<u8>> {
        self.app.wrap(self.session, mechanism, by, key).map_err(|rv| rv.0)
    }

    /// C_UnwrapKey.
    ///
    /// # Errors
    /// The call's.
    pub fn unwrap(
        &self,
        mechanism: impl Into<Mechanism>,
        by: u64,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Answer<u64> {
        self.app.unwrap(self.session, mechanism, by, wrapped, template).map_err(|rv| rv.0)
    }

    /// An HMAC with SHA-256.
    ///
    /// # Errors
    /// The call's.
    pub fn mac(&self, key: u64, data: &[u8]) -> Answer<Vec<u8>> {
        self.app.sign(self.session, CKM_SHA256_HMAC, key, data).map_err(|rv| rv.0)
    }

    /// CKA_VALUE.
    ///
    /// # Errors
    /// The call's.
    pub fn value(&self, key: u64) -> Answer<Vec<u8>> {
        self.app.attribute(self.session, key, CKA_VALUE).map_err(|rv| rv.0)
    }

    /// An attribute that is true or false.
    ///
    /// # Panics
    /// If it is not.
    pub fn is(&self, key: u64, kind: u64) -> bool {
        self.app.attribute_flag(self.session, key, kind).expect("a truth value")
    }

    /// Where a key lives.
    ///
    /// # Panics
    /// If it does not say so.
    pub fn residence(&self, key: u64) -> String {
        let text = self.app.attribute(self.session, key, CKA_TPM11_RESIDENCE).expect("residence");
        String::from_utf8(text).expect("text")
    }

    /// That nobody reads this key, and that it is the one that OpenSSL knows.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_hides(&self, key: u64, value: &[u8]) {
        assert_eq!(self.value(key), Err(CKR_ATTRIBUTE_SENSITIVE));
        assert_eq!(self.mac(key, b"data"), Ok(openssl::hmac("sha256", value, b"data")));
    }
}
