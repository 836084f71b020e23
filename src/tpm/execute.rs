//! What all commands share: Names into cpHash, sessions, parameter encryption, the check of the
//! response, and the fault if there is one. Part 1 §18 and §19 in one function.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::command::Command;
use super::fault::{Fault, Remedy, Trouble};
use super::session::{
    HmacSession, NONCE_BYTES, PolicySession, Session, hmac_sha256, sha256, trimmed,
};
use super::transport::{Broken, BrokenKind, Transport};
use super::wire::{NO_SESSIONS, Reader, SESSIONS, Writer};
use super::{Call, Name};

/// What a handle stands for: the handle and the Name that binds it into an HMAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Its number in the TPM.
    pub handle: u32,
    /// Its Name; for hierarchies and sessions the handle itself.
    pub name: Name,
}

impl Entity {
    /// A hierarchy, a PCR or a session: its Name is its handle. Part 1 §16.
    pub fn permanent(handle: u32) -> Self {
        Self { handle, name: handle.to_be_bytes().to_vec() }
    }

    /// An object or NV index.
    pub fn new(handle: u32, name: Name) -> Self {
        Self { handle, name }
    }
}

/// TPM_RS_PW
const PASSWORD: u32 = 0x4000_0009;

const CONTINUE: u8 = 0x01;
const DECRYPT: u8 = 0x20;
const ENCRYPT: u8 = 0x40;

enum How<'a> {
    Password,
    Hmac(&'a mut HmacSession),
    Policy { session: &'a mut PolicySession, with_value: bool },
}

/// One authorization of a command. The first ones belong to the command's handles, in their order;
/// what follows only protects.
pub struct Auth<'a> {
    how: How<'a>,
    value: &'a [u8],
    new_value: Option<&'a [u8]>,
    last: bool,
    pin: bool,
}

impl<'a> Auth<'a> {
    fn new(how: How<'a>, value: &'a [u8]) -> Self {
        Self { how, value: trimmed(value), new_value: None, last: false, pin: false }
    }

    /// The authorization value in clear. For empty values, and where no session can be had.
    pub fn password(value: &'a [u8]) -> Self {
        Self::new(How::Password, value)
    }

    /// Proof of the authorization value by an HMAC.
    pub fn hmac(session: &'a mut HmacSession, value: &'a [u8]) -> Self {
        Self::new(How::Hmac(session), value)
    }

    /// An HMAC session that belongs to no handle: it encrypts the first parameters and protects the
    /// command and its response.
    pub fn extra(session: &'a mut HmacSession) -> Self {
        Self::new(How::Hmac(session), &[])
    }

    /// A policy that was met, without PolicyAuthValue.
    pub fn policy(session: &'a mut PolicySession) -> Self {
        Self::new(How::Policy { session, with_value: false }, &[])
    }

    /// A policy that was met with PolicyAuthValue: the HMAC proves the authorization value.
    pub fn policy_with_value(session: &'a mut PolicySession, value: &'a [u8]) -> Self {
        Self::new(How::Policy { session, with_value: true }, value)
    }

    /// The TPM flushes the session if the command succeeds.
    pub fn ending(mut self) -> Self {
        self.last = true;
        self
    }

    /// The value was made from a PIN: the TPM counts tries.
    pub fn pin(mut self) -> Self {
        self.pin = true;
        self
    }

    /// The command changes the authorization value, and the response is authenticated by the new one
    /// (TPM2_NV_ChangeAuth). Part 1 §19.6.6.
    pub fn changing_to(mut self, new_value: &'a [u8]) -> Self {
        self.new_value = Some(trimmed(new_value));
        self
    }

    fn session(&mut self) -> Option<&mut Session> {
        match &mut self.how {
            How::Password => None,
            How::Hmac(session) => Some(&mut session.0),
            How::Policy { session, .. } => Some(&mut session.0),
        }
    }

    fn open(&self) -> Option<&Session> {
        match &self.how {
            How::Password => None,
            How::Hmac(session) => Some(&session.0),
            How::Policy { session, .. } => Some(&session.0),
        }
    }

    /// The key of the HMAC; none for passwords and for policies that have none.
    fn key(&self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match &self.how {
            How::Password => None,
            How::Hmac(session) => Some(session.0.keyed(value)),
            How::Policy { session, with_value: true } => Some(session.0.keyed(value)),
            How::Policy { session, with_value: false } if session.0.key.is_empty() => None,
            How::Policy { session, with_value: false } => Some(session.0.key.clone()),
        }
    }

    /// Whether this session can encrypt parameters here. A policy session without the value cannot be
    /// trusted to: the TPM takes the entity's value into the key even then (Part 1 §21.2).
    fn can_encrypt(&self) -> bool {
        match &self.how {
            How::Password | How::Policy { with_value: false, .. } => false,
            How::Hmac(HmacSession(session))
            | How::Policy { session: PolicySession(session), .. } => {
                session.encrypts && !(session.key.is_empty() && self.value.is_empty())
            }
        }
    }
}

/// The session that encrypts: one that is there for it alone if there is one, else the first that can.
fn encryptor(auths: &[Auth<'_>], handles: usize) -> Option<usize> {
    let able = |mut range: std::ops::Range<usize>| {
        range.find(|index| auths.get(*index).is_some_and(Auth::can_encrypt))
    };
    able(handles..auths.len()).or_else(|| able(0..handles.min(auths.len())))
}

/// Sends one command and reads its response.
///
/// `auths` holds one authorization for each of the command's handles that needs one, in their order,
/// then at most one more session that encrypts and protects. The first parameter of command and
/// response is encrypted where the command allows it and a session can. TPM2_RC_RETRY and the other
/// codes that only ask to wait are waited out with the same bytes, never beyond the call's deadline.
///
/// # Errors
/// Whatever is in [`Trouble`]. [`Fault::pin`] says whether one of `auths` was made from a PIN.
pub fn execute<C: Command>(
    link: &mut dyn Transport,
    command: &C,
    auths: &mut [Auth<'_>],
    call: &Call,
) -> Result<C::Response, Fault> {
    let pin = auths.iter().any(|auth| auth.pin);
    attempt(link, command, auths, call, pin).map_err(|fault| fault.at(C::NAME, pin))
}

fn attempt<C: Command>(
    link: &mut dyn Transport,
    command: &C,
    auths: &mut [Auth<'_>],
    call: &Call,
    pin: bool,
) -> Result<C::Response, Fault> {
    if auths.len() < C::AUTH_HANDLES {
        return Err(Fault::bug("a command without its authorization"));
    }
    let handles = command.handles();
    let mut parameters = Writer::new();
    command.write(&mut parameters);

    for auth in auths.iter_mut() {
        if let Some(session) = auth.session() {
            if session.ended {
                return Err(Fault::bug("a session used after its end"));
            }
            session.roll()?;
        }
    }
    let encryptor = encryptor(auths, C::AUTH_HANDLES);
    let encrypts = if C::SECRET_IN { encryptor } else { None };
    let decrypts = if C::SECRET_OUT { encryptor } else { None };
    if let Some(auth) = encrypts.and_then(|index| auths.get(index)) {
        encrypt_first(auth, &mut parameters)?;
    }

    // The command. Part 1 §18.5.
    let mut out = Writer::new();
    out.u16(if auths.is_empty() { NO_SESSIONS } else { SESSIONS }).u32(0).u32(C::CODE);
    for entity in &handles {
        out.u32(entity.handle);
    }
    if !auths.is_empty() {
        let code = C::CODE.to_be_bytes();
        let mut hashed: Vec<&[u8]> = vec![&code];
        hashed.extend(handles.iter().map(|entity| entity.name.as_slice()));
        hashed.push(parameters.as_slice());
        let cp_hash = sha256(&hashed);
        let area = authorization_area(auths, &cp_hash, encrypts, decrypts, C::AUTH_HANDLES);
        out.u32(area.as_slice().len() as u32).bytes(area.as_slice());
    }
    out.bytes(parameters.as_slice());
    parameters.check()?;
    let size = u32::try_from(out.as_slice().len()).map_err(|_| Fault::bug("a huge command"))?;
    if let Some(field) = out.as_mut_slice().get_mut(2..6) {
        field.copy_from_slice(&size.to_be_bytes());
    }

    // The response. Part 1 §18.6.
    let response = transmit(link, out.as_slice(), call, C::LIMIT, pin)?;
    read::<C>(command, &response, auths, decrypts).map_err(Fault::after_sending)
}

/// Encrypts the content of the TPM2B that the parameters begin with.
fn encrypt_first(auth: &Auth<'_>, parameters: &mut Writer) -> Result<(), Fault> {
    let (Some(session), Some(key)) = (auth.open(), auth.key(auth.value)) else {
        return Err(Fault::bug("a session that cannot encrypt"));
    };
    let length: usize = Reader::new(parameters.as_slice()).u16()?.into();
    let content = parameters
        .as_mut_slice()
        .get_mut(2..2 + length)
        .ok_or(Fault::bug("a first parameter that is no TPM2B"))?;
    session.encrypt(&key, content);
    Ok(())
}

/// TPMS_AUTH_COMMAND for each session. Part 2 §10.13.2.
fn authorization_area(
    auths: &[Auth<'_>],
    cp_hash: &[u8],
    encrypts: Option<usize>,
    decrypts: Option<usize>,
    handles: usize,
) -> Writer {
    let mut area = Writer::new();
    // The first HMAC covers the nonce of the session that encrypts, if that is another one, so that
    // this session cannot be taken away on the bus (Part 1 §19.6.5).
    let nonce_of = |index: Option<usize>| {
        index
            .filter(|index| *index != 0 && handles > 0)
            .and_then(|index| auths.get(index))
            .and_then(Auth::open)
            .map_or(&[][..], |session| &session.nonce_tpm)
    };
    let decrypt_nonce = nonce_of(encrypts);
    let encrypt_nonce = if encrypts == decrypts { &[][..] } else { nonce_of(decrypts) };

    for (index, auth) in auths.iter().enumerate() {
        let Some(session) = auth.open() else {
            area.u32(PASSWORD).u16(0).u8(CONTINUE).sized(auth.value);
            continue;
        };
        let mut attributes = if auth.last { 0 } else { CONTINUE };
        if encrypts == Some(index) {
            attributes |= DECRYPT;
        }
        if decrypts == Some(index) {
            attributes |= ENCRYPT;
        }
        area.u32(session.handle).sized(&session.nonce_caller).u8(attributes);
        match auth.key(auth.value) {
            None => area.sized(&[]),
            Some(key) => {
                let (decrypt_nonce, encrypt_nonce) =
                    if index == 0 { (decrypt_nonce, encrypt_nonce) } else { (&[][..], &[][..]) };
                area.sized(&*hmac_sha256(
                    &key,
                    &[
                        cp_hash,
                        &session.nonce_caller,
                        &session.nonce_tpm,
                        decrypt_nonce,
                        encrypt_nonce,
                        &[attributes],
                    ],
                ))
            }
        };
    }
    area
}

/// Sends the bytes, again and again while the TPM only asks to wait.
fn transmit(
    link: &mut dyn Transport,
    command: &[u8],
    call: &Call,
    limit: Duration,
    pin: bool,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut repeated = false;
    loop {
        let response = Zeroizing::new(link.transmit(command, call, limit)?);
        let mut reader = Reader::new(&response);
        let (_, _) = (reader.u16()?, reader.u32()?);
        let code = reader.u32()?;
        if code == 0 {
            return Ok(response);
        }
        let fault = Fault::of_code(code);
        let row = fault.trouble.row();
        if pin && !row.pin_unevaluated {
            return Err(fault);
        }
        match row.remedy {
            Remedy::Wait(longest) if begun.elapsed() < longest => {
                let slow = !matches!(fault.kind(), Trouble::Retry | Trouble::Yielded);
                let (least, most) = if slow { (10, 500) } else { (1, 64) };
                pause = pause.clamp(Duration::from_millis(least), Duration::from_millis(most));
                rest(pause, call).ok_or(fault)??;
                pause *= 2;
            }
            Remedy::Again if !repeated && *fault.kind() == Trouble::Canceled => {
                rest(Duration::ZERO, call).ok_or(fault)??;
                repeated = true;
            }
            _ => return Err(fault),
        }
    }
}

/// Sleeps, unless the call is canceled (an error) or would not end in time (`None`).
fn rest(pause: Duration, call: &Call) -> Option<Result<(), Fault>> {
    if call.cancel.load(Ordering::Relaxed) {
        return Some(Err(Broken {
            kind: BrokenKind::Canceled,
            sent: false,
            what: "the application canceled the call".to_owned(),
        }
        .into()));
    }
    if Instant::now() + pause >= call.deadline {
        return None;
    }
    std::thread::sleep(pause);
    Some(Ok(()))
}

fn tampered(what: &'static str) -> Fault {
    Fault::new(Trouble::Tampered(what))
}

/// Takes a successful response apart, checks it, decrypts its first parameter.
fn read<C: Command>(
    command: &C,
    response: &[u8],
    auths: &mut [Auth<'_>],
    decrypts: Option<usize>,
) -> Result<C::Response, Fault> {
    let mut reader = Reader::new(response);
    let tag = reader.u16()?;
    let size = reader.u32()?;
    let code = reader.take(4)?;
    if usize::try_from(size) != Ok(response.len()) {
        return Err(tampered("a size field that is not the response's size"));
    }
    if tag != if auths.is_empty() { NO_SESSIONS } else { SESSIONS } {
        return Err(tampered("a response without the command's sessions"));
    }
    let handle = if C::ANSWERS_HANDLE { Some(reader.u32()?) } else { None };
    let encrypted = if auths.is_empty() {
        reader.rest()
    } else {
        let length = reader.u32()?;
        reader.take(usize::try_from(length).map_err(|_| tampered("a huge response"))?)?
    };
    if !auths.is_empty() {
        let rp_hash = sha256(&[code, &C::CODE.to_be_bytes(), encrypted]);
        for auth in auths.iter_mut() {
            check(auth, &mut reader, &rp_hash)?;
        }
    }
    reader.end()?;

    let mut parameters = Zeroizing::new(encrypted.to_vec());
    if let Some(auth) = decrypts.and_then(|index| auths.get(index)) {
        let value = auth.new_value.unwrap_or(auth.value);
        if let (Some(session), Some(key)) = (auth.open(), auth.key(value)) {
            let length: usize = Reader::new(&parameters).u16()?.into();
            let content = parameters
                .get_mut(2..2 + length)
                .ok_or_else(|| tampered("a first parameter that is longer than the response"))?;
            session.decrypt(&key, content);
        }
    }
    let mut parameters = Reader::new(&parameters);
    let answer = command.read(handle, &mut parameters)?;
    parameters.end()?;
    Ok(answer)
}

/// TPMS_AUTH_RESPONSE of one session: takes its nonce over and compares its HMAC. Part 2 §10.13.3.
fn check(auth: &mut Auth<'_>, reader: &mut Reader<'_>, rp_hash: &[u8]) -> Result<(), Fault> {
    let nonce = reader.sized()?;
    let attributes = reader.u8()?;
    let theirs = reader.sized()?;
    let key = auth.key(auth.new_value.unwrap_or(auth.value));
    let Some(session) = auth.open() else {
        // A password has no nonce and no HMAC.
        return if nonce.is_empty() && theirs.is_empty() {
            Ok(())
        } else {
            Err(tampered("a session's answer to a password"))
        };
    };
    if nonce.len() < NONCE_BYTES {
        return Err(tampered("a short nonce"));
    }
    if nonce == session.nonce_tpm {
        return Err(tampered("a nonce used twice"));
    }
    match key {
        None if !theirs.is_empty() => return Err(tampered("an HMAC where none can be")),
        None => {}
        Some(key) => {
            let ours = hmac_sha256(&key, &[rp_hash, nonce, &session.nonce_caller, &[attributes]]);
            if !bool::from(ours.as_slice().ct_eq(theirs)) {
                return Err(tampered("an HMAC that is wrong"));
            }
        }
    }
    let nonce = nonce.to_vec();
    let last = auth.last;
    if let Some(session) = auth.session() {
        session.nonce_tpm = nonce;
        session.ended = last;
    }
    if last == (attributes & CONTINUE != 0) {
        return Err(tampered("a session that goes on when it should end, or the reverse"));
    }
    Ok(())
}
