//! Published and enumerated edge cases; each is judged alone, in a batch, and by ed25519-zebra.

use curve25519_dalek::constants::EIGHT_TORSION;

use super::{Case, Source, honest, join, run};
use crate::sigbatch::{Backend, Batch, KnownKeys, MAX_MESSAGE, rule};

fn hex<const N: usize>(text: &str) -> [u8; N] {
    hex_vec(text).try_into().expect("N bytes")
}

fn hex_vec(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn load(file: &str) -> Vec<serde_json::Value> {
    serde_json::from_str(file).expect("the test data is JSON")
}

fn case(value: &serde_json::Value) -> Case {
    let text = |field: &str| value[field].as_str().expect("a string");
    Case { key: hex(text("pub_key")), message: hex_vec(text("message")), signature: hex(text("signature")) }
}

/// Asserts that `case` has the verdict `valid` in every way of asking, also between honest neighbours.
fn assert_verdict(case: &Case, valid: bool) {
    assert_eq!(case.verify(), valid, "alone: {case:?}");
    assert_eq!(case.zebra(), valid, "ed25519-zebra: {case:?}");
    for backend in Backend::available() {
        let known = KnownKeys::with_backend(backend, &[case.key]);
        assert!(valid || !known.accept([case.signed()])[0], "with a table, {}: {case:?}", backend.name());
    }
    if case.message.len() > MAX_MESSAGE {
        return;
    }
    let mut cases = honest(&mut Source::new(1), 5);
    cases.insert(3, case.clone());
    let expected: Vec<bool> = (0..6).map(|i| i != 3 || valid).collect();
    for backend in Backend::available() {
        let mut batch = Batch::with_backend(backend, 64, [3; 32], 16);
        assert_eq!(run(&mut batch, std::slice::from_ref(case), 160), [valid], "a batch of one: {case:?}");
        assert_eq!(run(&mut batch, &cases, 160), expected, "among others, {}: {case:?}", backend.name());
    }
}

#[test]
fn rfc_8032() {
    let vectors = load(include_str!("../../../testdata/sig/rfc8032.json"));
    assert_eq!(vectors.len(), 5);
    for vector in &vectors {
        let good = case(vector);
        let secret: [u8; 32] = hex(vector["secret"].as_str().expect("a string"));
        let signing = ed25519_dalek::SigningKey::from_bytes(&secret);
        assert_eq!(signing.verifying_key().to_bytes(), good.key, "the data was transcribed rightly");
        assert_verdict(&good, true);

        let mut flipped = good.clone();
        flipped.signature[0] ^= 1;
        assert_verdict(&flipped, false);
        let mut longer = good;
        longer.message.push(0);
        assert_verdict(&longer, false);
    }
}

/// The expected verdicts are the row "Zebra" of the paper's table of results: 6 and 7 have s ≥ l; in 8 the signer
/// hashed the reduced encoding of R, whereas ZIP-215 hashes the bytes as they came. (The same in 10 is harmless:
/// its A has a low order, so that `[8][k]A = 0` for any k.)
#[test]
fn taming_the_many_eddsas() {
    let vectors = load(include_str!("../../../testdata/sig/speccheck.json"));
    let valid = [true, true, true, true, true, true, false, false, false, true, true, true];
    assert_eq!(vectors.len(), valid.len());
    for (vector, valid) in vectors.iter().zip(valid) {
        assert_verdict(&case(vector), valid);
    }
}

/// The eight low-order points in all 14 encodings that decode to them: 8 canonical ones; the sign bit set where
/// x = 0 (y = 1 and y = −1); and y + p for y = 0 and y = 1, with either sign.
fn low_order_encodings() -> Vec<[u8; 32]> {
    let p_plus = |low: u8, sign: u8| {
        let mut bytes = [0xff; 32];
        bytes[0] = 0xed + low;
        bytes[31] = 0x7f | sign;
        bytes
    };
    let mut encodings: Vec<[u8; 32]> =
        EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    for x_is_zero in [EIGHT_TORSION[0], EIGHT_TORSION[4]] {
        let mut bytes = x_is_zero.compress().to_bytes();
        bytes[31] |= 0x80;
        encodings.push(bytes);
    }
    encodings.extend([p_plus(0, 0), p_plus(0, 0x80), p_plus(1, 0), p_plus(1, 0x80)]);
    encodings
}

#[test]
fn there_are_14_low_order_encodings() {
    let mut encodings = low_order_encodings();
    for bytes in &encodings {
        assert!(rule::decompress(bytes).is_some_and(|point| point.is_small_order()));
    }
    encodings.sort_unstable();
    encodings.dedup();
    assert_eq!(encodings.len(), 14);
}

/// With A and R of low order, `[8]R + [8][k]A = 0`, so s = 0 is valid and nothing else is.
#[test]
fn zip_215_all_14_by_14_low_order_combinations() {
    let encodings = low_order_encodings();
    for key in &encodings {
        for r in &encodings {
            let with = |s: [u8; 32]| Case { key: *key, message: b"Zcash".to_vec(), signature: join(r, &s) };
            assert_verdict(&with([0; 32]), true);
            let mut one = [0; 32];
            one[0] = 1;
            assert_verdict(&with(one), false);
        }
    }
}

/// All 196 in one group: torsion parts must not add up to a wrong verdict.
#[test]
fn zip_215_low_order_combinations_in_one_group() {
    let encodings = low_order_encodings();
    let mut cases = Vec::new();
    for (i, key) in encodings.iter().enumerate() {
        for (j, r) in encodings.iter().enumerate() {
            let s = if (i + j) % 5 == 0 { [1; 32] } else { [0; 32] };
            cases.push(Case { key: *key, message: b"Zcash".to_vec(), signature: join(r, &s) });
        }
    }
    let expected: Vec<bool> = cases.iter().map(Case::zebra).collect();
    assert!(expected.contains(&true) && expected.contains(&false));
    for budget in [30, 160, 2000] {
        assert_eq!(run(&mut Batch::new(256, [5; 32], 16), &cases, budget), expected);
    }
}

/// Wycheproof's set (C2SP). What it calls valid is valid here; what it calls invalid is not, but for encodings of R that
/// RFC 8032 forbids and ZIP-215 accepts.
#[test]
fn wycheproof() {
    let set =
        wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).expect("the set is there");
    let (mut judged, mut valid) = (0, 0);
    for group in &set.test_groups {
        let key: [u8; 32] = group.key.pk[..].try_into().expect("a key of 32 bytes");
        for test in &group.tests {
            let expected = test.result == wycheproof::TestResult::Valid;
            // Our callers have 64 bytes by their types.
            let Ok(signature) = <[u8; 64]>::try_from(&test.sig[..]) else {
                assert!(!expected);
                continue;
            };
            let case = Case { key, message: test.msg.to_vec(), signature };
            let verdict = case.zebra();
            if verdict != expected {
                let r = rule::split(&signature).0;
                let canonical = rule::decompress(r).expect("a point").compress().to_bytes();
                assert!(verdict && canonical != *r, "{case:?}");
            }
            assert_verdict(&case, verdict);
            judged += 1;
            valid += usize::from(expected);
        }
    }
    assert!(judged > 100 && valid > 50, "{judged} {valid}");
}
