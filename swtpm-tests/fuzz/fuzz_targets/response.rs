//! A TPM that answers anything, and bytes of the store that were anything before.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tpm11::tpm::command::{GetRandom, ReadPublic};
use tpm11::tpm::execute::execute;
use tpm11::tpm::facts::Facts;
use tpm11::tpm::key::{name_of, public_key};
use tpm11::tpm::pin::Gate;
use tpm11::tpm::session::HmacSession;
use tpm11::tpm::transport::Transport;
use tpm11::tpm::{Call, Fault};

/// Answers with the input, piece by piece, then with nothing.
struct Liar<'a>(std::slice::Chunks<'a, u8>);

impl Transport for Liar<'_> {
    fn transmit(&mut self, _: &[u8], _: &Call, _: Duration) -> Result<Vec<u8>, Fault> {
        Ok(self.0.next().unwrap_or_default().to_vec())
    }

    fn leak(self: Box<Self>) {}
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, answers)) = bytes.split_first() else { return };
    // Short, so that an answer that asks to wait costs no time.
    let call = Call::within(Duration::from_millis(1));
    let mut liar = Liar(answers.chunks(usize::from(size) + 10));
    let _ = execute(&mut liar, &ReadPublic { handle: 0x8100_0001 }, &mut [], &call);
    let _ = execute(&mut liar, &GetRandom { bytes: 32 }, &mut [], &call);
    let _ = HmacSession::unsalted(&mut liar, &call);
    let _ = public_key(answers);
    let _ = name_of(answers);
    if let Some(facts) = Facts::from_bytes(answers) {
        assert_eq!(Facts::from_bytes(&facts.to_bytes()), Some(facts));
    }
    let _ = Gate::from_bytes(answers);
});
