//! TPM 2.0 commands as the bench needs them: names, the handle area, the sessions, and a writer
//! for commands that are authorized with passwords. Nothing of this is shared with the module: the
//! bench must not repeat its mistakes.

/// A command of TPM 2.0 Part 3: code, name, handles in the command, whether a handle comes back.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// TPM_CC
    pub code: u32,
    /// The specification's name without `TPM2_`.
    pub name: &'static str,
    /// Handles before the sessions.
    pub handles: usize,
    /// Whether the response begins with a handle.
    pub makes: bool,
}

const fn known(code: u32, name: &'static str, handles: usize) -> Known {
    Known { code, name, handles, makes: false }
}

const fn makes(code: u32, name: &'static str, handles: usize) -> Known {
    Known { code, name, handles, makes: true }
}

/// `TPM_CC_EVICT_CONTROL`
pub const EVICT_CONTROL: u32 = 0x120;
/// `TPM_CC_NV_UNDEFINE_SPACE`
pub const NV_UNDEFINE_SPACE: u32 = 0x122;
/// `TPM_CC_CLEAR`
pub const CLEAR: u32 = 0x126;
/// `TPM_CC_HIERARCHY_CHANGE_AUTH`
pub const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
/// `TPM_CC_NV_DEFINE_SPACE`
pub const NV_DEFINE_SPACE: u32 = 0x12A;
/// `TPM_CC_CREATE_PRIMARY`
pub const CREATE_PRIMARY: u32 = 0x131;
/// `TPM_CC_NV_WRITE`
pub const NV_WRITE: u32 = 0x137;
/// `TPM_CC_DICTIONARY_ATTACK_PARAMETERS`
pub const DICTIONARY_ATTACK_PARAMETERS: u32 = 0x13A;
/// `TPM_CC_NV_CHANGE_AUTH`
pub const NV_CHANGE_AUTH: u32 = 0x13B;
/// `TPM_CC_STARTUP`
pub const STARTUP: u32 = 0x144;
/// `TPM_CC_NV_READ`
pub const NV_READ: u32 = 0x14E;
/// `TPM_CC_POLICY_SECRET`
pub const POLICY_SECRET: u32 = 0x151;
/// `TPM_CC_CREATE`
pub const CREATE: u32 = 0x153;
/// `TPM_CC_ECDH_ZGEN`
pub const ECDH_ZGEN: u32 = 0x154;
/// `TPM_CC_LOAD`
pub const LOAD: u32 = 0x157;
/// `TPM_CC_RSA_DECRYPT`
pub const RSA_DECRYPT: u32 = 0x159;
/// `TPM_CC_SIGN`
pub const SIGN: u32 = 0x15D;
/// `TPM_CC_UNSEAL`
pub const UNSEAL: u32 = 0x15E;
/// `TPM_CC_CONTEXT_LOAD`
pub const CONTEXT_LOAD: u32 = 0x161;
/// `TPM_CC_CONTEXT_SAVE`
pub const CONTEXT_SAVE: u32 = 0x162;
/// `TPM_CC_FLUSH_CONTEXT`
pub const FLUSH_CONTEXT: u32 = 0x165;
/// `TPM_CC_NV_READ_PUBLIC`
pub const NV_READ_PUBLIC: u32 = 0x169;
/// `TPM_CC_READ_PUBLIC`
pub const READ_PUBLIC: u32 = 0x173;
/// `TPM_CC_START_AUTH_SESSION`
pub const START_AUTH_SESSION: u32 = 0x176;
/// `TPM_CC_GET_CAPABILITY`
pub const GET_CAPABILITY: u32 = 0x17A;
/// `TPM_CC_GET_RANDOM`
pub const GET_RANDOM: u32 = 0x17B;
/// `TPM_CC_TEST_PARMS`
pub const TEST_PARMS: u32 = 0x18A;
/// `TPM_CC_ENCRYPT_DECRYPT_2`
pub const ENCRYPT_DECRYPT_2: u32 = 0x193;

/// TPM_RH_NULL
pub const NULL: u32 = 0x4000_0007;
/// TPM_RH_OWNER
pub const OWNER: u32 = 0x4000_0001;
/// TPM_RS_PW
pub const PASSWORD: u32 = 0x4000_0009;
/// TPM_RH_LOCKOUT
pub const LOCKOUT: u32 = 0x4000_000A;
/// TPM_RH_PLATFORM
pub const PLATFORM: u32 = 0x4000_000C;

/// The commands of TPM 2.0 Part 3. FlushContext's handle is a parameter there; here, as in Linux,
/// it counts as a handle.
pub static COMMANDS: &[Known] = &[
    known(0x11F, "NV_UndefineSpaceSpecial", 2),
    known(EVICT_CONTROL, "EvictControl", 2),
    known(0x121, "HierarchyControl", 1),
    known(NV_UNDEFINE_SPACE, "NV_UndefineSpace", 2),
    known(0x124, "ChangeEPS", 1),
    known(0x125, "ChangePPS", 1),
    known(CLEAR, "Clear", 1),
    known(0x127, "ClearControl", 1),
    known(0x128, "ClockSet", 1),
    known(HIERARCHY_CHANGE_AUTH, "HierarchyChangeAuth", 1),
    known(NV_DEFINE_SPACE, "NV_DefineSpace", 1),
    known(0x12B, "PCR_Allocate", 1),
    known(0x12C, "PCR_SetAuthPolicy", 1),
    known(0x12D, "PP_Commands", 1),
    known(0x12E, "SetPrimaryPolicy", 1),
    known(0x130, "ClockRateAdjust", 1),
    makes(CREATE_PRIMARY, "CreatePrimary", 1),
    known(0x132, "NV_GlobalWriteLock", 1),
    known(0x133, "GetCommandAuditDigest", 2),
    known(0x134, "NV_Increment", 2),
    known(0x135, "NV_SetBits", 2),
    known(0x136, "NV_Extend", 2),
    known(NV_WRITE, "NV_Write", 2),
    known(0x138, "NV_WriteLock", 2),
    known(0x139, "DictionaryAttackLockReset", 1),
    known(DICTIONARY_ATTACK_PARAMETERS, "DictionaryAttackParameters", 1),
    known(NV_CHANGE_AUTH, "NV_ChangeAuth", 1),
    known(0x13C, "PCR_Event", 1),
    known(0x13D, "PCR_Reset", 1),
    known(0x13E, "SequenceComplete", 1),
    known(0x13F, "SetAlgorithmSet", 1),
    known(0x140, "SetCommandCodeAuditStatus", 1),
    known(0x142, "IncrementalSelfTest", 0),
    known(0x143, "SelfTest", 0),
    known(STARTUP, "Startup", 0),
    known(0x145, "Shutdown", 0),
    known(0x146, "StirRandom", 0),
    known(0x147, "ActivateCredential", 2),
    known(0x148, "Certify", 2),
    known(0x149, "PolicyNV", 3),
    known(0x14A, "CertifyCreation", 2),
    known(0x14B, "Duplicate", 2),
    known(0x14C, "GetTime", 2),
    known(0x14D, "GetSessionAuditDigest", 3),
    known(NV_READ, "NV_Read", 2),
    known(0x14F, "NV_ReadLock", 2),
    known(0x150, "ObjectChangeAuth", 2),
    known(POLICY_SECRET, "PolicySecret", 2),
    known(0x152, "Rewrap", 2),
    known(CREATE, "Create", 1),
    known(ECDH_ZGEN, "ECDH_ZGen", 1),
    known(0x155, "HMAC", 1),
    known(0x156, "Import", 1),
    makes(LOAD, "Load", 1),
    known(0x158, "Quote", 1),
    known(RSA_DECRYPT, "RSA_Decrypt", 1),
    makes(0x15B, "HMAC_Start", 1),
    known(0x15C, "SequenceUpdate", 1),
    known(SIGN, "Sign", 1),
    known(UNSEAL, "Unseal", 1),
    known(0x160, "PolicySigned", 2),
    makes(CONTEXT_LOAD, "ContextLoad", 0),
    known(CONTEXT_SAVE, "ContextSave", 1),
    known(0x163, "ECDH_KeyGen", 1),
    known(0x164, "EncryptDecrypt", 1),
    known(FLUSH_CONTEXT, "FlushContext", 1),
    makes(0x167, "LoadExternal", 0),
    known(0x168, "MakeCredential", 1),
    known(NV_READ_PUBLIC, "NV_ReadPublic", 1),
    known(0x16A, "PolicyAuthorize", 1),
    known(0x16B, "PolicyAuthValue", 1),
    known(0x16C, "PolicyCommandCode", 1),
    known(0x16D, "PolicyCounterTimer", 1),
    known(0x16E, "PolicyCpHash", 1),
    known(0x16F, "PolicyLocality", 1),
    known(0x170, "PolicyNameHash", 1),
    known(0x171, "PolicyOR", 1),
    known(0x172, "PolicyTicket", 1),
    known(READ_PUBLIC, "ReadPublic", 1),
    known(0x174, "RSA_Encrypt", 1),
    makes(START_AUTH_SESSION, "StartAuthSession", 2),
    known(0x177, "VerifySignature", 1),
    known(0x178, "ECC_Parameters", 0),
    known(GET_CAPABILITY, "GetCapability", 0),
    known(GET_RANDOM, "GetRandom", 0),
    known(0x17C, "GetTestResult", 0),
    known(0x17D, "Hash", 0),
    known(0x17E, "PCR_Read", 0),
    known(0x17F, "PolicyPCR", 1),
    known(0x180, "PolicyRestart", 1),
    known(0x181, "ReadClock", 0),
    known(0x182, "PCR_Extend", 1),
    known(0x183, "PCR_SetAuthValue", 1),
    known(0x184, "NV_Certify", 3),
    known(0x185, "EventSequenceComplete", 2),
    makes(0x186, "HashSequenceStart", 0),
    known(0x187, "PolicyPhysicalPresence", 1),
    known(0x188, "PolicyDuplicationSelect", 1),
    known(0x189, "PolicyGetDigest", 1),
    known(TEST_PARMS, "TestParms", 0),
    known(0x18B, "Commit", 1),
    known(0x18C, "PolicyPassword", 1),
    known(0x18D, "ZGen_2Phase", 1),
    known(0x18E, "EC_Ephemeral", 0),
    known(0x18F, "PolicyNvWritten", 1),
    known(0x190, "PolicyTemplate", 1),
    makes(0x191, "CreateLoaded", 1),
    known(0x192, "PolicyAuthorizeNV", 3),
    known(ENCRYPT_DECRYPT_2, "EncryptDecrypt2", 1),
];

/// The row of a command code.
pub fn lookup(code: u32) -> Option<&'static Known> {
    COMMANDS.iter().find(|known| known.code == code)
}

/// The command's name, or its number where Part 3 has none.
pub fn name(code: u32) -> String {
    lookup(code).map_or_else(|| format!("{code:#x}"), |known| known.name.to_owned())
}

/// A big-endian number at an offset, 0 where the message ends before.
pub fn u32_at(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four")))
}

/// As [`u32_at`], two bytes.
pub fn u16_at(message: &[u8], at: usize) -> u16 {
    message.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes(bytes.try_into().expect("two")))
}

/// The response code of a response.
pub fn response_code(response: &[u8]) -> u32 {
    u32_at(response, 6)
}

/// One session of a command's authorization area (Part 2, TPMS_AUTH_COMMAND).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// TPM_RS_PW, or a session's handle.
    pub handle: u32,
    /// TPMA_SESSION
    pub attributes: u8,
    /// The HMAC, or the password in clear.
    pub authorization: Vec<u8>,
}

impl Session {
    /// A password in clear.
    pub fn is_password(&self) -> bool {
        self.handle == PASSWORD
    }

    /// A policy session (its HMAC may be empty).
    pub fn is_policy(&self) -> bool {
        self.handle >> 24 == 0x03
    }

    /// An HMAC session with an HMAC in it.
    pub fn is_hmac(&self) -> bool {
        self.handle >> 24 == 0x02 && !self.authorization.is_empty()
    }

    /// The first parameter of the command is encrypted (TPMA_SESSION `decrypt`).
    pub fn encrypts_command(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// The first parameter of the response is encrypted (TPMA_SESSION `encrypt`).
    pub fn encrypts_response(&self) -> bool {
        self.attributes & 0x40 != 0
    }

    /// The session lives on after this command.
    pub fn continues(&self) -> bool {
        self.attributes & 0x01 != 0
    }
}

/// A command taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// TPM_CC
    pub code: u32,
    /// The handle area.
    pub handles: Vec<u32>,
    /// The authorization area.
    pub sessions: Vec<Session>,
    /// Where the parameters begin.
    pub parameters_at: usize,
}

/// Takes a command apart; `None` if it is no well-formed command.
pub fn parse(command: &[u8]) -> Option<Parsed> {
    if command.len() < 10 || u32_at(command, 2) as usize != command.len() {
        return None;
    }
    let tag = u16_at(command, 0);
    let code = u32_at(command, 6);
    let count = lookup(code).map_or(0, |known| known.handles);
    let mut at = 10;
    let mut handles = Vec::new();
    for _ in 0..count {
        command.get(at..at + 4)?;
        handles.push(u32_at(command, at));
        at += 4;
    }
    let mut sessions = Vec::new();
    if tag == 0x8002 {
        command.get(at..at + 4)?;
        let end = at + 4 + u32_at(command, at) as usize;
        at += 4;
        command.get(at..end)?;
        while at < end {
            let handle = u32_at(command, at);
            let nonce = u16_at(command, at + 4) as usize;
            let attributes = *command.get(at + 6 + nonce)?;
            let length = u16_at(command, at + 7 + nonce) as usize;
            let from = at + 9 + nonce;
            let authorization = command.get(from..from + length)?.to_vec();
            sessions.push(Session { handle, attributes, authorization });
            at = from + length;
        }
        if at != end {
            return None;
        }
    }
    Some(Parsed { code, handles, sessions, parameters_at: at })
}

/// Writes a command: handles, a password for the first of them (and empty ones for as many more as
/// `passwords` says), parameters.
pub fn command(code: u32, handles: &[u32], password: Option<&[u8]>, parameters: &[u8]) -> Vec<u8> {
    let passwords: Vec<&[u8]> = password.into_iter().collect();
    command_with(code, handles, &passwords, parameters)
}

/// As [`command`], with a password for each of several handles.
pub fn command_with(code: u32, handles: &[u32], passwords: &[&[u8]], parameters: &[u8]) -> Vec<u8> {
    let mut sessions = Vec::new();
    for password in passwords {
        sessions.extend(PASSWORD.to_be_bytes());
        sessions.extend([0, 0, 0]);
        sessions.extend((password.len() as u16).to_be_bytes());
        sessions.extend(*password);
    }
    command_raw(code, handles, &sessions, parameters)
}

/// As [`command`], with the authorization area as bytes; none if it is empty.
pub fn command_raw(code: u32, handles: &[u32], sessions: &[u8], parameters: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for handle in handles {
        body.extend(handle.to_be_bytes());
    }
    if !sessions.is_empty() {
        body.extend((sessions.len() as u32).to_be_bytes());
        body.extend(sessions);
    }
    body.extend(parameters);
    let tag: u16 = if sessions.is_empty() { 0x8001 } else { 0x8002 };
    let mut command = tag.to_be_bytes().to_vec();
    command.extend((body.len() as u32 + 10).to_be_bytes());
    command.extend(code.to_be_bytes());
    command.extend(body);
    command
}

/// A response that is nothing but a code.
pub fn answer(code: u32) -> Vec<u8> {
    let mut response = vec![0x80, 0x01, 0, 0, 0, 10];
    response.extend(code.to_be_bytes());
    response
}

/// TPM2_GetCapability.
pub fn get_capability(capability: u32, property: u32, count: u32) -> Vec<u8> {
    let parameters: Vec<u8> =
        [capability, property, count].iter().flat_map(|number| number.to_be_bytes()).collect();
    command(GET_CAPABILITY, &[], None, &parameters)
}

/// TPM2_StartAuthSession for an HMAC session that is neither salted nor bound and encrypts nothing.
pub fn start_session() -> Vec<u8> {
    let mut parameters = sized(&[7; 16]);
    parameters.extend(sized(&[]));
    // HMAC; TPM_ALG_NULL; SHA-256
    parameters.extend([0x00, 0x00, 0x10, 0x00, 0x0B]);
    command(START_AUTH_SESSION, &[NULL, NULL], None, &parameters)
}

/// A TPM2B.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}
