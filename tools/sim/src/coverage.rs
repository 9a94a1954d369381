//! Which faults have struck in which states of the protocol.

use std::collections::BTreeMap;

use crate::fault::Fault;

/// What a validator is doing when a fault strikes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// A table has nothing to decide.
    Idle,
    /// A height is under agreement.
    Agreeing,
    /// A table has left its view, and the next one has not begun.
    ChangingView,
    /// A table is in a view above the first.
    LaterView,
    /// Committed blocks wait to be executed.
    Executing,
    /// An executed checkpoint is not stable yet.
    Checkpoint,
    /// A state is fetched from a peer.
    Fetching,
    /// A snapshot is on its way to the disk.
    Saving,
    /// Transactions wait.
    Waiting,
    /// The log is being written.
    Writing,
    /// It has just started.
    Restarted,
    /// It does not run.
    Down,
}

impl State {
    /// All states.
    pub const ALL: [State; 12] = [
        State::Idle,
        State::Agreeing,
        State::ChangingView,
        State::LaterView,
        State::Executing,
        State::Checkpoint,
        State::Fetching,
        State::Saving,
        State::Waiting,
        State::Writing,
        State::Restarted,
        State::Down,
    ];
}

/// Faults that mean nothing to a process that does not run.
const NEEDS_LIFE: [&str; 11] = [
    "pause",
    "slow",
    "crash",
    "leap",
    "freeze",
    "write-error",
    "sync-error",
    "lost-write",
    "read-error",
    "slow-disk",
    "skew",
];

/// Whether a fault can strike in a state.
fn possible(kind: &str, state: State) -> bool {
    state != State::Down || !NEEDS_LIFE.contains(&kind)
}

/// How often each fault has struck in each state.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    hits: BTreeMap<(&'static str, State), u64>,
}

impl Coverage {
    /// A fault strikes in a state.
    pub fn hit(&mut self, fault: &Fault, state: State) {
        if possible(fault.kind(), state) {
            *self.hits.entry((fault.kind(), state)).or_default() += 1;
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Coverage) {
        for (cell, count) in &other.hits {
            *self.hits.entry(*cell).or_default() += count;
        }
    }

    /// Cells that were hit.
    pub fn cells_hit(&self) -> usize {
        self.hits.len()
    }

    /// Cells that there are.
    pub fn cells_total() -> usize {
        let cells = |kind: &&str| State::ALL.iter().filter(|&&state| possible(kind, state)).count();
        Fault::KINDS.iter().map(cells).sum()
    }

    /// Kinds of faults that were hit at all.
    pub fn kinds_hit(&self) -> usize {
        Fault::KINDS.iter().filter(|kind| self.hits.keys().any(|(hit, _)| hit == *kind)).count()
    }

    /// The cells that were never hit.
    pub fn never_hit(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in Fault::KINDS {
            for state in State::ALL {
                if possible(kind, state) && !self.hits.contains_key(&(kind, state)) {
                    missing.push(format!("{kind} × {state:?}"));
                }
            }
        }
        missing
    }

    /// The table: a row for each fault, a column for each state.
    pub fn table(&self) -> String {
        let mut text = format!("{:<12}", "");
        State::ALL.iter().for_each(|state| text += &format!(" {:>12}", format!("{state:?}")));
        text.push('\n');
        for kind in Fault::KINDS {
            text += &format!("{kind:<12}");
            for state in State::ALL {
                let cell = match self.hits.get(&(kind, state)) {
                    Some(count) => count.to_string(),
                    None if possible(kind, state) => "never".into(),
                    None => "-".into(),
                };
                text += &format!(" {cell:>12}");
            }
            text.push('\n');
        }
        text
    }
}
