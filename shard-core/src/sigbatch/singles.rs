//! Signatures judged each by itself, one to a lane: for those that a failed equation leaves in doubt.
//!
//! All lanes do the same steps on points of their own, so a vector of signatures takes as long as one. Each lane asks whether
//!
//! ```text
//! [8] ( [vs]B − [u]A − [v]R ) = 0          with u = vk mod l, both below 2¹²⁷
//! ```
//!
//! which is `[8]([s]B − [k]A − R) = 0` times `v`: the same verdict, for `v` is not 0 mod l, and 8 times a point has the prime
//! order l or is zero. Such `u` and `v` always exist, and are found by Euclid's algorithm on `l` and `k`, stopped half way
//! (Antipa, Brown, Gallant, Lambert, Struik, Vanstone, "Accelerated Verification of ECDSA Signatures", 2005). With
//! `[2¹²⁸]B` at hand that is half of the doublings. There is no randomness in it.
#![allow(clippy::cast_possible_truncation, reason = "rows and lanes are few")]

use curve25519_dalek::Scalar;

use super::decompress::GROUP;
use super::digits::{Cut, Digits};
use super::equation::halves;
use super::field::{Backend, Element, Kernel, MAX_LANES, Rows};
use super::point::{self, Extended, Niels, Prepared};

/// Windows of the scalars of A and R, whose multiples are computed each time.
const OWN: Cut = Cut { bits: 4 };
/// Windows of the scalars of B and [2¹²⁸]B, whose multiples are computed once.
const BASE: Cut = Cut { bits: 8 };
/// Additions in all, and in one piece: windows of four scalars.
const STEPS: usize = 96;
const STEPS_PER_PIECE: usize = 24;

/// A signature in doubt.
#[derive(Clone, Copy)]
pub(super) struct Single {
    pub(super) a: Niels,
    pub(super) r: Niels,
    pub(super) k: Scalar,
    pub(super) s: Scalar,
}

/// One addition in each lane, after some doublings.
#[derive(Clone, Copy)]
struct Step {
    doublings: u32,
    /// The rows to add, by lane.
    at: [u32; MAX_LANES],
    /// A bit for each lane in which the row is to be subtracted.
    negative: u32,
}

/// What the next piece does.
#[derive(Clone, Copy)]
enum Piece {
    /// Computes multiples of A and R.
    Tables,
    /// Adds from this step on.
    Steps(usize),
    /// Tells whether the sums are zero.
    Finish,
}

/// As many signatures in work as there are lanes.
pub(super) struct Singles {
    backend: Backend,
    cases: [Single; MAX_LANES],
    count: usize,
    piece: Piece,
    /// Ready to be added: multiples of each lane's A, of each lane's R, of B, of [2¹²⁸]B.
    rows: Vec<Extended>,
    steps: [Step; STEPS],
    sums: [Extended; MAX_LANES],
}

impl Singles {
    /// Nothing in work. `base` is B and [2¹²⁸]B.
    pub(super) fn new(backend: Backend, base: &[Niels; 2]) -> Self {
        let own = 2 * backend.lanes() * OWN.rows();
        let mut rows = vec![Extended::IDENTITY; own + 2 * BASE.rows()];
        for (point, rows) in base.iter().zip(rows[own..].chunks_mut(BASE.rows())) {
            Backend::PORTABLE.run(Multiples { points: &[*point], rows, count: BASE.rows() });
        }
        let idle = Single { a: Niels::IDENTITY, r: Niels::IDENTITY, k: Scalar::ZERO, s: Scalar::ZERO };
        Self {
            backend,
            cases: [idle; MAX_LANES],
            count: 0,
            piece: Piece::Finish,
            rows,
            steps: [Step { doublings: 0, at: [0; MAX_LANES], negative: 0 }; STEPS],
            sums: [Extended::IDENTITY; MAX_LANES],
        }
    }

    /// Begins with no signature.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.piece = Piece::Tables;
    }

    /// Adds a signature, at most as many as there are lanes.
    pub(super) fn push(&mut self, case: Single) {
        assert!(self.count < self.backend.lanes());
        self.cases[self.count] = case;
        self.count += 1;
    }

    /// Does a piece of work. Gives the verdicts, in order, with the last.
    pub(super) fn step(&mut self) -> Option<[bool; MAX_LANES]> {
        match self.piece {
            Piece::Tables => {
                self.plan();
                self.fill_tables();
                self.sums = [Extended::IDENTITY; MAX_LANES];
                self.piece = Piece::Steps(0);
            }
            Piece::Steps(next) => {
                let end = next + STEPS_PER_PIECE;
                let steps = &self.steps[next..end];
                self.backend.run(Run { steps, rows: &self.rows, sums: &mut self.sums });
                self.piece = if end < STEPS { Piece::Steps(end) } else { Piece::Finish };
            }
            Piece::Finish => {
                self.backend.run(Cofactor(&mut self.sums));
                let mut verdicts = [false; MAX_LANES];
                for (verdict, sum) in verdicts.iter_mut().zip(&self.sums[..self.count]) {
                    *verdict = sum.is_identity();
                }
                return Some(verdicts);
            }
        }
        None
    }

    /// The most that the next piece costs, in tenths of a work unit; measured.
    pub(super) fn next_cost(&self) -> usize {
        let lanes = self.backend.lanes();
        let step = if lanes == 4 { 8 } else { 5 };
        match self.piece {
            Piece::Tables => 100 + 16 * lanes,
            Piece::Steps(_) => STEPS_PER_PIECE * step,
            Piece::Finish => 10 + 5 * lanes,
        }
    }

    /// Decides what each lane will add.
    fn plan(&mut self) {
        let (lanes, own, base) = (self.backend.lanes(), OWN.rows(), BASE.rows());
        let first_base = 2 * lanes * own;
        for step in &mut self.steps {
            *step = Step { doublings: 0, at: [0; MAX_LANES], negative: 0 };
        }
        for (lane, case) in self.cases[..self.count].iter().enumerate() {
            let (u, v) = half_size(&case.k);
            let (low, high) = halves(&(signed(v) * case.s));
            let table = |first: usize, cut: Cut, scalar: i128| (first, cut, Digits::new(cut, scalar));
            let tables = [
                table(lane * own, OWN, -u),
                table((lanes + lane) * own, OWN, -v),
                table(first_base, BASE, low),
                table(first_base + base, BASE, high),
            ];
            let mut steps = self.steps.iter_mut();
            for window in (0..OWN.windows()).rev() {
                for (i, (first, cut, digits)) in tables.iter().enumerate() {
                    let below = window as u32 * OWN.bits;
                    if !below.is_multiple_of(cut.bits) {
                        continue;
                    }
                    let digit = digits.get((below / cut.bits) as usize);
                    let step = steps.next().expect("there is one for each window");
                    step.doublings = if i == 0 { OWN.bits } else { 0 };
                    step.at[lane] = *first as u32 + digit.unsigned_abs();
                    step.negative |= u32::from(digit < 0) << lane;
                }
            }
        }
        // There is nothing yet to double.
        self.steps[0].doublings = 0;
    }

    fn fill_tables(&mut self) {
        let (lanes, rows) = (self.backend.lanes(), OWN.rows());
        for (half, rows) in self.rows.chunks_mut(lanes * rows).take(2).enumerate() {
            let mut points = [Niels::IDENTITY; MAX_LANES];
            for (point, case) in points.iter_mut().zip(&self.cases[..self.count]) {
                *point = if half == 0 { case.a } else { case.r };
            }
            self.backend.run(Multiples { points: &points, rows, count: OWN.rows() });
        }
    }
}

/// `u` and `v` with `u = vk mod l`, `v` not 0, both below 2¹²⁷ in size.
///
/// Rows `(r, t)` with `r = ±tk mod l`, the signs taking turns: at first `(l, 0)` and `(k, 1)`. Taking shifted copies of the
/// smaller from the larger keeps `r₀t₁ + r₁t₀ = l`, so while `r₀` is at least 2¹²⁷, `t₁` is at most 2¹²⁶.
fn half_size(k: &Scalar) -> (i128, i128) {
    const HALF: Wide = Wide { high: 0, low: 1 << 127 };
    let l_minus_1 = Wide::new(&-Scalar::ONE);
    let (mut r0, mut r1) = (Wide { low: l_minus_1.low + 1, ..l_minus_1 }, Wide::new(k));
    let (mut t0, mut t1, mut negative) = (0u128, 1u128, false);
    while r1 >= HALF {
        let mut shift = r1.leading_zeros() - r0.leading_zeros();
        if r1.shifted(shift) > r0 {
            shift -= 1;
        }
        r0 = r0.minus(r1.shifted(shift));
        t0 += t1 << shift;
        if r0 < r1 {
            (r0, r1, t0, t1, negative) = (r1, r0, t1, t0, !negative);
        }
    }
    let (u, v) = (r1.low.cast_signed(), t1.cast_signed());
    (u, if negative { -v } else { v })
}

/// `x` mod l.
pub(super) fn signed(x: i128) -> Scalar {
    let size = Scalar::from(x.unsigned_abs());
    if x < 0 { -size } else { size }
}

/// 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wide {
    high: u128,
    low: u128,
}

impl Wide {
    fn new(scalar: &Scalar) -> Self {
        let bytes = scalar.as_bytes();
        let low = u128::from_le_bytes(*bytes.first_chunk().expect("32 bytes hold 16"));
        let high = u128::from_le_bytes(*bytes.last_chunk().expect("32 bytes hold 16"));
        Self { high, low }
    }

    fn leading_zeros(self) -> u32 {
        if self.high == 0 { 128 + self.low.leading_zeros() } else { self.high.leading_zeros() }
    }

    /// `self · 2^shift`, for less than 128.
    fn shifted(self, shift: u32) -> Self {
        if shift == 0 {
            return self;
        }
        Self { high: self.high << shift | self.low >> (128 - shift), low: self.low << shift }
    }

    /// The difference, which is not negative.
    fn minus(self, other: Self) -> Self {
        let (low, borrow) = self.low.overflowing_sub(other.low);
        Self { high: self.high - other.high - u128::from(borrow), low }
    }
}

/// Writes `count` multiples of each point, from 0 on, ready to be added: those of a lane after those of the lane before.
struct Multiples<'a> {
    points: &'a [Niels],
    rows: &'a mut [Extended],
    count: usize,
}

impl Kernel for Multiples<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        let mut buffer = [[Element::ZERO; GROUP]; 3];
        for (lane, point) in self.points.iter().enumerate() {
            for (row, value) in buffer.iter_mut().zip(point.0) {
                row[lane] = value;
            }
        }
        let niels = [L::load(cpu, &buffer[0]), L::load(cpu, &buffer[1]), L::load(cpu, &buffer[2])];
        let mut multiple = point::identity::<L>(cpu);
        for number in 0..self.count {
            let mut at = [0; MAX_LANES];
            for (lane, at) in at.iter_mut().enumerate().take(L::N) {
                *at = (lane * self.count + number) as u32;
            }
            L::store_points(point::prepare(cpu, multiple).to_row(), self.rows, &at);
            multiple = point::add_niels(multiple, niels);
        }
    }
}

/// Does steps of all lanes.
struct Run<'a> {
    steps: &'a [Step],
    rows: &'a [Extended],
    sums: &'a mut [Extended; MAX_LANES],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        let lanes = point::in_order::<L>();
        let mut sum = L::load_points(cpu, self.sums, &lanes);
        for step in self.steps {
            L::prefetch(self.rows, &step.at);
            for _ in 0..step.doublings {
                sum = point::double(sum);
            }
            let row = Prepared::from_row(L::load_points(cpu, self.rows, &step.at));
            sum = point::add(sum, row.negate(cpu, step.negative));
        }
        L::store_points(sum, self.sums, &lanes);
    }
}

/// Eight times each sum.
struct Cofactor<'a>(&'a mut [Extended; MAX_LANES]);

impl Kernel for Cofactor<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        let lanes = point::in_order::<L>();
        let mut sum = L::load_points(cpu, self.0, &lanes);
        for _ in 0..3 {
            sum = point::double(sum);
        }
        L::store_points(sum, self.0, &lanes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::decompress::decompress;
    use super::super::equation::Equation;
    use super::super::rule;
    use super::super::tests::{Source, honest};
    use super::*;

    #[test]
    fn half_size_scalars_are_small_and_have_the_ratio() {
        let mut source = Source::new(70);
        let mut scalars =
            vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, signed(2), signed(i128::MAX), signed(i128::MIN)];
        scalars.push(signed(1 << 126) * signed(2));
        scalars.extend((0..2000).map(|_| Scalar::from_bytes_mod_order_wide(&source.bytes())));
        scalars.extend((0..2000).map(|_| signed(1 + i128::from_le_bytes(source.bytes()) / 3).invert()));
        for k in scalars {
            let (u, v) = half_size(&k);
            assert!(v != 0 && v.unsigned_abs() < 1 << 127 && u >= 0, "{u} {v}");
            assert_eq!(signed(v) * k, signed(u));
        }
    }

    /// Does all pieces.
    fn verdicts(singles: &mut Singles) -> [bool; MAX_LANES] {
        loop {
            if let Some(verdicts) = singles.step() {
                return verdicts;
            }
        }
    }

    /// One signature to a lane, with every count of lanes used, beside the single verifier.
    #[test]
    fn verdicts_are_those_of_the_rule() {
        let mut source = Source::new(71);
        let mut cases = honest(&mut source, 64);
        for (i, case) in cases.iter_mut().enumerate() {
            case.signature[32] ^= u8::from(i % 3 == 1);
            case.message[0] ^= u8::from(i % 5 == 2);
        }
        for backend in Backend::available() {
            let base = Equation::new(backend, 1, &[0; 32]);
            let mut singles = Singles::new(backend, base.basepoint());
            let mut next = 0;
            while next < cases.len() {
                let some = &cases[next..cases.len().min(next + 1 + next % backend.lanes())];
                singles.clear();
                for case in some {
                    let (r, s) = rule::split(&case.signature);
                    let points = decompress(backend, &[case.key, *r]);
                    singles.push(Single {
                        a: points[0].expect("an honest key"),
                        r: points[1].expect("an honest R"),
                        k: Scalar::from_bytes_mod_order_wide(&rule::challenge(r, &case.key, &case.message)),
                        s: Scalar::from_bytes_mod_order(*s),
                    });
                }
                for (case, verdict) in some.iter().zip(verdicts(&mut singles)) {
                    assert_eq!(verdict, rule::verify(&case.key, &case.message, &case.signature));
                }
                next += some.len();
            }
        }
    }

    /// A challenge is a hash, so no honest signature has a special one. R made to fit gives any challenge a signature.
    #[test]
    fn the_equation_holds_for_every_challenge_and_no_other_point() {
        use curve25519_dalek::{EdwardsPoint, constants::EIGHT_TORSION};
        let mut source = Source::new(72);
        let near = |power: i128| (-2..=2).map(move |off| signed(power) + signed(off));
        let mut scalars: Vec<Scalar> = near(0).chain(near(1 << 126)).chain(near(i128::MAX)).collect();
        scalars.extend(near(1 << 126).map(|scalar| scalar * signed(4)));
        scalars.extend((0..8).map(|_| Scalar::from_bytes_mod_order_wide(&source.bytes())));
        for backend in Backend::available() {
            let base = Equation::new(backend, 1, &[0; 32]);
            let mut singles = Singles::new(backend, base.basepoint());
            let key = EdwardsPoint::mul_base(&Scalar::from_bytes_mod_order_wide(&source.bytes()));
            let niels = |point: EdwardsPoint| {
                decompress(backend, &[point.compress().0])[0].expect("a compressed point")
            };
            for (k, s) in scalars.iter().flat_map(|k| scalars.iter().map(move |s| (*k, *s))) {
                let r = EdwardsPoint::mul_base(&s) - k * key;
                let others = [r + EIGHT_TORSION[1], r + EdwardsPoint::mul_base(&Scalar::ONE), -r];
                let cases = [(r, true), (others[0], true), (others[1], false), (others[2], r == -r)];
                for some in cases.chunks(backend.lanes()) {
                    singles.clear();
                    some.iter().for_each(|(r, _)| singles.push(Single { a: niels(key), r: niels(*r), k, s }));
                    for ((r, expected), verdict) in some.iter().zip(verdicts(&mut singles)) {
                        assert_eq!(verdict, *expected, "{backend:?} {k:?} {s:?} {r:?}");
                    }
                }
            }
        }
    }
}
