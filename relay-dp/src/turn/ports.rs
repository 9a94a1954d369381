//! The relay ports of one core: which are taken, and which comes next.

use std::ops::RangeInclusive;

/// Which port is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Any.
    Any,
    /// An even one (RFC 8656 section 18.7).
    Even,
    /// An even one, and the next.
    Pair,
}

/// A set of ports, drawn at random so that they can't be guessed (RFC 8656 section 7.2).
pub struct Ports {
    first: u16,
    taken: Vec<u64>,
    count: u32,
    free: u32,
}

impl Ports {
    /// All ports of the range are free.
    pub fn new(range: &RangeInclusive<u16>) -> Ports {
        let first = *range.start();
        let count = (u32::from(*range.end()) + 1).saturating_sub(u32::from(first));
        Ports { first, taken: vec![0; count.div_ceil(64) as usize], count, free: count }
    }

    /// Ports that are not taken.
    #[cfg(test)]
    pub fn free(&self) -> u32 {
        self.free
    }

    fn is_taken(&self, index: u32) -> bool {
        self.taken[(index / 64) as usize] >> (index % 64) & 1 == 1
    }

    fn flip(&mut self, index: u32) {
        self.taken[(index / 64) as usize] ^= 1 << (index % 64);
    }

    /// Takes the first port that fits at or after a random place, and its successor where a pair is wanted.
    pub fn take(&mut self, want: Want, random: u64) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        let start = u32::try_from(random % u64::from(self.count)).expect("less than the count");
        let fits = |index: &u32| {
            let even = (u32::from(self.first) + index).is_multiple_of(2);
            let next = index + 1;
            !self.is_taken(*index)
                && (want == Want::Any || even)
                && (want != Want::Pair || next < self.count && !self.is_taken(next))
        };
        let index = (start..self.count).chain(0..start).find(fits)?;
        self.mark(index);
        if want == Want::Pair {
            self.mark(index + 1);
        }
        Some(self.port(index))
    }

    fn mark(&mut self, index: u32) {
        assert!(!self.is_taken(index));
        self.flip(index);
        self.free -= 1;
    }

    fn port(&self, index: u32) -> u16 {
        u16::try_from(u32::from(self.first) + index).expect("inside of the range")
    }

    /// Gives a port back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn give_back(&mut self, port: u16) {
        let index = u32::from(port - self.first);
        assert!(self.is_taken(index), "port {port} was taken");
        self.flip(index);
        self.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn like_a_set(
            first in 1u16..=65_400,
            count in 1u16..=130,
            steps in prop::collection::vec((0u8..5, any::<u32>()), 0..400),
        ) {
            let range = first..=first + (count - 1);
            let mut ports = Ports::new(&range);
            let mut free: BTreeSet<u16> = range.clone().collect();
            let mut taken = Vec::new();
            for (kind, random) in steps {
                let want = match kind {
                    0 | 1 => Want::Any,
                    2 => Want::Even,
                    3 => Want::Pair,
                    _ => {
                        if !taken.is_empty() {
                            let port = taken.swap_remove(random as usize % taken.len());
                            ports.give_back(port);
                            free.insert(port);
                        }
                        continue;
                    }
                };
                let fits = |port: &u16| match want {
                    Want::Any => true,
                    Want::Even => port.is_multiple_of(2),
                    Want::Pair => port.is_multiple_of(2) && port.checked_add(1).is_some_and(|next| free.contains(&next)),
                };
                let any = free.iter().any(fits);
                let got = ports.take(want, random.into());
                prop_assert_eq!(got.is_some(), any, "{:?}", want);
                if let Some(port) = got {
                    prop_assert!(free.contains(&port) && fits(&port));
                    free.remove(&port);
                    taken.push(port);
                    if want == Want::Pair {
                        free.remove(&(port + 1));
                        taken.push(port + 1);
                    }
                }
                prop_assert_eq!(ports.free() as usize, free.len());
            }
        }
    }
}
