//! The verification stage: every signature that the core has to judge, a bounded slice a turn.
//!
//! Votes come first, and are accepted at once by tables of the committee's keys. Those that the tables do not accept, which no
//! honest validator makes, are judged in batches of their own. Transactions go through batches; those of proposals come first:
//! many wait for each of them, and a flood of clients must not slow agreement.
//!
//! A signature alone costs ten times its share of a batch of 64. So where company is to be expected within [`HOLD`], a batch
//! begins only when it is worth it or its first signature has waited so long ([`HOLD_URGENT`] for those of proposals); where
//! little comes it begins at once. And what clients sent need not be verified long before this core can propose it: until
//! [`LEAD`] before, it waits for company as well.

use std::{collections::VecDeque, rc::Rc};

use dag::{
    Hash,
    keys::{Signature, VerifyFn},
};
use shard_core::sigbatch::{Backend, Batch, KnownKeys, Progress, Signed};
use slab::Slab;

use crate::topology::Signatures;

/// Transactions' signatures in work at once; larger batches cost less each and take longer.
pub const BATCH: usize = 1024;
/// Doubtful votes' signatures in work at once.
const DOUBTFUL: usize = 64;
/// Units of work that tables take for a vote.
const KNOWN_COST: usize = 10;
/// Most signatures of clients' transactions that wait; past it the core stops reading from clients.
pub const MAX_WAITING: usize = 2 * 1024;
/// Signatures that go first and may wait: the blocks in flight of all tables, and their votes, are fewer.
pub const MAX_URGENT: usize = 128 * 1024;
/// Public keys kept decompressed, per core (about 290 bytes each).
const CACHED_KEYS: usize = 128 * 1024;

/// How long a client's signature waits for company, ns; longer where it can't be proposed yet.
const HOLD: u64 = 1_000_000;
/// The same for those of proposals. A primary proposes for all its tables at once, and the same validators check all of that: it
/// comes within this time, and is worth one batch.
const HOLD_URGENT: u64 = 1_500_000;
/// What clients sent is verified so long before it can be proposed, ns.
const LEAD: u64 = 3_000_000;
/// So many are company enough: a few rows of lanes.
const ENOUGH: usize = 64;
/// Of those of proposals, while clients' can't be proposed yet, as at an interval's beginning, when proposals come.
const ENOUGH_URGENT: usize = 128;
/// Of what can't be proposed yet.
const ENOUGH_EARLY: usize = 256;

/// A signature and what hangs on it.
struct Waiting<S> {
    key: [u8; 32],
    message: Hash,
    signature: Signature,
    subject: S,
}

impl<S> Waiting<S> {
    fn signed(&self) -> Signed<'_> {
        Signed { key: &self.key, message: self.message.as_bytes(), signature: &self.signature }
    }
}

/// A batch, and what waits for the next one.
struct Job<S> {
    batch: Batch,
    urgent: VecDeque<Waiting<S>>,
    queue: VecDeque<Waiting<S>>,
    /// Since when the first of each waits.
    urgent_since: Option<u64>,
    since: Option<u64>,
    /// A client's waits that another validator proposes.
    abroad: bool,
    subjects: Slab<S>,
    /// Batches that have ended, and their signatures.
    ended: (u64, u64),
}

/// How many signatures come: those of the last whole window.
#[derive(Default)]
struct Rate {
    window: u64,
    last: usize,
    now: usize,
}

impl Rate {
    /// A window is so many times [`HOLD`]; and its length, ns.
    const HOLDS: usize = 8;
    const WINDOW: u64 = Self::HOLDS as u64 * HOLD;
    /// Fewer than this within [`HOLD`] are no company to wait for.
    const COMPANY: usize = 4;

    fn note(&mut self, arrived: usize, now: u64) {
        let window = now / Self::WINDOW;
        if window != self.window {
            self.last = if window == self.window + 1 { self.now } else { 0 };
            (self.window, self.now) = (window, 0);
        }
        self.now += arrived;
    }

    fn promises_company(&self) -> bool {
        self.last >= Self::COMPANY * Self::HOLDS
    }
}

/// Verifiers with their queues. `S` says what a verdict is about.
pub struct Verifier<S> {
    rule: Signatures,
    /// The committee's keys.
    known: Rc<KnownKeys>,
    votes: VecDeque<Waiting<S>>,
    /// Votes that the tables did not accept.
    doubtful: Job<S>,
    transactions: Job<S>,
    budget: usize,
    rate: Rate,
    /// Signatures that came since the last step.
    arrived: usize,
}

impl<S> Job<S> {
    fn new(batch: Batch) -> Self {
        let capacity = batch.capacity();
        Job {
            batch,
            urgent: VecDeque::new(),
            queue: VecDeque::with_capacity(MAX_WAITING.min(2 * capacity)),
            urgent_since: None,
            since: None,
            abroad: false,
            subjects: Slab::with_capacity(2 * capacity),
            ended: (0, 0),
        }
    }

    fn waiting(&self) -> usize {
        self.urgent.len() + self.queue.len()
    }

    fn len(&self) -> usize {
        self.waiting() + self.batch.len()
    }

    /// Until when clients' have time, where this core proposes from `opens_at` on.
    fn leisure(&self, opens_at: Option<u64>) -> u64 {
        opens_at.filter(|_| !self.abroad).map_or(0, |at| at.saturating_sub(LEAD))
    }

    /// When the next batch begins at the latest, where something waits for one.
    fn due_at(&self, opens_at: Option<u64>) -> Option<u64> {
        let urgent = self.urgent_since.map(|since| since + HOLD_URGENT);
        let lead = self.leisure(opens_at);
        let patient = self.since.map(|since| lead.max(since + HOLD));
        urgent.into_iter().chain(patient).min().filter(|_| !self.batch.is_running())
    }

    /// Whether a batch is in work, or the next one may begin.
    fn is_ready(&self, hurry: bool, opens_at: Option<u64>, now: u64) -> bool {
        let early = now < self.leisure(opens_at);
        let enough = if early { ENOUGH_EARLY } else { ENOUGH };
        self.batch.is_running()
            || self.urgent.len() >= ENOUGH_URGENT
            || self.waiting() >= enough
            || hurry && (self.urgent_since.is_some() || self.since.is_some() && !early)
            || self.due_at(opens_at).is_some_and(|at| at <= now)
    }

    fn next(&mut self) -> Option<Waiting<S>> {
        self.urgent.pop_front().or_else(|| self.queue.pop_front())
    }

    /// Does at most `budget` units of work, but at least one piece if there is any: of the batch that is in work, or of a new one.
    /// Returns the units that it took.
    fn step(&mut self, budget: usize, verdicts: &mut Vec<(S, bool)>) -> usize {
        if !self.batch.is_running() {
            while self.batch.len() < self.batch.capacity() {
                let Some(next) = self.next() else { break };
                let token = self.subjects.insert(next.subject) as u64;
                self.batch
                    .push(&next.key, next.message.as_bytes(), &next.signature, token)
                    .expect("the batch is not full");
            }
            self.urgent_since = self.urgent_since.filter(|_| !self.urgent.is_empty());
            self.since = self.since.filter(|_| !self.queue.is_empty());
            self.abroad &= !self.queue.is_empty();
        }
        let (progress, spent) = self.batch.slice(budget);
        if progress == Progress::Done {
            self.ended.0 += 1;
            self.ended.1 += self.subjects.len() as u64;
            for (token, valid) in self.batch.verdicts() {
                let slot = usize::try_from(token).expect("tokens are slots");
                verdicts.push((self.subjects.remove(slot), valid));
            }
        }
        spent
    }

    /// The same by a rule that knows no batches.
    fn step_singly(&mut self, verify: VerifyFn, verdicts: &mut Vec<(S, bool)>) {
        for _ in 0..BATCH {
            let Some(next) = self.next() else { break };
            let valid = verify(&next.key, next.message.as_bytes(), &next.signature);
            verdicts.push((next.subject, valid));
        }
    }
}

impl<S> Verifier<S> {
    /// `seed` is drawn from the operating system, once for each core; `known` are the keys that sign votes; `budget` is the
    /// slice in units of about a µs.
    pub fn new(
        rule: Signatures,
        instructions: Backend,
        seed: [u8; 32],
        known: Rc<KnownKeys>,
        budget: usize,
    ) -> Self {
        assert!(rule == Signatures::Ed25519 || known.is_empty(), "tables judge by one rule");
        // Two jobs never draw the same coefficients.
        let mut other = seed;
        other[0] ^= 1;
        Verifier {
            rule,
            votes: VecDeque::new(),
            doubtful: Job::new(Batch::with_backend(instructions, DOUBTFUL, other, known.len())),
            transactions: Job::new(Batch::with_backend(instructions, BATCH, seed, CACHED_KEYS)),
            known,
            budget,
            rate: Rate::default(),
            arrived: 0,
        }
    }

    /// Adds the signature of a client's transaction, which this core proposes if it is `ours`.
    pub fn push(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S, ours: bool) {
        self.arrived += 1;
        self.transactions.abroad |= !ours;
        self.transactions.queue.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Adds the signature of a proposal's transaction, which clients must never hold up.
    pub fn push_urgent(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S) {
        self.arrived += 1;
        self.transactions.urgent.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Adds the signature of votes, which nothing must hold up.
    pub fn push_votes(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S) {
        self.votes.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Signatures that wait or are in work.
    pub fn len(&self) -> usize {
        self.votes.len() + self.doubtful.len() + self.transactions.len()
    }

    /// Signatures that go first and wait.
    pub fn urgent(&self) -> usize {
        self.votes.len() + self.doubtful.waiting() + self.transactions.urgent.len()
    }

    /// Whether clients' transactions have to wait outside.
    pub fn is_full(&self) -> bool {
        self.transactions.queue.len() >= MAX_WAITING
    }

    /// Whether so much that goes first is waiting that only a faulty validator can have sent it.
    pub fn is_flooded(&self) -> bool {
        self.urgent() >= MAX_URGENT
    }

    /// Whether transactions' signatures have come since the last [`step`](Self::step), which gives them their time.
    pub fn has_arrivals(&self) -> bool {
        self.arrived > 0
    }

    /// Batches of transactions so far, and signatures in them.
    pub fn verified(&self) -> (u64, u64) {
        self.transactions.ended
    }

    /// When something begins that waits for company now; `opens_at` as in [`step`](Self::step).
    pub fn poll_timeout(&self, opens_at: Option<u64>) -> Option<u64> {
        self.transactions.due_at(opens_at)
    }

    /// Does one slice of work, of votes first, and appends what is decided. Returns whether there is more to do at once; what waits for
    /// company is due at [`poll_timeout`](Self::poll_timeout). `opens_at` is when this core can propose, if not yet.
    pub fn step(&mut self, now: u64, opens_at: Option<u64>, verdicts: &mut Vec<(S, bool)>) -> bool {
        self.rate.note(std::mem::take(&mut self.arrived), now);
        if self.rule != Signatures::Ed25519 {
            self.doubtful.urgent.append(&mut self.votes);
            self.doubtful.step_singly(self.rule.verify(), verdicts);
            self.transactions.step_singly(self.rule.verify(), verdicts);
            return self.len() > 0;
        }
        let hurry = !self.rate.promises_company();
        if !self.transactions.urgent.is_empty() {
            self.transactions.urgent_since.get_or_insert(now);
        }
        if !self.transactions.queue.is_empty() {
            self.transactions.since.get_or_insert(now);
        }
        let mut budget = self.accept_votes(self.budget, verdicts);
        if self.doubtful.len() > 0 {
            budget = budget.saturating_sub(self.doubtful.step(budget, verdicts));
        }
        let mut more = self.votes.len() + self.doubtful.len() > 0;
        if self.transactions.is_ready(hurry, opens_at, now) {
            self.transactions.step(budget, verdicts);
            more |= self.transactions.is_ready(hurry, opens_at, now);
        }
        more
    }

    /// Takes votes in whose signatures the tables accept, and sets the others aside. Returns what is left of the budget.
    fn accept_votes(&mut self, mut budget: usize, verdicts: &mut Vec<(S, bool)>) -> usize {
        while budget > 0 && !self.votes.is_empty() {
            let count = self.votes.len().min(KnownKeys::AT_ONCE);
            let accepted = self.known.accept(self.votes.iter().take(count).map(Waiting::signed));
            budget = budget.saturating_sub(count * KNOWN_COST);
            for (vote, accepted) in self.votes.drain(..count).zip(accepted) {
                if accepted {
                    verdicts.push((vote.subject, true));
                } else {
                    self.doubtful.urgent.push_back(vote);
                }
            }
        }
        budget
    }
}

#[cfg(test)]
mod tests {
    use dag::keys::KeyPair;

    use super::*;

    fn known(keys: &[[u8; 32]]) -> Rc<KnownKeys> {
        Rc::new(KnownKeys::with_backend(Backend::best(), keys))
    }

    #[test]
    fn every_subject_gets_its_own_verdict() {
        let key = KeyPair::from_seed(&[2; 32]);
        let mut verifier = Verifier::new(Signatures::Ed25519, Backend::best(), [1; 32], known(&[]), 500);
        for i in 0..1500u32 {
            let message = dag::hash::Domain::VOTE.hash(&i.to_le_bytes());
            let mut signature = key.sign(&message);
            signature[0] ^= u8::from(i % 100 == 7);
            if i % 3 == 0 {
                verifier.push_urgent(&key.public(), message, &signature, i);
            } else {
                verifier.push(&key.public(), message, &signature, i, true);
            }
        }
        let mut verdicts = Vec::new();
        while verifier.step(0, None, &mut verdicts) {}
        assert_eq!(verdicts.len(), 1500);
        // Of the first batch: 500 of the 1,500 are urgent.
        let urgent = verdicts[..BATCH].iter().filter(|(i, _)| i % 3 == 0).count();
        assert_eq!(urgent, 500, "the urgent ones come first");
        assert!(verdicts.iter().all(|&(i, valid)| valid == (i % 100 != 7)));
    }

    /// A verifier, and a way to give it a transaction with a good signature, of a proposal or not.
    fn with_key() -> (Verifier<u32>, impl Fn(&mut Verifier<u32>, u32, bool)) {
        let key = KeyPair::from_seed(&[3; 32]);
        let push = move |verifier: &mut Verifier<u32>, i: u32, urgent: bool| {
            let message = dag::hash::Domain::VOTE.hash(&i.to_le_bytes());
            let signature = key.sign(&message);
            match urgent {
                true => verifier.push_urgent(&key.public(), message, &signature, i),
                false => verifier.push(&key.public(), message, &signature, i, true),
            }
        };
        (Verifier::new(Signatures::Ed25519, Backend::best(), [1; 32], known(&[]), 1 << 20), push)
    }

    #[test]
    fn what_comes_seldom_does_not_wait() {
        let (mut verifier, push) = with_key();
        for i in 0..100u32 {
            let now = u64::from(i) * 2_000_000;
            push(&mut verifier, i, i % 2 == 0);
            let mut verdicts = Vec::new();
            while verifier.step(now, None, &mut verdicts) {}
            assert_eq!((verdicts, verifier.poll_timeout(None)), (vec![(i, true)], None));
        }
    }

    #[test]
    fn where_much_comes_a_batch_waits_for_company_but_not_long() {
        let (mut verifier, push) = with_key();
        let mut verdicts = Vec::new();
        (0..64).for_each(|i| push(&mut verifier, i, false));
        while verifier.step(0, None, &mut verdicts) {}
        // The next window knows how many came in that one.
        let now = Rate::WINDOW;
        push(&mut verifier, 100, false);
        assert!(!verifier.step(now, None, &mut verdicts) && verdicts.len() == 64);
        assert_eq!(verifier.poll_timeout(None), Some(now + HOLD));
        // One of a proposal goes along, and first.
        push(&mut verifier, 101, true);
        assert!(!verifier.step(now + 10, None, &mut verdicts) && verdicts.len() == 64);
        assert_eq!(verifier.poll_timeout(None), Some(now + HOLD));
        while verifier.step(now + HOLD, None, &mut verdicts) {}
        assert_eq!((&verdicts[64..], verifier.poll_timeout(None)), (&[(101, true), (100, true)][..], None));
        // Alone it waits for the others of its proposal.
        let now = now + HOLD;
        push(&mut verifier, 102, true);
        assert!(!verifier.step(now, None, &mut verdicts) && verdicts.len() == 66);
        assert_eq!(verifier.poll_timeout(None), Some(now + HOLD_URGENT));
        while verifier.step(now + HOLD_URGENT, None, &mut verdicts) {}
        assert_eq!((&verdicts[66..], verifier.poll_timeout(None)), (&[(102, true)][..], None));
        // Enough is enough.
        for (enough, urgent) in [(ENOUGH, false), (ENOUGH_URGENT, true)] {
            let before = verdicts.len();
            (0..enough).for_each(|_| push(&mut verifier, 103, urgent));
            while verifier.step(now + HOLD_URGENT, None, &mut verdicts) {}
            assert_eq!((verdicts.len(), verifier.len()), (before + enough, 0));
        }
    }

    #[test]
    fn what_cannot_be_proposed_yet_waits_until_shortly_before() {
        let (mut verifier, push) = with_key();
        let (mut verdicts, opens_at) = (Vec::new(), Some(LEAD + 5_000_000));
        push(&mut verifier, 0, false);
        assert!(!verifier.step(0, opens_at, &mut verdicts));
        assert_eq!(verifier.poll_timeout(opens_at), Some(5_000_000));
        // A proposal's does not wait, and takes it along.
        push(&mut verifier, 1, true);
        while verifier.step(4_000_000, opens_at, &mut verdicts) {}
        assert_eq!(std::mem::take(&mut verdicts), [(1, true), (0, true)]);
        push(&mut verifier, 2, false);
        assert!(!verifier.step(4_999_999, opens_at, &mut verdicts) && verdicts.is_empty());
        while verifier.step(5_000_000, opens_at, &mut verdicts) {}
        assert_eq!(std::mem::take(&mut verdicts), [(2, true)]);
        // So many fill a batch that is worth its while.
        (0..ENOUGH_EARLY).for_each(|_| push(&mut verifier, 3, false));
        while verifier.step(0, opens_at, &mut verdicts) {}
        assert_eq!((verdicts.len(), verifier.poll_timeout(opens_at)), (ENOUGH_EARLY, None));
        // What others propose does not wait for this core's time.
        verdicts.clear();
        push(&mut verifier, 4, false);
        assert!(!verifier.step(0, opens_at, &mut verdicts) && verdicts.is_empty());
        let (key, message) = (KeyPair::from_seed(&[4; 32]), dag::hash::Domain::VOTE.hash(&[]));
        verifier.push(&key.public(), message, &key.sign(&message), 5, false);
        while verifier.step(0, opens_at, &mut verdicts) {}
        assert_eq!(verdicts, [(4, true), (5, true)]);
    }

    #[test]
    fn votes_are_judged_at_once_whoever_signed_them() {
        let keys = [4, 5, 6].map(|seed| KeyPair::from_seed(&[seed; 32]));
        let committee = [keys[0].public(), keys[1].public()];
        let mut verifier =
            Verifier::new(Signatures::Ed25519, Backend::best(), [1; 32], known(&committee), 1 << 20);
        let mut expected = Vec::new();
        for i in 0..60u32 {
            // By keys of the committee and another; every seventh is forged.
            let key = &keys[i as usize % 3];
            let message = dag::hash::Domain::VOTE.hash(&i.to_le_bytes());
            let mut signature = key.sign(&message);
            signature[40] ^= u8::from(i % 7 == 0);
            verifier.push_votes(&key.public(), message, &signature, i);
            expected.push((i, i % 7 != 0));
        }
        let mut verdicts = Vec::new();
        while verifier.step(0, None, &mut verdicts) {}
        verdicts.sort_unstable();
        assert_eq!((verdicts, verifier.len(), verifier.urgent()), (expected, 0, 0));
    }
}
