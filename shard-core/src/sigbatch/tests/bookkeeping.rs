//! The job's protocol: push, step, drain, in any order a caller may choose.

use proptest::prelude::*;

use super::{Case, Source, honest};
use crate::sigbatch::{Backend, Batch, BatchFull, MAX_MESSAGE, Progress};

#[derive(Clone, Debug)]
enum Action {
    /// Push the case of this number.
    Push(usize),
    Step(usize),
    Drain,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0..POOL).prop_map(Action::Push),
        4 => prop_oneof![Just(0), 1..300usize, Just(3000)].prop_map(Action::Step),
        1 => Just(Action::Drain),
    ]
}

const POOL: usize = 8;
const CAPACITY: usize = 12;

/// Cases whose odd ones are bad: some by their s, some by their bytes.
fn pool() -> Vec<Case> {
    let mut cases = honest(&mut Source::new(20), POOL);
    cases[1].signature[63] = 0xff;
    cases[3].message[0] ^= 1;
    cases[5].signature[40] ^= 1;
    cases[7].key[3] ^= 1;
    cases
}

/// A model of [`Batch`]: tokens with their true verdicts.
#[derive(Default)]
struct Model {
    waiting: Vec<(u64, bool)>,
    group: Vec<(u64, bool)>,
    done: bool,
    next_token: u64,
}

impl Model {
    fn push(&mut self, batch: &mut Batch, pool: &[Case], number: usize) {
        let case = &pool[number];
        let pushed = batch.push(&case.key, &case.message, &case.signature, self.next_token);
        if self.waiting.len() == CAPACITY {
            assert_eq!(pushed, Err(BatchFull));
        } else {
            assert_eq!(pushed, Ok(()));
            self.waiting.push((self.next_token, number.is_multiple_of(2)));
            self.next_token += 1;
        }
    }

    fn step(&mut self, batch: &mut Batch, budget: usize) {
        if self.group.is_empty() {
            self.group.append(&mut self.waiting);
        }
        let progress = batch.step(budget);
        assert_eq!(progress == Progress::Idle, self.group.is_empty());
        assert!(!self.done || progress == Progress::Done, "done until drained");
        self.done = progress == Progress::Done;
    }

    fn drain(&mut self, batch: &mut Batch) {
        let verdicts: Vec<_> = batch.verdicts().collect();
        let expected = if self.done { std::mem::take(&mut self.group) } else { Vec::new() };
        assert_eq!(verdicts, expected);
        self.done = false;
    }

    fn check(&self, batch: &Batch) {
        assert_eq!(batch.len(), self.waiting.len() + self.group.len());
        assert_eq!(batch.is_empty(), self.waiting.is_empty() && self.group.is_empty());
        assert_eq!(batch.is_running(), !self.done && !self.group.is_empty());
        assert_eq!(batch.capacity(), CAPACITY);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_signature_gets_its_verdict_once(actions in proptest::collection::vec(action(), 1..120)) {
        let pool = pool();
        let mut batch = Batch::new(CAPACITY, [9; 32], 4);
        let mut model = Model::default();
        for action in actions {
            match action {
                Action::Push(number) => model.push(&mut batch, &pool, number),
                Action::Step(budget) => model.step(&mut batch, budget),
                Action::Drain => model.drain(&mut batch),
            }
            model.check(&batch);
        }
        while !batch.is_empty() {
            model.step(&mut batch, 160);
            model.drain(&mut batch);
            model.check(&batch);
        }
    }
}

#[test]
fn verdicts_dropped_early_are_gone() {
    let mut batch = Batch::new(4, [1; 32], 0);
    for case in &pool()[..4] {
        batch.push(&case.key, &case.message, &case.signature, 1).expect("room");
    }
    while batch.step(50) != Progress::Done {
        assert_eq!(batch.verdicts().len(), 0);
    }
    assert_eq!(batch.verdicts().len(), 4);
    assert!(batch.is_empty());
    assert_eq!(batch.step(50), Progress::Idle);
}

#[test]
fn a_group_of_early_rejects_needs_no_equation() {
    let mut batch = Batch::new(4, [1; 32], 4);
    for token in 0..4 {
        batch.push(&[2; 32], &[], &[0xff; 64], token).expect("room");
    }
    assert_eq!(batch.step(1000), Progress::Done);
    assert!(batch.verdicts().all(|(_, valid)| !valid));
}

#[test]
#[should_panic(expected = "sign a digest")]
fn a_long_message_is_the_callers_mistake() {
    let _ = Batch::new(1, [0; 32], 0).push(&[0; 32], &[0; MAX_MESSAGE + 1], &[0; 64], 0);
}

#[test]
fn a_slice_keeps_to_its_budget_and_wastes_little_of_it() {
    let cases = honest(&mut Source::new(30), 200);
    for backend in Backend::available() {
        for budget in [50, 100, 160, 400, 1800] {
            let mut batch = Batch::with_backend(backend, 200, [1; 32], 0);
            for case in &cases {
                batch.push(&case.key, &case.message, &case.signature, 0).expect("room");
            }
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
}
