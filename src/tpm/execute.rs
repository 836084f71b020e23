//! What all commands share: Names into cpHash, sessions, parameter encryption, the check of the
//! response, and the fault if there is one. Part 1 §18 and §19 in one function.

use std::time::Duration;

use subtle::ConstantTimeEq;

use super::command::Command;
use super::fault::{Fault, Remedy, Trouble};
use super::session::{HmacSession, Keyed, NONCE_BYTES, PolicySession, Session, sha256, trimmed};
use super::transport::{Transport, pause};
use super::wire::{HEADER, NO_SESSIONS, Reader, SESSIONS, Writer};
use super::{Call, Name};
use crate::crypto::secret::Wiped;
use crate::recorder::Clock;
use crate::sync::plain::Instant;

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
    Policy { session: &'a mut PolicySession, proves: bool },
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
        Self::new(How::Policy { session, proves: false }, &[])
    }

    /// A policy that was met with PolicyAuthValue: the HMAC proves the authorization value.
    pub fn policy_with_value(session: &'a mut PolicySession, value: &'a [u8]) -> Self {
        Self::new(How::Policy { session, proves: true }, value)
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
    fn key(&self, value: &[u8]) -> Option<Keyed> {
        match &self.how {
            How::Password => None,
            How::Hmac(session) => Some(session.0.keyed(value)),
            How::Policy { session, proves: true } => Some(session.0.keyed(value)),
            How::Policy { session, .. } if session.0.key.is_empty() => None,
            How::Policy { session, .. } => Some(session.0.keyed(&[])),
        }
    }

    /// Whether it can encrypt parameters, with the key of its HMAC.
    fn encrypts(&self) -> bool {
        match &self.how {
            // The TPM takes the entity's value into this key even if the policy does not ask for it
            // (Part 1 §21.2), and we may not know it.
            How::Password | How::Policy { proves: false, .. } => false,
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
        range.find(|index| auths.get(*index).is_some_and(Auth::encrypts))
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
    let keys = keys_of(auths);
    if let Some(index) = encrypts {
        let (session, key) = opened(auths, &keys, index)?;
        let content = first_content(parameters.as_mut_slice())?
            .ok_or(Fault::bug("a first parameter that is no TPM2B"))?;
        session.encrypt(key, content);
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
        let area = authorization_area(auths, &keys, &cp_hash, encrypts, decrypts, C::AUTH_HANDLES);
        out.u32(area.as_slice().len() as u32).bytes(area.as_slice());
    }
    out.bytes(parameters.as_slice());
    parameters.check()?;
    let size = u32::try_from(out.as_slice().len()).map_err(|_| Fault::bug("a huge command"))?;
    if let Some(field) = out.as_mut_slice().get_mut(2..6) {
        field.copy_from_slice(&size.to_be_bytes());
    }

    // The response. Part 1 §18.6.
    let mut response =
        transmit(link, C::NAME, out.as_slice(), call, call.limits.of(C::CLASS), pin)?;
    read::<C>(command, &mut response, auths, keys, decrypts).map_err(Fault::after_sending)
}

/// The key of each one's HMAC, where it has one.
fn keys_of(auths: &[Auth<'_>]) -> Vec<Option<Keyed>> {
    auths.iter().map(|auth| auth.key(auth.value)).collect()
}

/// What is encrypted: the content of the TPM2B that the parameters begin with; `None` if it is longer than
/// they are. Part 1 §21.1.
fn first_content(parameters: &mut [u8]) -> Result<Option<&mut [u8]>, Fault> {
    let length: usize = Reader::new(parameters).u16()?.into();
    Ok(parameters.get_mut(2..2 + length))
}

/// A session that encrypts, and its key.
fn opened<'a>(
    auths: &'a [Auth<'_>],
    keys: &'a [Option<Keyed>],
    index: usize,
) -> Result<(&'a Session, &'a Keyed), Fault> {
    let session = auths.get(index).and_then(Auth::open);
    let key = keys.get(index).and_then(Option::as_ref);
    session.zip(key).ok_or(Fault::bug("a session that cannot encrypt"))
}

/// TPMS_AUTH_COMMAND for each session. Part 2 §10.13.2.
fn authorization_area(
    auths: &[Auth<'_>],
    keys: &[Option<Keyed>],
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

    for (index, (auth, key)) in auths.iter().zip(keys).enumerate() {
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
        match key {
            None => area.sized(&[]),
            Some(key) => {
                let (decrypt_nonce, encrypt_nonce) =
                    if index == 0 { (decrypt_nonce, encrypt_nonce) } else { (&[][..], &[][..]) };
                area.sized(&*key.mac(&[
                    cp_hash,
                    &session.nonce_caller,
                    &session.nonce_tpm,
                    decrypt_nonce,
                    encrypt_nonce,
                    &[attributes],
                ]))
            }
        };
    }
    area
}

/// Sends the bytes, again and again while the TPM only asks to wait.
fn transmit(
    link: &mut dyn Transport,
    name: &'static str,
    command: &[u8],
    call: &Call,
    limit: Duration,
    pin: bool,
) -> Result<Wiped, Fault> {
    let begun = Instant::now();
    let mut step = Duration::from_millis(1);
    let mut repeated = false;
    loop {
        let clock = Clock::start();
        let answer = link.transmit(command, call, limit);
        let received = answer.as_ref().map_or(&[][..], Vec::as_slice);
        let code = received.get(6..10).and_then(|code| code.try_into().ok());
        clock.command(name, code.map(u32::from_be_bytes), command.len(), received.len());
        let response = Wiped::new(answer?);
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
                step = step.clamp(Duration::from_millis(least), Duration::from_millis(most));
                rest(step, call).ok_or(fault)??;
                step *= 2;
            }
            Remedy::Again if !repeated && *fault.kind() == Trouble::Canceled => {
                rest(Duration::ZERO, call).ok_or(fault)??;
                repeated = true;
            }
            _ => return Err(fault),
        }
    }
}

/// Sleeps; an error if the call is canceled meanwhile, `None` if it would not end in time.
pub(super) fn rest(length: Duration, call: &Call) -> Option<Result<(), Fault>> {
    if Instant::now() + length >= call.deadline && !call.is_canceled() {
        return None;
    }
    Some(pause(length, call).map_err(Fault::from))
}

fn tampered(what: &'static str) -> Fault {
    Fault::new(Trouble::Tampered(what))
}

/// Takes a successful response apart, checks it, decrypts its first parameter in place.
fn read<C: Command>(
    command: &C,
    response: &mut [u8],
    auths: &mut [Auth<'_>],
    mut keys: Vec<Option<Keyed>>,
    decrypts: Option<usize>,
) -> Result<C::Response, Fault> {
    for (auth, key) in auths.iter().zip(&mut keys) {
        if let Some(new_value) = auth.new_value {
            *key = auth.key(new_value);
        }
    }
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
    let parameters = if auths.is_empty() {
        reader.rest()
    } else {
        let length = reader.u32()?;
        reader.take(usize::try_from(length).map_err(|_| tampered("a huge response"))?)?
    };
    if !auths.is_empty() {
        let rp_hash = sha256(&[code, &C::CODE.to_be_bytes(), parameters]);
        for (auth, key) in auths.iter_mut().zip(&keys) {
            check(auth, key.as_ref(), &mut reader, &rp_hash)?;
        }
    }
    reader.end()?;

    let begin =
        HEADER + if handle.is_some() { 4 } else { 0 } + if auths.is_empty() { 0 } else { 4 };
    let end = begin + parameters.len();
    let parameters = response.get_mut(begin..end).unwrap_or_default();
    if let Some(index) = decrypts {
        let (session, key) = opened(auths, &keys, index)?;
        let content = first_content(parameters)?
            .ok_or_else(|| tampered("a first parameter that is longer than the response"))?;
        session.decrypt(key, content);
    }
    let mut parameters = Reader::new(parameters);
    let answer = command.read(handle, &mut parameters)?;
    parameters.end()?;
    Ok(answer)
}

/// TPMS_AUTH_RESPONSE of one session: takes its nonce over and compares its HMAC. Part 2 §10.13.3.
fn check(
    auth: &mut Auth<'_>,
    key: Option<&Keyed>,
    reader: &mut Reader<'_>,
    rp_hash: &[u8],
) -> Result<(), Fault> {
    let nonce = reader.sized()?;
    let attributes = reader.u8()?;
    let theirs = reader.sized()?;
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
            let ours = key.mac(&[rp_hash, nonce, &session.nonce_caller, &[attributes]]);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::interface_types::ecc::EccCurve;

    use super::*;
    use crate::crypto::ec::Curve;
    use crate::tpm::command::*;
    use crate::tpm::emulator::{Link, P256, Root, Swtpm, call, flush, left_in, root};
    use crate::tpm::key::{PublicKey, Seal, ZERO, policy_secret, public_key, sealed};
    use crate::tpm::srk::Pinned;
    use crate::tpm::{HashAlgorithm, KeySpec, KeyUse, NewKey};

    const EC: KeySpec = KeySpec {
        usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: true },
        extractable: false,
        always_authenticate: None,
    };

    fn create(link: &mut Link, srk: &Pinned, spec: &KeySpec, authorization: &[u8]) -> NewKey {
        let mut session = HmacSession::salted(link, srk, &call()).expect("a session");
        let parent = Entity::from(srk);
        let public = spec.template().expect("a template");
        let command = Create { parent: &parent, authorization, data: &[], public: &public };
        let auth = &mut [Auth::hmac(&mut session, &[]).ending()];
        execute(link, &command, auth, &call()).expect("a key")
    }

    fn load(link: &mut Link, srk: &Pinned, key: &NewKey) -> Result<Entity, Fault> {
        let parent = Entity::from(srk);
        let command = Load { parent: &parent, public: &key.public, private: &key.private };
        execute(link, &command, &mut [Auth::password(&[])], &call())
    }

    fn sign(
        link: &mut Link,
        key: &Entity,
        auth: Auth<'_>,
        digest: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let command = SignEcdsa { key, hash: HashAlgorithm::Sha256, digest };
        execute(link, &command, &mut [auth], &call())
    }

    fn verifies(key: &NewKey, digest: &[u8], (r, s): &(Vec<u8>, Vec<u8>)) -> bool {
        let Ok((_, PublicKey::Ec { x, y, .. })) = public_key(&key.public) else {
            panic!("an EC key")
        };
        let point = [&[4][..], &x, &y].concat();
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).expect("a point");
        let fixed = |bytes: &[u8]| {
            let mut field = [0; 32];
            field[32 - bytes.len()..].copy_from_slice(bytes);
            field
        };
        let signature = p256::ecdsa::Signature::from_scalars(fixed(r), fixed(s)).expect("r, s");
        key.verify_prehash(digest, &signature).is_ok()
    }

    #[test]
    fn a_key_signs_through_an_unsalted_session_with_its_digest_encrypted() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        let key = create(&mut link, &srk, &EC, &[7; 32]);
        let loaded = load(&mut link, &srk, &key).expect("loaded");
        let mut session = HmacSession::unsalted(&mut link, &call()).expect("a session");
        link.sent.clear();

        for digest in [[0x5A; 32], [0xA5; 32]] {
            let auth = Auth::hmac(&mut session, &[7; 32]);
            let signature = sign(&mut link, &loaded, auth, &digest).expect("signed");
            assert!(verifies(&key, &digest, &signature));
        }

        assert_eq!(link.sent.len(), 2);
        for command in &link.sent {
            assert!(!command.windows(8).any(|part| part == [0x5A; 8] || part == [0xA5; 8]));
        }
        session.end(&mut link, &call()).expect("ended");
        flush(&mut link, loaded.handle);
        assert_eq!(left_in(&mut link), [0u32; 0]);
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect()
    }

    /// A TPM2_Unseal as swtpm saw and answered it: the same bytes go out, and the answer is accepted,
    /// decrypted, and refused with any bit changed.
    #[test]
    fn a_recorded_exchange_replays() {
        let command = bytes(
            "80020000004b0000015e8000000100000039020000000010475007fa38fe38db753a1bf19e74f1a641\
             0020ce1a1d9cac67d564b2e644c39c9e1a4a17a5e455c56b20e90545dc6288fa5e07",
        );
        let response = bytes(
            "8002000000560000000000000013001160833d5578e30decce07bdaf91d9f637c20010afa94b6d3ef4\
             ac4e4a5293acd9d4ec6e410020a6855eb4214cac40ca3085bb6171a5b116b910598c48379f7686886b\
             f6ee5280",
        );
        let name = bytes("000b30e1b2c7649392ba14d3d5e508b7e503a1b2ae4ea4efaba1cc82dcec9e6c77c9");
        let item = Entity::new(0x8000_0001, name);
        let session = || {
            HmacSession(Session {
                handle: 0x0200_0000,
                key: Default::default(),
                nonce_tpm: bytes("f4b0b064ceab3294943ff532c7c9bebd"),
                nonce_caller: bytes("475007fa38fe38db753a1bf19e74f1a6")
                    .try_into()
                    .expect("16 bytes"),
                encrypts: true,
                ended: false,
            })
        };
        let unseal = Unseal { item: &item };

        let mut first = session();
        let cp_hash = sha256(&[&0x15Eu32.to_be_bytes(), &item.name]);
        let auths = [Auth::hmac(&mut first, &[7; 32])];
        let area = authorization_area(&auths, &keys_of(&auths), &cp_hash, None, Some(0), 1);
        assert_eq!(area.as_slice(), &command[18..]);

        let read = |response: &[u8], auths: &mut [Auth<'_>]| {
            let keys = keys_of(auths);
            read(&unseal, &mut response.to_vec(), auths, keys, Some(0))
        };
        let mut auths = auths;
        let opened = read(&response, &mut auths).expect("accepted");
        assert_eq!(&opened[..], b"a recorded secret");
        for bit in 0..8 * response.len() {
            let mut changed = response.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut other = session();
            let auths = &mut [Auth::hmac(&mut other, &[7; 32])];
            let outcome = read(&changed, auths);
            assert!(outcome.is_err(), "bit {bit}");
        }
        for length in 0..response.len() {
            let mut other = session();
            let auths = &mut [Auth::hmac(&mut other, &[7; 32])];
            assert!(read(&response[..length], auths).is_err());
        }
    }

    #[test]
    fn zero_bytes_at_the_end_of_an_authorization_do_not_matter() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        let mut authorization = [9; 32];
        authorization[30..].fill(0);
        let key = create(&mut link, &srk, &EC, &authorization);
        let loaded = load(&mut link, &srk, &key).expect("loaded");
        let mut session = HmacSession::unsalted(&mut link, &call()).expect("a session");

        let auth = Auth::hmac(&mut session, &authorization);
        let signature = sign(&mut link, &loaded, auth, &[1; 32]).expect("signed");

        assert!(verifies(&key, &[1; 32], &signature));
    }

    #[test]
    fn a_wrong_authorization_is_refused_and_the_session_goes_on() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        let key = create(&mut link, &srk, &EC, &[7; 32]);
        let loaded = load(&mut link, &srk, &key).expect("loaded");
        let mut session = HmacSession::unsalted(&mut link, &call()).expect("a session");

        let fault = sign(&mut link, &loaded, Auth::hmac(&mut session, &[8; 32]), &[1; 32])
            .expect_err("refused");
        assert_eq!(*fault.kind(), Trouble::AuthFail);
        assert_eq!((fault.code(), fault.command), (Some(0x9A2), Some("TPM2_Sign")));

        sign(&mut link, &loaded, Auth::hmac(&mut session, &[7; 32]), &[1; 32]).expect("signed");
        sign(&mut link, &loaded, Auth::password(&[7; 32]), &[1; 32]).expect("signed by password");
    }

    #[test]
    fn ecdh_and_raw_rsa_give_what_the_host_computes() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);

        let key = create(&mut link, &srk, &EC, &[7; 32]);
        let loaded = load(&mut link, &srk, &key).expect("loaded");
        let Ok((_, PublicKey::Ec { x, y, .. })) = public_key(&key.public) else {
            panic!("an EC key")
        };
        let theirs = p256::PublicKey::from_sec1_bytes(&[&[4][..], &x, &y].concat()).expect("point");
        let ours = p256::SecretKey::random(&mut rand_core::OsRng);
        let expected = p256::ecdh::diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
        let point = ours.public_key();
        let point = p256::EncodedPoint::from(point);
        let mut session = HmacSession::unsalted(&mut link, &call()).expect("a session");
        let command = EcdhZGen { key: &loaded, x: point.x().expect("x"), y: point.y().expect("y") };
        let auth = &mut [Auth::hmac(&mut session, &[7; 32])];
        let z = execute(&mut link, &command, auth, &call()).expect("a secret");
        assert_eq!(&z[..], &expected.raw_secret_bytes()[..]);
        flush(&mut link, loaded.handle);

        let rsa = KeySpec { usage: KeyUse::Rsa { bits: 2048, exponent: 65537 }, ..EC };
        let key = create(&mut link, &srk, &rsa, &[7; 32]);
        let loaded = load(&mut link, &srk, &key).expect("loaded");
        let Ok((_, PublicKey::Rsa { modulus, exponent })) = public_key(&key.public) else {
            panic!("an RSA key")
        };
        assert_eq!(exponent, [1, 0, 1]);
        let input = [&[0, 1][..], &[0x42; 254]].concat();
        let command = RsaDecrypt { key: &loaded, input: &input };
        let auth = &mut [Auth::hmac(&mut session, &[7; 32])];
        let output = execute(&mut link, &command, auth, &call()).expect("a result");
        let power = rsa::BigUint::from_bytes_be(&output)
            .modpow(&65537u32.into(), &rsa::BigUint::from_bytes_be(&modulus));
        assert_eq!(power, rsa::BigUint::from_bytes_be(&input));
    }

    fn random_through_a_salted_session(kind: Root) {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, kind);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let copy = seen.clone();
        link.alter = Some(Box::new(move |_, response| {
            copy.lock().expect("lock").extend_from_slice(response);
        }));

        let mut session = HmacSession::salted(&mut link, &srk, &call()).expect("a session");
        let auth = &mut [Auth::extra(&mut session)];
        let bytes = execute(&mut link, &GetRandom { bytes: 32 }, auth, &call()).expect("bytes");
        assert_eq!(bytes.len(), 32);
        assert!(!seen.lock().expect("lock").windows(8).any(|part| part == &bytes[..8]));

        let auth = &mut [Auth::extra(&mut session).ending()];
        execute(&mut link, &StirRandom { data: &bytes }, auth, &call()).expect("stirred");
        assert!(session.has_ended());
        assert_eq!(left_in(&mut link), [0u32; 0]);
    }

    #[test]
    fn sessions_are_salted_to_p256() {
        random_through_a_salted_session(P256);
    }

    #[test]
    fn sessions_are_salted_to_p384_with_sha384() {
        random_through_a_salted_session(Root::Ec(EccCurve::NistP384, HashingAlgorithm::Sha384));
    }

    #[test]
    fn sessions_are_salted_to_rsa() {
        random_through_a_salted_session(Root::Rsa);
    }

    /// A seal opened by the proof of another object's value: policy session and encrypting session in one
    /// command.
    #[test]
    fn a_policy_and_an_encrypting_session_open_a_seal_together() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        let parent = Entity::from(&srk);
        let mut session = HmacSession::salted(&mut link, &srk, &call()).expect("a session");
        let mut seal = |link: &mut Link, how, authorization: &[u8], data: &[u8]| {
            let public = sealed(how).expect("a template");
            let command = Create { parent: &parent, authorization, data, public: &public };
            let made = execute(link, &command, &mut [Auth::hmac(&mut session, &[])], &call())
                .expect("made");
            load(link, &srk, &made).expect("loaded")
        };
        let authority = seal(&mut link, Seal::Value, &[3; 32], b"w");
        let policy = policy_secret(&ZERO, &authority.name);
        let secret = seal(&mut link, Seal::Policy(policy), &[], b"the secret");

        let mut policy = PolicySession::unsalted(&mut link, &call()).expect("a session");
        let entity = policy.entity();
        let command = PolicySecret {
            authorizes: &authority,
            session: &entity,
            nonce_tpm: &policy.0.nonce_tpm,
        };
        let auth = &mut [Auth::hmac(&mut session, &[3; 32])];
        execute(&mut link, &command, auth, &call()).expect("proven");
        let digest = execute(&mut link, &PolicyGetDigest { session: &entity }, &mut [], &call())
            .expect("a digest");
        assert_eq!(digest, policy_secret(&ZERO, &authority.name));

        let auth = &mut [Auth::policy(&mut policy).ending(), Auth::extra(&mut session).ending()];
        let opened = execute(&mut link, &Unseal { item: &secret }, auth, &call()).expect("opened");
        assert_eq!(&opened[..], b"the secret");
    }

    #[test]
    fn every_changed_bit_of_a_response_is_noticed() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        let bit = Arc::new(AtomicU32::new(0));
        let copy = bit.clone();
        let mut length = 0;
        let mut at = 0;
        while at == 0 || at < length {
            let mut salted = HmacSession::salted(&mut link, &srk, &call()).expect("a session");
            let seen = Arc::new(AtomicU32::new(0));
            let (seen_too, which) = (seen.clone(), copy.clone());
            link.alter = Some(Box::new(move |_, response| {
                seen_too.store(8 * response.len() as u32, Ordering::Relaxed);
                let bit = which.load(Ordering::Relaxed) as usize;
                response[bit / 8] ^= 1 << (bit % 8);
            }));
            let auth = &mut [Auth::extra(&mut salted)];
            let answer = execute(&mut link, &GetRandom { bytes: 16 }, auth, &call());
            link.alter = None;
            length = seen.load(Ordering::Relaxed);
            let fault = answer.expect_err("noticed");
            assert!(
                matches!(fault.trouble, Trouble::Tampered(_) | Trouble::Code(..)),
                "bit {at}: {fault}"
            );
            salted.end(&mut link, &call()).expect("ended");
            // A prime step: every field is hit at several of its bits.
            at += 7;
            bit.store(at, Ordering::Relaxed);
        }
        assert!(length > 8 * 60);
    }

    #[test]
    fn a_tpm_that_asks_to_try_again_is_asked_again_with_the_same_bytes() {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let mut left = 3;
        link.alter = Some(Box::new(move |_, response| {
            if left > 0 {
                left -= 1;
                *response = [&[0x80, 1, 0, 0, 0, 10][..], &0x922u32.to_be_bytes()].concat();
            }
        }));

        execute(&mut link, &GetRandom { bytes: 8 }, &mut [], &call()).expect("bytes at last");

        assert_eq!(link.sent.len(), 4);
        assert!(link.sent.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
