//! Sessions and policies: Part 3 §11 (TPM2_StartAuthSession) and §23.

use tss_esapi::constants::tss::{TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_NULL, TPM2_ALG_SHA256};

use super::{Class, Command};
use crate::tpm::execute::Entity;
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::wire::{Reader, Writer};

/// TPM2_StartAuthSession with SHA-256, never bound.
pub struct StartAuthSession<'a> {
    /// The storage key that the salt is encrypted to, or TPM_RH_NULL.
    pub salt_key: &'a Entity,
    /// TPM_RH_NULL
    pub bind: &'a Entity,
    /// At least 16 bytes; the TPM's nonces have this length too.
    pub nonce_caller: &'a [u8],
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub encrypted_salt: &'a [u8],
    /// TPM_SE
    pub kind: u8,
    /// With AES-128-CFB.
    pub encrypts: bool,
}

/// What TPM2_StartAuthSession answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedSession {
    /// The session's handle.
    pub handle: u32,
    /// The TPM's first nonce.
    pub nonce_tpm: Vec<u8>,
}

impl Command for StartAuthSession<'_> {
    const CODE: u32 = 0x0176;
    const NAME: &'static str = "TPM2_StartAuthSession";
    const ANSWERS_HANDLE: bool = true;
    // The nonce, which is no secret: a session that authorizes nothing must do something.
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = StartedSession;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.salt_key, self.bind]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.nonce_caller).sized(self.encrypted_salt).u8(self.kind);
        if self.encrypts {
            out.u16(TPM2_ALG_AES).u16(128).u16(TPM2_ALG_CFB);
        } else {
            out.u16(TPM2_ALG_NULL);
        }
        out.u16(TPM2_ALG_SHA256);
    }

    fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<StartedSession, Fault> {
        let nonce_tpm = input.sized()?.to_vec();
        if nonce_tpm.len() < 16 {
            return Err(Fault::new(Trouble::Tampered("a short nonce")));
        }
        let handle = handle.ok_or(Fault::bug("TPM2_StartAuthSession without a handle"))?;
        Ok(StartedSession { handle, nonce_tpm })
    }
}

macro_rules! without_response {
    () => {
        type Response = ();

        fn handles(&self) -> Vec<&Entity> {
            vec![self.session]
        }

        fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
            Ok(())
        }
    };
}

/// TPM2_PolicySecret: whoever proves the authorization value of `authorizes` may go on. Never asks for a
/// ticket (expiration 0), so nothing of it can be kept.
pub struct PolicySecret<'a> {
    /// Whose authorization value is proven.
    pub authorizes: &'a Entity,
    /// The policy session.
    pub session: &'a Entity,
    /// That session's newest nonce from the TPM: this proof counts there alone.
    pub nonce_tpm: &'a [u8],
}

impl Command for PolicySecret<'_> {
    const CODE: u32 = 0x0151;
    const NAME: &'static str = "TPM2_PolicySecret";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.authorizes, self.session]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.nonce_tpm).sized(&[]).sized(&[]).u32(0);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<(), Fault> {
        // timeout, then an empty ticket
        input.sized()?;
        input.u16()?;
        input.u32()?;
        input.sized()?;
        Ok(())
    }
}

/// TPM2_PolicyAuthValue: the session's HMAC must prove the authorization value when it is used.
pub struct PolicyAuthValue<'a> {
    /// The policy session.
    pub session: &'a Entity,
}

impl Command for PolicyAuthValue<'_> {
    const CODE: u32 = 0x016B;
    const NAME: &'static str = "TPM2_PolicyAuthValue";
    const CLASS: Class = Class::Short;
    without_response!();

    fn write(&self, _: &mut Writer) {}
}

/// TPM2_PolicyCommandCode: only this command.
pub struct PolicyCommandCode<'a> {
    /// The policy session.
    pub session: &'a Entity,
    /// TPM_CC
    pub code: u32,
}

impl Command for PolicyCommandCode<'_> {
    const CODE: u32 = 0x016C;
    const NAME: &'static str = "TPM2_PolicyCommandCode";
    const CLASS: Class = Class::Short;
    without_response!();

    fn write(&self, out: &mut Writer) {
        out.u32(self.code);
    }
}

/// TPM2_PolicyOR: what was met so far is one of these branches.
pub struct PolicyOr<'a> {
    /// The policy session.
    pub session: &'a Entity,
    /// Two to eight policy digests.
    pub branches: &'a [[u8; 32]],
}

impl Command for PolicyOr<'_> {
    const CODE: u32 = 0x0171;
    const NAME: &'static str = "TPM2_PolicyOR";
    const CLASS: Class = Class::Short;
    without_response!();

    fn write(&self, out: &mut Writer) {
        out.u32(self.branches.len() as u32);
        for branch in self.branches {
            out.sized(branch);
        }
    }
}

/// TPM2_PolicyGetDigest: what was met so far.
pub struct PolicyGetDigest<'a> {
    /// The policy session.
    pub session: &'a Entity,
}

impl Command for PolicyGetDigest<'_> {
    const CODE: u32 = 0x0189;
    const NAME: &'static str = "TPM2_PolicyGetDigest";
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Short;
    type Response = Vec<u8>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.session]
    }

    fn write(&self, _: &mut Writer) {}

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
        Ok(input.sized()?.to_vec())
    }
}
