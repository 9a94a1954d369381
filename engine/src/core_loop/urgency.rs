//! How soon the loop is let in where it shares its processor with other programs.
//!
//! People's packets can't wait for another program's time slice, which is 3 to 4 ms: a core that relays asks to run before ordinary
//! threads. It does so only while it leaves a part of its processor to them. Beyond that, agreement and packets come faster than the
//! core can do them, and waiting for others is not what makes people wait.

use std::time::Duration;

use crate::metrics::thread_cpu;

/// How long the loop is watched before its urgency changes, ns.
const WINDOW: u64 = 50_000_000;
/// A loop that takes more than this share of a window is an ordinary thread from then on, until it takes less than the other.
const GREEDY: f64 = 0.8;
const MODEST: f64 = 0.65;
/// What an ordinary loop asks for: short slices, and more weight than others («nice»).
const SLICE: Duration = Duration::from_micros(100);
const NICE: i32 = -20;

/// The loop's place before other threads, and what it took lately.
#[derive(Debug)]
pub(super) struct Urgency {
    first: bool,
    /// The kernel grants it.
    granted: bool,
    /// When the window began, and the thread's processor time then.
    window: (u64, Duration),
}

impl Urgency {
    /// For this thread, from now on.
    pub fn begin(now: u64) -> Urgency {
        let granted = netio::schedule_first().is_ok();
        if !granted {
            stand_back();
        }
        Urgency { first: granted, granted, window: (now, thread_cpu()) }
    }

    /// Looks at what the loop took, once a window.
    pub fn adapt(&mut self, now: u64) {
        let (began, before) = self.window;
        if !self.granted || now < began + WINDOW {
            return;
        }
        let cpu = thread_cpu();
        let first = stays_first(self.first, cpu.saturating_sub(before), Duration::from_nanos(now - began));
        if first != self.first {
            match first {
                true => self.granted = netio::schedule_first().is_ok(),
                false => stand_back(),
            }
            self.first = first;
        }
        self.window = (now, cpu);
    }
}

fn stays_first(first: bool, cpu: Duration, window: Duration) -> bool {
    let share = cpu.as_secs_f64() / window.as_secs_f64();
    if first { share <= GREEDY } else { share < MODEST }
}

/// Only wishes, and the weight takes a privilege; a processor of its own needs neither.
fn stand_back() {
    let _ = netio::schedule_soon(SLICE, NICE).or_else(|_| netio::schedule_soon(SLICE, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_loop_stands_back_until_it_is_modest() {
        let after = |first, ms| stays_first(first, Duration::from_millis(ms), Duration::from_millis(100));
        assert_eq!([0, 70, 80, 81, 100].map(|ms| after(true, ms)), [true, true, true, false, false]);
        assert_eq!([100, 80, 66, 64, 0].map(|ms| after(false, ms)), [false, false, false, true, true]);
    }
}
