//! What all MACs share: a message is kept until its end, then its MAC is made, or compared. A family says how
//! long its MAC is and how it is made.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Chip, Does, Mechanism, NOTHING, Params, Sign, Verify};
use crate::error::{Error, Result};
use crate::object::Object;

/// One use of a key for a MAC.
pub(super) trait Mac: Send + Sized + 'static {
    /// Reads the parameter and looks at the key. No TPM command.
    fn new(row: &Mechanism, params: &Params, key: &Object) -> Result<Self>;
    /// How many bytes of it are asked.
    fn length(&self) -> usize;
    /// The MAC of a whole message, of that length.
    fn make(self, message: Zeroizing<Vec<u8>>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>>;
}

/// What a mechanism with this MAC can do.
pub(super) const fn does<M: Mac>() -> Does {
    Does { sign: Some(sign::<M>), verify: Some(verify::<M>), ..NOTHING }
}

/// The same, of as many of its leading bytes as the parameter says.
pub(super) const fn general<M: Mac>() -> Does {
    Does { general: true, ..does::<M>() }
}

/// How many bytes are asked of a MAC that has `whole`: all of them, or what the parameter says.
///
/// # Errors
/// [`Error::MechanismParamInvalid`]
pub(super) fn length(row: &Mechanism, params: &Params, whole: usize) -> Result<usize> {
    if !row.does.general {
        return params.none().map(|()| whole);
    }
    let Params::Length(length) = params else {
        return Err(params.refused("CK_MAC_GENERAL_PARAMS is missing"));
    };
    usize::try_from(*length)
        .ok()
        .filter(|length| (1..=whole).contains(length))
        .ok_or(Error::MechanismParamInvalid("no such MAC is so long"))
}

struct Collecting<M> {
    mac: M,
    message: Zeroizing<Vec<u8>>,
}

impl<M: Mac> Collecting<M> {
    fn new(row: &Mechanism, params: &Params, key: &Object) -> Result<Box<Self>> {
        Ok(Box::new(Self { mac: M::new(row, params, key)?, message: Zeroizing::default() }))
    }
}

fn sign<M: Mac>(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    Ok(Collecting::<M>::new(row, params, key)?)
}

fn verify<M: Mac>(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
) -> Result<Box<dyn Verify>> {
    Ok(Collecting::<M>::new(row, params, key)?)
}

impl<M: Mac> Sign for Collecting<M> {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.message.extend_from_slice(data);
        Ok(())
    }

    fn length(&self) -> usize {
        self.mac.length()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        Ok(self.mac.make(self.message, chip)?.to_vec())
    }
}

impl<M: Mac> Verify for Collecting<M> {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.message.extend_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>, signature: &[u8], chip: &Chip<'_>) -> Result<()> {
        if signature.len() != self.mac.length() {
            return Err(Error::SignatureLenRange);
        }
        let mac = self.mac.make(self.message, chip)?;
        if bool::from(mac.ct_eq(signature)) { Ok(()) } else { Err(Error::SignatureInvalid) }
    }
}
