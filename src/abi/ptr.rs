//! The caller's memory: every pointer that a C_ function is given is followed here and nowhere
//! else but in `params.rs`.
//!
//! The one idea: a value of this file is made from a raw pointer with `unsafe` (the C function's
//! contract says that the memory is what it claims to be until the call returns), and from then on
//! reading and writing are safe. Nothing here ever forms a `&T` or `&mut T` to the caller's memory:
//! it may be misaligned, input and output may be the same place (PKCS#11 3.2 §5.8, §5.10), and
//! another thread may write to it while we read. Input is copied in once, answers are copied out at
//! the end.
//!
//! NULL with length 0 is an empty input; NULL with any other length makes the call unreadable; NULL
//! output with a length to write to asks for the length (§5.2).

use std::ptr;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::crypto::secret::Wiped;
use crate::error::{Error, Result};
use crate::object::value::Kind;
use crate::object::{self, rules};
use crate::token::{Answer, Room};

/// The longest data that one call may carry: 1 GiB.
const DATA_LIMIT: usize = 1 << 30;
/// The longest value of one attribute: 16 MiB.
const VALUE_LIMIT: usize = 16 << 20;
/// The longest sum of all values of one template: 32 MiB, what one row of the store can hold.
const TEMPLATE_LIMIT: usize = 32 << 20;
/// The most attributes in one template.
const TEMPLATE_COUNT: usize = 1024;
/// The most handles that one C_FindObjects may ask for; more is taken for this many.
const HANDLES_LIMIT: usize = 1 << 20;

/// Bytes that the caller gives.
pub(super) struct Input {
    name: &'static str,
    at: *const u8,
    length: CK_ULONG,
}

impl Input {
    /// # Safety
    /// Until the C_ function returns, `at` is NULL or readable for `length` bytes.
    pub(super) unsafe fn new(name: &'static str, at: *const CK_BYTE, length: CK_ULONG) -> Self {
        Self { name, at, length }
    }

    /// The bytes, at most `limit` of them, else `too_long`.
    ///
    /// # Errors
    /// [`Error::ArgumentsBad`] for NULL with a length, [`Error::HostMemory`] if there is no room
    /// for a copy.
    pub(super) fn at_most(&self, limit: usize, too_long: Error) -> Result<Wiped> {
        let mut copy = Wiped::default();
        if self.length == 0 {
            return Ok(copy);
        }
        if self.at.is_null() {
            return Err(Error::ArgumentsBad(self.name));
        }
        let length = match usize::try_from(self.length) {
            Ok(length) if length <= limit => length,
            _ => return Err(too_long),
        };
        copy.try_reserve_exact(length).map_err(|_| Error::HostMemory)?;
        // SAFETY: readable for `length` bytes by the contract of `new`; the room was just reserved
        // and cannot overlap; `set_len` covers exactly what was written.
        unsafe {
            ptr::copy_nonoverlapping(self.at, copy.as_mut_ptr(), length);
            copy.set_len(length);
        }
        Ok(copy)
    }

    /// Bytes for a function that has no word for too many but "bad arguments", up to 1 GiB.
    pub(super) fn bytes(&self) -> Result<Wiped> {
        self.at_most(DATA_LIMIT, Error::ArgumentsBad("more than 1 GiB in one call"))
    }

    /// Data of an operation, up to 1 GiB.
    pub(super) fn data(&self) -> Result<Wiped> {
        self.at_most(DATA_LIMIT, Error::DataLenRange("more than 1 GiB in one call"))
    }

    /// A signature to verify. Longer than any key makes it is a wrong length, not bad data.
    pub(super) fn signature(&self) -> Result<Wiped> {
        self.at_most(64 << 10, Error::SignatureLenRange)
    }

    /// Ciphertext, up to 1 GiB.
    pub(super) fn ciphertext(&self) -> Result<Wiped> {
        self.at_most(DATA_LIMIT, Error::EncryptedDataLenRange)
    }

    /// A wrapped key.
    pub(super) fn wrapped(&self) -> Result<Wiped> {
        self.at_most(64 << 10, Error::WrappedKeyLength)
    }

    /// The saved state of an operation.
    pub(super) fn state(&self) -> Result<Wiped> {
        self.at_most(DATA_LIMIT, Error::SavedStateInvalid)
    }

    /// A PIN, byte-exact, at most 255 bytes. The token decides on the shortest.
    pub(super) fn pin(&self) -> Result<Wiped> {
        self.at_most(255, Error::PinLength)
    }
}

/// The 32-byte, blank-padded label of C_InitToken.
///
/// # Errors
/// [`Error::ArgumentsBad`] for NULL.
///
/// # Safety
/// `at` is NULL or readable for 32 bytes.
pub(super) unsafe fn label(at: *const CK_UTF8CHAR) -> Result<[u8; 32]> {
    if at.is_null() {
        return Err(Error::ArgumentsBad("pLabel is NULL"));
    }
    // SAFETY: readable for 32 bytes by this function's own contract; u8 has no alignment.
    Ok(unsafe { ptr::read_unaligned(at.cast::<[u8; 32]>()) })
}

/// Whether the C string at `at` is exactly `text`. Reads no byte beyond the first difference.
///
/// # Safety
/// `at` points to a string that ends with a zero byte.
pub(super) unsafe fn is_string(at: *const CK_UTF8CHAR, text: &[u8]) -> bool {
    text.iter().chain([&0]).enumerate().all(|(i, byte)| {
        // SAFETY: all bytes before this one were equal to `text`, which holds no zero, so the
        // string has not ended yet.
        unsafe { ptr::read(at.add(i)) == *byte }
    })
}

/// A copy of the structure at `at`.
///
/// # Errors
/// [`Error::ArgumentsBad`] for NULL.
///
/// # Safety
/// `at` is NULL or readable for the size of `T`, aligned or not, and holds a valid `T`.
pub(super) unsafe fn read<T: Copy>(name: &'static str, at: *const T) -> Result<T> {
    if at.is_null() {
        return Err(Error::ArgumentsBad(name));
    }
    // SAFETY: readable by this function's own contract.
    Ok(unsafe { ptr::read_unaligned(at) })
}

/// Where one value goes: a handle, a number, an info structure.
pub(super) struct Place<T> {
    at: *mut T,
}

impl<T: Copy> Place<T> {
    /// # Errors
    /// [`Error::ArgumentsBad`] for NULL: said before anything is done, so that nothing is made
    /// whose handle could not be told.
    ///
    /// # Safety
    /// Until the C_ function returns, `at` is NULL or writable for the size of `T`.
    pub(super) unsafe fn new(name: &'static str, at: *mut T) -> Result<Self> {
        if at.is_null() { Err(Error::ArgumentsBad(name)) } else { Ok(Self { at }) }
    }

    /// Writes the value.
    pub(super) fn put(self, value: T) {
        // SAFETY: writable by the contract of `new`, and not NULL.
        unsafe { ptr::write_unaligned(self.at, value) }
    }
}

/// Where an answer of variable length goes. PKCS#11 3.2 §5.2.
pub(super) struct Output {
    at: *mut u8,
    length: *mut CK_ULONG,
    /// What the caller asked for when the call came: read once, for another thread may change it.
    room: Result<Room>,
}

impl Output {
    /// # Safety
    /// Until the C_ function returns, `length` is NULL or readable and writable, and `at` is NULL
    /// or writable for `*length` bytes.
    pub(super) unsafe fn new(at: *mut CK_BYTE, length: *mut CK_ULONG) -> Self {
        let room = if length.is_null() {
            Err(Error::ArgumentsBad("the pointer to the length is NULL"))
        } else if at.is_null() {
            Ok(Room::Query)
        } else {
            // SAFETY: readable by this function's own contract, and not NULL.
            let length = unsafe { ptr::read_unaligned(length) };
            isize::try_from(length)
                .map(|length| Room::Bytes(length.unsigned_abs()))
                .map_err(|_| Error::ArgumentsBad("the buffer is longer than memory can be"))
        };
        Self { at, length, room }
    }

    /// What the caller asks for.
    ///
    /// # Errors
    /// [`Error::ArgumentsBad`] if there is no place for the length, or the room is larger than
    /// memory can be.
    pub(super) fn room(&self) -> Result<Room> {
        self.room.clone()
    }

    /// Writes a finished answer, or the length it needs. The length is written last.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`] if the answer says so; what [`Output::room`] says.
    pub(super) fn put(self, answer: Answer) -> Result<()> {
        let room = self.room()?;
        let (length, outcome) = match answer {
            Answer::Done(mut bytes) => {
                // It may be long: wiped as that is.
                let bytes = Wiped::new(std::mem::take(&mut *bytes));
                if !matches!(room, Room::Bytes(room) if room >= bytes.len()) {
                    return Err(Error::Bug("an answer is longer than the room it was made for"));
                }
                // SAFETY: writable for at least `bytes.len()` bytes, as just checked; `bytes` is
                // our own memory and overlaps nothing of the caller's.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at, bytes.len()) };
                (bytes.len(), Ok(()))
            }
            Answer::Length(length) => (length, Ok(())),
            Answer::TooSmall(length) => (length, Err(Error::BufferTooSmall)),
        };
        // SAFETY: `new` found it not NULL, else there were no room; writable by its contract. A
        // usize fits a CK_ULONG, which is as wide as a pointer here.
        unsafe { ptr::write_unaligned(self.length, length as CK_ULONG) };
        outcome
    }
}

/// Where a list goes: slots, mechanisms, interfaces. PKCS#11 3.2 §5.5.
pub(super) struct List<T> {
    at: *mut T,
    count: *mut CK_ULONG,
}

impl<T: Copy> List<T> {
    /// # Errors
    /// [`Error::ArgumentsBad`] if there is no place for the count.
    ///
    /// # Safety
    /// Until the C_ function returns, `count` is NULL or readable and writable, and `at` is NULL or
    /// writable for `*count` elements.
    pub(super) unsafe fn new(at: *mut T, count: *mut CK_ULONG) -> Result<Self> {
        if count.is_null() {
            return Err(Error::ArgumentsBad("pulCount is NULL"));
        }
        Ok(Self { at, count })
    }

    /// Writes the list, or only how long it is.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`] if the list is longer than the array.
    pub(super) fn put(self, items: &[T]) -> Result<()> {
        let mut outcome = Ok(());
        if !self.at.is_null() {
            // SAFETY: readable by the contract of `new`, which refused NULL.
            let room = unsafe { ptr::read_unaligned(self.count) };
            if (items.len() as CK_ULONG) <= room {
                for (i, item) in items.iter().enumerate() {
                    // SAFETY: `i` is below the count that the caller has room for.
                    unsafe { ptr::write_unaligned(self.at.add(i), *item) };
                }
            } else {
                outcome = Err(Error::BufferTooSmall);
            }
        }
        // SAFETY: writable by the contract of `new`, which refused NULL.
        unsafe { ptr::write_unaligned(self.count, items.len() as CK_ULONG) };
        outcome
    }

    /// Whether the caller only asks for the count.
    pub(super) fn is_query(&self) -> bool {
        self.at.is_null()
    }
}

/// Where C_FindObjects puts handles: an array and how many of it are filled. PKCS#11 3.2 §5.7.8.
pub(super) struct Handles {
    at: *mut CK_OBJECT_HANDLE,
    room: usize,
    count: *mut CK_ULONG,
}

impl Handles {
    /// # Errors
    /// [`Error::ArgumentsBad`] if there is no place for the handles or their count.
    ///
    /// # Safety
    /// Until the C_ function returns, `at` is NULL or writable for `room` handles, and `count` is
    /// NULL or writable.
    pub(super) unsafe fn new(
        at: *mut CK_OBJECT_HANDLE,
        room: CK_ULONG,
        count: *mut CK_ULONG,
    ) -> Result<Self> {
        if count.is_null() || (at.is_null() && room > 0) {
            return Err(Error::ArgumentsBad("phObject or pulObjectCount is NULL"));
        }
        // Far more than any search finds at once: a huge count is no mistake, for nothing beyond
        // what was found is ever written.
        let room = usize::try_from(room).unwrap_or(HANDLES_LIMIT).min(HANDLES_LIMIT);
        Ok(Self { at, room, count })
    }

    /// How many handles there is room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Writes the handles; never more than there is room for.
    pub(super) fn put(self, handles: &[u64]) {
        let handles = handles.get(..self.room).unwrap_or(handles);
        for (i, handle) in handles.iter().enumerate() {
            // SAFETY: `i` is below the room that the caller has.
            unsafe { ptr::write_unaligned(self.at.add(i), *handle as CK_OBJECT_HANDLE) };
        }
        // SAFETY: writable by the contract of `new`, which refused NULL.
        unsafe { ptr::write_unaligned(self.count, handles.len() as CK_ULONG) };
    }
}

/// A buffer that the caller wants filled to its end. PKCS#11 3.2 §5.19.2.
pub(super) struct Fill {
    at: *mut u8,
    length: usize,
}

impl Fill {
    /// # Errors
    /// [`Error::ArgumentsBad`] for NULL with a length, and for more than `limit` bytes.
    ///
    /// # Safety
    /// Until the C_ function returns, `at` is NULL or writable for `length` bytes.
    pub(super) unsafe fn new(at: *mut CK_BYTE, length: CK_ULONG, limit: usize) -> Result<Self> {
        if at.is_null() && length != 0 {
            return Err(Error::ArgumentsBad("the buffer is NULL"));
        }
        match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(Self { at, length }),
            _ => Err(Error::ArgumentsBad("more bytes than one call gives")),
        }
    }

    /// How many bytes are wanted.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// [`Error::Bug`] if these are not as many bytes as wanted.
    pub(super) fn put(self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.length {
            return Err(Error::Bug("not as many bytes as were wanted"));
        }
        if !bytes.is_empty() {
            // SAFETY: writable for `length` bytes by the contract of `new`, and not NULL.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at, bytes.len()) };
        }
        Ok(())
    }
}

/// The caller's array of CK_ATTRIBUTE, to read values from or to fill with values.
pub(super) struct Template {
    at: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
}

impl Template {
    /// # Safety
    /// Until the C_ function returns, `at` is NULL or readable (for C_GetAttributeValue writable)
    /// for `count` attributes, and each one's `pValue` is NULL or readable (writable) for
    /// `ulValueLen` bytes; so are the attributes in a value that is itself a template.
    pub(super) unsafe fn new(at: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Self {
        Self { at, count }
    }

    /// The attributes' descriptors, copied.
    fn entries(&self) -> Result<Vec<CK_ATTRIBUTE>> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        if self.at.is_null() {
            return Err(Error::ArgumentsBad("pTemplate is NULL"));
        }
        let count = match usize::try_from(self.count) {
            Ok(count) if count <= TEMPLATE_COUNT => count,
            _ => return Err(Error::ArgumentsBad("more than 1,024 attributes in a template")),
        };
        // SAFETY: readable for `count` attributes by the contract of `new`.
        Ok((0..count).map(|i| unsafe { ptr::read_unaligned(self.at.add(i)) }).collect())
    }

    /// Types and values in the caller's order and the library's encoding: what to make, change or
    /// copy an object with.
    ///
    /// # Errors
    /// [`Error::ArgumentsBad`] for NULL or too many, [`Error::AttributeValueInvalid`] for a value
    /// that is too long, NULL with a length, or of a length that its type cannot have.
    pub(super) fn read(&self) -> Result<object::Template> {
        self.convert(&mut TEMPLATE_LIMIT.clone(), |id, _| {
            Err(Error::AttributeValueInvalid(id, "its type has another length"))
        })
    }

    /// The same for a search: there a value of an impossible length is no mistake, it matches
    /// nothing, so it is handed on as it is (no value in the library's encoding is equal to it).
    ///
    /// # Errors
    /// As [`Template::read`], but for the length.
    pub(super) fn read_search(&self) -> Result<object::Template> {
        self.convert(&mut TEMPLATE_LIMIT.clone(), |_, value| {
            let mut nothing = vec![0xff];
            nothing.extend_from_slice(value);
            Ok(nothing)
        })
    }

    /// Reads all values, `left` bytes at most; `odd` decides on one that its type cannot have.
    fn convert(
        &self,
        left: &mut usize,
        odd: fn(u64, &[u8]) -> Result<Vec<u8>>,
    ) -> Result<object::Template> {
        let mut template = object::Template::new();
        for entry in self.entries()? {
            let id = wide(entry.type_);
            if entry.pValue.is_null() && entry.ulValueLen != 0 {
                return Err(Error::AttributeValueInvalid(id, "pValue is NULL"));
            }
            // SAFETY: readable for `ulValueLen` bytes by the contract of `new`.
            let input = unsafe { Input::new("pValue", entry.pValue.cast(), entry.ulValueLen) };
            let value = input.at_most(
                VALUE_LIMIT.min(*left),
                Error::AttributeValueInvalid(id, "the value is too long"),
            )?;
            *left -= value.len();
            let kind = rules::kind(id);
            let value = if kind == Kind::Template {
                // SAFETY: the contract of `new` speaks of nested templates, too.
                match unsafe { self.nested(&entry, left) } {
                    Some(value) => value?,
                    None => odd(id, &value)?,
                }
            } else {
                kind.from_native(&value).map_or_else(|| odd(id, &value), Ok)?
            };
            template.push(id, value);
        }
        Ok(template)
    }

    /// A value that is a template (CKA_WRAP_TEMPLATE and its kind), whose attributes cannot be
    /// templates again. `None` if it is no whole number of attributes.
    ///
    /// # Safety
    /// The contract of [`Template::new`] for the entry's value.
    unsafe fn nested(&self, entry: &CK_ATTRIBUTE, left: &mut usize) -> Option<Result<Vec<u8>>> {
        const SIZE: CK_ULONG = size_of::<CK_ATTRIBUTE>() as CK_ULONG;
        if entry.ulValueLen % SIZE != 0 {
            return None;
        }
        // SAFETY: this function's own contract.
        let inner = unsafe { Template::new(entry.pValue.cast(), entry.ulValueLen / SIZE) };
        let has_template = |entries: Vec<CK_ATTRIBUTE>| {
            entries.iter().any(|inner| rules::kind(wide(inner.type_)) == Kind::Template)
        };
        Some(inner.entries().and_then(|entries| {
            if has_template(entries) {
                return Err(Error::AttributeValueInvalid(
                    wide(entry.type_),
                    "a template inside a template inside a template",
                ));
            }
            let odd =
                |id, _: &[u8]| Err(Error::AttributeValueInvalid(id, "its type has another length"));
            Ok(inner.convert(left, odd)?.to_bytes())
        }))
    }

    /// What C_GetAttributeValue is asked for.
    ///
    /// # Errors
    /// [`Error::ArgumentsBad`] for NULL or too many.
    pub(super) fn wanted(&self) -> Result<Wanted> {
        Ok(Wanted { at: self.at, entries: self.entries()? })
    }
}

/// The attributes that C_GetAttributeValue is asked for, as they were when the call came.
pub(super) struct Wanted {
    at: *mut CK_ATTRIBUTE,
    entries: Vec<CK_ATTRIBUTE>,
}

impl Wanted {
    /// Their types.
    pub(super) fn types(&self) -> Vec<u64> {
        self.entries.iter().map(|entry| wide(entry.type_)).collect()
    }

    /// Answers all of them, in the order of [`Wanted::types`]: with a value in the library's
    /// encoding, or why there is none. One that cannot be had never spoils the others.
    /// PKCS#11 3.2 §5.7.5.
    ///
    /// # Errors
    /// The first reason why an attribute was not answered.
    pub(super) fn answer(&self, values: Vec<Result<Zeroizing<Vec<u8>>>>) -> Result<()> {
        let mut outcome = Ok(());
        for (index, (entry, value)) in self.entries.iter().zip(values).enumerate() {
            let kind = rules::kind(wide(entry.type_));
            let (length, answered) = match value {
                Err(error) => (CK_UNAVAILABLE_INFORMATION, Err(error)),
                // SAFETY: the contract of `Template::new` for this entry's value.
                Ok(value) if kind == Kind::Template => unsafe { answer_nested(entry, &value) },
                Ok(value) => {
                    let value = Zeroizing::new(kind.to_native(&value));
                    // SAFETY: the contract of `Template::new` for this entry's value.
                    unsafe { answer_one(entry, &value) }
                }
            };
            // SAFETY: `index` is below the number of attributes, writable by the contract of
            // `Template::new`; `&raw mut` makes a pointer to the field without a reference.
            unsafe { ptr::write_unaligned(&raw mut (*self.at.add(index)).ulValueLen, length) };
            outcome = outcome.and(answered);
        }
        outcome
    }
}

/// Copies a value to where the caller wants it; the length to tell, and whether there was room.
///
/// # Safety
/// `pValue` is NULL or writable for `ulValueLen` bytes.
unsafe fn answer_one(entry: &CK_ATTRIBUTE, value: &[u8]) -> (CK_ULONG, Result<()>) {
    let length = value.len() as CK_ULONG;
    if entry.pValue.is_null() {
        return (length, Ok(()));
    }
    if length > entry.ulValueLen {
        return (CK_UNAVAILABLE_INFORMATION, Err(Error::BufferTooSmall));
    }
    // SAFETY: writable for `ulValueLen` bytes by this function's contract; `value` is our own.
    unsafe { ptr::copy_nonoverlapping(value.as_ptr(), entry.pValue.cast(), value.len()) };
    (length, Ok(()))
}

/// The same for a value that is a template: fills the caller's array of attributes.
///
/// # Safety
/// `pValue` is NULL or holds attributes for `ulValueLen` bytes, each with a `pValue` that is NULL
/// or writable for its `ulValueLen` bytes.
unsafe fn answer_nested(entry: &CK_ATTRIBUTE, value: &[u8]) -> (CK_ULONG, Result<()>) {
    let Some(template) = object::Template::from_bytes(value) else {
        return (CK_UNAVAILABLE_INFORMATION, Err(Error::Bug("a kept template is not one")));
    };
    let length = (template.len() * size_of::<CK_ATTRIBUTE>()) as CK_ULONG;
    if entry.pValue.is_null() {
        return (length, Ok(()));
    }
    if length > entry.ulValueLen {
        return (CK_UNAVAILABLE_INFORMATION, Err(Error::BufferTooSmall));
    }
    let at = entry.pValue.cast::<CK_ATTRIBUTE>();
    let mut outcome = Ok(());
    for (index, (id, value)) in template.iter().enumerate() {
        // SAFETY: `index` is below the number of attributes that there is room for.
        let place = unsafe { at.add(index) };
        // SAFETY: the same; readable and writable by this function's contract.
        let inner = unsafe { ptr::read_unaligned(place) };
        let value = rules::kind(id).to_native(value);
        // SAFETY: this function's own contract for the inner value.
        let (length, answered) = unsafe { answer_one(&inner, &value) };
        let type_ = id as CK_ATTRIBUTE_TYPE;
        // SAFETY: writable by this function's contract.
        unsafe {
            ptr::write_unaligned(place, CK_ATTRIBUTE { type_, ulValueLen: length, ..inner });
        }
        outcome = outcome.and(answered);
    }
    (length, outcome)
}

/// A CK_ULONG as the library's own 64 bits.
#[allow(clippy::useless_conversion)] // CK_ULONG has 32 bits on 32-bit hosts
pub(super) fn wide(number: CK_ULONG) -> u64 {
    number.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_may_be_the_same_memory() {
        let mut memory = *b"attack at dawn!!";
        let mut length = 16;
        // SAFETY: 16 bytes, readable and writable; and a length.
        let (input, output) = unsafe {
            (
                Input::new("pData", memory.as_ptr(), 16),
                Output::new(memory.as_mut_ptr(), &mut length),
            )
        };
        let data = input.data().unwrap();
        assert_eq!(output.room().unwrap(), Room::Bytes(16));
        let reversed: Vec<u8> = data.iter().rev().copied().take(15).collect();
        output.put(Answer::Done(Zeroizing::new(reversed))).unwrap();
        assert_eq!(&memory, b"!!nwad ta kcatt!");
        assert_eq!(length, 15);
    }

    #[test]
    fn nothing_is_written_where_there_is_too_little_room_but_the_length() {
        let mut memory = [0xA5; 4];
        let mut length = 4;
        // SAFETY: four bytes and a length.
        let output = unsafe { Output::new(memory.as_mut_ptr(), &mut length) };
        assert_eq!(output.put(Answer::TooSmall(5)), Err(Error::BufferTooSmall));
        assert_eq!((memory, length), ([0xA5; 4], 5));
        length = 4;
        // SAFETY: as above.
        let output = unsafe { Output::new(memory.as_mut_ptr(), &mut length) };
        let longer = Answer::Done(Zeroizing::new(vec![0; 5]));
        assert!(matches!(output.put(longer), Err(Error::Bug(_))));
        assert_eq!((memory, length), ([0xA5; 4], 4));
    }

    #[test]
    fn a_misaligned_template_of_unaligned_values_is_read() {
        let class = CKO_DATA.to_ne_bytes();
        let mut value = [0; 9];
        value[1..].copy_from_slice(&class);
        let attribute = CK_ATTRIBUTE {
            type_: CKA_CLASS,
            pValue: value[1..].as_mut_ptr().cast(),
            ulValueLen: 8,
        };
        let mut room = [0u8; size_of::<CK_ATTRIBUTE>() + 1];
        let at = room[1..].as_mut_ptr().cast::<CK_ATTRIBUTE>();
        // SAFETY: as many bytes as an attribute has.
        unsafe { at.write_unaligned(attribute) };
        // SAFETY: one attribute with a readable value.
        let template = unsafe { Template::new(at, 1) }.read().unwrap();
        assert_eq!(template.ulong(CKA_CLASS), Some(CKO_DATA));
    }

    #[test]
    fn a_template_in_a_template_is_copied_but_no_deeper_one() {
        let mut yes = CK_TRUE;
        let mut inner =
            CK_ATTRIBUTE { type_: CKA_SENSITIVE, pValue: (&raw mut yes).cast(), ulValueLen: 1 };
        let mut outer = CK_ATTRIBUTE {
            type_: CKA_WRAP_TEMPLATE,
            pValue: (&raw mut inner).cast(),
            ulValueLen: size_of::<CK_ATTRIBUTE>() as CK_ULONG,
        };
        // SAFETY: one attribute, whose value is one attribute, whose value is one byte.
        let template = unsafe { Template::new(&mut outer, 1) }.read().unwrap();
        let inside =
            object::Template::from_bytes(template.get(CKA_WRAP_TEMPLATE).unwrap()).unwrap();
        assert_eq!(inside.bool(CKA_SENSITIVE), Some(true));

        let mut deep = CK_ATTRIBUTE { type_: CKA_UNWRAP_TEMPLATE, ..inner };
        outer.pValue = (&raw mut deep).cast();
        // SAFETY: as above; the deepest is refused before it is read.
        let deeper = unsafe { Template::new(&mut outer, 1) }.read();
        assert!(matches!(deeper, Err(Error::AttributeValueInvalid(..))));
    }

    #[test]
    fn in_a_search_a_value_of_an_impossible_length_is_no_mistake() {
        let mut short = [0; 4];
        let mut attribute =
            CK_ATTRIBUTE { type_: CKA_CLASS, pValue: short.as_mut_ptr().cast(), ulValueLen: 4 };
        // SAFETY: one attribute with four bytes.
        let template = unsafe { Template::new(&mut attribute, 1) };
        assert!(matches!(template.read(), Err(Error::AttributeValueInvalid(..))));
        assert_eq!(template.read_search().unwrap().get(CKA_CLASS).unwrap().len(), 5);
    }
}
