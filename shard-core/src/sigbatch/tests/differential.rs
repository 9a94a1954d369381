//! Random signatures, honest and mutated, judged alone, in batches, and by ed25519-zebra: always the same verdict.
//!
//! Every batch runs on all backends. `TOP_SIG_CASES` sets how many (2,000 by default; tools/check wants 20,000, and a long run
//! is `TOP_SIG_CASES=1000000 cargo test --release -p shard-core --lib every_verdict`).

use curve25519_dalek::Scalar;
use curve25519_dalek::constants::EIGHT_TORSION;

use super::{Case, Signer, Source, run};
use crate::sigbatch::{Backend, Batch};

/// l, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Honest,
    TorsionInKey,
    TorsionInR,
    TorsionInBoth,
    TorsionAddedToSignedR,
    FlippedKey,
    FlippedMessage,
    FlippedR,
    FlippedS,
    ShiftedS,
    WrongSigner,
    Noise,
}

const KINDS: [Kind; 12] = [
    Kind::Honest,
    Kind::TorsionInKey,
    Kind::TorsionInR,
    Kind::TorsionInBoth,
    Kind::TorsionAddedToSignedR,
    Kind::FlippedKey,
    Kind::FlippedMessage,
    Kind::FlippedR,
    Kind::FlippedS,
    Kind::ShiftedS,
    Kind::WrongSigner,
    Kind::Noise,
];

/// A signature of `kind`, by one of `signers` so that keys repeat within a group.
fn case(kind: Kind, signers: &[Signer], source: &mut Source) -> Case {
    let free = EIGHT_TORSION[0];
    let signer = &signers[source.below(signers.len())];
    let length = source.below(65);
    let message = source.bytes::<64>()[..length].to_vec();
    let nonce = source.scalar();
    let key_torsion = source.torsion();
    let r_torsion = source.torsion();
    let torsioned = Signer::new(signer.secret, key_torsion);
    let bit = 1 << source.below(8);
    let mut case = match kind {
        Kind::TorsionInKey => torsioned.sign(&message, nonce, free),
        Kind::TorsionInR => signer.sign(&message, nonce, r_torsion),
        Kind::TorsionInBoth => torsioned.sign(&message, nonce, r_torsion),
        _ => signer.sign(&message, nonce, free),
    };
    match kind {
        Kind::TorsionAddedToSignedR => {
            let other = signer.sign(&message, nonce, EIGHT_TORSION[1 + source.below(7)]);
            case.signature[..32].copy_from_slice(&other.signature[..32]);
        }
        Kind::FlippedKey => case.key[source.below(32)] ^= bit,
        Kind::FlippedMessage if length > 0 => case.message[source.below(length)] ^= bit,
        Kind::FlippedR => case.signature[source.below(32)] ^= bit,
        Kind::FlippedS => case.signature[32 + source.below(32)] ^= bit,
        Kind::ShiftedS => add_order(case.signature.last_chunk_mut().expect("s is the second half")),
        Kind::WrongSigner => case.key = Signer::new(source.scalar(), free).key,
        Kind::Noise => case.signature = source.bytes(),
        _ => {}
    }
    case
}

/// s + l, which passes the equation but not the rule.
fn add_order(s: &mut [u8; 32]) {
    let mut carry = 0;
    for (byte, order) in s.iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "s < l, so s + l fits");
}

fn cases_wanted() -> usize {
    std::env::var("TOP_SIG_CASES").map_or(2000, |text| text.parse().expect("TOP_SIG_CASES is a number"))
}

#[test]
fn every_verdict_is_zebras_alone_and_in_any_batch() {
    let mut source = Source::new(4);
    let seed = source.bytes();
    let mut batches: Vec<Batch> =
        Backend::available().map(|backend| Batch::with_backend(backend, 512, seed, 16)).collect();
    let signers: Vec<Signer> = (0..40).map(|_| Signer::new(source.scalar(), EIGHT_TORSION[0])).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut left = cases_wanted();
    while left > 0 {
        let largest = if source.below(4) == 0 { 512 } else { 60 };
        let size = (1 + source.below(largest)).min(left);
        // From groups that are all good to groups that are mostly bad.
        let honest_in_ten = source.below(12);
        let cases: Vec<Case> = (0..size)
            .map(|_| {
                let kind = if source.below(10) < honest_in_ten { KINDS[0] } else { KINDS[source.below(12)] };
                let case = case(kind, &signers, &mut source);
                seen.insert((kind, case.verify()));
                case
            })
            .collect();
        let expected: Vec<bool> = cases.iter().map(Case::zebra).collect();
        let alone: Vec<bool> = cases.iter().map(Case::verify).collect();
        assert_eq!(alone, expected);
        let budget = [1, 60, 160, 1000, 5000][source.below(5)];
        for batch in &mut batches {
            assert_eq!(run(batch, &cases, budget), expected, "budget {budget}");
        }
        left -= size;
    }
    for kind in KINDS {
        let accepted =
            matches!(kind, Kind::Honest | Kind::TorsionInKey | Kind::TorsionInR | Kind::TorsionInBoth);
        assert!(seen.contains(&(kind, accepted)), "the generator made no {kind:?} with its usual verdict");
    }
    assert!(!seen.contains(&(Kind::ShiftedS, true)) && !seen.contains(&(Kind::FlippedS, true)));
}

#[test]
fn the_order_is_the_curves() {
    let mut l_minus_one = ORDER;
    l_minus_one[0] -= 1;
    assert_eq!(Scalar::from_canonical_bytes(l_minus_one).into_option(), Some(-Scalar::ONE));
}
