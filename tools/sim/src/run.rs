//! One seed from its beginning to its end.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use dag::Hash;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    coverage::Coverage,
    model::{Invariant, Violation},
    scenario::Scenario,
    trace::Line,
    world::World,
};

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first violation, if any.
    pub violation: Option<Violation>,
    /// Hash of all that happened.
    pub trace: Hash,
    /// Hash of all tables' states at the end.
    pub root: Hash,
    /// Events.
    pub events: u64,
    /// Simulated time, ns.
    pub simulated: u64,
    /// Time of a core that it took, ns.
    pub took: u64,
    /// Which faults have struck when.
    pub coverage: Coverage,
    /// What has happened, in numbers.
    pub facts: String,
}

thread_local! {
    /// What the last panic of this thread said, while a simulation runs in it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps what a panicking simulation says for its report; other panics are printed as ever.
fn catch_words() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if RUNNING.with(|running| *running.borrow()) {
                PANIC.with(|words| *words.borrow_mut() = Some(info.to_string().replace('\n', " ")));
            } else {
                before(info);
            }
        }));
    });
}

/// What this thread has used of a core, ns: the machine may be busy with other things.
fn core_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Outcome {
    run_world(scenario, false).0
}

/// Runs a scenario and writes down what happens.
pub fn run_traced(scenario: &Scenario) -> (Outcome, Vec<Line>) {
    run_world(scenario, true)
}

fn run_world(scenario: &Scenario, lines: bool) -> (Outcome, Vec<Line>) {
    catch_words();
    let began = core_time();
    let mut world = World::new(scenario.clone(), lines);
    RUNNING.with(|running| *running.borrow_mut() = true);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| {
        world.run();
        world.state_root()
    }));
    RUNNING.with(|running| *running.borrow_mut() = false);
    let (root, violation) = match ended {
        Ok(root) => (root, world.violation().cloned()),
        Err(_) => {
            let what = PANIC.with(|words| words.borrow_mut().take()).unwrap_or_default();
            (Hash::ZERO, Some(Violation { invariant: Invariant::Assertion, at: world.now(), what }))
        }
    };
    let outcome = Outcome {
        seed: scenario.seed,
        violation,
        trace: world.trace().hash(),
        root,
        events: world.events(),
        simulated: world.now(),
        took: core_time() - began,
        coverage: world.coverage().clone(),
        facts: world.facts(),
    };
    let lines = world.trace().lines().to_vec();
    (outcome, lines)
}
