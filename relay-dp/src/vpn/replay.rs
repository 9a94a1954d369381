//! The replay window: RFC 6479's ring of bits.

/// Bits in the ring, a power of two. A packet may come after up to `BITS - 64` later ones: at 100,000 packets a second,
/// 20 ms of reordering.
const BITS: u64 = 2048;
const WORDS: usize = 32;
const _: () = assert!(BITS == 64 * WORDS as u64 && BITS.is_power_of_two());

/// Counters seen so far, exactly within the window, all before it.
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// The highest counter seen plus one.
    next: u64,
    words: [u64; WORDS],
}

impl ReplayWindow {
    pub(super) fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether `counter` is new, as far as can be told.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        // One word less than the ring holds: the word that comes next is cleared as a whole.
        if self.next - counter > BITS - 64 {
            return false;
        }
        self.words[word(counter)] & bit(counter) == 0
    }

    /// Marks `counter`, whose packet has been authenticated, as seen. False when it was not new.
    pub(super) fn mark(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            let last = self.next.checked_sub(1).map_or(0, |last| last / 64);
            let skipped = (counter / 64 - last).min(WORDS as u64);
            for step in 1..=skipped {
                self.words[word((last + step) * 64)] = 0;
            }
            self.next = counter + 1;
        }
        self.words[word(counter)] |= bit(counter);
        true
    }
}

fn word(counter: u64) -> usize {
    usize::try_from(counter / 64 % WORDS as u64).expect("reduced")
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The reference: a set of everything seen, and the highest.
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..500)) {
            let mut window = ReplayWindow::new();
            let mut seen = HashSet::new();
            let mut highest = 0u64;
            for (distance, ahead) in steps {
                let counter = if ahead { highest + distance } else { highest.saturating_sub(distance) };
                let fresh = !seen.contains(&counter);
                let in_window = seen.is_empty() || highest < counter + (BITS - 64);
                prop_assert_eq!(window.mark(counter), fresh && in_window, "counter {} highest {}", counter, highest);
                if fresh && in_window {
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }

    #[test]
    fn a_jump_forgets_everything_before() {
        let mut window = ReplayWindow::new();
        for counter in [0, 1, 5_000, 5_001] {
            assert!(window.mark(counter));
        }
        assert!(!window.mark(1) && !window.mark(5_000));
        assert!(window.mark(5_002 - (BITS - 64)));
        assert!(!window.mark(5_001 - (BITS - 64)), "one before the window");
        assert!(window.mark(u64::MAX - 1));
    }
}
