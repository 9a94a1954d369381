//! What strikes real processes, and when: drawn from the seed.

use std::time::Duration;

use serde::{Serialize, Serializer};
use sim::random::Random;

/// A validator, or the clients, which come behind the validators.
pub type Endpoint = usize;

/// A fault. Links are cut on the receiving side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// These two validators do not hear each other.
    Cut(Endpoint, Endpoint),
    /// The second does not hear the first.
    CutOneWay(Endpoint, Endpoint),
    /// A validator hears nobody, and nobody hears it, clients neither.
    Isolate(Endpoint),
    /// The validators of this set and the others do not hear each other; clients reach all.
    Partition(u64),
    /// So many percent of all packets are lost.
    Loss(u8),
    /// Connections between these two break, and again for as long as it lasts. The first may be the clients.
    Reset(Endpoint, Endpoint),
    /// SIGKILL; a new start at the end.
    Kill(Endpoint),
    /// SIGSTOP; SIGCONT at the end.
    Freeze(Endpoint),
    /// SIGTERM; a new start at the end.
    Restart(Endpoint),
    /// SIGKILL to all at once; a new start at the end.
    Blackout,
}

/// A kind of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// [`Fault::Cut`], and so on.
    Cut,
    CutOneWay,
    Isolate,
    Partition,
    Loss,
    Reset,
    Kill,
    Freeze,
    Restart,
    Blackout,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Cut,
        Kind::CutOneWay,
        Kind::Isolate,
        Kind::Partition,
        Kind::Loss,
        Kind::Reset,
        Kind::Kill,
        Kind::Freeze,
        Kind::Restart,
        Kind::Blackout,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cut => "cut",
            Kind::CutOneWay => "cut-one-way",
            Kind::Isolate => "isolate",
            Kind::Partition => "partition",
            Kind::Loss => "loss",
            Kind::Reset => "reset",
            Kind::Kill => "kill",
            Kind::Freeze => "freeze",
            Kind::Restart => "restart",
            Kind::Blackout => "blackout",
        }
    }

    /// How long one lasts, in ms: least and most.
    fn lasts(self) -> (u64, u64) {
        match self {
            Kind::Cut | Kind::CutOneWay | Kind::Isolate => (500, 10_000),
            Kind::Partition | Kind::Loss => (500, 6_000),
            Kind::Reset => (50, 600),
            Kind::Kill | Kind::Restart => (100, 8_000),
            Kind::Freeze => (200, 15_000),
            Kind::Blackout => (100, 2_000),
        }
    }

    fn draw(self, dice: &mut Random, validators: usize) -> Fault {
        let one = dice.index(validators);
        let other = (one + 1 + dice.index(validators - 1)) % validators;
        match self {
            Kind::Cut => Fault::Cut(one, other),
            Kind::CutOneWay => Fault::CutOneWay(one, other),
            Kind::Isolate => Fault::Isolate(one),
            Kind::Partition => {
                let half = dice.some(validators / 2, validators);
                Fault::Partition(half.into_iter().fold(0, |set, host| set | 1 << host))
            }
            Kind::Loss => Fault::Loss([2, 5, 10, 20, 40][dice.index(5)]),
            Kind::Reset if dice.percent(50) => Fault::Reset(validators, one),
            Kind::Reset => Fault::Reset(one, other),
            Kind::Kill => Fault::Kill(one),
            Kind::Freeze => Fault::Freeze(one),
            Kind::Restart => Fault::Restart(one),
            Kind::Blackout => Fault::Blackout,
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Fault {
    /// Its kind.
    pub fn kind(self) -> Kind {
        match self {
            Fault::Cut(..) => Kind::Cut,
            Fault::CutOneWay(..) => Kind::CutOneWay,
            Fault::Isolate(_) => Kind::Isolate,
            Fault::Partition(_) => Kind::Partition,
            Fault::Loss(_) => Kind::Loss,
            Fault::Reset(..) => Kind::Reset,
            Fault::Kill(_) => Kind::Kill,
            Fault::Freeze(_) => Kind::Freeze,
            Fault::Restart(_) => Kind::Restart,
            Fault::Blackout => Kind::Blackout,
        }
    }
}

/// A fault and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Episode {
    /// What.
    pub fault: Fault,
    /// When it begins, from the start of the load.
    pub at: Duration,
    /// When it ends.
    pub until: Duration,
}

/// The faults of a seed, by the time at which they begin. Each kind comes once before any comes again.
pub fn draw(seed: u64, validators: usize, time: Duration) -> Vec<Episode> {
    let mut dice = Random::new(seed, "real faults");
    let end = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (mut plan, mut deck) = (Vec::new(), Vec::new());
    let mut at = dice.between(500, 2_000);
    while at < end {
        if deck.is_empty() {
            deck = Kind::ALL.to_vec();
        }
        let kind = deck.swap_remove(dice.index(deck.len()));
        let (least, most) = kind.lasts();
        let lasts = dice.between(least, most);
        let fault = kind.draw(&mut dice, validators);
        let (at_time, until) = (Duration::from_millis(at), Duration::from_millis((at + lasts).min(end)));
        plan.push(Episode { fault, at: at_time, until });
        at += dice.between(500, 5_000);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(180);

    #[test]
    fn a_seed_is_a_plan_and_another_one_another() {
        let plan = draw(7, 4, TIME);
        assert_eq!(plan, draw(7, 4, TIME));
        assert_ne!(plan, draw(8, 4, TIME));
    }

    #[test]
    fn plans_hold_every_kind_and_only_what_is_there() {
        for seed in 0..50 {
            for validators in [4, 7, 52] {
                let plan = draw(seed, validators, TIME);
                for kind in Kind::ALL {
                    assert!(plan.iter().any(|episode| episode.fault.kind() == kind), "{kind:?}");
                }
                assert!(plan.is_sorted_by_key(|episode| episode.at));
                for Episode { fault, at, until } in plan {
                    assert!(at <= until && until <= TIME);
                    match fault {
                        Fault::Cut(a, b) | Fault::CutOneWay(a, b) => {
                            assert!(a != b && a < validators && b < validators);
                        }
                        Fault::Reset(a, b) => assert!(a != b && a <= validators && b < validators),
                        Fault::Partition(set) => {
                            assert_eq!(set.count_ones() as usize, validators / 2);
                            assert_eq!(set >> validators, 0);
                        }
                        Fault::Isolate(a) | Fault::Kill(a) | Fault::Freeze(a) | Fault::Restart(a) => {
                            assert!(a < validators);
                        }
                        Fault::Loss(percent) => assert!(percent <= 40),
                        Fault::Blackout => {}
                    }
                }
            }
        }
    }
}
