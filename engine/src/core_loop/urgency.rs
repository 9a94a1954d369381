//! How soon the loop is let in where it shares its processor with other programs.
//!
//! People's packets can't wait for another program's time slice, which is 3 to 4 ms: a core that relays asks to run before ordinary
//! threads. It does so only while it leaves a part of its processor to them. Beyond that, agreement and packets come faster than the
//! core can do them, and waiting for others is not what makes people wait.

use std::{fs, io, time::Duration};

/// How long the loop is watched before its urgency changes, ns.
const WINDOW: u64 = 200_000_000;
/// A loop that wants more than this share of a window is an ordinary thread from then on, until it wants less than the other.
const GREEDY: f64 = 0.9;
const MODEST: f64 = 0.8;
/// What an ordinary loop asks for: short slices, and more weight than others («nice»).
const SLICE: Duration = Duration::from_micros(100);
const NICE: i32 = -20;

/// What the loop's thread has done with the time until a moment, ns.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: u64,
    /// It was in its ring, waiting for something to do, or ready again and not yet let in.
    asleep: u64,
    /// It ran, or waited to be let in.
    wanted: u64,
}

/// The loop's place before other threads, and what it wanted lately.
#[derive(Debug)]
pub(super) struct Urgency {
    first: bool,
    /// The kernel grants it.
    granted: bool,
    /// The operator's, which an ordinary loop has where it may not have more.
    nice: i32,
    window: Spent,
}

impl Urgency {
    /// For this thread, from now on; `asleep`: ns that it has waited in its ring.
    pub fn begin(now: u64, asleep: u64) -> Urgency {
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        let granted = netio::schedule_first().is_ok();
        let window = Spent { at: now, asleep, wanted: wanted() };
        let urgency = Urgency { first: granted, granted, nice, window };
        if !granted {
            // Only a wish: a processor of its own does not need it.
            let _ = urgency.stand_back();
        }
        urgency
    }

    /// Whether it runs before ordinary threads.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Looks at what the loop wanted, once a window.
    pub fn adapt(&mut self, now: u64, asleep: u64) {
        if !self.granted || now < self.window.at + WINDOW {
            return;
        }
        let spent = Spent { at: now, asleep, wanted: wanted() };
        match (self.first, wants_first(self.first, share(self.window, spent))) {
            (false, true) => {
                self.granted = netio::schedule_first().is_ok();
                self.first = self.granted;
            }
            // Where that is refused it is tried again after the next window.
            (true, false) => self.first = self.stand_back().is_err(),
            _ => {}
        }
        self.window = spent;
    }

    /// From now on as urgent as other threads, or as much more as is allowed.
    pub fn stand_back(&self) -> io::Result<()> {
        let soon = |nice| netio::schedule_soon(SLICE, nice);
        soon(NICE).or_else(|_| soon(self.nice))
    }
}

/// Time that this thread ran or waited to run (proc_pid_schedstat); zero where the kernel does not count it.
fn wanted() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The larger of two: time that it ran or waited to run, which does not tell what interrupts took of it; and time that it was not
/// asleep, which does not tell that others had the processor when it awoke.
fn share(before: Spent, after: Spent) -> f64 {
    let passed = (after.at - before.at).max(1) as f64;
    let wanted = after.wanted.saturating_sub(before.wanted) as f64 / passed;
    let awake = 1.0 - (after.asleep - before.asleep) as f64 / passed;
    wanted.max(awake)
}

fn wants_first(first: bool, share: f64) -> bool {
    if first { share <= GREEDY } else { share < MODEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_loop_stands_back_until_it_is_modest() {
        let after = |first, shares: [f64; 4]| shares.map(|share| wants_first(first, share));
        assert_eq!(after(true, [0.0, 0.9, 0.91, 1.0]), [true, true, false, false]);
        assert_eq!(after(false, [1.0, 0.85, 0.79, 0.0]), [false, false, true, true]);
    }

    #[test]
    fn who_waits_for_a_processor_wants_it() {
        let before = Spent { at: 1_000, asleep: 100, wanted: 700 };
        let share = |asleep: u64, wanted: u64| {
            share(before, Spent { at: 2_000, asleep: 100 + asleep, wanted: 700 + wanted })
        };
        assert_eq!(share(600, 400), 0.4);
        assert_eq!(share(600, 900), 0.9, "it was let in late");
        assert_eq!(share(200, 400), 0.8, "interrupts took the rest");
    }

    #[test]
    fn a_thread_that_works_is_seen() {
        let before = wanted();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(20) {}
        assert!(wanted() > before, "the kernel of the checks counts it");
    }
}
