//! The batch equation: its terms, and the sum of a range of them, in pieces.

use std::ops::Range;

use ahash::RandomState;
use curve25519_dalek::Scalar;
use hashbrown::HashTable;

use super::coefficients::Coefficients;
use super::decompress::{basepoint, shift_128};
use super::field::Backend;
use super::key_cache::{self, Cached};
use super::msm::Msm;
use super::point::{Extended, Niels};
use super::singles::{Single, signed};

/// One signature in the equation.
pub(super) struct Term {
    /// The signature's place in its group.
    pub(super) item: usize,
    /// Whose key it is, by [`Equation::signer`].
    pub(super) signer: usize,
    r: Niels,
    k: Scalar,
    s: Scalar,
    /// None until the term is first in a sum.
    weighed: Option<Weighed>,
}

/// A term's coefficient, and what it makes of its scalars.
#[derive(Clone, Copy)]
struct Weighed {
    z: i128,
    zk: Scalar,
    zs: Scalar,
}

/// A public key that signed something in this group.
pub(super) struct Signer {
    pub(super) key: [u8; 32],
    /// The key's points; none if it is not the encoding of a point.
    pub(super) points: Option<Cached>,
    /// Whether the key cache holds it.
    pub(super) cached: bool,
    /// Whether it should get its 2¹²⁸-fold.
    pub(super) often: bool,
    /// `Σ zk` over the range in work.
    sum: Scalar,
    /// Whether the range in work has a term of it.
    in_range: bool,
}

/// What is left to do for the sum of a range.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Terms from here on are to be loaded.
    Terms(usize),
    /// Signers of the range, by place among them, from here on are to be loaded.
    Signers(usize),
    Sum,
}

/// The terms of one group, and a sum over some of them.
pub(super) struct Equation {
    pub(super) terms: Vec<Term>,
    pub(super) signers: Vec<Signer>,
    by_key: HashTable<usize>,
    hasher: RandomState,
    range: Range<usize>,
    stage: Stage,
    /// The signers of the terms loaded so far.
    loaded: Vec<usize>,
    /// `−Σ zs` over the terms loaded so far.
    base: Scalar,
    basepoint: [Niels; 2],
    msm: Msm,
}

/// Terms, or signers, that one piece of work loads.
const LOADED_PER_PIECE: usize = 64;
/// Tenths of a work unit to load one; measured.
const LOAD_COST: usize = 3;

impl Equation {
    /// An empty equation with room for `capacity` signatures.
    pub(super) fn new(backend: Backend, capacity: usize, seed: &[u8; 32]) -> Self {
        let basepoint = basepoint(backend);
        Self {
            terms: Vec::with_capacity(capacity),
            signers: Vec::with_capacity(capacity),
            by_key: HashTable::with_capacity(capacity),
            hasher: key_cache::hasher(seed),
            range: 0..0,
            stage: Stage::Sum,
            loaded: Vec::with_capacity(capacity),
            base: Scalar::ZERO,
            basepoint: [basepoint, shift_128(backend, &[basepoint])[0]],
            msm: Msm::new(backend, 3 * capacity + 2, capacity),
        }
    }

    /// Forgets all terms and signers.
    pub(super) fn clear(&mut self) {
        self.terms.clear();
        self.signers.clear();
        self.loaded.clear();
        self.by_key.clear();
    }

    /// The number of the signer with `key`, if it was added.
    pub(super) fn signer(&self, key: &[u8; 32]) -> Option<usize> {
        self.by_key.find(self.hasher.hash_one(key), |&number| self.signers[number].key == *key).copied()
    }

    /// Adds a signer that has no number yet and whose key the cache holds; `often` if it uses it often.
    pub(super) fn add_signer(&mut self, key: &[u8; 32], points: Cached, often: bool) {
        self.number(Signer {
            key: *key,
            points: Some(points),
            cached: true,
            often,
            sum: Scalar::ZERO,
            in_range: false,
        });
    }

    /// Adds a signer that has no number yet and whose key the cache does not hold; no point if it is no encoding of one.
    pub(super) fn add_new_signer(&mut self, key: &[u8; 32], point: Option<Niels>) {
        let points = point.map(|point| Cached { point, shifted: None });
        self.number(Signer {
            key: *key,
            points,
            cached: false,
            often: false,
            sum: Scalar::ZERO,
            in_range: false,
        });
    }

    fn number(&mut self, signer: Signer) {
        let number = self.signers.len();
        let hash = self.hasher.hash_one(signer.key);
        self.signers.push(signer);
        let (hasher, signers) = (&self.hasher, &self.signers);
        self.by_key.insert_unique(hash, number, |&number| hasher.hash_one(signers[number].key));
    }

    /// Adds the signature `(r, s)` of challenge `k`.
    pub(super) fn add_term(&mut self, item: usize, signer: usize, r: Niels, k: Scalar, s: Scalar) {
        assert!(self.signers[signer].points.is_some());
        self.terms.push(Term { item, signer, r, k, s, weighed: None });
    }

    /// Begins the sum `Σ [z]R + Σ [zk]A − [Σ zs]B` over the terms of `range`.
    pub(super) fn begin(&mut self, range: Range<usize>) {
        self.stage = Stage::Terms(range.start);
        self.range = range;
        self.base = Scalar::ZERO;
        for signer in self.loaded.drain(..) {
            self.signers[signer].in_range = false;
        }
        self.msm.clear();
    }

    /// The range whose sum was begun last.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Does one piece of the sum. Returns whether there is more to do. Terms that had no coefficient yet get one, once: halving a range must not
    /// draw anew, or the halves' sums would not add up to the whole's.
    pub(super) fn step(&mut self, coefficients: &mut Coefficients) -> bool {
        match self.stage {
            Stage::Terms(next) => {
                let end = self.range.end.min(next + LOADED_PER_PIECE);
                for at in next..end {
                    self.load_term(at, coefficients);
                }
                self.stage = if end < self.range.end { Stage::Terms(end) } else { Stage::Signers(0) };
                true
            }
            Stage::Signers(next) => {
                let end = self.loaded.len().min(next + LOADED_PER_PIECE);
                for at in next..end {
                    self.load_signer(self.loaded[at]);
                }
                if end < self.loaded.len() {
                    self.stage = Stage::Signers(end);
                } else {
                    let (low, high) = halves(&self.base);
                    self.msm.push_low(&self.basepoint[0], low);
                    self.msm.push_low(&self.basepoint[1], high);
                    self.msm.start();
                    self.stage = Stage::Sum;
                }
                true
            }
            Stage::Sum => self.msm.step(),
        }
    }

    /// The most that the next piece costs, in tenths of a work unit.
    pub(super) fn next_cost(&self) -> usize {
        match self.stage {
            Stage::Terms(_) | Stage::Signers(_) => LOADED_PER_PIECE * LOAD_COST,
            Stage::Sum => self.msm.next_cost(),
        }
    }

    /// The sum, once [`step`](Self::step) has said that there is no more to do.
    pub(super) fn total(&self) -> Extended {
        self.msm.total()
    }

    /// The signature of the term at `at`, to be judged by itself.
    pub(super) fn single(&self, at: usize) -> Single {
        let Term { signer, r, k, s, .. } = self.terms[at];
        let a = self.signers[signer].points.expect("a signer with terms has a point").point;
        Single { a, r, k, s }
    }

    /// B and [2¹²⁸]B.
    pub(super) fn basepoint(&self) -> &[Niels; 2] {
        &self.basepoint
    }

    fn load_term(&mut self, at: usize, coefficients: &mut Coefficients) {
        let term = &mut self.terms[at];
        let Weighed { z, zk, zs } = *term.weighed.get_or_insert_with(|| {
            let z = coefficients.draw();
            Weighed { z, zk: signed(z) * term.k, zs: signed(z) * term.s }
        });
        self.base -= zs;
        self.msm.push_low(&term.r, z);
        let signer = &mut self.signers[term.signer];
        if signer.in_range {
            signer.sum += zk;
        } else {
            signer.in_range = true;
            signer.sum = zk;
            self.loaded.push(term.signer);
        }
    }

    fn load_signer(&mut self, number: usize) {
        let signer = &self.signers[number];
        let points = signer.points.expect("a signer with terms has a point");
        let (low, high) = halves(&signer.sum);
        self.msm.push_low(&points.point, low);
        match points.shifted {
            Some(shifted) => self.msm.push_low(&shifted, high),
            None => self.msm.push_high(&points.point, high),
        }
    }
}

/// `low` and `high` with `scalar = low + 2¹²⁸ · high`.
pub(super) fn halves(scalar: &Scalar) -> (i128, i128) {
    let bytes = scalar.as_bytes();
    let low = i128::from_le_bytes(*bytes.first_chunk().expect("32 bytes hold 16"));
    let high = i128::from_le_bytes(*bytes.last_chunk().expect("32 bytes hold 16"));
    (low, high + i128::from(low < 0))
}
