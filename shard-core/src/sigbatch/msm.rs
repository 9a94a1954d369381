//! Σ [zᵢ]Pᵢ by Pippenger's algorithm, in pieces: the sum of the batch equation.
//!
//! # The algorithm
//!
//! A scalar is 128 bits with a sign, cut into windows of c bits with digits from −2ᶜ⁻¹ to 2ᶜ⁻¹. In each window a point is added to the
//! bucket of its digit (negated for a negative digit), and `Σ b · bucket[b]` over the buckets, by running sums, is what the
//! window contributes; c doublings lead from one window to the next. (Bernstein, Doumen, Lange, Oosterwijk, "Faster batch
//! forgery identification", 2012, section 3.)
//!
//! **Each lane has its own windows.** All lanes of a vector add the same point, each to a bucket of its own window: so
//! lanes never meet in a bucket, the point is loaded once for all, and no time goes into sorting.
//!
//! Scalars of 253 bits are two terms: `[z mod 2¹²⁸]P` and `[⌊z / 2¹²⁸⌋][2¹²⁸]P`, where the key cache knows `[2¹²⁸]P`. Where it
//! does not, the upper part is a **high** term: high terms are summed first, in the same way, and 128 doublings put them
//! into place. That is dearer only by the buckets.
#![allow(clippy::cast_possible_truncation, reason = "windows, digits and rows are below 2¹⁶")]

use super::digits::{Cut, Digits, SCALAR_BITS};
use super::field::{Backend, Kernel, MAX_LANES, Rows};
use super::point::{self, Extended, Niels};

/// Digits of the widest windows.
const MAX_BITS: u32 = 8;
/// Digits of the narrowest.
const MIN_BITS: u32 = 3;
/// Points that one piece adds to the buckets, and buckets that one piece sums up.
const POINTS_PER_PIECE: usize = 64;
const BUCKETS_PER_PIECE: usize = 24;

/// The cut that costs least for `terms` terms.
fn best_cut(terms: usize, lanes: usize) -> Cut {
    let cost = |cut: &Cut| {
        // In multiplications: 7 to add a point to a bucket, 18 to sum up a bucket.
        cut.windows().next_multiple_of(lanes) * (7 * terms + 18 * cut.half())
    };
    (MIN_BITS..=MAX_BITS).map(|bits| Cut { bits }).min_by_key(cost).expect("a range that is not empty")
}

/// Points with their scalars.
#[derive(Default)]
struct Terms {
    points: Vec<Niels>,
    scalars: Vec<i128>,
}

impl Terms {
    fn with_capacity(capacity: usize) -> Self {
        Self { points: Vec::with_capacity(capacity), scalars: Vec::with_capacity(capacity) }
    }

    fn push(&mut self, point: &Niels, scalar: i128) {
        self.points.push(*point);
        self.scalars.push(scalar);
    }

    fn clear(&mut self) {
        self.points.clear();
        self.scalars.clear();
    }
}

/// The next piece of a sum.
#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Empty the buckets of the windows from this one on, as many as there are lanes.
    Clear { window: usize },
    /// Add the points from `next` on to the buckets.
    Fill { window: usize, next: usize },
    /// Sum up the buckets below `next`.
    Collect { window: usize, next: usize },
    /// Put the windows together.
    Join,
    /// There is no more.
    Done,
}

/// A sum in work.
pub(super) struct Msm {
    backend: Backend,
    low: Terms,
    high: Terms,
    /// Whether the high terms are in work.
    at_high: bool,
    cut: Cut,
    piece: Piece,
    /// Those of each lane after those of the lane before.
    buckets: Vec<Extended>,
    /// For each lane the sum of the buckets so far, then for each lane the sum of those sums.
    running: [Extended; 2 * MAX_LANES],
    /// What each window contributes.
    windows: Vec<Extended>,
    total: Extended,
}

impl Msm {
    /// A sum with room for as many low and high terms.
    pub(super) fn new(backend: Backend, low: usize, high: usize) -> Self {
        let rows = (Cut { bits: MAX_BITS }).rows() * backend.lanes();
        let windows = Cut { bits: MIN_BITS }.windows() + MAX_LANES;
        Self {
            backend,
            low: Terms::with_capacity(low),
            high: Terms::with_capacity(high),
            at_high: false,
            cut: Cut { bits: MAX_BITS },
            piece: Piece::Done,
            buckets: Vec::with_capacity(rows),
            running: [Extended::IDENTITY; 2 * MAX_LANES],
            windows: Vec::with_capacity(windows),
            total: Extended::IDENTITY,
        }
    }

    /// Begins a new sum, without terms.
    pub(super) fn clear(&mut self) {
        self.low.clear();
        self.high.clear();
        self.piece = Piece::Done;
    }

    /// Adds the term `[scalar]point`.
    pub(super) fn push_low(&mut self, point: &Niels, scalar: i128) {
        self.low.push(point, scalar);
    }

    /// Adds the term `[2¹²⁸ · scalar]point`.
    pub(super) fn push_high(&mut self, point: &Niels, scalar: i128) {
        self.high.push(point, scalar);
    }

    /// All terms are there: begins to sum them up.
    pub(super) fn start(&mut self) {
        self.total = Extended::IDENTITY;
        self.start_half(!self.high.points.is_empty());
    }

    fn start_half(&mut self, high: bool) {
        self.at_high = high;
        let terms = if high { &self.high } else { &self.low };
        self.cut = best_cut(terms.points.len(), self.backend.lanes());
        self.windows.clear();
        self.piece = Piece::Clear { window: 0 };
    }

    /// Does one piece of the sum. Returns whether there is more to do.
    pub(super) fn step(&mut self) -> bool {
        let lanes = self.backend.lanes();
        let terms = if self.at_high { &self.high } else { &self.low };
        self.piece = match self.piece {
            Piece::Clear { window } => {
                self.buckets.clear();
                self.buckets.resize(lanes * self.cut.rows(), Extended::IDENTITY);
                Piece::Fill { window, next: 0 }
            }
            Piece::Fill { window, next } => {
                let end = terms.points.len().min(next + POINTS_PER_PIECE);
                let range = next..end;
                let (points, scalars) = (&terms.points[range.clone()], &terms.scalars[range]);
                let buckets = &mut self.buckets[..];
                self.backend.run(Fill { points, scalars, cut: self.cut, window, buckets });
                if end < terms.points.len() {
                    Piece::Fill { window, next: end }
                } else {
                    self.running = [Extended::IDENTITY; 2 * MAX_LANES];
                    Piece::Collect { window, next: self.cut.half() }
                }
            }
            Piece::Collect { window, next } => {
                let rows = self.cut.rows();
                let last = next.saturating_sub(BUCKETS_PER_PIECE);
                let (buckets, running) = (&self.buckets[..], &mut self.running);
                self.backend.run(Collect { buckets, rows, digits: last + 1..=next, running });
                if last > 0 {
                    Piece::Collect { window, next: last }
                } else {
                    self.windows.extend_from_slice(&self.running[MAX_LANES..][..lanes]);
                    let next = window + lanes;
                    if next < self.cut.windows() { Piece::Clear { window: next } } else { Piece::Join }
                }
            }
            Piece::Join => {
                self.join();
                if self.at_high {
                    self.start_half(false);
                    self.piece
                } else {
                    Piece::Done
                }
            }
            Piece::Done => Piece::Done,
        };
        !matches!(self.piece, Piece::Done)
    }

    /// The most that the next piece costs, in tenths of a work unit; fitted to measurements.
    pub(super) fn next_cost(&self) -> usize {
        let lanes = self.backend.lanes();
        // To add a point to a vector's buckets, and to sum up a bucket, in hundredths of that.
        let (fill, collect) = match lanes {
            1 => (160, 400),
            4 => (360, 950),
            _ => (320, 750),
        };
        match self.piece {
            Piece::Clear { .. } => 5 + lanes * self.cut.rows() / 16,
            Piece::Fill { .. } => POINTS_PER_PIECE * fill / 100,
            Piece::Collect { .. } => BUCKETS_PER_PIECE * collect / 100,
            Piece::Join => 300,
            Piece::Done => 0,
        }
    }

    /// The sum, once [`step`](Self::step) has said that there is no more to do.
    pub(super) fn total(&self) -> Extended {
        assert!(matches!(self.piece, Piece::Done));
        self.total
    }

    /// `total = 2¹²⁸ · total + Σ 2^(bits · i) · windows[i]`.
    fn join(&mut self) {
        let mut total = self.total.to_lane();
        let mut at = SCALAR_BITS;
        for window in (0..self.cut.windows()).rev() {
            let next = window as u32 * self.cut.bits;
            for _ in next..at {
                total = point::double(total);
            }
            at = next;
            total = point::add(total, point::prepare((), self.windows[window].to_lane()));
        }
        self.total = Extended::from_lane(total);
    }
}

/// Adds points to the buckets of as many windows as there are lanes.
struct Fill<'a> {
    points: &'a [Niels],
    scalars: &'a [i128],
    cut: Cut,
    window: usize,
    buckets: &'a mut [Extended],
}

impl Fill<'_> {
    /// For each lane the row of the digit's bucket, and a bit for each lane whose digit is negative.
    #[inline(always)]
    fn place<L: Rows>(&self, i: usize) -> ([u32; MAX_LANES], u32) {
        let digits = Digits::new(self.cut, self.scalars[i]);
        let (mut at, mut negative) = ([0; MAX_LANES], 0);
        for (lane, at) in at.iter_mut().enumerate().take(L::N) {
            let digit = digits.get(self.window + lane);
            *at = (lane * self.cut.rows()) as u32 + digit.unsigned_abs();
            negative |= u32::from(digit < 0) << lane;
        }
        (at, negative)
    }
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        let Some(last) = self.points.len().checked_sub(1) else { return };
        let mut place = self.place::<L>(0);
        for (i, niels) in self.points.iter().enumerate() {
            let (at, negative) = place;
            place = self.place::<L>(last.min(i + 1));
            L::prefetch(self.buckets, &place.0);
            let bucket = L::load_points(cpu, self.buckets, &at);
            let sum = point::add_niels(bucket, L::signed(cpu, niels, negative));
            L::store_points(sum, self.buckets, &at);
        }
    }
}

/// Running sums over the buckets of some digits, from the largest down.
struct Collect<'a> {
    buckets: &'a [Extended],
    rows: usize,
    digits: std::ops::RangeInclusive<usize>,
    running: &'a mut [Extended; 2 * MAX_LANES],
}

impl Kernel for Collect<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        let lanes: [u32; MAX_LANES] = std::array::from_fn(|lane| if lane < L::N { lane as u32 } else { 0 });
        let sums = lanes.map(|lane| lane + MAX_LANES as u32);
        let mut sum = L::load_points(cpu, self.running, &lanes);
        let mut sum_of_sums = L::load_points(cpu, self.running, &sums);
        for digit in self.digits.rev() {
            let at = lanes.map(|lane| lane * self.rows as u32 + digit as u32);
            let bucket = L::load_points(cpu, self.buckets, &at);
            sum = point::add(sum, point::prepare(cpu, bucket));
            sum_of_sums = point::add(sum_of_sums, point::prepare(cpu, sum));
        }
        L::store_points(sum, self.running, &lanes);
        L::store_points(sum_of_sums, self.running, &sums);
    }
}
