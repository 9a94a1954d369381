//! Batch verification as a job that is resumed slice by slice.

use std::mem;
use std::ops::Range;

use curve25519_dalek::Scalar;

use super::coefficients::{Coefficients, Transcript};
use super::decompress::{GROUP, decompress, shift_128};
use super::equation::Equation;
use super::field::Backend;
use super::key_cache::{Cached, KeyCache};
use super::point::Niels;
use super::rule;
use super::search::{Next, Search};
use super::sha512::Inputs;
use super::singles::Singles;

/// The longest message that [`Batch::push`] takes, in bytes: what validators sign are digests.
pub const MAX_MESSAGE: usize = 128;
/// The largest capacity of a batch.
pub const MAX_CAPACITY: usize = 4096;

// What pieces cost, in tenths of a work unit; measured.

/// Closing a group.
const OPEN: usize = 10;
/// Decompressing the keys of a few signatures.
const KEYS: usize = 200;
/// Turning a few signatures into terms.
const TERMS: usize = 300;
/// The 2¹²⁸-folds of a vector of keys.
const SHIFT: usize = 350;
/// Choosing signatures to be judged by themselves.
const CHOOSE: usize = 10;
/// Noting a few valid signatures, with keys that are new to the cache.
const ACCEPT: usize = 100;
/// How many they are.
const ACCEPTED_PER_PIECE: usize = 64;
/// Drawing the conclusion from a sum.
const FINISH: usize = 20;

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
/// follow the load. After `new` nothing is allocated.
///
/// ```
/// use shard_core::sigbatch::{Batch, Progress};
/// let mut batch = Batch::new(1024, [7; 32], 65_536);
/// batch.push(&[1; 32], b"digest", &[2; 64], 99).expect("an empty batch has room");
/// while batch.step(160) != Progress::Done {}
/// assert_eq!(batch.verdicts().collect::<Vec<_>>(), [(99, false)]);
/// ```
pub struct Batch {
    backend: Backend,
    capacity: usize,
    waiting: Vec<Item>,
    group: Vec<Item>,
    /// Whether each of the group is valid, as far as is known.
    valid: Vec<bool>,
    stage: Stage,
    transcript: Transcript,
    /// Those of the group in work, drawn as its terms come up.
    coefficients: Coefficients,
    equation: Equation,
    search: Search,
    singles: Singles,
    /// The terms that `singles` judges, in order.
    judged: Vec<usize>,
    keys: KeyCache,
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
    /// Signatures before `next` have been turned into terms, or rejected; `keys` if the keys of the next few are known.
    Preparing {
        next: usize,
        keys: bool,
    },
    /// Signers before `next` have what they need.
    Shifting {
        next: usize,
    },
    /// A sum is in work.
    Proving,
    /// The terms of these ranges are valid.
    Accepting([Range<usize>; 2]),
    /// Signatures are judged by themselves.
    Singles,
    Done,
}

impl Batch {
    /// A batch in which `capacity` signatures can wait while as many are in work, and whose cache holds
    /// `cached_keys` public keys (0 for none; rounded up to 4 × a power of two). Takes about 2 KiB for each of
    /// `capacity` and 290 bytes for each cached key.
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
        Self::with_backend(Backend::best(), capacity, seed, cached_keys)
    }

    /// The same on a backend that is not the fastest: for tests and measurements.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn with_backend(backend: Backend, capacity: usize, seed: [u8; 32], cached_keys: usize) -> Self {
        assert!((1..=MAX_CAPACITY).contains(&capacity));
        let transcript = Transcript::new(&seed);
        let equation = Equation::new(backend, capacity, &seed);
        Self {
            backend,
            capacity,
            waiting: Vec::with_capacity(capacity),
            group: Vec::with_capacity(capacity),
            valid: Vec::with_capacity(capacity),
            stage: Stage::Idle,
            coefficients: transcript.coefficients(),
            transcript,
            search: Search::new(backend.lanes(), capacity),
            singles: Singles::new(backend, equation.basepoint()),
            judged: Vec::with_capacity(backend.lanes()),
            equation,
            keys: KeyCache::new(cached_keys, &seed),
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
        !matches!(self.stage, Stage::Idle | Stage::Done)
    }

    /// Does one slice of at most `budget` work units (see the [module](super)'s table), but at least one piece of
    /// work while there is any.
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

    /// [`step`](Self::step), and the work units it took, for several jobs that share a slice.
    pub fn slice(&mut self, budget: usize) -> (Progress, usize) {
        let (budget, mut spent) = (budget.saturating_mul(UNIT), 0usize);
        loop {
            let cost = match self.next_cost() {
                Ok(cost) => cost,
                Err(progress) => return (progress, spent.div_ceil(UNIT)),
            };
            if spent > 0 && spent + cost > budget {
                return (Progress::Running, spent.div_ceil(UNIT));
            }
            self.do_piece();
            spent += cost;
        }
    }

    /// The most that the next piece of work can cost, or why there is none.
    fn next_cost(&self) -> Result<usize, Progress> {
        match self.stage {
            Stage::Idle if self.waiting.is_empty() => Err(Progress::Idle),
            Stage::Idle => Ok(OPEN),
            Stage::Preparing { keys: false, .. } => Ok(KEYS),
            Stage::Preparing { keys: true, .. } => Ok(TERMS),
            Stage::Shifting { .. } => Ok(SHIFT),
            Stage::Proving => Ok(FINISH + self.equation.next_cost()),
            Stage::Accepting(_) => Ok(ACCEPT),
            Stage::Singles => Ok(CHOOSE + self.singles.next_cost()),
            Stage::Done => Err(Progress::Done),
        }
    }

    fn do_piece(&mut self) {
        match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Idle => self.open_group(),
            Stage::Preparing { next, keys } => self.prepare(next, keys),
            Stage::Shifting { next } => self.shift(next),
            Stage::Proving => self.prove(),
            Stage::Accepting(ranges) => self.accept_some(ranges),
            Stage::Singles => self.judge_singles(),
            Stage::Done => {}
        }
    }

    /// Closes a group of all that waits.
    fn open_group(&mut self) {
        assert!(self.group.is_empty());
        mem::swap(&mut self.waiting, &mut self.group);
        self.valid.clear();
        self.valid.resize(self.group.len(), false);
        self.equation.clear();
        self.transcript.begin();
        self.stage = Stage::Preparing { next: 0, keys: false };
    }

    /// Signatures that one piece of work prepares.
    fn per_piece(&self) -> usize {
        (2 * self.backend.lanes()).max(4)
    }

    /// Gets the keys of the next few signatures or, when it has them, turns the signatures into terms.
    fn prepare(&mut self, next: usize, keys: bool) {
        let end = self.group.len().min(next + self.per_piece());
        if !keys {
            self.find_signers(next..end);
            self.stage = Stage::Preparing { next, keys: true };
            return;
        }
        self.add_terms(next..end);
        self.stage = if end < self.group.len() {
            Stage::Preparing { next: end, keys: false }
        } else {
            self.coefficients = self.transcript.coefficients();
            Stage::Shifting { next: 0 }
        };
    }

    /// Makes sure that the keys of the signatures in `range` are known to the equation.
    fn find_signers(&mut self, range: Range<usize>) {
        let (mut missing, mut count) = ([[0; 32]; GROUP], 0);
        for item in &self.group[range] {
            if self.equation.signer(&item.key).is_some() || missing[..count].contains(&item.key) {
                continue;
            }
            if let Some((points, often)) = self.keys.get(&item.key) {
                self.equation.add_signer(&item.key, points, often);
            } else {
                missing[count] = item.key;
                count += 1;
            }
        }
        let points = decompress(self.backend, &missing[..count]);
        for (key, point) in missing[..count].iter().zip(points) {
            self.equation.add_new_signer(key, point);
        }
    }

    /// Adds the terms of those signatures in `range` whose `s` is canonical and whose `A` and `R` are points.
    fn add_terms(&mut self, range: Range<usize>) {
        let (mut encodings, start) = ([[0; 32]; GROUP], range.start);
        for (encoding, item) in encodings.iter_mut().zip(&self.group[range.clone()]) {
            *encoding = *rule::split(&item.signature).0;
        }
        let points = decompress(self.backend, &encodings[..range.len()]);
        let mut inputs = Inputs::new();
        for item in &self.group[range.clone()] {
            inputs.push([rule::split(&item.signature).0, &item.key, item.message()]);
        }
        let challenges = inputs.digests(self.backend);
        for ((index, r), challenge) in (start..).zip(&points[..range.len()]).zip(&challenges) {
            let item = &self.group[index];
            let Some(s) = rule::canonical_scalar(rule::split(&item.signature).1) else { continue };
            let Some(r) = r else { continue };
            let signer = self.equation.signer(&item.key).expect("it was just added");
            if self.equation.signers[signer].points.is_none() {
                continue;
            }
            self.transcript.absorb(challenge, &s);
            self.equation.add_term(index, signer, *r, Scalar::from_bytes_mod_order_wide(challenge), s);
        }
    }

    /// Gives signers from `next` on that sign often their 2¹²⁸-fold, as many as there are lanes.
    fn shift(&mut self, next: usize) {
        let (mut keys, mut points, mut count) = ([0; GROUP], [Niels::IDENTITY; GROUP], 0);
        let mut end = next;
        while end < self.equation.signers.len() && count < self.backend.lanes() {
            let signer = &self.equation.signers[end];
            if let Some(Cached { point, shifted: None }) = signer.points
                && signer.often
            {
                (keys[count], points[count]) = (end, point);
                count += 1;
            }
            end += 1;
        }
        let shifted = shift_128(self.backend, &points[..count]);
        for ((&number, &point), &shifted) in keys[..count].iter().zip(&points).zip(&shifted) {
            let signer = &mut self.equation.signers[number];
            let points = Cached { point, shifted: Some(shifted) };
            signer.points = Some(points);
            self.keys.insert(&signer.key, points);
        }
        if end < self.equation.signers.len() {
            self.stage = Stage::Shifting { next: end };
        } else {
            self.search.begin(self.equation.terms.len());
            self.go_on();
        }
    }

    /// Does a piece of the sum in work and, when it is complete, draws the conclusion.
    fn prove(&mut self) {
        if self.equation.step(&mut self.coefficients) {
            self.stage = Stage::Proving;
            return;
        }
        let valid = self.search.conclude(self.equation.range(), self.equation.total());
        self.stage = Stage::Accepting(valid);
    }

    /// Accepts the next few terms of `ranges`.
    fn accept_some(&mut self, [mut first, mut second]: [Range<usize>; 2]) {
        for _ in 0..ACCEPTED_PER_PIECE {
            let Some(at) = first.next().or_else(|| second.next()) else { break };
            self.accept(at);
        }
        if first.is_empty() && second.is_empty() {
            self.go_on();
        } else {
            self.stage = Stage::Accepting([first, second]);
        }
    }

    /// Does a piece of judging signatures by themselves.
    fn judge_singles(&mut self) {
        let Some(verdicts) = self.singles.step() else {
            self.stage = Stage::Singles;
            return;
        };
        for (place, valid) in verdicts.into_iter().enumerate().take(self.judged.len()) {
            if valid {
                self.accept(self.judged[place]);
            } else {
                self.search.note(false);
            }
        }
        self.go_on();
    }

    /// Notes that the term at `at` is valid, and only then keeps its key: forgeries can't flush the cache.
    fn accept(&mut self, at: usize) {
        let term = &self.equation.terms[at];
        let signer = &mut self.equation.signers[term.signer];
        if !signer.cached {
            let points = signer.points.expect("a signer with terms has a point");
            self.keys.insert(&signer.key, points);
            signer.cached = true;
        }
        self.valid[term.item] = true;
        self.search.note(true);
    }

    /// Begins what is to be done next.
    fn go_on(&mut self) {
        self.stage = match self.search.next() {
            Next::Sum(range) => {
                self.equation.begin(range);
                Stage::Proving
            }
            Next::Singles => {
                self.judged.clear();
                self.judged.extend(self.search.doubtful());
                self.singles.clear();
                for &at in &self.judged {
                    self.singles.push(self.equation.single(at));
                }
                Stage::Singles
            }
            Next::Nothing => Stage::Done,
        };
    }
}

/// Parts of a work unit in which pieces are counted.
const UNIT: usize = 10;

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, Source, honest};
    use super::*;

    fn push_all(batch: &mut Batch, cases: &[Case]) {
        for case in cases {
            batch.push(&case.key, &case.message, &case.signature, 0).expect("room");
        }
    }

    #[test]
    fn a_valid_signature_leaves_its_key_in_the_cache_and_a_forgery_does_not() {
        let good = honest(&mut Source::new(31), 1);
        let mut forged = good.clone();
        forged[0].message[0] ^= 1;
        let mut batch = Batch::new(1, [1; 32], 4);
        let mut run = |cases: &[Case]| {
            push_all(&mut batch, cases);
            while batch.step(1000) != Progress::Done {}
            assert_eq!(batch.verdicts().len(), 1);
            batch.keys.get(&cases[0].key).map(|(cached, _)| cached.shifted.is_some())
        };
        assert_eq!(run(&forged), None);
        assert_eq!(run(&good), Some(false));
        assert_eq!(run(&forged), Some(false));
        for _ in 0..10 {
            run(&good);
        }
        assert_eq!(run(&good), Some(true), "a key used often gets its multiple");
    }
}
