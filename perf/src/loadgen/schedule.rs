//! When each transaction is due.

use std::time::Duration;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A constant rate. Times are nanoseconds since the first transaction was due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    rate: u64,
    total: u64,
    /// Where the measured time begins.
    pub measured_from: u64,
    /// Where the load ends.
    pub end: u64,
}

impl Schedule {
    /// A schedule of `rate` transactions per second (not zero).
    pub fn new(rate: u64, warm_up: Duration, duration: Duration) -> Schedule {
        assert!(rate > 0, "callers check the rate");
        let measured_from = nanoseconds(warm_up);
        let mut schedule = Schedule { rate, total: u64::MAX, measured_from, end: u64::MAX };
        schedule.end_at(measured_from.saturating_add(nanoseconds(duration)));
        schedule
    }

    /// Ends the load at this time, where that is earlier.
    pub fn end_at(&mut self, time: u64) {
        self.end = self.end.min(time);
        self.total = self.due_before(self.end);
    }

    /// Transactions of the whole run, warm-up included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The intended time of transaction `i`.
    pub fn intended(&self, i: u64) -> u64 {
        let time = u128::from(i) * u128::from(SECOND) / u128::from(self.rate);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// How many transactions are due before this time, the end of the load included.
    pub fn due_before(&self, time: u64) -> u64 {
        let count = (u128::from(time) * u128::from(self.rate)).div_ceil(u128::from(SECOND));
        u64::try_from(count).unwrap_or(u64::MAX).min(self.total)
    }
}

/// A duration in nanoseconds.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_is_what_is_intended_earlier(rate in 1..10_000_000u64, time in 0..10_000_000_000u64) {
            let schedule = Schedule::new(rate, Duration::ZERO, Duration::from_secs(3_600));
            let due = schedule.due_before(time);
            prop_assert!(due == 0 || schedule.intended(due - 1) < time.max(1));
            // Intended times are rounded down, to the nanosecond.
            prop_assert!(schedule.intended(due) + 1 >= time);
        }
    }

    #[test]
    fn the_end_bounds_the_count() {
        let mut schedule = Schedule::new(1_000, Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!((schedule.total(), schedule.measured_from, schedule.end), (3_000, SECOND, 3 * SECOND));
        assert_eq!(schedule.due_before(u64::MAX), 3_000);
        schedule.end_at(SECOND / 2);
        assert_eq!((schedule.total(), schedule.end), (500, SECOND / 2));
        schedule.end_at(SECOND);
        assert_eq!(schedule.total(), 500);
    }
}
