//! What a seed means: the network, its load, and the faults that strike it.
//!
//! The atlas of faults stands here: what a plan may contain so that the protocol still promises everything. Loss,
//! delay, partitions, crashes, full and failing disks and clocks that are wrong by less than the tolerated skew may strike
//! all; what makes a validator lie or forget strikes at most f of them, always the same.

use serde::Serialize;

use crate::{
    fault::{Behaviour, Episode, Fault, HostId},
    random::Random,
};

/// Which faults a plan may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Atlas {
    /// What the protocol promises to survive.
    Within,
    /// Damaged disks on more than f validators: nothing may be promised any more, but nobody may lie either.
    Beyond,
    /// No faults at all.
    Calm,
}

/// A network and what happens to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Scenario {
    /// The seed that it was drawn from; the dice of the run too.
    pub seed: u64,
    /// Validators.
    pub validators: usize,
    /// Tables.
    pub tables: u16,
    /// Lanes.
    pub lanes: u16,
    /// Cores of each validator.
    pub cores: u16,
    /// Clients.
    pub clients: usize,
    /// Accounts of each client.
    pub accounts: usize,
    /// Transactions that all clients together submit in a second, about.
    pub rate: u64,
    /// How long clients submit and faults strike, in ms.
    pub horizon: u64,
    /// µs from one validator to another: least and most.
    pub latency: (u64, u64),
    /// Validators in other regions see this many ms more between them.
    pub region_ms: u64,
    /// Log bytes of a table between two snapshots.
    pub snapshot_interval: u64,
    /// Segments that stay, needed or not.
    pub retained_segments: u32,
    /// Bytes of blocks kept for peers, for each table.
    pub history_bytes: usize,
    /// First view timeout, in ms.
    pub view_timeout: u64,
    /// Primaries propose as soon as they have anything, up to their window.
    pub eager: bool,
    /// Whether a random quorum is healed at the end, or everybody.
    pub heal_quorum_only: bool,
    /// A validator's death is imagined in the midst of one in so many writes of its log.
    pub imagined: u64,
    /// Real signatures in place of simulated ones.
    pub real_signatures: bool,
    /// What goes wrong.
    pub plan: Vec<Episode>,
}

/// Longest tolerated error of a wall clock, in ms: two honest clocks stay within the 10 s that a proposal's time may be ahead.
pub const TOLERATED_SKEW: i32 = 4_000;

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64, atlas: Atlas) -> Scenario {
        let mut dice = Random::new(seed, "scenario");
        let rare = &mut Random::new(seed, "rare");
        let validators = match [4, 4, 4, 4, 4, 4, 5, 7][dice.index(8)] {
            7 if rare.percent(30) => 10,
            validators => validators,
        };
        let tables = [16, 16, 8, 4, 2, 1][dice.index(6)];
        let cores = if tables > 1 && dice.percent(30) { 2 } else { 1 };
        let lanes = if cores == 2 { 2 } else { [1, 1, tables.min(4)][dice.index(3)] };
        let mut scenario = Scenario {
            seed,
            validators,
            tables,
            lanes,
            cores,
            clients: [2, 3, 4][dice.index(3)],
            accounts: [1, 2, 4][dice.index(3)],
            rate: [2, 4, 8, 16][dice.index(4)],
            horizon: dice.between(6_000, 16_000),
            latency: [(50, 500), (200, 3_000), (2_000, 20_000)][dice.index(3)],
            region_ms: [0, 0, 0, 40][dice.index(4)],
            snapshot_interval: [2 << 10, 16 << 10, 1 << 20][dice.index(3)],
            retained_segments: u32::try_from(dice.below(3)).expect("small"),
            history_bytes: [4 << 10, 64 << 10, 1 << 20][dice.index(3)],
            view_timeout: [300, 600, 600, 1_000][dice.index(4)],
            eager: rare.percent(25),
            heal_quorum_only: dice.percent(40),
            imagined: [150, 600, 2_400][rare.index(3)],
            real_signatures: false,
            plan: Vec::new(),
        };
        if scenario.has_absence() {
            (scenario.history_bytes, scenario.accounts, scenario.rate) = (8 << 10, 4, 32);
        }
        scenario.plan = match atlas {
            Atlas::Calm => Vec::new(),
            Atlas::Within => scenario.draw_plan(&mut dice),
            Atlas::Beyond => scenario.draw_beyond(&mut dice),
        };
        scenario
    }

    /// The load of a light day: what speed is measured with, all faults on.
    pub fn light(seed: u64) -> Scenario {
        let mut scenario = Scenario::draw(seed, Atlas::Within);
        let dice = &mut Random::new(seed, "light");
        scenario.validators = 4;
        (scenario.tables, scenario.lanes, scenario.cores) = (16, 1, 1);
        (scenario.clients, scenario.accounts, scenario.rate) = (2, 4, 2);
        scenario.horizon = 60_000;
        scenario.imagined = 1_200;
        scenario.plan = scenario.draw_plan(dice);
        scenario
    }

    /// f: how many may be faulty.
    pub fn faulty(&self) -> usize {
        (self.validators - 1) / 3
    }

    /// The validators that are Byzantine from the start, with what they do.
    pub fn byzantine(&self) -> Vec<(HostId, Behaviour)> {
        let of = |episode: &Episode| match episode.fault {
            Fault::Byzantine(host, behaviour) => Some((host, behaviour)),
            _ => None,
        };
        self.plan.iter().filter_map(of).collect()
    }

    fn draw_plan(&self, dice: &mut Random) -> Vec<Episode> {
        let mut plan = Vec::new();
        let corrupt = if dice.percent(60) { dice.some(self.faulty(), self.validators) } else { Vec::new() };
        let disks = dice.percent(30);
        let (absence, corrupt) = self.draw_absence(corrupt, disks);
        if !disks {
            for &host in &corrupt {
                for _ in 0..dice.between(1, 2) {
                    let behaviour = Behaviour::ANYWHERE[dice.index(Behaviour::ANYWHERE.len())];
                    plan.push(Episode {
                        at: 0,
                        lasts: self.horizon,
                        fault: Fault::Byzantine(host, behaviour),
                    });
                }
            }
        }
        // Some histories are full of one kind of trouble, others have a little of all.
        let count = 1 + dice.index(4);
        let groups = dice.some(count, 5);
        for _ in 0..dice.between(1, 14) {
            let at = dice.below(self.horizon);
            let group = groups[dice.index(groups.len())];
            let fault = self.draw_fault(group, dice);
            let lasts = match fault {
                Fault::Blackout | Fault::Crash(..) => dice.between(10, 3_000),
                _ => dice.between(50, 4_000),
            };
            plan.push(Episode { at, lasts, fault });
        }
        if disks {
            let rare = &mut Random::new(self.seed, "misread");
            for &host in &corrupt {
                let write =
                    [Fault::BitFlip(host), Fault::LostWrite(host), Fault::Misdirect(host)][dice.index(3)];
                let fault = if rare.percent(25) { Fault::Misread(host) } else { write };
                plan.push(Episode { at: dice.below(self.horizon), lasts: dice.between(10, 2_000), fault });
            }
        }
        plan.extend(self.draw_storm());
        plan.extend(absence);
        plan.sort_by_key(|episode| episode.at);
        plan
    }

    /// A storm: view after view fails, each in another way, so that validators leave them with different certificates.
    fn draw_storm(&self) -> Vec<Episode> {
        let dice = &mut Random::new(self.seed, "storm");
        let mut plan = Vec::new();
        if !dice.percent(25) {
            return plan;
        }
        let mut at = dice.below(self.horizon / 2);
        for _ in 0..dice.between(3, 8) {
            let lasts = self.view_timeout * dice.between(1, 4);
            let percent = u8::try_from(dice.between(50, 98)).expect("below 100");
            let lost = [Fault::PrepareLoss(percent), Fault::CommitLoss(percent)][dice.index(2)];
            plan.push(Episode { at, lasts, fault: lost });
            if dice.percent(60) {
                plan.push(Episode { at, lasts, fault: Fault::Partition(1 << dice.index(self.validators)) });
            }
            at += lasts;
        }
        plan.retain(|episode| episode.at < self.horizon);
        plan
    }

    /// Whether somebody is away for so long that peers have forgotten the blocks in between.
    fn has_absence(&self) -> bool {
        Random::new(self.seed, "absence").percent(20)
    }

    /// The absence, and who is corrupt: mostly somebody is, who then lies about states too.
    fn draw_absence(&self, mut corrupt: Vec<HostId>, disks: bool) -> (Vec<Episode>, Vec<HostId>) {
        let mut plan = Vec::new();
        if !self.has_absence() {
            return (plan, corrupt);
        }
        let dice = &mut Random::new(self.seed, "absent");
        if corrupt.is_empty() && dice.percent(80) {
            corrupt = dice.some(self.faulty(), self.validators);
        }
        let whole: Vec<HostId> = (0..self.validators).filter(|host| !corrupt.contains(host)).collect();
        let host = whole[dice.index(whole.len())];
        let (at, lasts) = (dice.below(self.horizon / 2), dice.between(3_000, 8_000));
        plan.push(Episode { at, lasts, fault: Fault::Crash(host, 0) });
        if !disks {
            let lies = |&host: &HostId| Fault::Byzantine(host, Behaviour::FalseState);
            plan.extend(corrupt.iter().map(lies).map(|fault| Episode { at: 0, lasts: self.horizon, fault }));
        }
        (plan, corrupt)
    }

    fn draw_fault(&self, group: usize, dice: &mut Random) -> Fault {
        let host = dice.index(self.validators);
        let other = (host + 1 + dice.index(self.validators - 1)) % self.validators;
        let small = |dice: &mut Random, most: u64| u8::try_from(dice.between(1, most)).expect("below 256");
        let ms = |dice: &mut Random, most: u64| u16::try_from(dice.between(1, most)).expect("below 65,536");
        match group {
            0 => match dice.below(5) {
                0 => Fault::Loss(small(dice, 30)),
                1 => Fault::Duplicate(small(dice, 30)),
                2 => Fault::Reorder(ms(dice, 200)),
                3 => Fault::Delay(ms(dice, 400)),
                _ => Fault::Reset(host, other),
            },
            1 => match dice.below(4) {
                0 => Fault::Cut(host, other),
                1 => Fault::Clog(host, other),
                _ => Fault::Partition(u32::try_from(dice.below(1 << self.validators)).expect("few hosts")),
            },
            2 => match dice.below(8) {
                0 => Fault::Blackout,
                1 => Fault::Pause(host),
                2 => Fault::Slow(host, small(dice, 40)),
                _ => Fault::Crash(host, small(dice, 60)),
            },
            3 => match dice.below(3) {
                0 => {
                    let span = 2 * u64::from(TOLERATED_SKEW.unsigned_abs());
                    let wrong = i32::try_from(dice.between(1, span)).expect("small") - TOLERATED_SKEW;
                    Fault::Skew(host, wrong)
                }
                1 => Fault::Leap(host, ms(dice, 5_000)),
                _ => Fault::Freeze(host),
            },
            _ => match dice.below(5) {
                0 => Fault::SlowDisk(host, ms(dice, 300)),
                1 => Fault::FullDisk(host),
                2 => Fault::WriteError(host),
                3 => Fault::SyncError(host),
                _ => Fault::ReadError(host),
            },
        }
    }

    fn draw_beyond(&self, dice: &mut Random) -> Vec<Episode> {
        let mut plan = self.draw_plan(dice);
        plan.retain(|episode| !episode.fault.corrupts());
        let count = self.faulty() + 1 + dice.index(self.validators - self.faulty());
        let rare = &mut Random::new(self.seed, "misread");
        for host in dice.some(count, self.validators) {
            let write = [Fault::BitFlip(host), Fault::Misdirect(host)][dice.index(2)];
            let fault = if rare.percent(25) { Fault::Misread(host) } else { write };
            plan.push(Episode { at: dice.below(self.horizon), lasts: dice.between(10, 2_000), fault });
        }
        plan.sort_by_key(|episode| episode.at);
        plan
    }
}
