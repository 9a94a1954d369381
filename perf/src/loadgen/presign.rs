//! Signing everything before the run.

use std::{
    ops::Range,
    sync::{Mutex, mpsc},
    thread,
};

use dag::{
    Address, Transaction,
    transaction::{Payee, Terms, sign},
};

use super::{
    Target, Workload,
    plan::{Plan, Planned, seeded},
};

/// Transactions that one thread signs at a time.
const CHUNK: usize = 1024;

/// How far the preparation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preparation {
    /// Transactions signed.
    pub signed: usize,
    /// Transactions to sign.
    pub total: usize,
}

/// The signed transactions of one connection, in the order and form in which they are sent: each its length and its
/// bytes, so that a submit frame is a header and a piece of this.
#[derive(Debug)]
pub struct Script {
    /// The validator that they are sent to.
    pub home: usize,
    /// Number in the run of each transaction.
    numbers: Vec<u32>,
    slot: usize,
    records: Vec<u8>,
}

impl Script {
    /// How many transactions.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes that each takes in a frame.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The number in the run of one transaction.
    pub fn number(&self, index: usize) -> u64 {
        u64::from(self.numbers[index])
    }

    /// Some transactions with their lengths, as a submit frame holds them.
    pub fn records(&self, range: Range<usize>) -> &[u8] {
        &self.records[range.start * self.slot..range.end * self.slot]
    }

    /// One transaction.
    pub fn transaction(&self, index: usize) -> Transaction<'_> {
        let record = &self.records(index..index + 1)[2..];
        Transaction::parse(record).expect("signed here, and signing checks the format")
    }
}

/// Signs a plan on all cores. `sequences` has each account's last sequence (of senders; others are not looked at).
pub fn presign(
    plan: Plan,
    sequences: &[u64],
    workload: &Workload,
    target: &Target,
    progress: &mut dyn FnMut(Preparation),
) -> Vec<Script> {
    let slot = workload.slot();
    let addresses: Vec<Address> = workload.accounts.iter().map(|key| key.address()).collect();
    let signer = Signer { workload, target, addresses: &addresses, sequences };
    let total = plan.streams.iter().map(|stream| stream.transactions.len()).sum();
    let mut buffers: Vec<Vec<u8>> =
        plan.streams.iter().map(|stream| vec![0; stream.transactions.len() * slot]).collect();

    let jobs =
        plan.streams.iter().zip(&mut buffers).flat_map(|(stream, buffer)| {
            stream.transactions.chunks(CHUNK).zip(buffer.chunks_mut(CHUNK * slot))
        });
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (done, jobs, signer) = (done.clone(), &jobs, &signer);
            scope.spawn(move || {
                while let Some((planned, buffer)) = next(jobs) {
                    signer.sign(planned, buffer);
                    // The receiver lives until all senders are gone.
                    let _ = done.send(planned.len());
                }
            });
        }
        drop(done);
        let mut signed = 0;
        for count in finished {
            signed += count;
            progress(Preparation { signed, total });
        }
    });

    let scripts = plan.streams.into_iter().zip(buffers).map(|(stream, records)| {
        let numbers = stream.transactions.iter().map(|planned| planned.number).collect();
        Script { home: stream.home, numbers, slot, records }
    });
    scripts.collect()
}

/// A function of its own so that the lock is released before the work begins.
fn next<J>(jobs: &Mutex<impl Iterator<Item = J>>) -> Option<J> {
    jobs.lock().expect("taking a job does not panic").next()
}

/// What every signing thread reads.
struct Signer<'a> {
    workload: &'a Workload,
    target: &'a Target,
    addresses: &'a [Address],
    sequences: &'a [u64],
}

impl Signer<'_> {
    fn sign(&self, planned: &[Planned], buffer: &mut [u8]) {
        let Workload { payees, amount, fee, .. } = *self.workload;
        let mut paid = Vec::with_capacity(usize::from(payees));
        for (planned, slot) in planned.iter().zip(buffer.chunks_mut(self.workload.slot())) {
            let sender = usize::try_from(planned.sender).expect("an index");
            let mut random = seeded(&self.workload.seed, "payees", u64::from(planned.number));
            paid.clear();
            paid.extend((0..payees).map(|_| Payee { to: self.payee(sender, &mut random), amount }));
            let sequence = self.sequences[sender] + 1 + u64::from(planned.nth);
            let terms = Terms { chain: self.target.chain, epoch: self.target.epoch, sequence, fee };
            let record = sign(&self.workload.accounts[sender], &terms, &paid).expect("a checked workload");
            let (length, bytes) = slot.split_at_mut(2);
            length.copy_from_slice(&u16::try_from(record.len()).expect("a small record").to_le_bytes());
            bytes.copy_from_slice(&record);
        }
    }

    /// Any account but the sender.
    fn payee(&self, sender: usize, random: &mut fastrand::Rng) -> Address {
        let other = random.usize(..self.addresses.len() - 1);
        self.addresses[if other < sender { other } else { other + 1 }]
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use dag::client::{Request, encode_submit};

    use super::*;
    use crate::loadgen::accounts::account_keys;

    fn scripts(payees: u8, seconds: u64) -> (Workload, Vec<Script>) {
        let accounts = account_keys(&[1; 32], 9);
        let duration = Duration::from_secs(seconds);
        let workload = Workload { payees, fee: 7, ..Workload::transfers(accounts, 1_500, duration) };
        let submission = vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
        let target = Target { submission, chain: 5, epoch: 6, tables: 4, validators: 2 };
        workload.check(&target).unwrap();
        let plan = Plan::draw(&workload, &target);
        let mut last = None;
        let scripts = presign(plan, &[100; 9], &workload, &target, &mut |progress| last = Some(progress));
        let total = scripts.iter().map(Script::len).sum();
        assert_eq!(last, Some(Preparation { signed: total, total }));
        (workload, scripts)
    }

    #[test]
    fn transactions_are_what_was_ordered() {
        let (workload, scripts) = scripts(1, 2);
        let addresses: HashSet<Address> = workload.accounts.iter().map(|key| key.address()).collect();
        let mut sequences = std::collections::HashMap::new();
        let mut payees = HashSet::new();
        for script in &scripts {
            for index in 0..script.len() {
                let transaction = script.transaction(index);
                let sequence = sequences.entry(*transaction.sender()).or_insert(100);
                *sequence += 1;
                assert_eq!(transaction.sequence(), *sequence);
                assert_eq!((transaction.chain(), transaction.epoch(), transaction.fee()), (5, 6, 7));
                assert!(addresses.contains(transaction.sender()));
                payees.extend(transaction.payees().map(|payee| payee.to));
            }
        }
        assert_eq!(payees, addresses);
        assert_eq!(scripts.iter().map(Script::len).sum::<usize>(), 4_500);
    }

    #[test]
    fn a_piece_of_the_script_is_the_body_of_a_frame() {
        let (_, scripts) = scripts(3, 1);
        let script = &scripts[0];
        let mut frame = Vec::new();
        let records = (2..5).map(|index| script.transaction(index).bytes());
        encode_submit(2, records, &mut frame);
        assert_eq!(&frame[13..], script.records(2..5));
        assert!(matches!(Request::parse(&frame[4..]), Ok(Request::Submit { first_tag: 2, .. })));
    }
}
