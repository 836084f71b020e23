//! Does the time of what happens to RSA plaintexts in the host depend on them? Two classes of input
//! in random order, the slowest fifth left out, Welch's t of the two means (Reparaz, Balasch,
//! Verbauwhede: "Dude, is my code constant time?"). |t| above 4.5 would be a finding. Reported, not
//! enforced: a busy machine has its own opinions.

use std::hint::black_box;
use std::time::Instant;

use tpm11::crypto::hash::Hash;
use tpm11::crypto::pad;
use tpm11::crypto::rsa::PublicKey;

/// Times `run(0)` and `run(1)` in random order.
fn compare(what: &str, rounds: usize, run: impl Fn(usize)) {
    let mut times = [Vec::new(), Vec::new()];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..rounds + rounds / 10 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let class = (random >> 20 & 1) as usize;
        let start = Instant::now();
        run(class);
        let time = start.elapsed().as_nanos() as f64;
        // The first tenth warms up.
        if round >= rounds / 10 {
            times[class].push(time);
        }
    }
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let cut = all[all.len() * 8 / 10];
    let [a, b] = times.map(|times| {
        let times: Vec<f64> = times.into_iter().filter(|time| *time <= cut).collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
        (mean, variance / count)
    });
    let t = (a.0 - b.0) / (a.1 + b.1).sqrt();
    println!("{what:<46} {:>8.0} ns {:>8.0} ns  ratio {:.5}  t {t:+.2}", a.0, b.0, a.0 / b.0);
}

fn main() {
    const K: usize = 256;
    let (secret, ciphertext) = ([7; 32], [0x42; K]);

    let invalid = vec![0x99; K];
    // A valid plaintext as long as the answer to the invalid one, for the length is no secret.
    let length = pad::pkcs1_encryption_open(&invalid, &ciphertext, &secret).len();
    let valid = pad::pkcs1_encryption(&vec![0x11; length], K).expect("fits").to_vec();
    let open = |encoded: &[u8]| {
        black_box(pad::pkcs1_encryption_open(black_box(encoded), &ciphertext, &secret));
    };
    let classes = [valid.clone(), invalid];
    compare("PKCS#1 v1.5: valid, invalid", 200_000, |class| open(&classes[class]));

    let mut first_byte = valid.clone();
    first_byte[0] = 1;
    let mut no_separator = valid;
    no_separator[2..].iter_mut().for_each(|byte| *byte |= 1);
    let classes = [first_byte, no_separator];
    compare("PKCS#1 v1.5: wrong first byte, no separator", 200_000, |class| open(&classes[class]));

    let good = pad::oaep(Hash::Sha256, Hash::Sha256, b"", b"secret", K).expect("fits").to_vec();
    let changed = |at: usize| {
        let mut changed = good.clone();
        changed[at] ^= 1;
        changed
    };
    let classes = [changed(0), changed(40)];
    compare("OAEP: wrong first byte, wrong label", 200_000, |class| {
        let opened = pad::oaep_open(Hash::Sha256, Hash::Sha256, b"", black_box(&classes[class]));
        black_box(opened).expect_err("it is broken");
    });

    let mut modulus = vec![0xc5; K];
    modulus[K - 1] = 0xc3;
    let key = PublicKey::new(&modulus, &[1, 0, 1]).expect("a modulus");
    let mut tiny = vec![0; K];
    tiny[K - 1] = 2;
    let classes = [tiny, vec![0x77; K]];
    compare("check of an RSA result: tiny, any", 30_000, |class| {
        black_box(key.check(&ciphertext, black_box(&classes[class]))).expect_err("it is another's");
    });
}
