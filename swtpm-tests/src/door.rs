//! Calls of C functions as data: a name and arguments in which memory stands for itself. So a call
//! can be made here or sent to another process, and a test can build any call, sound or not.

#![allow(unsafe_code)] // C functions are called here.

use std::ffi::c_void;
use std::path::Path;

/// What a pointer of a call points to: bytes, and where among them stand further pointers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The bytes. The eight at the place of a pointer are overwritten before the call.
    pub bytes: Vec<u8>,
    /// Offsets of pointers, and what they point to.
    pub pointers: Vec<(usize, Memory)>,
}

impl Memory {
    /// Memory that the function reads.
    pub fn of(bytes: impl Into<Vec<u8>>) -> Memory {
        Memory { bytes: bytes.into(), pointers: Vec::new() }
    }

    /// Memory that the function writes, filled with a pattern that no test takes for an answer.
    pub fn room(bytes: usize) -> Memory {
        Memory::of(vec![0xA5; bytes])
    }

    /// One CK_ULONG.
    pub fn word(value: u64) -> Memory {
        Memory::of(value.to_ne_bytes())
    }

    /// Adds a number.
    pub fn push_word(&mut self, value: u64) {
        self.bytes.extend(value.to_ne_bytes());
    }

    /// Adds a pointer.
    pub fn push_pointer(&mut self, to: Memory) {
        self.pointers.push((self.bytes.len(), to));
        self.bytes.extend([0; 8]);
    }

    /// The CK_ULONG at an offset.
    pub fn word_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// Puts addresses into the places of the pointers.
    fn link(&mut self) {
        for (at, memory) in &mut self.pointers {
            memory.link();
            let address = memory.bytes.as_mut_ptr() as u64;
            self.bytes[*at..*at + 8].copy_from_slice(&address.to_ne_bytes());
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.bytes.len() as u64).to_le_bytes());
        out.extend(&self.bytes);
        out.extend((self.pointers.len() as u64).to_le_bytes());
        for (at, memory) in &self.pointers {
            out.extend((*at as u64).to_le_bytes());
            memory.write(out);
        }
    }

    fn read(from: &mut &[u8]) -> Memory {
        let length = read_u64(from) as usize;
        let bytes = read_bytes(from, length);
        let count = read_u64(from);
        let pointers = (0..count).map(|_| (read_u64(from) as usize, Memory::read(from))).collect();
        Memory { bytes, pointers }
    }
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A number, a handle, flags; or a pointer as a number, NULL above all.
    Word(u64),
    /// A pointer to this.
    Memory(Memory),
}

impl Argument {
    /// NULL.
    pub const NULL: Argument = Argument::Word(0);

    /// The memory of a pointer argument, after the call.
    pub fn memory(&self) -> &Memory {
        match self {
            Argument::Memory(memory) => memory,
            Argument::Word(_) => panic!("this argument is no pointer"),
        }
    }
}

impl From<u64> for Argument {
    fn from(word: u64) -> Argument {
        Argument::Word(word)
    }
}

impl From<Memory> for Argument {
    fn from(memory: Memory) -> Argument {
        Argument::Memory(memory)
    }
}

/// A call: the function's name and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `C_Sign`
    pub function: String,
    /// In the order of the specification; at most twelve.
    pub arguments: Vec<Argument>,
}

impl Call {
    /// As bytes, for another process.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.function.len() as u8];
        out.extend(self.function.as_bytes());
        out.extend(arguments_to_bytes(&self.arguments));
        out
    }

    /// Back from bytes.
    pub fn from_bytes(mut from: &[u8]) -> Call {
        let length = usize::from(from[0]);
        from = &from[1..];
        let function = String::from_utf8(read_bytes(&mut from, length)).expect("a name");
        Call { function, arguments: arguments_from_bytes(from) }
    }
}

/// Arguments as bytes.
pub fn arguments_to_bytes(arguments: &[Argument]) -> Vec<u8> {
    let mut out = vec![arguments.len() as u8];
    for argument in arguments {
        match argument {
            Argument::Word(word) => {
                out.push(0);
                out.extend(word.to_le_bytes());
            }
            Argument::Memory(memory) => {
                out.push(1);
                memory.write(&mut out);
            }
        }
    }
    out
}

/// Arguments from bytes.
pub fn arguments_from_bytes(mut from: &[u8]) -> Vec<Argument> {
    let count = read_bytes(&mut from, 1)[0];
    (0..count)
        .map(|_| match read_bytes(&mut from, 1)[0] {
            0 => Argument::Word(read_u64(&mut from)),
            _ => Argument::Memory(Memory::read(&mut from)),
        })
        .collect()
}

fn read_u64(from: &mut &[u8]) -> u64 {
    u64::from_le_bytes(read_bytes(from, 8).try_into().expect("eight bytes"))
}

fn read_bytes(from: &mut &[u8], length: usize) -> Vec<u8> {
    let (bytes, rest) = from.split_at(length);
    *from = rest;
    bytes.to_vec()
}

/// The module, loaded into this process.
#[derive(Debug)]
pub struct Library(libloading::Library);

impl Library {
    /// dlopen.
    ///
    /// # Panics
    /// If the file cannot be loaded.
    pub fn load(path: &Path) -> Library {
        // SAFETY: the module has no constructor of its own.
        match unsafe { libloading::Library::new(path) } {
            Ok(library) => Library(library),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// Makes the call. The memory of the arguments is what the function left there.
    ///
    /// # Panics
    /// If there is no such function.
    pub fn call(&self, call: &mut Call) -> u64 {
        let name = format!("{}\0", call.function);
        // SAFETY: only the address is taken here.
        let Ok(symbol) = (unsafe { self.0.get::<*const c_void>(name.as_bytes()) }) else {
            panic!("the module has no {}", call.function);
        };
        let words: Vec<u64> = call
            .arguments
            .iter_mut()
            .map(|argument| match argument {
                Argument::Word(word) => *word,
                Argument::Memory(memory) => {
                    memory.link();
                    memory.bytes.as_mut_ptr() as u64
                }
            })
            .collect();
        // SAFETY: every parameter of every PKCS#11 function is a CK_ULONG or a pointer, which the
        // calling conventions of 64-bit Linux pass alike; that the numbers mean what the function
        // expects is the test's affair, and may be wrong on purpose.
        unsafe { invoke(*symbol, &words) }
    }
}

/// Calls `function` with so many words.
///
/// # Safety
/// It must be an `extern "C"` function of as many word-sized parameters that returns CK_RV.
unsafe fn invoke(function: *const c_void, words: &[u64]) -> u64 {
    macro_rules! with {
        ($($index:literal)*) => {{
            let function: unsafe extern "C" fn($(with!(@u64 $index)),*) -> u64 =
                // SAFETY: as this function's own contract says.
                unsafe { std::mem::transmute(function) };
            // SAFETY: as above.
            unsafe { function($(words[$index]),*) }
        }};
        (@u64 $index:literal) => { u64 };
    }
    match words.len() {
        0 => with!(),
        1 => with!(0),
        2 => with!(0 1),
        3 => with!(0 1 2),
        4 => with!(0 1 2 3),
        5 => with!(0 1 2 3 4),
        6 => with!(0 1 2 3 4 5),
        7 => with!(0 1 2 3 4 5 6),
        8 => with!(0 1 2 3 4 5 6 7),
        9 => with!(0 1 2 3 4 5 6 7 8),
        10 => with!(0 1 2 3 4 5 6 7 8 9),
        11 => with!(0 1 2 3 4 5 6 7 8 9 10),
        12 => with!(0 1 2 3 4 5 6 7 8 9 10 11),
        count => panic!("no PKCS#11 function has {count} parameters"),
    }
}
