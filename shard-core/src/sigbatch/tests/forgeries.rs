//! What an adversary might try against the batch in particular.

use curve25519_dalek::Scalar;
use curve25519_dalek::constants::EIGHT_TORSION;

use super::{Case, Signer, Source, honest, run};
use crate::sigbatch::Batch;

/// Adds `error` to s: the equation of this signature is off by `[error]B`.
fn shift(case: &mut Case, error: Scalar) {
    let s: &mut [u8; 32] = case.signature.last_chunk_mut().expect("s is the second half");
    *s = (Scalar::from_bytes_mod_order(*s) + error).to_bytes();
}

/// With equal or known coefficients these would be accepted together.
#[test]
fn errors_that_cancel_are_caught() {
    let mut source = Source::new(10);
    let error = source.scalar();
    let signer = Signer::new(source.scalar(), EIGHT_TORSION[0]);
    let mut cases = honest(&mut source, 20);
    cases.extend((0..20u8).map(|i| signer.sign(&[i], source.scalar(), EIGHT_TORSION[0])));
    for (plus, minus) in [(2, 3), (10, 30), (24, 25)] {
        shift(&mut cases[plus], error);
        shift(&mut cases[minus], -error);
    }
    let expected: Vec<bool> = (0..40).map(|i| ![2, 3, 10, 30, 24, 25].contains(&i)).collect();
    for budget in [160, 5000] {
        assert_eq!(run(&mut Batch::new(64, [1; 32], 0), &cases, budget), expected);
    }
}

#[test]
fn one_bad_signature_is_found_at_every_place() {
    let mut source = Source::new(11);
    let good = honest(&mut source, 33);
    let mut batch = Batch::new(64, [2; 32], 64);
    for bad in 0..good.len() {
        let mut cases = good.clone();
        shift(&mut cases[bad], Scalar::ONE);
        let expected: Vec<bool> = (0..good.len()).map(|i| i != bad).collect();
        assert_eq!(run(&mut batch, &cases, 160), expected);
    }
}

#[test]
fn all_bad_and_then_all_good() {
    let mut source = Source::new(12);
    let good = honest(&mut source, 250);
    let mut bad = good.clone();
    for case in &mut bad {
        shift(case, Scalar::ONE);
    }
    let mut batch = Batch::new(256, [2; 32], 256);
    for budget in [160, 5000] {
        assert_eq!(run(&mut batch, &bad, budget), [false; 250]);
        assert_eq!(run(&mut batch, &good, budget), [true; 250]);
    }
}

/// The same signature many times over is as valid as once, and a forgery of it beside it stays one.
#[test]
fn repeated_signatures() {
    let mut source = Source::new(13);
    let one = honest(&mut source, 1).remove(0);
    let mut cases = vec![one; 100];
    shift(&mut cases[57], Scalar::ONE);
    let expected: Vec<bool> = (0..100).map(|i| i != 57).collect();
    assert_eq!(run(&mut Batch::new(128, [3; 32], 4), &cases, 160), expected);
}
