//! A token bucket.

use super::SECOND;

/// What a bucket lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bytes a second, at least 1.
    pub per_second: u64,
    /// Bytes at once, after a pause.
    pub burst: u64,
}

/// Bytes that may still pass, as of some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    tokens: u64,
    /// Up to when tokens have been credited, ns.
    credited: u64,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now: u64) -> Bucket {
        Bucket { tokens: rate.burst, credited: now }
    }

    /// Takes `bytes` out, if they are there.
    pub fn take(&mut self, rate: Rate, bytes: usize, now: u64) -> bool {
        self.refill(rate, now);
        match self.tokens.checked_sub(bytes as u64) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    /// Credits whole tokens only, and the time that they took, so that frequent calls lose nothing to rounding.
    fn refill(&mut self, rate: Rate, now: u64) {
        let elapsed = now.saturating_sub(self.credited);
        let earned = u128::from(elapsed) * u128::from(rate.per_second) / u128::from(SECOND);
        if earned >= u128::from(rate.burst) {
            *self = Bucket::full(rate, now);
            return;
        }
        let earned = u64::try_from(earned).expect("less than the burst");
        if earned > 0 {
            self.tokens = rate.burst.min(self.tokens + earned);
            // Rounded up: never more than the rate.
            self.credited += (earned * SECOND).div_ceil(rate.per_second).min(elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pause_earns_the_burst_and_no_more() {
        let rate = Rate { per_second: 1000, burst: 500 };
        let mut bucket = Bucket::full(rate, 0);
        assert!(bucket.take(rate, 500, 0) && !bucket.take(rate, 1, 0));
        assert!(!bucket.take(rate, 1, SECOND / 1000 - 1));
        assert!(bucket.take(rate, 1, SECOND / 1000));
        assert!(bucket.take(rate, 500, 100 * SECOND) && !bucket.take(rate, 1, 100 * SECOND));
        assert!(!bucket.take(rate, 1, 0), "a clock that goes back earns nothing");
    }

    proptest! {
        /// However the calls fall, no window passes more than burst plus rate times its length.
        #[test]
        fn never_more_than_the_rate(
            per_second in 1u64..10_000_000,
            burst in 1u64..100_000,
            calls in prop::collection::vec((0u64..5_000_000, 0usize..3000), 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let (mut bucket, mut now, mut passed) = (Bucket::full(rate, 0), 0, 0);
            for (pause, bytes) in calls {
                now += pause;
                if bucket.take(rate, bytes, now) {
                    passed += bytes as u128;
                }
                let bound = u128::from(burst) + u128::from(per_second) * u128::from(now) / u128::from(SECOND);
                prop_assert!(passed <= bound, "{passed} > {bound} after {now} ns");
            }
        }

        /// Frequent calls earn as much as rare ones, less one token of rounding for each credit.
        #[test]
        fn small_steps_lose_next_to_nothing(per_second in 1_000u64..1_000_000, step in 1u64..3_000_000) {
            let rate = Rate { per_second, burst: 1_000_000 };
            let mut bucket = Bucket { tokens: 0, credited: 0 };
            for count in 1..=1000 {
                bucket.take(rate, usize::MAX, count * step);
            }
            let fair = per_second as u128 * (1000 * step) as u128 / SECOND as u128;
            let earned = u128::from(bucket.tokens);
            prop_assert!(earned <= fair && earned + 2 + fair / 100 >= fair.min(1_000_000), "{earned} of {fair}");
        }
    }
}
