//! Many seeds, on as many threads as are asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Outcome,
    coverage::Coverage,
    fault::Episode,
    model::Violation,
    run,
    scenario::{Atlas, Scenario},
};

/// Which seeds are run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed; the others follow.
    pub first: u64,
    /// How many, if there is an end.
    pub seeds: Option<u64>,
    /// How long, if there is an end.
    pub time: Option<Duration>,
    /// Threads.
    pub threads: usize,
    /// Which faults.
    pub atlas: Atlas,
    /// Four validators, sixteen tables, a light load: what speed is measured with.
    pub light: bool,
    /// Each seed is run twice, and what happened compared.
    pub twice: bool,
    /// Real signatures.
    pub real_signatures: bool,
    /// Stop at the first violation.
    pub stop_at_first: bool,
}

impl Plan {
    /// The scenario of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut scenario = if self.light { Scenario::light(seed) } else { Scenario::draw(seed, self.atlas) };
        scenario.real_signatures = self.real_signatures;
        scenario
    }
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The commit of the code.
    pub commit: &'static str,
    /// What was violated.
    pub violation: Violation,
    /// What goes wrong there.
    pub plan: Vec<Episode>,
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seeds done.
    pub seeds: u64,
    /// Events.
    pub events: u64,
    /// Simulated time, ns.
    pub simulated: u64,
    /// Time of cores that all threads took, ns.
    pub took: u64,
    /// Which faults have struck when.
    pub coverage: Coverage,
    /// Seeds that failed.
    pub failures: Vec<Failure>,
}

impl Tally {
    /// Simulated seconds for each second of a core.
    pub fn speed(&self) -> f64 {
        self.simulated as f64 / self.took.max(1) as f64
    }

    fn add(&mut self, plan: &Plan, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated += outcome.simulated;
        self.took += outcome.took;
        self.coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            let scenario = plan.scenario(outcome.seed);
            self.failures.push(Failure {
                seed: outcome.seed,
                commit: crate::COMMIT,
                violation,
                plan: scenario.plan,
            });
        }
    }
}

/// Runs seeds until the plan, or `go_on`, says that it is enough. `progress` is called now and then.
pub fn search(plan: &Plan, mut go_on: impl FnMut() -> bool, mut progress: impl FnMut(&Tally)) -> Tally {
    let stop = Arc::new(AtomicBool::new(false));
    let (outcomes, threads) = start(plan, &stop);
    let began = Instant::now();
    let mut tally = Tally::default();
    loop {
        match outcomes.recv_timeout(Duration::from_millis(200)) {
            Ok(outcome) => tally.add(plan, outcome),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
        progress(&tally);
        let over = plan.time.is_some_and(|time| began.elapsed() >= time);
        let found = plan.stop_at_first && !tally.failures.is_empty();
        if over || found || !go_on() {
            stop.store(true, Ordering::Relaxed);
        }
    }
    for thread in threads {
        thread.join().expect("a thread of the search has no reason to panic");
    }
    tally.failures.sort_by_key(|failure| failure.seed);
    tally
}

fn start(plan: &Plan, stop: &Arc<AtomicBool>) -> (Receiver<Outcome>, Vec<JoinHandle<()>>) {
    let (sender, outcomes) = channel();
    let next = Arc::new(AtomicU64::new(0));
    let work = |_| {
        let (plan, stop, next, sender) = (*plan, stop.clone(), next.clone(), sender.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if plan.seeds.is_some_and(|seeds| number >= seeds) {
                    break;
                }
                let outcome = run_seed(&plan, plan.first.wrapping_add(number));
                if sender.send(outcome).is_err() {
                    break;
                }
            }
        })
    };
    (outcomes, (0..plan.threads.max(1)).map(work).collect())
}

/// Runs one seed; twice, where that is asked for.
pub fn run_seed(plan: &Plan, seed: u64) -> Outcome {
    let scenario = plan.scenario(seed);
    let mut first = run(&scenario);
    if plan.twice && first.violation.is_none() {
        let second = run(&scenario);
        first.took += second.took;
        first.simulated += second.simulated;
        first.events += second.events;
        if (first.trace, first.root) != (second.trace, second.root) {
            first.violation = Some(Violation {
                invariant: crate::model::Invariant::Deterministic,
                at: 0,
                what: format!("two runs of one seed differ: {} and {}", first.trace, second.trace),
            });
        }
    }
    first
}
