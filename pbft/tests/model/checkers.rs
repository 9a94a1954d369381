//! Shared verification as a model of its rules: four replicas, the last one Byzantine, one block, good or forged.
//!
//! The liar says of the block whatever helps it, so it counts as one vote and as one checker, or as none. Who is a checker is
//! chosen in every way.

use stateright::{Model, Property};

const HONEST: usize = 3;
const QUORUM: usize = 3;
/// f + 1.
const WEAK: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Replica {
    voted: bool,
    /// Its host has judged the signatures.
    judged: bool,
    /// Its vote says so.
    checked: bool,
    commits: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    forged: bool,
    /// Whose turn it is to check.
    turn: [bool; HONEST],
    replicas: [Replica; HONEST],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Votes without a look.
    Trust(usize),
    /// Looks at the signatures, as it is its turn or the checkers are silent; votes with the flag, or never again.
    Check(usize),
    Commit(usize),
}

/// The rules. With `needed` below f + 1 the model must fail; a silent liar helps nobody.
pub struct Checkers {
    pub needed: usize,
    pub silent: bool,
}

impl Checkers {
    fn liar(&self) -> usize {
        usize::from(!self.silent)
    }

    fn votes(&self, state: &State) -> usize {
        state.replicas.iter().filter(|replica| replica.voted).count() + self.liar()
    }

    fn prepared(&self, state: &State) -> bool {
        let checked = state.replicas.iter().filter(|replica| replica.checked).count() + self.liar();
        self.votes(state) >= QUORUM && checked >= self.needed
    }
}

impl Model for Checkers {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let turns = (0u8..1 << HONEST).filter(|set| set.count_ones() as usize <= WEAK);
        let mut states = Vec::new();
        for set in turns {
            for forged in [false, true] {
                let turn = std::array::from_fn(|at| set >> at & 1 == 1);
                states.push(State { forged, turn, replicas: [Replica::default(); HONEST] });
            }
        }
        states
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (at, replica) in state.replicas.iter().enumerate() {
            // The deadline runs from a quorum of votes that lacks only checks; a complete one needs no more.
            let silent = self.votes(state) >= QUORUM && !self.prepared(state);
            if !replica.judged && (state.turn[at] || silent) {
                steps.push(Step::Check(at));
            }
            if !replica.voted && !replica.judged && !state.turn[at] {
                steps.push(Step::Trust(at));
            }
            let refuses = replica.judged && state.forged;
            if !replica.commits && !refuses && self.prepared(state) {
                steps.push(Step::Commit(at));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Trust(at) => next.replicas[at].voted = true,
            Step::Check(at) => {
                let replica = &mut next.replicas[at];
                replica.judged = true;
                if !state.forged {
                    (replica.voted, replica.checked) = (true, true);
                }
            }
            Step::Commit(at) => next.replicas[at].commits = true,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no forged block is prepared", |model: &Checkers, state: &State| {
                !(state.forged && model.prepared(state))
            }),
            Property::eventually("a good block is committed by all", |_, state: &State| {
                state.forged || state.replicas.iter().all(|replica| replica.commits)
            }),
        ]
    }
}
