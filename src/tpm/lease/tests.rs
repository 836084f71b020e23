//! The lease against a real TPM: what it costs, what stays behind, what it survives.

use super::super::testing::Swtpm;
use super::*;
use crate::crypto::ec::Curve;
use crate::tpm::key::{PublicKey, public_key};
use crate::tpm::keys::Signed;
use crate::tpm::{HashAlgorithm, KeySpec, KeyUse};

fn spec() -> KeySpec {
    KeySpec {
        usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: true },
        extractable: false,
        always_authenticate: None,
    }
}

pub(in crate::tpm) fn key(tpm: &Tpm, srk: &Arc<Name>, id: u8) -> Key {
    let authorization = [id; 32];
    let new = tpm.create(&tpm.call(), srk, &spec(), &authorization).unwrap();
    let blob = KeyBlob {
        id: [id; 16],
        public: new.public,
        private: new.private,
        authorization: Zeroizing::new(authorization),
    };
    Key { blob: Arc::new(blob), srk: srk.clone(), grant: None }
}

pub(in crate::tpm) fn sign(tpm: &Tpm, key: &Key) -> Result<(), Fault> {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    let digest = [7; 32];
    let Signed { r, s, .. } = tpm.sign(&tpm.call(), key, HashAlgorithm::Sha256, &digest)?;
    let Ok((_, PublicKey::Ec { x, y, .. })) = public_key(&key.blob.public) else {
        panic!("an EC key");
    };
    let point = [&[4][..], &x, &y].concat();
    let verifier = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).unwrap();
    let signature = p256::ecdsa::Signature::from_slice(&[r, s].concat()).unwrap();
    verifier.verify_prehash(&digest, &signature).unwrap();
    Ok(())
}

const SIGN: u32 = 0x15D;

#[test]
fn a_warm_signature_is_one_command_and_nothing_stays_loaded() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    tpm.end();
    swtpm.take_record();

    sign(&tpm, &key).unwrap();
    assert_eq!(swtpm.take_record(), [0x173, 0x176, 0x157, SIGN]);
    for _ in 0..3 {
        sign(&tpm, &key).unwrap();
        assert_eq!(swtpm.take_record(), [SIGN]);
    }
    tpm.end();
    assert_eq!(swtpm.take_record(), [0x165, 0x165]);
    assert!(swtpm.handles().is_empty());
}

#[test]
fn sixteen_keys_in_turn_cost_three_commands_a_signature() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let keys: Vec<Key> = (0..16).map(|id| key(&tpm, &srk, id)).collect();
    for key in keys.iter().chain(&keys) {
        sign(&tpm, key).unwrap();
    }
    swtpm.take_record();
    for key in &keys {
        sign(&tpm, key).unwrap();
    }
    let record = swtpm.take_record();
    // A hand-over to programs that do not know the queue may have fallen in between.
    assert!(record.len() <= 3 * 16 + 4, "{record:x?}");
    tpm.end();
    assert!(swtpm.handles().is_empty());
}

#[test]
fn a_killed_and_restarted_tpm_costs_nobody_anything() {
    let mut swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let keys: Vec<Key> = (0..4).map(|id| key(&tpm, &srk, id)).collect();
    for flags in ["not-need-init,startup-clear", "not-need-init"] {
        for key in keys.iter().chain(&keys) {
            sign(&tpm, key).unwrap();
        }
        swtpm.power_off();
        swtpm.power_on(flags);
        for key in &keys {
            sign(&tpm, key).unwrap();
        }
    }
    swtpm.power_off();
    swtpm.power_on("not-need-init");
    key(&tpm, &srk, 9);
    swtpm.power_off();
    swtpm.power_on("not-need-init");
    assert_eq!(tpm.srk_name(&tpm.call()).unwrap(), *srk);
}

#[test]
fn the_reaper_ends_an_idle_lease() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    sign(&tpm, &key).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(swtpm.handles().is_empty());
    sign(&tpm, &key).unwrap();
}

#[test]
fn without_a_reaper_the_lease_ends_with_the_call() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm_with(Settings { reaper: false, ..swtpm.settings() });
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    sign(&tpm, &key).unwrap();
    assert!(swtpm.handles().is_empty());
    assert!(tpm.reaper.lock().unwrap().is_none());
}

#[test]
fn eight_instances_share_a_bare_tpm() {
    let swtpm = Swtpm::start();
    let first = swtpm.tpm();
    let srk = Arc::new(first.srk_name(&first.call()).unwrap());
    let keys: Vec<Key> = (0..3).map(|id| key(&first, &srk, id)).collect();
    let longest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let tpm = swtpm.tpm();
                    let mut longest = Duration::ZERO;
                    for turn in 0..30 {
                        let begun = Instant::now();
                        sign(&tpm, &keys[turn % 3]).unwrap();
                        longest = longest.max(begun.elapsed());
                    }
                    longest
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
    });
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    first.end();
    assert!(swtpm.handles().is_empty());
}

#[test]
fn eight_threads_sign_at_once() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let keys: Vec<Key> = (0..5).map(|id| key(&tpm, &srk, id)).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (tpm, keys) = (&tpm, &keys);
            scope.spawn(move || {
                for turn in 0..10 {
                    sign(tpm, &keys[(thread + turn) % 5]).unwrap();
                }
            });
        }
    });
}

#[test]
fn leftovers_of_a_killed_process_are_flushed_and_ours_goes_on() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    tpm.end();
    // A process that dies with three keys and three sessions loaded.
    let dying = swtpm.tpm();
    let load = crate::tpm::command::Load {
        parent: &Entity::new(0x8100_0001, (*srk).clone()),
        public: &key.blob.public,
        private: &key.blob.private,
    };
    dying
        .with(&dying.call(), None, |lease| {
            for _ in 0..2 {
                lease.execute(&load, &mut [Auth::password(&[])])?;
                HmacSession::unsalted(lease.link(), &dying.call())?;
            }
            HmacSession::unsalted(lease.link(), &dying.call())?;
            for handle in lease.connection.link.held().to_vec() {
                lease.connection.link.forget(handle);
            }
            Ok(())
        })
        .unwrap();
    dying.end();
    let stuck = swtpm.handles();
    assert_eq!(stuck.len(), 5, "{stuck:x?}");
    let waiting = swtpm.tpm_with(Settings { raw_leftovers: Leftovers::Wait, ..swtpm.settings() });
    assert!(sign(&waiting, &key).is_err());
    waiting.end();
    sign(&tpm, &key).unwrap();
    tpm.end();
    assert!(swtpm.handles().is_empty());
}

#[test]
fn beside_a_strangers_object_one_slot_less_is_used() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let keys: Vec<Key> = (0..3).map(|id| key(&tpm, &srk, id)).collect();
    tpm.with(&tpm.call(), None, |lease| {
        let load = crate::tpm::command::Load {
            parent: &Entity::new(0x8100_0001, (*srk).clone()),
            public: &keys[0].blob.public,
            private: &keys[0].blob.private,
        };
        let loaded = lease.execute(&load, &mut [Auth::password(&[])])?;
        lease.connection.link.forget(loaded.handle);
        Ok(())
    })
    .unwrap();
    tpm.end();
    for key in keys.iter().chain(&keys) {
        sign(&tpm, key).unwrap();
    }
    swtpm.take_record();
    for key in &keys {
        sign(&tpm, key).unwrap();
    }
    assert!(swtpm.take_record().len() <= 3 * keys.len() + 4);
    tpm.end();
    assert_eq!(swtpm.handles().len(), 1, "the stranger's stays: it was in nobody's way");
}

#[test]
fn another_tpm_is_foreign_before_anything_is_loaded() {
    let (swtpm, other) = (Swtpm::start(), Swtpm::start());
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    let stranger = other.tpm();
    let fault = sign(&stranger, &key).unwrap_err();
    assert_eq!(*fault.kind(), Trouble::ForeignTpm);
    stranger.end();
    assert!(other.handles().is_empty());
    assert!(!other.take_record().contains(&0x157));
}

#[test]
fn an_evicted_root_is_made_again_with_the_same_name() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
    let key = key(&tpm, &srk, 1);
    tpm.with(&tpm.call(), Some(&srk), |lease| {
        let root = Entity::from(&lease.srk()?);
        let owner = Entity::permanent(0x4000_0001);
        let evict = crate::tpm::command::EvictControl {
            owner: &owner,
            object: &root,
            persistent: root.handle,
        };
        lease.execute(&evict, &mut [Auth::password(&[])])
    })
    .unwrap();
    tpm.end();
    sign(&tpm, &key).unwrap();
}

#[test]
fn a_canceled_call_ends_at_once_and_the_next_one_works() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let srk = tpm.srk_name(&tpm.call()).unwrap();
    let call = tpm.call();
    call.cancel.store(true, Ordering::Relaxed);
    assert!(tpm.random(&call, Some(&srk), 16).is_err());
    assert_eq!(tpm.random(&tpm.call(), Some(&srk), 16).unwrap().len(), 16);
}

#[test]
fn an_absent_tpm_is_told_soon_and_then_at_once() {
    let settings = Settings { tcti: "swtpm:path=/nowhere/at/all".into(), ..Settings::default() };
    let tpm = Tpm::new(settings, None, Box::new(|_| false));
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(tpm.srk_name(&tpm.call()).is_err());
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    let begun = Instant::now();
    assert!(tpm.srk_name(&tpm.call()).is_err());
    assert!(begun.elapsed() < Duration::from_millis(50));
}

#[test]
fn facts_are_those_of_swtpm_and_asked_once() {
    let swtpm = Swtpm::start();
    let tpm = swtpm.tpm();
    let facts = tpm.facts(&tpm.call()).unwrap();
    assert_eq!(facts.maker, "IBM");
    assert!(facts.is_firmware());
    assert!(facts.rsa_bits.contains(&2048));
    assert!(facts.curves.contains(&Curve::P256));
    assert!(facts.hashes.contains(&HashAlgorithm::Sha256));
    assert!(facts.has_command(SIGN) && !facts.has_command(0x1FF));
    assert_eq!(facts.input_buffer, 1024);
    assert!(facts.aes_bits.contains(&128) && facts.aes_bits.contains(&256));
    assert!(facts.pin_indices);
    swtpm.take_record();
    assert_eq!(tpm.facts(&tpm.call()).unwrap(), facts);
    assert!(swtpm.take_record().is_empty());
}
