//! Which signatures to judge next, and how, so that all bad ones are found at little cost.
//!
//! A sum over many signatures costs a quarter of judging each by itself, and if it is not zero it says only that one of
//! them is bad. So with a share p of bad ones:
//!
//! - A sum is taken over no more than about 1/3p signatures, of which most are good all together.
//! - A range whose sum is not zero is halved. The right half's sum is the difference of the whole's and the left half's, so
//!   one half only is computed. If it must hold several bad ones, by the share so far, its sum is forgotten instead, and it
//!   is taken in shorter ranges from the start.
//! - What is left, ranges too short for a sum to pay, is judged signature by signature, a lane for each. Where more than
//!   every thirty-sixth is bad all are, so even if all are forgeries each costs a bounded factor.
//!
//! This steers cost only, never a verdict.

use std::ops::Range;

use super::job::MAX_CAPACITY;
use super::point::Extended;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Sum up the terms of this range.
    Sum(Range<usize>),
    /// Judge some of the [doubtful](Search::doubtful) ones.
    Singles,
    /// All have a verdict.
    Nothing,
}

/// Terms that have no verdict yet.
struct Open {
    range: Range<usize>,
    /// Their sum, which is not zero, if it is known.
    sum: Option<Extended>,
}

/// The search in one group, and what is remembered of those before.
pub(super) struct Search {
    /// Signatures that are judged by themselves at a time.
    lanes: usize,
    open: Vec<Open>,
    /// The range whose left half's sum is in work, and its sum.
    halving: Option<(Range<usize>, Extended)>,
    doubtful: Vec<usize>,
    share: Share,
}

/// Open ranges, at most: two for each halving of the largest group, and the last pair.
const MAX_OPEN: usize = 2 * MAX_CAPACITY.ilog2() as usize + 2;
/// Up to so many signatures are judged faster by themselves than by further sums; measured.
const FEW: usize = 16;
/// Where sums would be over fewer than so many signatures, none is taken; measured.
const SHORT: usize = 12;
/// A range with so many times more signatures than should be in a sum holds some bad ones: its sum says nothing new.
const HOPELESS: usize = 8;

impl Search {
    /// A search through groups of up to `capacity` terms.
    pub(super) fn new(lanes: usize, capacity: usize) -> Self {
        Self {
            lanes,
            open: Vec::with_capacity(MAX_OPEN),
            halving: None,
            doubtful: Vec::with_capacity(capacity),
            share: Share::default(),
        }
    }

    /// Begins with a group of so many terms.
    pub(super) fn begin(&mut self, terms: usize) {
        assert!(self.open.is_empty() && self.doubtful.is_empty());
        self.leave(0..terms);
    }

    /// What to do next. What it says must be done before it is asked again.
    pub(super) fn next(&mut self) -> Next {
        while self.doubtful.len() < self.lanes {
            let Some(Open { range, sum }) = self.open.pop() else { break };
            let limit = self.share.limit();
            match sum {
                Some(_) if range.len() <= FEW => self.doubtful.extend(range),
                Some(sum) if range.len() / HOPELESS <= limit => {
                    let left = range.start..range.start + range.len() / 2;
                    self.halving = Some((range, sum));
                    return Next::Sum(left);
                }
                _ if limit.min(range.len()) < SHORT => {
                    let (some, rest) = split(range, self.lanes);
                    self.leave(rest);
                    self.doubtful.extend(some);
                }
                _ => {
                    let (some, rest) = split(range, limit);
                    self.leave(rest);
                    return Next::Sum(some);
                }
            }
        }
        if self.doubtful.is_empty() { Next::Nothing } else { Next::Singles }
    }

    fn leave(&mut self, rest: Range<usize>) {
        if !rest.is_empty() {
            self.open.push(Open { range: rest, sum: None });
        }
    }

    /// The terms to be judged by themselves; all that are taken out must be [noted](Self::note).
    pub(super) fn doubtful(&mut self) -> impl Iterator<Item = usize> {
        let first = self.doubtful.len().saturating_sub(self.lanes);
        self.doubtful.drain(first..)
    }

    /// Draws the conclusion from the sum that [`next`](Self::next) wanted, over `range`. Returns the ranges that are valid.
    pub(super) fn conclude(&mut self, range: Range<usize>, sum: Extended) -> [Range<usize>; 2] {
        let right = self.halving.take().map(|(whole, total)| (range.end..whole.end, total.minus(sum)));
        let mut valid = [0..0, 0..0];
        // Right first: the left is looked into first.
        for (place, (range, sum)) in right.into_iter().chain([(range, sum)]).enumerate() {
            if sum.is_zero_cofactored() {
                valid[place] = range;
            } else if range.len() > 1 {
                self.open.push(Open { range, sum: Some(sum) });
            } else {
                // A rejection has one way only: nothing is refused by a coefficient.
                self.doubtful.extend(range);
            }
        }
        valid
    }

    /// Notes a verdict.
    pub(super) fn note(&mut self, valid: bool) {
        self.share.note(!valid);
    }
}

/// The first `count` of a range, and the rest.
fn split(range: Range<usize>, count: usize) -> (Range<usize>, Range<usize>) {
    let middle = range.start.saturating_add(count).min(range.end);
    (range.start..middle, middle..range.end)
}

/// The share of bad signatures among the last few hundred.
#[derive(Default)]
struct Share {
    /// A moving average, in units of 2⁻¹⁶.
    bad: usize,
}

impl Share {
    const ONE: usize = 1 << 16;
    /// Signatures over which the average forgets.
    const MEMORY: usize = 256;

    fn note(&mut self, bad: bool) {
        self.bad -= self.bad.div_ceil(Self::MEMORY);
        self.bad += if bad { Self::ONE / Self::MEMORY } else { 0 };
    }

    /// How many signatures hold a third of a bad one on average: at least 1, and without limit if none was bad.
    fn limit(&self) -> usize {
        (Self::ONE / (3 * self.bad + 1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// B, which is not zero: what a range with a bad signature sums up to.
    fn not_zero() -> Extended {
        let base = curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED.to_bytes();
        let points = super::super::decompress::decompress(super::super::Backend::PORTABLE, &[base]);
        Extended::from_niels(points[0].expect("the base point is a point"))
    }

    /// Searches through a group in which each bad signature adds another multiple of B. Returns the verdicts, and the sum of
    /// the lengths of all sums and the number of signatures judged by themselves.
    fn search(search: &mut Search, bad: &[bool]) -> (Vec<bool>, usize, usize) {
        let (mut valid, mut summed, mut singles) = (vec![None; bad.len()], 0, 0);
        let give = |valid: &mut Vec<Option<bool>>, at: usize, verdict| {
            assert_eq!(valid[at].replace(verdict), None, "one verdict each");
        };
        search.begin(bad.len());
        loop {
            match search.next() {
                Next::Sum(range) => {
                    assert!(range.len() > 1, "no sum over one");
                    summed += range.len();
                    let mut sum = Extended::IDENTITY;
                    for _ in bad[range.clone()].iter().filter(|&&bad| bad) {
                        sum = sum.minus(not_zero());
                    }
                    for range in search.conclude(range, sum) {
                        for at in range {
                            give(&mut valid, at, true);
                            search.note(true);
                        }
                    }
                }
                Next::Singles => {
                    let doubtful: Vec<usize> = search.doubtful().collect();
                    assert!((1..=search.lanes).contains(&doubtful.len()));
                    singles += doubtful.len();
                    for at in doubtful {
                        give(&mut valid, at, !bad[at]);
                        search.note(!bad[at]);
                    }
                }
                Next::Nothing => break,
            }
        }
        let verdicts = valid.into_iter().map(|verdict| verdict.expect("each gets a verdict")).collect();
        (verdicts, summed, singles)
    }

    proptest! {
        #[test]
        fn each_gets_its_verdict_once(
            lanes in prop_oneof![Just(1), Just(4), Just(8)],
            groups in proptest::collection::vec((0..600usize, 0..100u8, any::<u64>()), 1..5),
        ) {
            let mut state = Search::new(lanes, 600);
            let room = (state.open.capacity(), state.doubtful.capacity());
            for (count, percent, seed) in groups {
                let mut random = super::super::tests::Source::new(seed);
                let bad: Vec<bool> = (0..count).map(|_| random.bytes::<1>()[0] % 100 < percent).collect();
                let (verdicts, ..) = search(&mut state, &bad);
                prop_assert!(verdicts.iter().zip(&bad).all(|(valid, bad)| valid != bad));
            }
            prop_assert_eq!(room, (state.open.capacity(), state.doubtful.capacity()), "nothing was allocated");
        }
    }

    #[test]
    fn a_lone_forgery_costs_little_and_a_flood_one_look_each() {
        let mut state = Search::new(8, 1024);
        let mut bad = vec![false; 1024];
        assert_eq!(search(&mut state, &bad).1, 1024);
        bad[700] = true;
        let (_, summed, singles) = search(&mut state, &bad);
        assert!(summed < 2 * 1024 + 8 && singles <= FEW, "{summed} {singles}");

        let mut state = Search::new(8, 1024);
        bad.fill(true);
        search(&mut state, &bad);
        let (_, summed, singles) = search(&mut state, &bad);
        assert_eq!((summed, singles), (0, 1024), "once it is known, no sum is tried");
        bad.fill(false);
        search(&mut state, &bad);
        search(&mut state, &bad);
        assert_eq!(search(&mut state, &bad).1, 1024, "and it is forgotten again");
    }

    #[test]
    fn forgeries_make_sums_short_and_honest_ones_long_again() {
        let mut share = Share::default();
        assert!(share.limit() >= MAX_CAPACITY);
        (0..1000).for_each(|i| share.note(i % 2 == 0));
        assert!(share.limit() <= 1);
        (0..4000).for_each(|_| share.note(false));
        assert!(share.limit() >= MAX_CAPACITY);
    }
}
