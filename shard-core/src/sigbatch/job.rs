//! Batch verification as a job that is resumed slice by slice.

use std::mem;
use std::ops::Range;

use curve25519_dalek::{EdwardsPoint, Scalar};

use super::coefficients::{Coefficients, Transcript};
use super::equation::Equation;
use super::key_cache::KeyCache;
use super::rule;

/// The longest message that [`Batch::push`] takes, in bytes: what validators sign are digests.
pub const MAX_MESSAGE: usize = 64;
/// The largest capacity of a batch. Sorting a group is one piece of work: about 0.3 ms for this many.
pub const MAX_CAPACITY: usize = 4096;

/// Work units of preparing one signature, with R's decompression; measured.
const PREPARE: usize = 4;
/// Work units of decompressing a public key.
const DECOMPRESS: usize = 3;
/// Signatures that one work unit sorts.
const SORTED_PER_UNIT: usize = 14;

/// The batch holds as many signatures as it can: run it, or hold back its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature batch is full")]
pub struct BatchFull;

/// What a step has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to do until something is pushed.
    Idle,
    /// The budget is used up and there is more to do.
    Running,
    /// The group's verdicts are ready to be drained; until they are, steps do nothing.
    Done,
}

/// Signatures waiting for their verdicts, as a job in slices.
///
/// The first [`step`](Self::step) after a push closes a **group** of all signatures that wait and begins to
/// verify it. What is pushed meanwhile waits for the next group, so a loop can push at any time and group sizes
/// follow the load. After `new` nothing is allocated, save for what curve25519-dalek needs inside one multiplication.
///
/// ```
/// use shard_core::sigbatch::{Batch, Progress};
/// let mut batch = Batch::new(1024, [7; 32], 65_536);
/// batch.push(&[1; 32], b"digest", &[2; 64], 99).expect("an empty batch has room");
/// while batch.step(160) != Progress::Done {}
/// assert_eq!(batch.verdicts().collect::<Vec<_>>(), [(99, false)]);
/// ```
pub struct Batch {
    capacity: usize,
    waiting: Vec<Item>,
    group: Vec<Item>,
    /// The first 8 bytes of each key of the group with the signature's index, sorted: one signer's are neighbours.
    /// (Different keys that begin alike may separate them; that costs a merge, not a verdict.)
    order: Vec<(u64, usize)>,
    /// Whether each of the group is valid, as far as is known.
    valid: Vec<bool>,
    stage: Stage,
    transcript: Transcript,
    /// Those of the group in work, drawn as its terms come up.
    coefficients: Coefficients,
    equation: Equation,
    /// Ranges that are known to hold a bad signature.
    failed: Vec<Failed>,
    keys: KeyCache,
    forgeries: ForgeryRate,
}

struct Item {
    key: [u8; 32],
    signature: [u8; 64],
    message: [u8; MAX_MESSAGE],
    message_len: usize,
    token: u64,
}

impl Item {
    fn message(&self) -> &[u8] {
        &self.message[..self.message_len]
    }
}

enum Stage {
    Idle,
    /// Signatures before `next` in the order have been turned into terms, or rejected.
    Preparing {
        next: usize,
        signer: Option<LastSigner>,
    },
    /// Terms before `next` have been in an equation.
    Proving {
        next: usize,
    },
    Done,
}

/// The key looked up last, and its number unless it is no point: neighbours in the order often share it.
#[derive(Clone, Copy)]
struct LastSigner {
    key: [u8; 32],
    number: Option<usize>,
}

/// A range of terms whose sum is not zero.
struct Failed {
    range: Range<usize>,
    sum: EdwardsPoint,
}

/// A part of the work that is never interrupted.
enum Piece {
    Open,
    Prepare { next: usize, signer: Option<LastSigner> },
    Prove(Range<usize>),
    Halve,
}

impl Batch {
    /// A batch in which `capacity` signatures can wait while as many are in work, and whose cache holds
    /// `cached_keys` public keys (0 for none; rounded up to 4 × a power of two). Takes about 1.2 KiB for each of
    /// `capacity` and 200 bytes for each cached key.
    ///
    /// `seed` keys the coefficients and the cache's hash; it must be unpredictable to whoever can send
    /// signatures: draw it from the operating system at start, one for each batch, and keep it secret (see
    /// `coefficients` for what it protects). Simulations may fix it.
    ///
    /// # Panics
    ///
    /// If `capacity` is 0 or more than [`MAX_CAPACITY`].
    #[must_use]
    pub fn new(capacity: usize, seed: [u8; 32], cached_keys: usize) -> Self {
        assert!((1..=MAX_CAPACITY).contains(&capacity));
        let transcript = Transcript::new(&seed);
        Self {
            capacity,
            waiting: Vec::with_capacity(capacity),
            group: Vec::with_capacity(capacity),
            order: Vec::with_capacity(capacity),
            valid: Vec::with_capacity(capacity),
            stage: Stage::Idle,
            coefficients: transcript.coefficients(),
            transcript,
            equation: Equation::new(capacity),
            failed: Vec::with_capacity(MAX_HALVINGS),
            keys: KeyCache::new(cached_keys, &seed),
            forgeries: ForgeryRate::default(),
        }
    }

    /// Adds the signature by `key` on `message`; its verdict will carry `token`. Costs three copies.
    ///
    /// # Errors
    ///
    /// [`BatchFull`] if `capacity` signatures wait already.
    ///
    /// # Panics
    ///
    /// If `message` is longer than [`MAX_MESSAGE`].
    pub fn push(
        &mut self,
        key: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
        token: u64,
    ) -> Result<(), BatchFull> {
        assert!(message.len() <= MAX_MESSAGE, "sign a digest, not the text");
        if self.waiting.len() == self.capacity {
            return Err(BatchFull);
        }
        let mut padded = [0; MAX_MESSAGE];
        padded[..message.len()].copy_from_slice(message);
        let (key, signature, message_len) = (*key, *signature, message.len());
        self.waiting.push(Item { key, signature, message: padded, message_len, token });
        Ok(())
    }

    /// Signatures whose verdicts have not been drained: those that wait and those in work.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.group.len()
    }

    /// Whether there is nothing to verify and nothing to drain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many signatures can wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether a group is in work: begun, and not yet [`Progress::Done`].
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Preparing { .. } | Stage::Proving { .. })
    }

    /// Does one slice of at most `budget` work units (see the [module](super)'s table), but at least one piece of
    /// work while there is any. A half of a failed equation is one piece, and may exceed a budget that was
    /// lowered since the equation was formed.
    pub fn step(&mut self, budget: usize) -> Progress {
        self.slice(budget).0
    }

    /// The verdicts of the group, in the order pushed, if it is [`Progress::Done`]; else none. They are taken out
    /// even if the iterator is dropped early, and the next step begins the next group.
    pub fn verdicts(&mut self) -> impl ExactSizeIterator<Item = (u64, bool)> {
        let ready = if matches!(self.stage, Stage::Done) { self.group.len() } else { 0 };
        if ready > 0 {
            self.stage = Stage::Idle;
        }
        self.group.drain(..ready).map(|item| item.token).zip(self.valid.drain(..ready))
    }

    /// [`step`](Self::step), and the work units it took.
    fn slice(&mut self, budget: usize) -> (Progress, usize) {
        let mut spent = 0;
        loop {
            let (piece, at_most) = match self.next_piece(budget) {
                Ok(next) => next,
                Err(progress) => return (progress, spent),
            };
            if spent > 0 && spent + at_most > budget {
                return (Progress::Running, spent);
            }
            spent += match piece {
                Piece::Open => self.open_group(),
                Piece::Prepare { next, signer } => self.prepare(next, signer),
                Piece::Prove(range) => self.prove(range),
                Piece::Halve => self.halve(),
            };
        }
    }

    /// The next piece of work and the most it can cost, or why there is none.
    fn next_piece(&self, budget: usize) -> Result<(Piece, usize), Progress> {
        match self.stage {
            Stage::Idle if self.waiting.is_empty() => Err(Progress::Idle),
            Stage::Idle => Ok((Piece::Open, sort_cost(self.waiting.len()))),
            Stage::Preparing { next, signer } => Ok((Piece::Prepare { next, signer }, PREPARE + DECOMPRESS)),
            Stage::Proving { next } => {
                if let Some(Failed { range, .. }) = self.failed.last() {
                    return Ok((Piece::Halve, self.equation.cost(left_half(range))));
                }
                let range = next..self.equation.plan(next, budget, self.forgeries.batch_limit());
                let cost = self.equation.cost(range.clone());
                Ok((Piece::Prove(range), cost))
            }
            Stage::Done => Err(Progress::Done),
        }
    }

    /// Closes a group of all that waits.
    fn open_group(&mut self) -> usize {
        assert!(self.group.is_empty() && self.failed.is_empty());
        mem::swap(&mut self.waiting, &mut self.group);
        let prefix = |item: &Item| u64::from_le_bytes(*item.key.first_chunk().expect("32 bytes hold 8"));
        self.order.clear();
        self.order.extend(self.group.iter().map(prefix).zip(0..));
        self.order.sort_unstable();
        self.valid.clear();
        self.valid.resize(self.group.len(), false);
        self.equation.clear();
        self.transcript.begin();
        self.stage = Stage::Preparing { next: 0, signer: None };
        sort_cost(self.group.len())
    }

    /// Turns the signature at `next` in the order into a term, unless it is rejected without the equation.
    fn prepare(&mut self, next: usize, mut signer: Option<LastSigner>) -> usize {
        let (_, index) = self.order[next];
        let item = &self.group[index];
        let mut cost = PREPARE;
        if signer.is_none_or(|last| last.key != item.key) {
            let cached = self.keys.get(&item.key);
            if cached.is_none() {
                cost += DECOMPRESS;
            }
            let point = cached.or_else(|| rule::decompress(&item.key));
            let number = point.map(|point| self.equation.add_signer(point, cached.is_some()));
            signer = Some(LastSigner { key: item.key, number });
        }
        if let Some(number) = signer.and_then(|last| last.number) {
            self.add_term(index, number);
        }

        self.stage = if next + 1 < self.order.len() {
            Stage::Preparing { next: next + 1, signer }
        } else {
            self.coefficients = self.transcript.coefficients();
            self.proving(0)
        };
        cost
    }

    /// Adds the term of the signature at `index` if its `s` is canonical and its `R` a point.
    fn add_term(&mut self, index: usize, signer: usize) {
        let item = &self.group[index];
        let (r_bytes, s_bytes) = rule::split(&item.signature);
        let Some(s) = rule::canonical_scalar(s_bytes) else { return };
        let Some(r) = rule::decompress(r_bytes) else { return };
        let challenge = rule::challenge(r_bytes, &item.key, item.message());
        self.transcript.absorb(&challenge, &s);
        self.equation.add_term(index, signer, r, Scalar::from_bytes_mod_order_wide(&challenge), s);
    }

    /// Checks the equation of `range`, whose terms get their coefficients now.
    fn prove(&mut self, range: Range<usize>) -> usize {
        self.equation.weigh(range.clone(), &mut self.coefficients);
        let cost = self.equation.cost(range.clone());
        let sum = self.equation.sum(range.clone());
        let end = range.end;
        self.judge(range, sum);
        self.stage = self.proving(end);
        cost
    }

    /// Splits a failed range in two and judges both.
    fn halve(&mut self) -> usize {
        let Failed { range, sum } = self.failed.pop().expect("a failed range is there");
        let left = left_half(&range);
        let cost = self.equation.cost(left.clone());
        let left_sum = self.equation.sum(left.clone());
        // Right first: the left, pushed later, is split first, so verdicts come in order.
        self.judge(left.end..range.end, sum - left_sum);
        self.judge(left, left_sum);
        if let Stage::Proving { next } = self.stage {
            self.stage = self.proving(next);
        }
        cost
    }

    /// Draws the conclusion from a range's sum: all valid, one known to be bad, or to be halved.
    fn judge(&mut self, range: Range<usize>, sum: EdwardsPoint) {
        if rule::is_zero(&sum) {
            for at in range {
                self.accept(at);
            }
        } else if range.len() == 1 {
            self.forgeries.note(true);
        } else {
            self.failed.push(Failed { range, sum });
        }
    }

    /// Notes that the term at `at` is valid, and only then keeps its key: forgeries can't flush the cache.
    fn accept(&mut self, at: usize) {
        let term = &self.equation.terms[at];
        let signer = &mut self.equation.signers[term.signer];
        if !signer.cached {
            self.keys.insert(&self.group[term.item].key, signer.point);
            signer.cached = true;
        }
        self.valid[term.item] = true;
        self.forgeries.note(false);
    }

    /// The stage after the terms before `next` have been in an equation.
    fn proving(&self, next: usize) -> Stage {
        if next == self.equation.terms.len() && self.failed.is_empty() {
            Stage::Done
        } else {
            Stage::Proving { next }
        }
    }
}

/// Work units of sorting a group.
fn sort_cost(signatures: usize) -> usize {
    1 + signatures / SORTED_PER_UNIT
}

/// Failed ranges that wait at a time, at most: one for each halving of the largest group, and the last pair.
const MAX_HALVINGS: usize = MAX_CAPACITY.ilog2() as usize + 2;

/// The half of a failed range that is computed; the other's sum is the difference.
fn left_half(range: &Range<usize>) -> Range<usize> {
    range.start..range.start + range.len() / 2
}

/// The share of bad signatures among the last hundred or so that reached an equation.
///
/// Under a flood of forgeries large equations fail and are halved to the end, which costs more than small ones. So
/// an equation holds no more signatures than are likely to be all good. This steers cost only, never a verdict.
#[derive(Default)]
struct ForgeryRate {
    /// A moving average, in units of 2⁻¹⁶.
    share: usize,
}

impl ForgeryRate {
    const ONE: usize = 1 << 16;
    /// Signatures over which the average forgets.
    const MEMORY: usize = 64;

    fn note(&mut self, bad: bool) {
        self.share -= self.share / Self::MEMORY;
        self.share += if bad { Self::ONE / Self::MEMORY } else { 0 };
    }

    /// How many signatures hold a quarter of a bad one on average: at least 1, and without limit if none was bad.
    fn batch_limit(&self) -> usize {
        (Self::ONE / (4 * self.share + 1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, Source, honest};
    use super::*;

    fn push_all(batch: &mut Batch, cases: &[Case]) {
        for case in cases {
            batch.push(&case.key, &case.message, &case.signature, 0).expect("room");
        }
    }

    /// Runs the batch to its end and returns the work units it took.
    fn cost(batch: &mut Batch, cases: &[Case]) -> usize {
        push_all(batch, cases);
        let (progress, spent) = batch.slice(usize::MAX / 2);
        assert_eq!(progress, Progress::Done);
        assert_eq!(batch.verdicts().len(), cases.len());
        spent
    }

    #[test]
    fn a_slice_keeps_to_its_budget_and_wastes_little_of_it() {
        let cases = honest(&mut Source::new(30), 200);
        for budget in [50, 100, 160, 400, 1800] {
            let mut batch = Batch::new(200, [1; 32], 0);
            push_all(&mut batch, &cases);
            let mut slices = Vec::new();
            loop {
                let (progress, spent) = batch.slice(budget);
                slices.push(spent);
                if progress == Progress::Done {
                    break;
                }
            }
            assert!(slices.iter().all(|&spent| spent <= budget), "{budget}: {slices:?}");
            let total: usize = slices.iter().sum();
            assert!(total * 2 > (slices.len() - 1) * budget, "{budget}: {slices:?}");
        }
    }

    #[test]
    fn a_valid_signature_leaves_its_key_in_the_cache_and_a_forgery_does_not() {
        let good = honest(&mut Source::new(31), 1);
        let mut forged = good.clone();
        forged[0].message[0] ^= 1;
        let mut batch = Batch::new(1, [1; 32], 4);
        let first = cost(&mut batch, &forged);
        assert_eq!(cost(&mut batch, &good), first, "still to be decompressed");
        assert_eq!(cost(&mut batch, &good), first - DECOMPRESS);
        assert_eq!(cost(&mut batch, &forged), first - DECOMPRESS);
    }

    #[test]
    fn forgeries_make_equations_short_and_honest_ones_long_again() {
        let mut rate = ForgeryRate::default();
        assert!(rate.batch_limit() >= MAX_CAPACITY);
        (0..200).for_each(|i| rate.note(i % 2 == 0));
        assert_eq!(rate.batch_limit(), 1);
        (0..1000).for_each(|_| rate.note(false));
        assert!(rate.batch_limit() >= 256);
    }
}
