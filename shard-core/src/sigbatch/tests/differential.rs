//! Random signatures, honest and mutated, judged alone, in batches, and by ed25519-zebra: always the same verdict.
//!
//! Every batch runs on all backends. `TOP_SIG_CASES` sets how many (2,000 by default; tools/check wants 20,000, and a long run
//! is `TOP_SIG_CASES=1000000 cargo test --release -p shard-core --lib every_verdict`).

use curve25519_dalek::Scalar;
use curve25519_dalek::constants::EIGHT_TORSION;

use super::{Case, Signer, Source, run};
use crate::sigbatch::{Backend, Batch, KnownKeys};

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
    let known = known_keys(&signers);
    let mut seen = std::collections::BTreeSet::new();
    let mut left = cases_wanted();
    while left > 0 {
        let largest = if source.below(4) == 0 { 512 } else { 60 };
        let size = (1 + source.below(largest)).min(left);
        // From groups that are all good to groups that are mostly bad.
        let honest_in_ten = source.below(12);
        let (kinds, cases): (Vec<Kind>, Vec<Case>) = (0..size)
            .map(|_| {
                let kind = if source.below(10) < honest_in_ten { KINDS[0] } else { KINDS[source.below(12)] };
                let case = case(kind, &signers, &mut source);
                seen.insert((kind, case.verify()));
                (kind, case)
            })
            .unzip();
        let expected: Vec<bool> = cases.iter().map(Case::zebra).collect();
        let alone: Vec<bool> = cases.iter().map(Case::verify).collect();
        assert_eq!(alone, expected);
        let budget = [1, 60, 160, 1000, 5000][source.below(5)];
        for batch in &mut batches {
            assert_eq!(run(batch, &cases, budget), expected, "budget {budget}");
        }
        known.iter().for_each(|known| assert_accepted(known, &cases, &kinds, &expected));
        left -= size;
    }
    for kind in KINDS {
        let accepted =
            matches!(kind, Kind::Honest | Kind::TorsionInKey | Kind::TorsionInR | Kind::TorsionInBoth);
        assert!(seen.contains(&(kind, accepted)), "the generator made no {kind:?} with its usual verdict");
    }
    assert!(!seen.contains(&(Kind::ShiftedS, true)) && !seen.contains(&(Kind::FlippedS, true)));
}

/// Tables of the signers' keys, and of two signers' keys with all torsion parts, by backend.
fn known_keys(signers: &[Signer]) -> Vec<KnownKeys> {
    let mut keys: Vec<[u8; 32]> = signers.iter().map(|signer| signer.key).collect();
    for signer in &signers[..2] {
        keys.extend(EIGHT_TORSION[1..].iter().map(|&torsion| Signer::new(signer.secret, torsion).key));
    }
    Backend::available().map(|backend| KnownKeys::with_backend(backend, &keys)).collect()
}

/// What tables accept is valid, and of honest signers they accept everything.
fn assert_accepted(known: &KnownKeys, cases: &[Case], kinds: &[Kind], expected: &[bool]) {
    let accepted = cases
        .chunks(KnownKeys::AT_ONCE)
        .flat_map(|some| known.accept(some.iter().map(Case::signed)).into_iter().take(some.len()));
    for (((accepted, case), kind), &valid) in accepted.zip(cases).zip(kinds).zip(expected) {
        assert!(valid || !accepted, "{kind:?} {case:?}");
        assert!(accepted || *kind != Kind::Honest, "{case:?}");
    }
}

#[test]
fn the_order_is_the_curves() {
    let mut l_minus_one = ORDER;
    l_minus_one[0] -= 1;
    assert_eq!(Scalar::from_canonical_bytes(l_minus_one).into_option(), Some(-Scalar::ONE));
}
