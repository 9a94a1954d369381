//! Signatures under keys that are known from the start, as a committee's: one alone costs little more than its share of a large
//! batch would.
//!
//! Multiples of each key are computed once, for every window of a scalar. Then `[s]B − [k]A` is a sum of rows of tables without a
//! doubling, and the lanes share its additions. Where the sum's encoding is R, the signature is valid: R stands for that very
//! point, so `[s]B − [k]A − R` is zero up to a point of low order, which the cofactor removes. Where it is not, the rule may still
//! accept the signature (R may be encoded in another way, or differ by a point of low order), though no honest signer makes such
//! ones. Whoever asked lets a [`Batch`](super::Batch) judge it.
#![allow(clippy::cast_possible_truncation, reason = "rows and lanes are few")]

use std::fmt;

use curve25519_dalek::Scalar;

use super::decompress::{basepoint, decompress, invert};
use super::digits::{Cut, Digits, SCALAR_BITS};
use super::equation::halves;
use super::field::portable::One;
use super::field::{Backend, Element, Kernel, Lanes, MAX_LANES, Rows};
use super::point::{self, Extended, Niels, Prepared};
use super::rule;

/// How each half of a scalar is cut.
const CUT: Cut = Cut { bits: 5 };
/// Windows of a scalar: of both halves.
const WINDOWS: usize = 2 * CUT.windows();
/// Additions in all: of a key's multiples and of B's.
const ADDITIONS: usize = 2 * WINDOWS;

/// A signature, and what it signs.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Encoding of the public key A.
    pub key: &'a [u8; 32],
    /// What is signed.
    pub message: &'a [u8],
    /// R and s.
    pub signature: &'a [u8; 64],
}

/// Tables of multiples of some keys: 141 KB for each, and as much for the base point.
pub struct KnownKeys {
    backend: Backend,
    keys: Vec<[u8; 32]>,
    /// Ready to be added: for B and then for each key, by window, the multiples from 0 to the largest digit.
    rows: Vec<Extended>,
}

impl fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKeys").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl KnownKeys {
    /// Most signatures that one call takes.
    pub const AT_ONCE: usize = 4;

    /// Tables of `keys`, about 0.3 ms for each. One that is no encoding of a point is no known key. Works with the instructions of
    /// `backend`.
    #[must_use]
    pub fn with_backend(backend: Backend, keys: &[[u8; 32]]) -> Self {
        let mut known = Self { backend, keys: Vec::new(), rows: Vec::new() };
        known.add_table(basepoint(backend));
        for key in keys {
            if let Some(point) = decompress(backend, &[*key])[0] {
                known.keys.push(*key);
                known.add_table(point);
            }
        }
        known
    }

    /// How many keys are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Which of `signed` are valid for certain, in order: at most [`AT_ONCE`](Self::AT_ONCE). Of the others nothing is known;
    /// those of honest signers whose keys are known are never among them.
    ///
    /// Takes about 10 µs for one and 7 µs for each of four with AVX-512, 30 and 20 µs with AVX2.
    ///
    /// # Panics
    /// Where they are too many.
    #[must_use]
    pub fn accept<'a>(&self, signed: impl IntoIterator<Item = Signed<'a>>) -> [bool; Self::AT_ONCE] {
        let mut sums = [Extended::IDENTITY; MAX_LANES];
        let mut wanted = [None; Self::AT_ONCE];
        let mut count = 0;
        for Signed { key, message, signature } in signed {
            assert!(count < Self::AT_ONCE);
            let (r, s) = rule::split(signature);
            let place = self.keys.iter().position(|known| known == key);
            if let (Some(place), Some(s)) = (place, rule::canonical_scalar(s)) {
                let k = Scalar::from_bytes_mod_order_wide(&rule::challenge(r, key, message));
                sums[count] = self.sum(&s, place, &-k);
                wanted[count] = Some(*r);
            }
            count += 1;
        }
        let encodings = self.backend.run(Encode { points: &sums, count });
        std::array::from_fn(|i| wanted[i] == Some(encodings[i]))
    }

    /// `[s]B + [k]A` of the key at a place.
    fn sum(&self, s: &Scalar, place: usize, k: &Scalar) -> Extended {
        let mut additions = Additions { at: [0; ADDITIONS], negative: [0; ADDITIONS / MAX_LANES] };
        additions.plan(0, 0, s);
        additions.plan(WINDOWS, 1 + place, k);
        let mut partial = [Extended::IDENTITY; MAX_LANES];
        self.backend.run(Run { additions: &additions, rows: &self.rows, partial: &mut partial });
        let mut sum = partial[0].to_lane();
        for other in &partial[1..self.backend.lanes()] {
            sum = point::add(sum, point::prepare((), other.to_lane()));
        }
        Extended::from_lane(sum)
    }

    fn add_table(&mut self, point: Niels) {
        let mut base = point::add_niels(point::identity::<One>(()), point.0.map(|x| One::splat((), &x)));
        for window in 0..WINDOWS {
            let step = point::prepare((), base);
            let mut multiple = point::identity::<One>(());
            for _ in 0..CUT.rows() {
                self.rows.push(Extended::from_lane(point::prepare((), multiple).to_row()));
                multiple = point::add(multiple, step);
            }
            // The top window of a half is narrower.
            let is_top = window + 1 == WINDOWS / 2;
            let bits = if is_top { SCALAR_BITS - CUT.below_top() } else { CUT.bits };
            for _ in 0..bits {
                base = point::double(base);
            }
        }
    }
}

/// What is added up, an addition after the other; the lanes take turns.
struct Additions {
    /// Rows.
    at: [u32; ADDITIONS],
    /// A bit for each that is to be subtracted.
    negative: [u8; ADDITIONS / MAX_LANES],
}

impl Additions {
    /// Those of `scalar`, from `first` on, with rows of one table.
    fn plan(&mut self, first: usize, table: usize, scalar: &Scalar) {
        let (low, high) = halves(scalar);
        let halves = [Digits::new(CUT, low), Digits::new(CUT, high)];
        for (half, digits) in halves.into_iter().enumerate() {
            for window in 0..WINDOWS / 2 {
                let place = half * (WINDOWS / 2) + window;
                let (number, digit) = (first + place, digits.get(window));
                self.at[number] = ((table * WINDOWS + place) * CUT.rows()) as u32 + digit.unsigned_abs();
                self.negative[number / MAX_LANES] |= u8::from(digit < 0) << (number % MAX_LANES);
            }
        }
    }
}

/// Adds up each lane's share.
struct Run<'a> {
    additions: &'a Additions,
    rows: &'a [Extended],
    partial: &'a mut [Extended; MAX_LANES],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        const AHEAD: usize = 3;
        let Additions { at, negative } = self.additions;
        let lanes = |first: usize| {
            let mut rows = [0; MAX_LANES];
            rows[..L::N].copy_from_slice(&at[first..first + L::N]);
            rows
        };
        for first in (0..AHEAD * L::N).step_by(L::N) {
            L::prefetch(self.rows, &lanes(first));
        }
        let mut sum = point::identity::<L>(cpu);
        for first in (0..ADDITIONS).step_by(L::N) {
            if first + AHEAD * L::N < ADDITIONS {
                L::prefetch(self.rows, &lanes(first + AHEAD * L::N));
            }
            let negative = u32::from(negative[first / MAX_LANES]) >> (first % MAX_LANES);
            let row = Prepared::from_row(L::load_points(cpu, self.rows, &lanes(first)));
            sum = point::add(sum, row.negate(cpu, negative & ((1 << L::N) - 1)));
        }
        L::store_points(sum, self.partial, &point::in_order::<L>());
    }
}

/// The encodings of some points (RFC 8032, section 5.1.2).
struct Encode<'a> {
    points: &'a [Extended; MAX_LANES],
    count: usize,
}

impl Kernel for Encode<'_> {
    type Output = [[u8; 32]; MAX_LANES];

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output {
        let mut encodings = [[0; 32]; MAX_LANES];
        for first in (0..self.count).step_by(L::N) {
            let points = &self.points[first..first + L::N];
            let [x, y, z, _] = L::load_points(cpu, points, &point::in_order::<L>());
            let inverse = invert(z);
            let (mut xs, mut ys) = ([Element::ZERO; MAX_LANES], [Element::ZERO; MAX_LANES]);
            x.mul(inverse).store(&mut xs);
            y.mul(inverse).store(&mut ys);
            for ((encoding, x), y) in encodings[first..first + L::N].iter_mut().zip(xs).zip(ys) {
                *encoding = y.to_bytes();
                encoding[31] |= (x.to_bytes()[0] & 1) << 7;
            }
        }
        encodings
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::EdwardsPoint;

    use super::super::tests::{Source, honest};
    use super::*;

    #[test]
    fn sums_are_those_of_dalek() {
        let mut source = Source::new(91);
        let secret = Scalar::from_bytes_mod_order_wide(&source.bytes());
        let key = EdwardsPoint::mul_base(&secret);
        let other = EdwardsPoint::mul_base(&-secret).compress().to_bytes();
        let mut scalars = vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, Scalar::from(u128::MAX)];
        scalars.extend((0..253).map(|bit| (0..bit).fold(Scalar::ONE, |power, _| power + power)));
        scalars.extend((0..200).map(|_| Scalar::from_bytes_mod_order_wide(&source.bytes())));
        for backend in Backend::available() {
            let known = KnownKeys::with_backend(backend, &[other, key.compress().to_bytes()]);
            for pair in scalars.windows(2) {
                for [s, k] in [[pair[0], pair[1]], [pair[1], pair[0]], [pair[0], -pair[1]]] {
                    let mut points = [Extended::IDENTITY; MAX_LANES];
                    points[0] = known.sum(&s, 1, &k);
                    let expected = EdwardsPoint::mul_base(&s) + k * key;
                    let encoding = backend.run(Encode { points: &points, count: 1 })[0];
                    assert_eq!(encoding, expected.compress().to_bytes(), "{backend:?} {s:?} {k:?}");
                }
            }
        }
    }

    #[test]
    fn each_of_a_call_gets_its_own_verdict() {
        let mut cases = honest(&mut Source::new(92), 7);
        cases[1].message[0] ^= 1;
        // 5 and 6 are of nobody that is known.
        let mut keys: Vec<[u8; 32]> = cases[..5].iter().map(|case| case.key).collect();
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert!(rule::decompress(&no_point).is_none());
        keys.insert(0, no_point);
        for backend in Backend::available() {
            let known = KnownKeys::with_backend(backend, &keys);
            let accept = |places: &[usize]| known.accept(places.iter().map(|&place| cases[place].signed()));
            assert_eq!(accept(&[]), [false; 4]);
            assert_eq!(accept(&[4]), [true, false, false, false]);
            assert_eq!(accept(&[0, 1, 2, 3]), [true, false, true, true]);
            assert_eq!(accept(&[5, 4, 6]), [false, true, false, false]);
        }
    }
}
