//! Calls of C functions as data: a name and arguments in which memory stands for itself. So a call
//! can be made here or sent to another process, and a test can build any call, sound or not.

#![allow(unsafe_code)] // C functions are called here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::path::Path;

/// What a pointer of a call points to: bytes, and where among them stand further pointers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The bytes. The eight at the place of a pointer are overwritten before the call.
    pub bytes: Vec<u8>,
    /// Offsets of pointers, and what they point to.
    pub pointers: Vec<(usize, Memory)>,
    /// Offsets of pointers to this memory's own beginning.
    pub selves: Vec<usize>,
}

impl Memory {
    /// Memory that the function reads.
    pub fn of(bytes: impl Into<Vec<u8>>) -> Memory {
        Memory { bytes: bytes.into(), ..Memory::default() }
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

    /// Adds a pointer to bytes, NULL for none, and their count.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.push_word(0);
        } else {
            self.push_pointer(Memory::of(bytes));
        }
        self.push_word(bytes.len() as u64);
    }

    /// Adds a pointer to the beginning of this memory.
    pub fn push_self(&mut self) {
        self.selves.push(self.bytes.len());
        self.bytes.extend([0; 8]);
    }

    /// The CK_ULONG at an offset.
    pub fn word_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.bytes.len() as u64).to_le_bytes());
        out.extend(&self.bytes);
        out.extend((self.pointers.len() as u64).to_le_bytes());
        for (at, memory) in &self.pointers {
            out.extend((*at as u64).to_le_bytes());
            memory.write(out);
        }
        out.extend((self.selves.len() as u64).to_le_bytes());
        out.extend(self.selves.iter().flat_map(|at| (*at as u64).to_le_bytes()));
    }

    fn read(from: &mut &[u8]) -> Memory {
        let length = read_u64(from) as usize;
        let bytes = read_bytes(from, length);
        let count = read_u64(from);
        let pointers = (0..count).map(|_| (read_u64(from) as usize, Memory::read(from))).collect();
        let count = read_u64(from);
        let selves = (0..count).map(|_| read_u64(from) as usize).collect();
        Memory { bytes, pointers, selves }
    }
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A number, a handle, flags; or a pointer as a number, NULL above all.
    Word(u64),
    /// A pointer to this.
    Memory(Memory),
    /// A pointer into the memory of another argument: its index, and an offset.
    Inside(usize, usize),
}

impl Argument {
    /// NULL.
    pub const NULL: Argument = Argument::Word(0);

    /// The memory of a pointer argument, after the call.
    pub fn memory(&self) -> &Memory {
        match self {
            Argument::Memory(memory) => memory,
            _ => panic!("this argument has no memory of its own"),
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
            Argument::Inside(argument, offset) => {
                out.push(2);
                out.extend((*argument as u64).to_le_bytes());
                out.extend((*offset as u64).to_le_bytes());
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
            1 => Argument::Memory(Memory::read(&mut from)),
            _ => {
                let argument = read_u64(&mut from) as usize;
                Argument::Inside(argument, read_u64(&mut from) as usize)
            }
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

/// The module in this process.
#[derive(Debug)]
pub struct Library(Functions);

/// Where its functions are.
#[derive(Debug)]
enum Functions {
    Loaded(libloading::Library),
    Linked(fn(&str) -> Option<*const c_void>),
}

impl Library {
    /// dlopen.
    ///
    /// # Panics
    /// If the file cannot be loaded.
    pub fn load(path: &Path) -> Library {
        // SAFETY: the module has no constructor of its own.
        match unsafe { libloading::Library::new(path) } {
            Ok(library) => Library(Functions::Loaded(library)),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// The module as it is linked into this program: `find` knows its functions by their names.
    pub fn linked(find: fn(&str) -> Option<*const c_void>) -> Library {
        Library(Functions::Linked(find))
    }

    fn function(&self, name: &str) -> Option<*const c_void> {
        match &self.0 {
            Functions::Loaded(library) => {
                let name = format!("{name}\0");
                // SAFETY: only the address is taken here.
                let symbol = unsafe { library.get::<*const c_void>(name.as_bytes()) };
                symbol.ok().map(|symbol| *symbol)
            }
            Functions::Linked(find) => find(name),
        }
    }

    /// Makes the call. The memory of the arguments is what the function left there.
    ///
    /// # Panics
    /// If there is no such function.
    pub fn call(&self, call: &mut Call) -> u64 {
        let Some(function) = self.function(&call.function) else {
            panic!("the module has no {}", call.function);
        };
        let mut fences = Fences::default();
        let mut words: Vec<u64> = call
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Word(word) => *word,
                Argument::Memory(memory) => fences.lay(memory),
                Argument::Inside(..) => 0,
            })
            .collect();
        for (at, argument) in call.arguments.iter().enumerate() {
            if let Argument::Inside(other, offset) = argument {
                words[at] = words[*other] + *offset as u64;
            }
        }
        // SAFETY: every parameter of every PKCS#11 function is a CK_ULONG or a pointer, which the
        // calling conventions of 64-bit Linux pass alike; that the numbers mean what the function
        // expects is the test's affair, and may be wrong on purpose.
        let rv = unsafe { invoke(function, &words) };
        fences.lift(&call.function, &mut call.arguments);
        rv
    }
}

/// What lies round memory that a function is given; no test takes it for an answer.
const CANARY: u8 = 0xC9;
static CANARIES: [u8; PAGE] = [CANARY; PAGE];
/// Bytes of a page of every host that the tests run on, or more.
const PAGE: usize = 4096;

/// Memory between two pages that nobody may touch, so that a function that reads or writes far beyond
/// it dies of it.
struct Fenced {
    at: *mut u8,
    /// Bytes between the fences.
    room: usize,
}

impl Fenced {
    fn new(bytes: usize) -> Fenced {
        let room = bytes.max(1).next_multiple_of(PAGE);
        // SAFETY: new memory at no address of anybody's; only what lies between its first and its
        // last page is made usable.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let whole =
                libc::mmap(std::ptr::null_mut(), room + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(whole, libc::MAP_FAILED, "no memory for {bytes} bytes");
            let at = whole.cast::<u8>().add(PAGE);
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(at.cast(), room, protection), 0);
            Fenced { at, room }
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `room` bytes that only this value knows; functions that were given their address
        // have returned.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.room) }
    }
}

thread_local! {
    /// Fenced memory to use again: mapping is what costs. Never unmapped: a thread of an application
    /// lives as long as its process.
    static SPARE: RefCell<Vec<Fenced>> = const { RefCell::new(Vec::new()) };
    /// How many calls this thread has made: the next one lays its memory otherwise.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

/// The memory of one call while it runs. It ends at a page that cannot be touched, or begins behind
/// one, or has an odd address, in turn from call to call; what is left of its pages is canaries.
#[derive(Default)]
struct Fences(Vec<(Fenced, usize)>);

impl Fences {
    /// Lays out memory and what it points to; its address.
    fn lay(&mut self, memory: &Memory) -> u64 {
        let length = memory.bytes.len();
        let spare = SPARE.with_borrow_mut(|spare| {
            let all = spare.iter().enumerate();
            let fits = all.filter(|(_, fenced)| fenced.room >= length + 8);
            let least = fits.min_by_key(|(_, fenced)| fenced.room).map(|(index, _)| index);
            least.map(|index| spare.swap_remove(index))
        });
        let mut fenced = spare.unwrap_or_else(|| Fenced::new(length + 8));
        let end = fenced.room - length;
        let offset = match TURN.get() % 3 {
            0 => end,
            1 => 0,
            _ => end - 1 - (end & 1),
        };
        let at = fenced.at as u64 + offset as u64;
        let bytes = fenced.bytes();
        bytes.fill(CANARY);
        bytes[offset..offset + length].copy_from_slice(&memory.bytes);
        let index = self.0.len();
        self.0.push((fenced, offset));
        let mut pointers: Vec<_> = memory.selves.iter().map(|place| (*place, at)).collect();
        for (place, memory) in &memory.pointers {
            pointers.push((*place, self.lay(memory)));
        }
        for (place, to) in pointers {
            let place = offset + place;
            self.0[index].0.bytes()[place..place + 8].copy_from_slice(&to.to_ne_bytes());
        }
        at
    }

    /// Takes back what the function left, in the order of [`Fences::lay`].
    fn lift(self, function: &str, arguments: &mut [Argument]) {
        let mut laid = self.0.into_iter();
        for argument in arguments {
            if let Argument::Memory(memory) = argument {
                Self::lift_one(function, &mut laid, memory);
            }
        }
        TURN.set(TURN.get() + 1);
    }

    fn lift_one(
        function: &str,
        laid: &mut impl Iterator<Item = (Fenced, usize)>,
        memory: &mut Memory,
    ) {
        let (mut fenced, offset) = laid.next().expect("as many as were laid");
        let bytes = fenced.bytes();
        let end = offset + memory.bytes.len();
        memory.bytes.copy_from_slice(&bytes[offset..end]);
        let mut beside = bytes[..offset].chunks(PAGE).chain(bytes[end..].chunks(PAGE));
        if beside.any(|part| *part != CANARIES[..part.len()]) {
            // A panic would only end this thread, and the test would wait for it.
            eprintln!("{function} wrote beside the memory that it was given");
            std::process::abort();
        }
        SPARE.with_borrow_mut(|spare| spare.push(fenced));
        for (_, memory) in &mut memory.pointers {
            Self::lift_one(function, laid, memory);
        }
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

/// The names of all functions, as the specification's headers have them in one structure.
pub fn specified() -> BTreeSet<String> {
    // cryptoki-sys prints every field of the structure by its name.
    let table = format!("{:?}", cryptoki_sys::CK_FUNCTION_LIST_3_2::default());
    table
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("C_"))
        .map(str::to_owned)
        .collect()
}
