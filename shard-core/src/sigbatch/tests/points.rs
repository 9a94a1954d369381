//! Decompression, multiples and sums of every backend against curve25519-dalek.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::VartimeMultiscalarMul;
use curve25519_dalek::{EdwardsPoint, Scalar};

use super::Source;
use crate::sigbatch::decompress::{GROUP, decompress, shift_128};
use crate::sigbatch::field::portable::One;
use crate::sigbatch::field::{Backend, Lanes};
use crate::sigbatch::msm::Msm;
use crate::sigbatch::point::{self, Extended, Niels};

/// dalek's form of a point, by way of its encoding.
fn to_dalek(point: &Extended) -> EdwardsPoint {
    let [x, y, z, t] = point.to_lane();
    let bytes = |x: One| x.element().to_bytes();
    assert_eq!(bytes(x.mul(y)), bytes(z.mul(t)), "extended coordinates agree");
    let inverse = crate::sigbatch::decompress::invert(z);
    let mut encoding = bytes(y.mul(inverse));
    encoding[31] |= bytes(x.mul(inverse))[0] << 7;
    CompressedEdwardsY(encoding).decompress().expect("a point")
}

fn niels_to_dalek(niels: &Niels) -> EdwardsPoint {
    let niels = niels.0.map(|x| One::splat((), &x));
    to_dalek(&Extended::from_lane(point::add_niels(point::identity(()), niels)))
}

/// `[2¹²⁸]point`, its torsion part included, which a scalar mod l would not get right.
fn shifted(point: &EdwardsPoint) -> EdwardsPoint {
    (0..128).fold(*point, |point, _| point + point)
}

fn random_point(source: &mut Source) -> EdwardsPoint {
    EdwardsPoint::mul_base(&source.scalar()) + source.torsion()
}

/// Encodings at the edges: y from p on, x = 0, low orders, and no points at all.
fn encodings(source: &mut Source) -> Vec<[u8; 32]> {
    let mut encodings: Vec<[u8; 32]> =
        EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    for low in 0xed..=0xff {
        let mut bytes = [0xff; 32];
        bytes[0] = low;
        bytes[31] = 0x7f;
        encodings.push(bytes);
    }
    for i in 0..20 {
        let mut bytes = [0; 32];
        bytes[0] = i;
        encodings.push(bytes);
    }
    encodings.extend(encodings.clone().iter_mut().map(|bytes| {
        bytes[31] ^= 0x80;
        *bytes
    }));
    encodings.extend((0..200).map(|_| source.bytes()));
    encodings.extend((0..100).map(|_| random_point(source).compress().to_bytes()));
    encodings
}

#[test]
fn decompression_is_daleks() {
    let mut source = Source::new(40);
    let encodings = encodings(&mut source);
    let expected: Vec<_> = encodings.iter().map(|bytes| CompressedEdwardsY(*bytes).decompress()).collect();
    assert!(expected.iter().filter(|point| point.is_none()).count() > 50);
    for backend in Backend::available() {
        for size in 1..=GROUP {
            for (encodings, expected) in encodings.chunks(size).zip(expected.chunks(size)) {
                let points = decompress(backend, encodings);
                let points: Vec<_> =
                    points.iter().take(size).map(|point| point.as_ref().map(niels_to_dalek)).collect();
                assert_eq!(points[..expected.len()], *expected, "{}", backend.name());
            }
        }
    }
}

#[test]
fn shifting_multiplies() {
    let mut source = Source::new(41);
    let mut points: Vec<EdwardsPoint> = (0..8).map(|_| random_point(&mut source)).collect();
    points.extend(EIGHT_TORSION);
    let encodings: Vec<_> = points.iter().map(|point| point.compress().to_bytes()).collect();
    for backend in Backend::available() {
        for size in [1, 3, 4, 5, 8, 9, 16] {
            let niels: Vec<_> = decompress(backend, &encodings[..size]).into_iter().flatten().collect();
            let multiples = shift_128(backend, &niels);
            for (niels, point) in multiples[..size].iter().zip(&points) {
                assert_eq!(niels_to_dalek(niels), shifted(point), "{}", backend.name());
            }
        }
    }
}

/// A scalar of up to 128 bits: random, or at an edge of a window.
fn scalar(source: &mut Source) -> i128 {
    let sign = if source.below(2) == 0 { 1 } else { -1 };
    match source.below(8) {
        0 => i128::MIN,
        1 => i128::MAX,
        2 => sign * i128::from(source.below(3) == 0),
        3 => sign << source.below(127),
        4 => (sign << source.below(127)) - sign,
        _ => i128::from_le_bytes(source.bytes()),
    }
}

fn dalek_scalar(z: i128) -> Scalar {
    let size = Scalar::from(z.unsigned_abs());
    if z < 0 { -size } else { size }
}

#[test]
fn sums_are_daleks() {
    let mut source = Source::new(42);
    let points: Vec<EdwardsPoint> = (0..300).map(|_| random_point(&mut source)).collect();
    for backend in Backend::available() {
        let niels: Vec<Niels> = points
            .iter()
            .map(|point| decompress(backend, &[point.compress().to_bytes()])[0].expect("a point"))
            .collect();
        let mut msm = Msm::new(backend, 300, 300);
        for (low, high) in
            [(1, 0), (2, 1), (0, 1), (7, 0), (5, 40), (20, 0), (60, 3), (300, 0), (300, 300), (130, 100)]
        {
            msm.clear();
            let (mut scalars, mut terms) = (Vec::new(), Vec::new());
            for i in 0..low.max(high) {
                // Repeated points meet in buckets, and cancel there.
                let at = if source.below(3) == 0 { 0 } else { i };
                if i < low {
                    let z = scalar(&mut source);
                    msm.push_low(&niels[at], z);
                    scalars.push(dalek_scalar(z));
                    terms.push(points[at]);
                }
                if i < high {
                    let z = scalar(&mut source);
                    msm.push_high(&niels[at], z);
                    scalars.push(dalek_scalar(z));
                    terms.push(shifted(&points[at]));
                }
            }
            msm.start();
            while msm.step() {}
            // Scalars mod l and integers differ by multiples of l, which torsion parts do not forgive: compare 8 times the sums.
            let expected = EdwardsPoint::vartime_multiscalar_mul(&scalars, &terms).mul_by_cofactor();
            let sum = to_dalek(&msm.total()).mul_by_cofactor();
            assert_eq!(sum, expected, "{} {low} {high}", backend.name());
        }
    }
}

#[test]
fn zero_is_what_has_a_low_order() {
    let mut source = Source::new(43);
    let extended = |point: &EdwardsPoint| {
        let niels = decompress(Backend::PORTABLE, &[point.compress().to_bytes()])[0].expect("a point");
        Extended::from_lane(point::add_niels(point::identity(()), niels.0.map(|x| One::splat((), &x))))
    };
    let points: Vec<EdwardsPoint> = (0..8).map(|_| random_point(&mut source)).chain(EIGHT_TORSION).collect();
    for a in &points {
        assert_eq!(extended(a).is_zero_cofactored(), a.is_small_order());
        for b in &points {
            let difference = extended(a).minus(extended(b));
            assert_eq!(to_dalek(&difference), a - b);
            assert_eq!(difference.is_zero_cofactored(), (a - b).is_small_order());
        }
    }
}
