//! The batch equation: its terms, what a part of it costs, and its sum.

use std::ops::Range;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::traits::VartimeMultiscalarMul;
use curve25519_dalek::{EdwardsPoint, Scalar};

use super::coefficients::Coefficients;

/// Points from which curve25519-dalek uses Pippenger's algorithm instead of Straus's.
const LARGE: usize = 190;
/// One signature in the equation.
pub(super) struct Term {
    /// The signature's place in its group.
    pub(super) item: usize,
    /// Whose key it is, by the number that [`Equation::add_signer`] gave.
    pub(super) signer: usize,
    r: EdwardsPoint,
    /// `z`; 0 until the term is weighed.
    z: Scalar,
    /// `k`, then `zk`.
    k: Scalar,
    /// `s`, then `zs`.
    s: Scalar,
}

/// A public key that signed something in this group.
pub(super) struct Signer {
    /// The decompressed key.
    pub(super) point: EdwardsPoint,
    /// Whether the key cache holds it.
    pub(super) cached: bool,
}

/// The terms of one group, in the order of their signers, so that the terms of one signer are neighbours.
pub(super) struct Equation {
    pub(super) terms: Vec<Term>,
    pub(super) signers: Vec<Signer>,
    scalars: Vec<Scalar>,
    points: Vec<EdwardsPoint>,
}

impl Equation {
    /// An empty equation with room for `capacity` signatures.
    pub(super) fn new(capacity: usize) -> Self {
        let points = 2 * capacity + 1;
        Self {
            terms: Vec::with_capacity(capacity),
            signers: Vec::with_capacity(capacity),
            scalars: Vec::with_capacity(points),
            points: Vec::with_capacity(points),
        }
    }

    /// Forgets all terms and signers.
    pub(super) fn clear(&mut self) {
        self.terms.clear();
        self.signers.clear();
    }

    /// Adds a public key and returns its number.
    pub(super) fn add_signer(&mut self, point: EdwardsPoint, cached: bool) -> usize {
        self.signers.push(Signer { point, cached });
        self.signers.len() - 1
    }

    /// Adds the signature `(r, s)` of challenge `k`; `signer` is not below that of the term before.
    pub(super) fn add_term(&mut self, item: usize, signer: usize, r: EdwardsPoint, k: Scalar, s: Scalar) {
        assert!(signer < self.signers.len());
        assert!(
            self.terms.last().is_none_or(|before| before.signer <= signer),
            "the terms of a signer are together"
        );
        self.terms.push(Term { item, signer, r, z: Scalar::ZERO, k, s });
    }

    /// Gives each term of `range` its coefficient. Once per term: halving a range must not draw anew, or the
    /// halves' sums would not add up to the whole's.
    pub(super) fn weigh(&mut self, range: Range<usize>, coefficients: &mut Coefficients) {
        for term in &mut self.terms[range] {
            term.z = coefficients.draw();
            term.k *= term.z;
            term.s *= term.z;
        }
    }

    /// `Σ [z]R + Σ [zk]A − [Σ zs]B` over the weighed terms of `range`.
    pub(super) fn sum(&mut self, range: Range<usize>) -> EdwardsPoint {
        self.scalars.clear();
        self.points.clear();
        let mut base = Scalar::ZERO;
        let mut signer_at = None;
        for term in &self.terms[range] {
            base -= term.s;
            self.scalars.push(term.z);
            self.points.push(term.r);
            match signer_at {
                Some((signer, at)) if signer == term.signer => self.scalars[at] += term.k,
                _ => {
                    signer_at = Some((term.signer, self.scalars.len()));
                    self.scalars.push(term.k);
                    self.points.push(self.signers[term.signer].point);
                }
            }
        }
        self.scalars.push(base);
        self.points.push(ED25519_BASEPOINT_POINT);
        EdwardsPoint::vartime_multiscalar_mul(&self.scalars, &self.points)
    }

    /// Work units of [`sum`](Self::sum), fitted to measurements (see the module's table).
    pub(super) fn cost(&self, range: Range<usize>) -> usize {
        let (signatures, signers) = (range.len(), self.signers_in(&range));
        if signatures + signers < LARGE {
            20 + (35 * signatures + 58 * signers) / 10
        } else {
            400 + (22 * signatures + 36 * signers) / 10
        }
    }

    /// The end of the next equation, which begins at `start`: the longest of at most `limit` signatures that fits
    /// `budget` work units, but one signature in any case. Longer is cheaper for each signature.
    pub(super) fn plan(&self, start: usize, budget: usize, limit: usize) -> usize {
        let last = self.terms.len().min(start + limit);
        let fits = |&end: &usize| self.cost(start..end) <= budget;
        (start + 2..=last).take_while(fits).last().unwrap_or(start + 1)
    }

    /// Signers of a range that is not empty. Numbers are in order; one whose signatures were all rejected early
    /// leaves a gap and is counted: an estimate of cost may be off by it.
    fn signers_in(&self, range: &Range<usize>) -> usize {
        self.terms[range.end - 1].signer - self.terms[range.start].signer + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::traits::Identity;

    /// An equation of `signatures` terms, `each` of them by one signer.
    fn equation(signatures: usize, each: usize) -> Equation {
        let mut equation = Equation::new(signatures);
        for item in 0..signatures {
            if item % each == 0 {
                equation.add_signer(EdwardsPoint::identity(), true);
            }
            equation.add_term(item, item / each, EdwardsPoint::identity(), Scalar::ONE, Scalar::ONE);
        }
        equation
    }

    #[test]
    fn a_plan_keeps_to_its_budget_and_limit() {
        for each in [1, 3, 1000] {
            let equation = equation(1000, each);
            for budget in [0, 20, 30, 50, 160, 500, 900, 1000, 1800, 10_000] {
                for limit in [1, 2, 16, 300, 5000] {
                    let end = equation.plan(0, budget, limit);
                    assert!((1..=1000).contains(&end) && end <= limit, "at least one, at most the limit");
                    assert!(end == 1 || equation.cost(0..end) <= budget);
                }
            }
        }
    }

    #[test]
    fn a_plan_is_as_long_as_its_budget_allows() {
        for (signatures, each) in [(1000, 1), (200, 1), (1000, 31), (300, 1000)] {
            let equation = equation(signatures, each);
            for budget in (50..6000).step_by(50) {
                let end = equation.plan(0, budget, usize::MAX / 2);
                assert!(end == signatures || equation.cost(0..end + 1) > budget);
            }
        }
    }
}
