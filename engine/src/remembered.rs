//! Good signatures under certificates, remembered.
//!
//! A bundle's one signature stands in the certificates of all blocks that it has votes for: a dozen and more under load, in
//! several tables. A validator that catches up would check each of them as often, one by one, and that is most of its work:
//! it would be slower than the others are at adding blocks.

use std::{cell::RefCell, rc::Rc};

use ahash::RandomState;
use dag::{
    Hash,
    keys::{Signature, Verify, VerifyFn},
};
use shard_core::sigbatch::{KnownKeys, Signed};

/// Signatures that are remembered, at most: tables don't catch up in step. About 0.5 MB.
const REMEMBERED: usize = 4096;

/// A signature that was good.
#[derive(Clone, PartialEq, Eq)]
struct Good {
    key: [u8; 32],
    message: Hash,
    signature: Signature,
}

/// `rule`, which is not asked about signatures that the tables of `known` keys accept, nor again about good ones that are
/// remembered. Nothing but its speed differs.
pub fn remembering(rule: VerifyFn, known: Rc<KnownKeys>) -> Rc<Verify> {
    let good: RefCell<Vec<Option<Good>>> = RefCell::new(Vec::new());
    // Random: else a faulty validator might choose signatures that fall on one place.
    let places = RandomState::new();
    Rc::new(move |key: &[u8; 32], message: &[u8], signature: &Signature| {
        // All that votes and view changes sign are hashes.
        let Ok(digest) = <[u8; 32]>::try_from(message) else { return rule(key, message, signature) };
        let asked = Good { key: *key, message: Hash(digest), signature: *signature };
        let mut good = good.borrow_mut();
        if good.is_empty() {
            good.resize(REMEMBERED, None);
        }
        let place = usize::try_from(places.hash_one(signature) % REMEMBERED as u64).expect("a few thousand");
        let place = &mut good[place];
        if place.as_ref() == Some(&asked) {
            return true;
        }
        let valid = (!known.is_empty() && known.accept([Signed { key, message, signature }])[0])
            || rule(key, message, signature);
        if valid {
            *place = Some(asked);
        }
        valid
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use dag::keys::KeyPair;
    use shard_core::sigbatch::Backend;

    use super::*;

    thread_local! {
        static ASKED: Cell<u32> = const { Cell::new(0) };
    }

    fn counted(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        ASKED.set(ASKED.get() + 1);
        shard_core::sigbatch::verify(key, message, signature)
    }

    fn known(keys: &[[u8; 32]]) -> Rc<KnownKeys> {
        Rc::new(KnownKeys::with_backend(Backend::best(), keys))
    }

    #[test]
    fn signatures_of_known_keys_need_no_rule() {
        let (key, other) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let verify = remembering(|_, _, _| false, known(&[key.public()]));
        let message = dag::hash::Domain::VOTE.hash(b"a vote");
        assert!(verify(&key.public(), message.as_bytes(), &key.sign(&message)));
        assert!(!verify(&key.public(), message.as_bytes(), &other.sign(&message)));
        assert!(!verify(&other.public(), message.as_bytes(), &other.sign(&message)));
    }

    #[test]
    fn a_good_signature_is_judged_once_and_nothing_else_passes_for_it() {
        let (key, other) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let verify = remembering(counted, known(&[]));
        let message = dag::hash::Domain::VOTE.hash(b"a vote");
        let signature = key.sign(&message);
        for _ in 0..3 {
            assert!(verify(&key.public(), message.as_bytes(), &signature));
        }
        assert_eq!(ASKED.replace(0), 1);
        let mut forged = signature;
        forged[40] ^= 1;
        for _ in 0..2 {
            assert!(!verify(&other.public(), message.as_bytes(), &signature));
            assert!(!verify(&key.public(), dag::hash::Domain::VOTE.hash(b"another").as_bytes(), &signature));
            assert!(!verify(&key.public(), message.as_bytes(), &forged));
            assert!(!verify(&key.public(), b"no hash", &signature));
        }
        assert_eq!(ASKED.replace(0), 8, "bad ones are judged each time");
        assert!(verify(&key.public(), message.as_bytes(), &signature));
        assert_eq!(ASKED.get(), 0, "and push no good one out");
    }

    #[test]
    fn more_good_ones_than_are_remembered_stay_good() {
        let verify =
            remembering(|key, message, signature| key[0] == message[0] && signature[0] == 7, known(&[]));
        for round in 0..2u8 {
            for i in 0..3 * REMEMBERED {
                let mut signature = [7; 64];
                signature[1..9].copy_from_slice(&i.to_le_bytes());
                assert!(
                    verify(&[1; 32], &[1; 32], &signature) && !verify(&[round + 2; 32], &[1; 32], &signature)
                );
            }
        }
    }
}
