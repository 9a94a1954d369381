//! The view change as a model of its rules: four replicas, the last one Byzantine, one height, two blocks, three views.
//!
//! Messages are sets that only grow, so every delay, loss and order is covered: a step reads any of what was said. The liar's
//! words are not kept: it may have said whatever its key can sign, so it counts for every quorum and reports whatever a
//! certificate can be had for, to each replica something else.

use stateright::{Model, Property};

/// Honest replicas; one more lies.
const HONEST: usize = 3;
const QUORUM: usize = 3;
const VIEWS: usize = 3;
/// What may be proposed.
const BLOCKS: [u8; 2] = [0, 1];

type Report = Option<(u8, u8)>;

/// An honest replica: by view, what it signed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Replica {
    view: u8,
    active: bool,
    /// What the view must propose again; only while it is active.
    plan: Option<u8>,
    /// The newest certificate that it cast a commit vote for: view and block.
    prepared: Report,
    prepare: [Option<u8>; VIEWS],
    commit: [Option<u8>; VIEWS],
    /// Its view changes, with what they report.
    change: [Option<Report>; VIEWS],
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    replicas: [Replica; HONEST],
    /// What an honest primary began its view with, and proposed.
    begun: [Option<Report>; VIEWS],
    proposed: [Option<u8>; VIEWS],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// The primary of the view proposes.
    Propose(u8),
    Prepare(usize, u8),
    Commit(usize, u8),
    Leave(usize),
    /// A primary begins a view with these view changes; the liar's report is the second.
    Begin(usize, [bool; HONEST], Option<Report>),
    /// A replica enters a view: of an honest primary with what that began with, of a liar with any quorum.
    Enter(usize, [bool; HONEST], Option<Report>),
}

/// The rules; `lowest` picks the wrong certificate, to see that the model can fail.
pub struct ViewChange {
    /// The primary of the first view; the liar has number [`HONEST`].
    pub first: usize,
    pub lowest: bool,
}

impl ViewChange {
    fn primary(&self, view: usize) -> usize {
        (self.first + view) % (HONEST + 1)
    }

    fn lies(&self, view: usize) -> bool {
        self.primary(view) == HONEST
    }

    fn prepares(state: &State, view: usize, block: u8) -> usize {
        state.replicas.iter().filter(|replica| replica.prepare[view] == Some(block)).count()
    }

    /// Whether a quorum's votes, the liar's among them, decide a block in a view.
    fn decided(state: &State, view: usize, block: u8) -> bool {
        let commits = state.replicas.iter().filter(|replica| replica.commit[view] == Some(block)).count();
        commits + 1 >= QUORUM
    }

    /// Every set of view changes for a view that a primary can show: which honest ones, and what the liar says, if it is needed.
    fn quorums(state: &State, view: usize) -> Vec<([bool; HONEST], Option<Report>)> {
        let mut reports: Vec<Report> = vec![None];
        for earlier in 0..view {
            for block in BLOCKS {
                if Self::prepares(state, earlier, block) + 1 >= QUORUM {
                    reports.push(Some((u8::try_from(earlier).unwrap(), block)));
                }
            }
        }
        let mut quorums = Vec::new();
        for set in 1u8..1 << HONEST {
            let members: [bool; HONEST] = std::array::from_fn(|at| set >> at & 1 == 1);
            let there = (0..HONEST).all(|at| !members[at] || state.replicas[at].change[view].is_some());
            let count = members.iter().filter(|member| **member).count();
            if there && count == QUORUM {
                quorums.push((members, None));
            } else if there && count + 1 == QUORUM {
                quorums.extend(reports.iter().map(|report| (members, Some(*report))));
            }
        }
        quorums
    }

    /// What a view begins with: the block certified in the highest view.
    fn plan(&self, state: &State, view: usize, members: &[bool; HONEST], liar: Option<Report>) -> Report {
        let honest =
            (0..HONEST).filter(|&at| members[at]).filter_map(|at| state.replicas[at].change[view].flatten());
        let all = honest.chain(liar.flatten());
        if self.lowest { all.min_by_key(|report| report.0) } else { all.max_by_key(|report| report.0) }
    }
}

impl Model for ViewChange {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let replica = Replica { active: true, ..Replica::default() };
        vec![State { replicas: [replica; HONEST], begun: [None; VIEWS], proposed: [None; VIEWS] }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (at, replica) in state.replicas.iter().enumerate() {
            let view = usize::from(replica.view);
            if replica.active {
                for block in BLOCKS {
                    let shown = self.lies(view) || state.proposed[view] == Some(block);
                    let planned = replica.plan.map_or(shown, |plan| plan == block);
                    if replica.prepare[view].is_none() && planned {
                        steps.push(Step::Prepare(at, block));
                    }
                    // The block was accepted here too: a commit vote follows an own prepare vote for it.
                    let certified = Self::prepares(state, view, block) + 1 >= QUORUM;
                    if replica.commit[view].is_none() && certified && replica.prepare[view] == Some(block) {
                        steps.push(Step::Commit(at, block));
                    }
                    let mine = self.primary(view) == at && state.proposed[view].is_none();
                    if mine && replica.plan.is_none_or(|plan| plan == block) {
                        steps.push(Step::Propose(block));
                    }
                }
            } else {
                let quorums = Self::quorums(state, view);
                if self.primary(view) == at {
                    steps.extend(quorums.into_iter().map(|(members, liar)| Step::Begin(at, members, liar)));
                } else if self.lies(view) {
                    steps.extend(quorums.into_iter().map(|(members, liar)| Step::Enter(at, members, liar)));
                } else if state.begun[view].is_some() {
                    steps.push(Step::Enter(at, [false; HONEST], None));
                }
            }
            if view + 1 < VIEWS {
                steps.push(Step::Leave(at));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Propose(block) => {
                let view = (0..VIEWS).find(|&view| {
                    let primary = self.primary(view);
                    primary < HONEST
                        && usize::from(state.replicas[primary].view) == view
                        && state.replicas[primary].active
                        && state.proposed[view].is_none()
                        && state.replicas[primary].plan.is_none_or(|plan| plan == block)
                })?;
                next.proposed[view] = Some(block);
            }
            Step::Prepare(at, block) => {
                let replica = &mut next.replicas[at];
                replica.prepare[usize::from(replica.view)] = Some(block);
            }
            Step::Commit(at, block) => {
                let replica = &mut next.replicas[at];
                replica.commit[usize::from(replica.view)] = Some(block);
                replica.prepared = Some((replica.view, block));
            }
            Step::Leave(at) => {
                let replica = &mut next.replicas[at];
                replica.view += 1;
                (replica.active, replica.plan) = (false, None);
                replica.change[usize::from(replica.view)] = Some(replica.prepared);
            }
            Step::Begin(at, members, liar) => {
                let view = usize::from(state.replicas[at].view);
                let plan = self.plan(state, view, &members, liar);
                next.begun[view] = Some(plan);
                (next.replicas[at].active, next.replicas[at].plan) = (true, plan.map(|(_, block)| block));
            }
            Step::Enter(at, members, liar) => {
                let view = usize::from(state.replicas[at].view);
                let plan =
                    if self.lies(view) { self.plan(state, view, &members, liar) } else { state.begun[view]? };
                (next.replicas[at].active, next.replicas[at].plan) = (true, plan.map(|(_, block)| block));
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one block is decided", |_, state: &State| {
                let decided = |block| (0..VIEWS).any(|view| ViewChange::decided(state, view, block));
                !(decided(0) && decided(1))
            }),
            Property::sometimes("a block is decided again in a later view", |_, state: &State| {
                (0..VIEWS).filter(|&view| ViewChange::decided(state, view, 1)).count() > 1
            }),
            Property::sometimes("a view decides where the one before did not", |_, state: &State| {
                ViewChange::decided(state, 2, 0)
                    && !ViewChange::decided(state, 0, 0)
                    && !ViewChange::decided(state, 1, 0)
            }),
        ]
    }
}
