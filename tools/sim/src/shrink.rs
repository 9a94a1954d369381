//! A failing plan made small: what is left is what it takes.

use crate::{model::Invariant, run, scenario::Scenario};

/// Runs until a plan counts as small.
const RUNS: usize = 200;

/// Takes away whatever the violation does not need: episodes, halves of them at first, then single ones. `step` hears how
/// many runs it took so far and how many episodes are left.
pub fn shrink(scenario: &Scenario, invariant: Invariant, mut step: impl FnMut(usize, usize)) -> Scenario {
    let mut best = scenario.clone();
    let mut runs = 0;
    let mut piece = best.plan.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut smaller = false;
        while at < best.plan.len() && runs < RUNS {
            let mut trial = best.clone();
            trial.plan.drain(at..(at + piece).min(trial.plan.len()));
            runs += 1;
            let fails = run(&trial).violation.is_some_and(|violation| violation.invariant == invariant);
            if fails {
                best = trial;
                smaller = true;
            } else {
                at += piece;
            }
            step(runs, best.plan.len());
        }
        if runs >= RUNS || (piece == 1 && !smaller) {
            return best;
        }
        piece = piece.div_ceil(2).max(1);
    }
}
