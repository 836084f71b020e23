//! An operation in progress, and when it ends. PKCS#11 3.2 §5.2.
//!
//! The operation is moved out to be used and put back only where the specification says that it
//! goes on: on a length query, on a buffer that is too small, and after an update. Every other
//! path, an early `?` included, ends it. No mechanism can get this wrong, for none is asked.

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Where an answer goes: what the caller's output pointers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// No buffer: only the length is asked for.
    Query,
    /// A buffer of so many bytes.
    Bytes(usize),
}

impl Room {
    /// What the caller is told who only asks for the length, or has too little room for so many bytes.
    pub fn lacks(self, need: usize) -> Option<Answer> {
        match self {
            Room::Query => Some(Answer::Length(need)),
            Room::Bytes(room) if room < need => Some(Answer::TooSmall(need)),
            Room::Bytes(_) => None,
        }
    }

    /// Bytes that are there, if they fit.
    pub fn give(self, bytes: Zeroizing<Vec<u8>>) -> Answer {
        self.lacks(bytes.len()).unwrap_or(Answer::Done(bytes))
    }
}

/// What a function with output gives back to the door.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes; they fit the room.
    Done(Zeroizing<Vec<u8>>),
    /// CKR_OK with this length; nothing else happened.
    Length(usize),
    /// CKR_BUFFER_TOO_SMALL with this length; nothing else happened.
    TooSmall(usize),
}

/// The kinds of operations; a session may have one of each in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// C_FindObjectsInit
    Find,
    /// C_EncryptInit
    Encrypt,
    /// C_DecryptInit
    Decrypt,
    /// C_DigestInit
    Digest,
    /// C_SignInit
    Sign,
    /// C_SignRecoverInit
    SignRecover,
    /// C_VerifyInit and C_VerifySignatureInit
    Verify,
    /// C_VerifyRecoverInit
    VerifyRecover,
    /// C_MessageEncryptInit
    MessageEncrypt,
    /// C_MessageDecryptInit
    MessageDecrypt,
}

/// An operation of one kind, or none.
#[derive(Debug)]
pub struct Progress<T>(State<T>);

#[derive(Debug)]
enum State<T> {
    /// No operation is in progress.
    Idle,
    /// Initialised; `parts` says whether an update came.
    Going { work: T, parts: bool },
    /// Finished, but the answer did not fit: it waits for a larger buffer.
    Waiting { output: Zeroizing<Vec<u8>>, part: Part },
}

/// Which function finished.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// C_Xxx with this input.
    Whole(Zeroizing<Vec<u8>>),
    /// C_XxxFinal
    Last,
}

/// How many bytes the output will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Exactly so many.
    Exactly(usize),
    /// So many or fewer: what an unpadding cipher knows beforehand.
    AtMost(usize),
}

impl<T> Default for Progress<T> {
    fn default() -> Self {
        Self(State::Idle)
    }
}

impl<T> Progress<T> {
    /// C_XxxInit: starts an operation unless one is in progress. What is wrong with key and mechanism is
    /// said first.
    ///
    /// # Errors
    /// `OperationActive`; what `make` answers.
    pub fn begin(&mut self, make: impl FnOnce() -> Result<T>) -> Result<()> {
        let work = make()?;
        if self.active() {
            return Err(Error::OperationActive);
        }
        self.0 = State::Going { work, parts: false };
        Ok(())
    }

    /// Whether an operation is in progress.
    pub fn active(&self) -> bool {
        !matches!(self.0, State::Idle)
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.0 = State::Idle;
    }

    /// Ends it if it goes on and this is true of it. A finished answer stays: it is the same bytes again.
    pub fn end_if(&mut self, unwanted: impl FnOnce(&T) -> bool) {
        if matches!(&self.0, State::Going { work, .. } if unwanted(work)) {
            self.end();
        }
    }

    /// The operation, to look at.
    pub fn peek(&mut self) -> Option<&mut T> {
        match &mut self.0 {
            State::Going { work, .. } => Some(work),
            State::Idle | State::Waiting { .. } => None,
        }
    }

    /// C_XxxUpdate without output: the operation goes on if `update` succeeds.
    ///
    /// # Errors
    /// `OperationNotInitialized`; what `update` answers, and then the operation is over.
    pub fn update<R>(&mut self, update: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let mut work = self.take()?;
        let outcome = update(&mut work)?;
        self.0 = State::Going { work, parts: true };
        Ok(outcome)
    }

    /// C_XxxUpdate with output of at most `need` bytes. Who asks for the length is told one byte at least
    /// (§5.2 lets the answer exceed): told none, clients come back without a buffer, which only asks again.
    ///
    /// # Errors
    /// As [`Progress::update`].
    pub fn update_into(
        &mut self,
        room: Room,
        need: impl FnOnce(&T) -> usize,
        update: impl FnOnce(&mut T) -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer> {
        if let Some(work) = self.peek() {
            let need = need(work);
            match room.lacks(need) {
                Some(Answer::Length(_)) => return Ok(Answer::Length(need.max(1))),
                Some(answer) => return Ok(answer),
                None => {}
            }
        }
        self.update(update).map(Answer::Done)
    }

    /// C_Xxx without output (C_Verify): in one part, so no update may have come before.
    ///
    /// # Errors
    /// `OperationNotInitialized`; what `end` answers.
    pub fn whole<R>(&mut self, end: impl FnOnce(T) -> Result<R>) -> Result<R> {
        self.no_parts()?;
        end(self.take()?)
    }

    /// C_XxxFinal without output (C_VerifyFinal).
    ///
    /// # Errors
    /// `OperationNotInitialized`; what `end` answers.
    pub fn last<R>(&mut self, end: impl FnOnce(T) -> Result<R>) -> Result<R> {
        end(self.take()?)
    }

    /// C_Xxx with output: in one part. The input is compared when a finished answer waits.
    ///
    /// # Errors
    /// `OperationNotInitialized`; what `end` answers.
    pub fn whole_into(
        &mut self,
        data: &[u8],
        room: Room,
        need: impl FnOnce(&T) -> Need,
        end: impl FnOnce(T) -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer> {
        self.no_parts()?;
        self.finish(|| Part::Whole(Zeroizing::new(data.to_vec())), room, need, end)
    }

    /// C_XxxFinal with output.
    ///
    /// # Errors
    /// `OperationNotInitialized`; what `end` answers.
    pub fn last_into(
        &mut self,
        room: Room,
        need: impl FnOnce(&T) -> Need,
        end: impl FnOnce(T) -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer> {
        self.finish(|| Part::Last, room, need, end)
    }

    /// An exact length decides before any work is done. Where only a bound is known, a buffer below it
    /// may still be large enough: the work is done, and an answer that does not fit waits for the next
    /// call, because the chip's work (and a context-specific login) is spent only once.
    fn finish(
        &mut self,
        part: impl FnOnce() -> Part,
        room: Room,
        need: impl FnOnce(&T) -> Need,
        end: impl FnOnce(T) -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer> {
        match std::mem::replace(&mut self.0, State::Idle) {
            State::Idle => Err(Error::OperationNotInitialized),
            State::Waiting { output, part: finished } => {
                if finished != part() {
                    return Err(Error::OperationNotInitialized);
                }
                let Some(answer) = room.lacks(output.len()) else {
                    return Ok(Answer::Done(output));
                };
                self.0 = State::Waiting { output, part: finished };
                Ok(answer)
            }
            State::Going { work, parts } => match (need(&work), room) {
                (Need::Exactly(need) | Need::AtMost(need), Room::Query) => {
                    self.0 = State::Going { work, parts };
                    Ok(Answer::Length(need))
                }
                (Need::Exactly(need) | Need::AtMost(need), Room::Bytes(room)) if room >= need => {
                    end(work).map(Answer::Done)
                }
                (Need::Exactly(need), Room::Bytes(_)) => {
                    self.0 = State::Going { work, parts };
                    Ok(Answer::TooSmall(need))
                }
                (Need::AtMost(_), Room::Bytes(_)) => {
                    let part = part();
                    let output = end(work)?;
                    let Some(answer) = room.lacks(output.len()) else {
                        return Ok(Answer::Done(output));
                    };
                    self.0 = State::Waiting { output, part };
                    Ok(answer)
                }
            },
        }
    }

    /// C_Xxx "cannot be used to terminate a multi-part operation" (§5.8.2 and its like). The attempt
    /// ends it, as every other error does.
    fn no_parts(&mut self) -> Result<()> {
        if matches!(self.0, State::Going { parts: true, .. }) {
            self.end();
            return Err(Error::OperationNotInitialized);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<T> {
        match std::mem::replace(&mut self.0, State::Idle) {
            State::Going { work, .. } => Ok(work),
            State::Idle | State::Waiting { .. } => Err(Error::OperationNotInitialized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn going() -> Progress<Vec<u8>> {
        let mut progress = Progress::default();
        progress.begin(|| Ok(Vec::new())).expect("nothing was in progress");
        progress
    }

    fn double(data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(data.repeat(2)))
    }

    #[test]
    fn a_second_init_is_refused_and_the_first_goes_on() {
        let mut progress = going();
        assert_eq!(progress.begin(|| Ok(vec![1])), Err(Error::OperationActive));
        assert!(progress.active());
    }

    #[test]
    fn a_failed_init_leaves_nothing() {
        let mut progress: Progress<()> = Progress::default();
        assert_eq!(progress.begin(|| Err(Error::KeyInvalid)), Err(Error::KeyInvalid));
        assert!(!progress.active());
    }

    #[test]
    fn a_length_query_and_a_small_buffer_leave_the_operation_as_it_was() {
        let mut progress = going();
        let need = |_: &Vec<u8>| Need::Exactly(4);
        for _ in 0..3 {
            assert_eq!(
                progress.whole_into(b"ab", Room::Query, need, |_| double(b"ab")),
                Ok(Answer::Length(4))
            );
            assert_eq!(
                progress.whole_into(b"ab", Room::Bytes(3), need, |_| panic!("no work is done")),
                Ok(Answer::TooSmall(4))
            );
        }
        assert_eq!(
            progress.whole_into(b"ab", Room::Bytes(4), need, |_| double(b"ab")),
            Ok(Answer::Done(Zeroizing::new(b"abab".to_vec())))
        );
        assert!(!progress.active());
    }

    #[test]
    fn any_error_ends_the_operation() {
        let mut progress = going();
        assert_eq!(
            progress.update(|_| Err::<(), _>(Error::DataLenRange("too long"))),
            Err(Error::DataLenRange("too long"))
        );
        assert!(!progress.active());
        let mut progress = going();
        assert!(
            progress
                .last_into(Room::Bytes(9), |_| Need::Exactly(1), |_| Err(Error::Canceled))
                .is_err()
        );
        assert!(!progress.active());
        assert_eq!(progress.whole(|_| Ok(())), Err(Error::OperationNotInitialized));
    }

    #[test]
    fn updates_go_on_until_the_last() {
        let mut progress = going();
        for part in [b"ab", b"cd"] {
            progress
                .update(|work| {
                    work.extend_from_slice(part);
                    Ok(())
                })
                .expect("in progress");
        }
        assert_eq!(progress.last(Ok), Ok(b"abcd".to_vec()));
        assert!(!progress.active());
    }

    #[test]
    fn one_part_does_not_end_what_began_in_several() {
        let mut progress = going();
        progress.update(|_| Ok(())).expect("in progress");
        assert_eq!(progress.whole(|_| Ok(())), Err(Error::OperationNotInitialized));
        assert!(!progress.active());
    }

    #[test]
    fn an_answer_shorter_than_its_bound_fits_a_shorter_buffer() {
        let mut progress = going();
        assert_eq!(
            progress.whole_into(b"c", Room::Bytes(2), |_| Need::AtMost(256), |_| double(b"c")),
            Ok(Answer::Done(Zeroizing::new(b"cc".to_vec())))
        );
    }

    #[test]
    fn an_answer_that_did_not_fit_waits_and_the_work_is_done_once() {
        let mut progress = going();
        let bound = |_: &Vec<u8>| Need::AtMost(256);
        let again = |_: Vec<u8>| -> Result<Zeroizing<Vec<u8>>> { panic!("done already") };
        assert_eq!(
            progress.whole_into(b"cd", Room::Bytes(2), bound, |_| double(b"cd")),
            Ok(Answer::TooSmall(4))
        );
        assert_eq!(progress.whole_into(b"cd", Room::Query, bound, again), Ok(Answer::Length(4)));
        assert_eq!(
            progress.whole_into(b"cd", Room::Bytes(4), bound, again),
            Ok(Answer::Done(Zeroizing::new(b"cdcd".to_vec())))
        );
        assert!(!progress.active());
    }

    #[test]
    fn a_waiting_answer_is_not_given_for_other_data() {
        let mut progress = going();
        let bound = |_: &Vec<u8>| Need::AtMost(256);
        assert_eq!(
            progress.whole_into(b"cd", Room::Bytes(0), bound, |_| double(b"cd")),
            Ok(Answer::TooSmall(4))
        );
        assert_eq!(
            progress.whole_into(b"xy", Room::Bytes(9), bound, |_| double(b"xy")),
            Err(Error::OperationNotInitialized)
        );
        assert!(!progress.active());
    }

    #[test]
    fn an_update_with_output_asks_for_room_first() {
        let mut progress = going();
        let need = |_: &Vec<u8>| 4;
        assert_eq!(
            progress.update_into(Room::Query, need, |_| double(b"ab")),
            Ok(Answer::Length(4))
        );
        assert_eq!(
            progress.update_into(Room::Bytes(1), need, |_| double(b"ab")),
            Ok(Answer::TooSmall(4))
        );
        assert_eq!(
            progress.update_into(Room::Bytes(5), need, |_| double(b"ab")),
            Ok(Answer::Done(Zeroizing::new(b"abab".to_vec())))
        );
        assert!(progress.active());
    }
}
