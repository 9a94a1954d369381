//! The verification stage: every signature that the core has to judge goes through a batch verifier, a bounded slice a
//! turn.
//!
//! Votes have batches of their own, so none waits for the end of a large batch of transactions. Among transactions those
//! of proposals come first: many wait for each of them, and a flood of clients must not slow agreement.

use std::collections::VecDeque;

use dag::{
    Hash,
    keys::{Signature, VerifyFn},
};
use shard_core::sigbatch::{Batch, Progress};
use slab::Slab;

use crate::topology::Signatures;

/// Transactions' signatures in work at once; larger batches cost less each and take longer.
pub const BATCH: usize = 1024;
/// Votes' signatures in work at once.
const VOTES: usize = 64;
/// Most signatures of clients' transactions that wait; past it the core stops reading from clients.
pub const MAX_WAITING: usize = 2 * 1024;
/// Signatures that go first and may wait: the blocks in flight of all tables, and their votes, are fewer.
pub const MAX_URGENT: usize = 128 * 1024;
/// Public keys kept decompressed, per core (about 290 bytes each).
const CACHED_KEYS: usize = 128 * 1024;

/// A signature and what hangs on it.
struct Waiting<S> {
    key: [u8; 32],
    message: Hash,
    signature: Signature,
    subject: S,
}

/// A batch, and what waits for the next one.
struct Job<S> {
    batch: Batch,
    urgent: VecDeque<Waiting<S>>,
    queue: VecDeque<Waiting<S>>,
    subjects: Slab<S>,
}

/// The batch verifier with its queues. `S` says what a verdict is about.
pub struct Verifier<S> {
    rule: Signatures,
    votes: Job<S>,
    transactions: Job<S>,
    budget: usize,
}

impl<S> Job<S> {
    fn new(capacity: usize, seed: [u8; 32], keys: usize) -> Self {
        Job {
            batch: Batch::new(capacity, seed, keys),
            urgent: VecDeque::new(),
            queue: VecDeque::with_capacity(MAX_WAITING.min(2 * capacity)),
            subjects: Slab::with_capacity(2 * capacity),
        }
    }

    fn waiting(&self) -> usize {
        self.urgent.len() + self.queue.len()
    }

    fn len(&self) -> usize {
        self.waiting() + self.batch.len()
    }

    fn next(&mut self) -> Option<Waiting<S>> {
        self.urgent.pop_front().or_else(|| self.queue.pop_front())
    }

    /// Does at most `budget` units of work, but at least one piece if there is any. Returns the units that it took.
    fn step(&mut self, budget: usize, verdicts: &mut Vec<(S, bool)>) -> usize {
        if !self.batch.is_running() {
            while self.batch.len() < self.batch.capacity() {
                let Some(next) = self.next() else { break };
                let token = self.subjects.insert(next.subject) as u64;
                self.batch
                    .push(&next.key, next.message.as_bytes(), &next.signature, token)
                    .expect("the batch is not full");
            }
        }
        let (progress, spent) = self.batch.slice(budget);
        if progress == Progress::Done {
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
    /// `seed` is drawn from the operating system, once for each core; `budget` is the slice in units of about a µs.
    pub fn new(rule: Signatures, seed: [u8; 32], budget: usize) -> Self {
        // Two jobs never draw the same coefficients.
        let mut other = seed;
        other[0] ^= 1;
        Verifier {
            rule,
            votes: Job::new(VOTES, other, dag::committee::MAX_VALIDATORS),
            transactions: Job::new(BATCH, seed, CACHED_KEYS),
            budget,
        }
    }

    /// Adds a transaction's signature.
    pub fn push(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S) {
        self.transactions.queue.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Adds the signature of a proposal's transaction, which clients must never hold up.
    pub fn push_urgent(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S) {
        self.transactions.urgent.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Adds the signature of votes, which nothing must hold up.
    pub fn push_votes(&mut self, key: &[u8; 32], message: Hash, signature: &Signature, subject: S) {
        self.votes.queue.push_back(Waiting { key: *key, message, signature: *signature, subject });
    }

    /// Signatures that wait or are in work.
    pub fn len(&self) -> usize {
        self.votes.len() + self.transactions.len()
    }

    /// Signatures that go first and wait.
    pub fn urgent(&self) -> usize {
        self.votes.waiting() + self.transactions.urgent.len()
    }

    /// Whether clients' transactions have to wait outside.
    pub fn is_full(&self) -> bool {
        self.transactions.queue.len() >= MAX_WAITING
    }

    /// Whether so much that goes first is waiting that only a faulty validator can have sent it.
    pub fn is_flooded(&self) -> bool {
        self.urgent() >= MAX_URGENT
    }

    /// Does one slice of work, of votes first, and appends what is decided. Returns whether there is more to do.
    pub fn step(&mut self, verdicts: &mut Vec<(S, bool)>) -> bool {
        let mut budget = self.budget;
        for job in [&mut self.votes, &mut self.transactions] {
            if self.rule == Signatures::Ed25519 {
                budget = budget.saturating_sub(job.step(budget, verdicts));
            } else {
                job.step_singly(self.rule.verify(), verdicts);
            }
        }
        self.len() > 0
    }
}

#[cfg(test)]
mod tests {
    use dag::keys::KeyPair;

    use super::*;

    #[test]
    fn every_subject_gets_its_own_verdict() {
        let mut verifier = Verifier::new(Signatures::Ed25519, [1; 32], 500);
        let key = KeyPair::from_seed(&[2; 32]);
        for i in 0..1500u32 {
            let message = dag::hash::Domain::VOTE.hash(&i.to_le_bytes());
            let mut signature = key.sign(&message);
            signature[0] ^= u8::from(i % 100 == 7);
            if i % 3 == 0 {
                verifier.push_urgent(&key.public(), message, &signature, i);
            } else {
                verifier.push(&key.public(), message, &signature, i);
            }
        }
        let mut verdicts = Vec::new();
        while verifier.step(&mut verdicts) {}
        assert_eq!(verdicts.len(), 1500);
        // Of the first batch: 500 of the 1,500 are urgent.
        let urgent = verdicts[..BATCH].iter().filter(|(i, _)| i % 3 == 0).count();
        assert_eq!(urgent, 500, "the urgent ones come first");
        assert!(verdicts.iter().all(|&(i, valid)| valid == (i % 100 != 7)));
    }
}
