//! When to try to connect again.

use std::time::Duration;

/// Exponential back-off with jitter.
///
/// The n-th delay is drawn evenly from the upper half of `min(first · 2ⁿ, cap)`: long enough to spare a peer that
/// is down, spread enough that nodes which lost it together don't return together. It holds no clock: the caller
/// waits. The same seed gives the same delays.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// A back-off that starts at `first` and never waits longer than `cap`.
    ///
    /// # Panics
    /// When `first` is zero or above `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        assert!(!first.is_zero() && first <= cap, "a back-off grows from a positive delay up to its cap");
        Self { first, cap, failures: 0, random: seed }
    }

    /// How long to wait after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.first.saturating_mul(1 << doublings).min(self.cap);
        let half = ceiling / 2;
        half + half.mul_f64(self.next_fraction())
    }

    /// Starts again from the first delay: the connection stood.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A number in `[0, 1)` by SplitMix64 (Steele, Lea, Flood 2014).
    fn next_fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The upper 53 bits are what an f64 holds exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(5);

    proptest! {
        #[test]
        fn delays_lie_in_the_upper_half_of_the_doubling_ceiling(seed: u64, failures in 1usize..80) {
            let mut backoff = Backoff::new(FIRST, CAP, seed);
            let mut ceiling = FIRST;
            for _ in 0..failures {
                let delay = backoff.next_delay();
                prop_assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay:?} for {ceiling:?}");
                ceiling = (ceiling * 2).min(CAP);
            }
            backoff.reset();
            prop_assert!(backoff.next_delay() <= FIRST);
        }
    }

    #[test]
    fn seeds_decide_the_jitter() {
        let delays = |seed| {
            let mut backoff = Backoff::new(FIRST, CAP, seed);
            [(); 8].map(|()| backoff.next_delay())
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
