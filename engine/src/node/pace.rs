//! How often blocks are proposed: the tables of a core together, and less often where the core is busy.
//!
//! A block costs each validator much the same, however few transactions it carries. Where every transaction were proposed as it
//! comes, blocks of one or two would take all of a core, and their queues would be what transactions wait in. So time is cut into
//! intervals, by the clock that validators share more or less. A core that has proposed in one proposes no more before the next; then
//! it does so for all of its tables, and the other validators' cores do at the same time, so that the votes on all these blocks
//! are written, signed and sent together. Whoever comes when little happens finds the interval free, and does not wait.

use crate::metrics::CoreUse;

/// An interval may be doubled so many times.
const DOUBLINGS: u32 = 3;
/// How long a core is watched before its interval changes, ns.
const WINDOW: u64 = 100_000_000;
/// Busy for more than this share of a window: the interval is doubled.
const BUSY: f64 = 0.8;
/// For less than this: halved. Half of the blocks cost more than half of the time only where nothing else is done.
const IDLE: f64 = 0.3;
/// After so many windows without a busy one it is halved as well, to see whether the core can do with it by now.
const CALM: u32 = 50;

/// When a core's tables may propose.
#[derive(Debug)]
pub(super) struct Pace {
    /// The shortest interval, µs; zero: blocks are proposed whenever there is something to propose.
    shortest: u64,
    doublings: u32,
    /// Windows since the last busy one, or the last change.
    calm: u32,
    /// When blocks were proposed last, µs since 1970.
    last: u64,
    /// When the window began, and what had been done by then.
    window: (u64, CoreUse),
}

impl Pace {
    /// Intervals from `shortest` (µs) on.
    pub fn new(shortest: u64) -> Pace {
        Pace { shortest, doublings: 0, calm: 0, last: 0, window: (0, CoreUse::default()) }
    }

    fn interval(&self) -> u64 {
        self.shortest << self.doublings
    }

    /// When blocks may be proposed again, ns from now on; `None` where they may be now. A clock that was set back opens
    /// at once.
    pub fn opens_in(&self, wall: u64) -> Option<u64> {
        let interval = self.interval();
        if interval == 0 || wall / interval != self.last / interval {
            return None;
        }
        Some((interval - wall % interval) * 1000)
    }

    /// Blocks were proposed.
    pub fn proposed(&mut self, wall: u64) {
        self.last = wall;
    }

    /// Looks at what the core has done with its time, and changes the interval once a window.
    pub fn adapt(&mut self, core: &CoreUse, now: u64) {
        let (began, before) = &self.window;
        if now < began + WINDOW {
            return;
        }
        let busy = core.busy_ns() - before.busy_ns();
        let waiting = core.waiting_ns() - before.waiting_ns();
        let share = busy as f64 / (busy + waiting).max(1) as f64;
        self.calm += 1;
        if share > BUSY {
            (self.doublings, self.calm) = ((self.doublings + 1).min(DOUBLINGS), 0);
        } else if share < IDLE || self.calm >= CALM {
            (self.doublings, self.calm) = (self.doublings.saturating_sub(1), 0);
        }
        self.window = (now, *core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Phase;

    #[test]
    fn blocks_are_proposed_once_an_interval() {
        let mut pace = Pace::new(2_500);
        assert_eq!(pace.opens_in(1_000_100), None, "nothing was proposed: what comes first does not wait");
        pace.proposed(1_000_100);
        assert_eq!(pace.opens_in(1_000_100), Some(2_400_000));
        assert_eq!(pace.opens_in(1_002_499), Some(1_000));
        assert_eq!(pace.opens_in(1_002_500), None);
        assert_eq!(pace.opens_in(900_000), None, "the clock was set back");
        let mut free = Pace::new(0);
        free.proposed(5);
        assert_eq!(free.opens_in(5), None);
    }

    #[test]
    fn a_busy_core_proposes_less_often() {
        let (mut pace, mut core) = (Pace::new(2_500), CoreUse::new(0));
        let mut windows = 1..;
        let mut watch = |pace: &mut Pace, busy: u64| {
            core.charge(Phase::Verify, busy * 1_000_000);
            core.idle((100 - busy) * 1_000_000);
            pace.adapt(&core, windows.next().unwrap() * WINDOW);
            pace.interval()
        };
        watch(&mut pace, 50);
        assert_eq!(
            [90, 50, 85, 99, 99, 99].map(|busy| watch(&mut pace, busy)),
            [5_000, 5_000, 10_000, 20_000, 20_000, 20_000]
        );
        assert_eq!(
            [31, 20, 0, 0, 0].map(|busy| watch(&mut pace, busy)),
            [20_000, 10_000, 5_000, 2_500, 2_500]
        );
        watch(&mut pace, 90);
        let held = (0..CALM).map(|_| watch(&mut pace, 50)).take_while(|interval| *interval == 5_000).count();
        assert_eq!(held, CALM as usize - 1, "it is tried again after a while");
        assert_eq!(pace.interval(), 2_500);
    }
}
