//! What goes wrong, and the dice.

pub const MS: u64 = 1_000_000;

/// What f replicas do when it is their turn to check a block's signatures.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Checkers {
    /// Check.
    #[default]
    Honest,
    /// Say that they checked, and vouch for anything.
    Liars,
    /// Vote, and never check.
    Mute,
}

/// Which faults a history has; percentages and milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplicates: u64,
    pub delay: u64,
    /// Loss of bundles that hold a commit vote: heights get prepared, views end, and few know what is
    /// committed.
    pub commit_loss: u64,
    /// Milliseconds until the first complaint; zero for the default.
    pub timeout: u64,
    pub partitions: bool,
    pub crashes: bool,
    /// How often something happens, in ms; zero for a calm 150.
    pub pace: u64,
    /// The first f replicas run twice under one key, so that they equivocate in everything («Twins», OPODIS
    /// '21).
    pub twins: bool,
    /// Twins also lie in status, complaints and view changes.
    pub noise: bool,
    pub checkers: Checkers,
    /// The table: who is primary of which view.
    pub table: u16,
    /// For each of the first views, a mask of the nodes that its other nodes don't hear, nor they them.
    pub apart: [u16; 4],
    pub real_signatures: bool,
    pub prune: bool,
}

impl Faults {
    /// Milliseconds between two faults, about.
    pub fn pace(&self) -> u64 {
        if self.pace == 0 { 150 } else { self.pace }
    }
}

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
