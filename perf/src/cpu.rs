//! Processor time of the machine.
//!
//! It is what was not idle. The kernel measures idle time where it counts busy time in ticks (250 a second here and there): a program
//! that works for some microseconds after each timer would be seen in none of them.

use std::{fs, time::Instant};

use anyhow::Context;

/// What processors had not done by a moment.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    at: Instant,
    processors: usize,
    /// Seconds that processors had nothing to do, in all.
    idle: f64,
}

impl Machine {
    /// Now.
    ///
    /// # Errors
    /// `/proc/stat` has another layout.
    pub fn now() -> anyhow::Result<Machine> {
        let text = fs::read_to_string("/proc/stat")?;
        let (processors, idle) =
            idle(&text, rustix::param::clock_ticks_per_second()).context("/proc/stat has another layout")?;
        Ok(Machine { at: Instant::now(), processors, idle })
    }

    /// Seconds on the wall since another moment.
    pub fn passed_since(&self, before: Machine) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    /// Seconds that processors had nothing to do since another moment, in all.
    pub fn idle_since(&self, before: Machine) -> f64 {
        self.idle - before.idle
    }

    /// Seconds of processors that somebody had since another moment.
    pub fn busy_since(&self, before: Machine) -> f64 {
        self.passed_since(before) * self.processors as f64 - self.idle_since(before)
    }
}

/// Number of processors, and seconds that they had nothing to do (proc_stat(5): idle and iowait).
fn idle(stat: &str, ticks_per_second: u64) -> Option<(usize, f64)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = all.split_whitespace().flat_map(str::parse).collect();
    let is_processor = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let processors = stat.lines().filter(is_processor).count();
    (processors > 0).then_some((processors, (fields.get(3)? + fields.get(4)?) / ticks_per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_read() {
        let stat = "cpu  1 2 3 400 50 6 7 8 9 10\ncpu0 1 2 3 200 25 6 7 8 9 10\ncpu1 0 0 0 200 25 0 0 0 0 0\nintr 5\n";
        assert_eq!(idle(stat, 100), Some((2, 4.5)));
        assert_eq!(idle("cpu  1 2 3\ncpu0 1 2 3\n", 100), None);
        assert_eq!(idle("", 100), None);
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let before = Machine::now().unwrap();
        let began = Instant::now();
        while began.elapsed().as_millis() < 200 {}
        let after = Machine::now().unwrap();
        assert!(after.passed_since(before) >= 0.2);
        // Idle time is told in steps of 10 ms for each processor, and other programs may take all of it.
        assert!(after.busy_since(before) > 0.1, "{after:?} {before:?}");
    }
}
