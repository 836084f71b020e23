//! Messages one after another under one key. PKCS#11 3.2 §5.9 and §5.11. The process begun by Init goes
//! on until Final; an error ends the message, not the process.

use cryptoki_sys::{CKF_DECRYPT, CKF_ENCRYPT, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::params::Message;
use crate::mechanism::{Chip, Cipher, Generator, Mechanism, Params};
use crate::object::Object;

use super::operation::{Answer, Kind, Room};
use super::session::{Right, Session};

/// A process of messages.
pub(super) struct Messages {
    row: &'static Mechanism,
    key: Object,
    right: Right,
    generator: Generator,
    /// The message that is worked on in parts.
    current: Option<Current>,
}

/// A message.
struct Current {
    work: Box<dyn Cipher>,
    /// The length of its tag, in bytes.
    tag: usize,
}

/// What a message gives beside its bytes.
#[derive(Debug)]
pub struct Sealed {
    /// The ciphertext; of a message that is decrypted the plaintext.
    pub answer: Answer,
    /// The nonce, of a message that is encrypted and begins.
    pub nonce: Option<Vec<u8>>,
    /// The tag, of a message that is encrypted and ends.
    pub tag: Option<Zeroizing<Vec<u8>>>,
}

impl From<Answer> for Sealed {
    fn from(answer: Answer) -> Self {
        Self { answer, nonce: None, tag: None }
    }
}

impl Messages {
    /// A message's cipher, with its nonce; what makes the next nonce.
    fn cipher(
        &self,
        kind: Kind,
        message: &Message,
        additional: &[u8],
    ) -> Result<(Current, Vec<u8>, Generator)> {
        let (nonce, generator) = match kind {
            Kind::MessageDecrypt => (message.nonce.clone(), self.generator.clone()),
            _ => self.generator.next(message)?,
        };
        let params = self.row.message_params(message, &nonce, additional)?;
        let work = match kind {
            Kind::MessageDecrypt => self.row.decrypt(&params, &self.key)?,
            _ => self.row.encrypt(&params, &self.key)?,
        };
        Ok((Current { work, tag: message.tag_bytes() }, nonce, generator))
    }
}

impl Current {
    /// How many bytes these become; `last` says whether the message ends.
    fn need(&self, kind: Kind, input: usize, last: bool) -> usize {
        let Self { work, tag } = self;
        match (kind, last) {
            (_, false) => work.update_length(input),
            (Kind::MessageDecrypt, true) => {
                let input = input.saturating_add(*tag);
                work.update_length(input).saturating_add(work.finish_length(input))
            }
            (_, true) => work
                .update_length(input)
                .saturating_add(work.finish_length(input))
                .saturating_sub(*tag),
        }
    }

    /// The end of the message.
    fn end(self, kind: Kind, message: &Message, data: &[u8], chip: &Chip<'_>) -> Result<Sealed> {
        if kind == Kind::MessageDecrypt {
            let sealed = [data, &message.tag].concat();
            let opened = self.work.whole(&sealed, chip).map_err(|error| match error {
                Error::EncryptedDataInvalid => Error::AeadDecryptFailed,
                other => other,
            })?;
            return Ok(Answer::Done(opened).into());
        }
        let mut sealed = self.work.whole(data, chip)?;
        let length = sealed.len().saturating_sub(self.tag);
        let tag = Zeroizing::new(sealed.split_off(length));
        Ok(Sealed { answer: Answer::Done(sealed), nonce: None, tag: Some(tag) })
    }
}

/// What C_SessionCancel calls calls of this kind.
fn flag(kind: Kind) -> u64 {
    if kind == Kind::MessageDecrypt { CKF_MESSAGE_DECRYPT } else { CKF_MESSAGE_ENCRYPT }
}

/// In all of these, `kind` is [`Kind::MessageEncrypt`] or [`Kind::MessageDecrypt`].
impl Session {
    /// C_MessageEncryptInit, C_MessageDecryptInit. Nothing but the key and the mechanism are settled: each
    /// message brings its own parameter.
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn message_init(
        &self,
        kind: Kind,
        mechanism: u64,
        params: &Params,
        key: u64,
    ) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        let decrypts = kind == Kind::MessageDecrypt;
        let (row, object) =
            self.key(mechanism, key, if decrypts { CKF_DECRYPT } else { CKF_ENCRYPT })?;
        row.messages(&object, decrypts)?;
        params.none()?;
        let place = operations.messages(kind)?;
        if place.is_some() {
            return Err(Error::OperationActive);
        }
        let right = Right::to(&object, &self.token);
        *place = Some(Messages {
            row,
            key: object,
            right,
            generator: Generator::default(),
            current: None,
        });
        Ok(())
    }

    /// The mechanism of the process, which says what a message's parameter is.
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub fn message_mechanism(&self, kind: Kind) -> Result<u64> {
        self.alive()?;
        let mut operations = self.operations.lock();
        let messages = operations.messages(kind)?.as_ref();
        Ok(messages.ok_or(Error::OperationNotInitialized)?.row.id)
    }

    /// C_EncryptMessage, C_DecryptMessage
    ///
    /// # Errors
    /// `OperationNotInitialized`; `OperationActive` amid a message in parts, which goes on;
    /// `MechanismParamInvalid`; `AeadDecryptFailed`; the mechanism's; the TPM's.
    pub fn message(
        &self,
        kind: Kind,
        message: &Message,
        additional: &[u8],
        data: &[u8],
        room: Room,
    ) -> Result<Sealed> {
        self.alive()?;
        let call = self.call(flag(kind));
        let mut operations = self.operations.lock();
        let messages = self.between(operations.messages(kind)?)?;
        let (current, nonce, generator) = messages.cipher(kind, message, additional)?;
        if let Some(answer) = room.lacks(current.need(kind, data.len(), true)) {
            return Ok(answer.into());
        }
        // From here on the nonce counts as used.
        messages.generator = generator;
        let sealed = self.with_chip(&call, None, |chip| current.end(kind, message, data, chip))?;
        Ok(Sealed { nonce: (kind == Kind::MessageEncrypt).then_some(nonce), ..sealed })
    }

    /// C_EncryptMessageBegin, C_DecryptMessageBegin: the nonce, if the message is encrypted.
    ///
    /// # Errors
    /// As [`Session::message`].
    pub fn message_begin(
        &self,
        kind: Kind,
        message: &Message,
        additional: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        self.alive()?;
        let mut operations = self.operations.lock();
        let messages = self.between(operations.messages(kind)?)?;
        let (current, nonce, generator) = messages.cipher(kind, message, additional)?;
        messages.generator = generator;
        messages.current = Some(current);
        Ok((kind == Kind::MessageEncrypt).then_some(nonce))
    }

    /// C_EncryptMessageNext, C_DecryptMessageNext; `last` is CKF_END_OF_MESSAGE. Any error ends the
    /// message.
    ///
    /// # Errors
    /// `OperationNotInitialized` if none has begun; else as [`Session::message`].
    pub fn message_next(
        &self,
        kind: Kind,
        message: &Message,
        data: &[u8],
        room: Room,
        last: bool,
    ) -> Result<Sealed> {
        self.alive()?;
        let call = self.call(flag(kind));
        let mut operations = self.operations.lock();
        let messages = operations.messages(kind)?.as_mut().ok_or(Error::OperationNotInitialized)?;
        let mut current = messages.current.take().ok_or(Error::OperationNotInitialized)?;
        messages.right.holds(&self.token)?;
        if message.tag_bytes() != current.tag {
            return Err(Error::MechanismParamInvalid("another tag than the message began with"));
        }
        if let Some(answer) = room.lacks(current.need(kind, data.len(), last)) {
            messages.current = Some(current);
            return Ok(answer.into());
        }
        if last {
            return self.with_chip(&call, None, |chip| current.end(kind, message, data, chip));
        }
        let output = self.with_chip(&call, None, |chip| current.work.update(data, chip))?;
        messages.current = Some(current);
        Ok(Answer::Done(output).into())
    }

    /// C_MessageEncryptFinal, C_MessageDecryptFinal
    ///
    /// # Errors
    /// `OperationNotInitialized`; `OperationActive` amid a message in parts, which goes on.
    pub fn message_final(&self, kind: Kind) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        let place = operations.messages(kind)?;
        match place {
            None => Err(Error::OperationNotInitialized),
            Some(messages) if messages.current.is_some() => Err(Error::OperationActive),
            Some(_) => {
                *place = None;
                Ok(())
            }
        }
    }

    /// Ends the message that is worked on in parts, if there is one: its function's arguments cannot be
    /// read.
    pub fn end_message(&self, kind: Kind) {
        let mut operations = self.operations.lock();
        if let Ok(Some(messages)) = operations.messages(kind) {
            messages.current = None;
        }
    }

    /// The process, with no message in progress and its login still there.
    fn between<'a>(&self, place: &'a mut Option<Messages>) -> Result<&'a mut Messages> {
        let messages = place.as_mut().ok_or(Error::OperationNotInitialized)?;
        messages.right.holds(&self.token)?;
        if messages.current.is_some() {
            return Err(Error::OperationActive);
        }
        Ok(messages)
    }
}
