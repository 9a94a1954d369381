//! Mutations of byte strings: reproducible from a seed, and fond of what breaks parsers (lengths, counts, boundaries).

use fastrand::Rng;

/// Values that sit on edges, beside zero and all ones.
const EDGES: [u64; 8] = [1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff];

/// A source of mutated inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    max_len: usize,
}

impl Mutator {
    /// Inputs of at most `max_len` bytes.
    pub fn new(seed: u64, max_len: usize) -> Mutator {
        Mutator { rng: Rng::with_seed(seed), max_len }
    }

    /// Fills `out` with a mutation of an input of the pool.
    ///
    /// # Panics
    /// Where the pool is empty.
    pub fn mutate(&mut self, pool: &[Vec<u8>], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.pick(pool));
        for _ in 0..1 << self.rng.u8(..4) {
            self.step(pool, out);
        }
        out.truncate(self.max_len);
    }

    fn pick<'a>(&mut self, pool: &'a [Vec<u8>]) -> &'a [u8] {
        &pool[self.rng.usize(..pool.len())]
    }

    fn step(&mut self, pool: &[Vec<u8>], out: &mut Vec<u8>) {
        match self.rng.u8(..12) {
            0 | 1 => self.flip_bit(out),
            2 => self.set_byte(out),
            3..=5 => self.edit_number(out),
            6 => drop(out.drain(self.range(out.len()))),
            7 => {
                let copy = out[self.range(out.len())].to_vec();
                self.insert(out, &copy);
            }
            8 => {
                let other = self.pick(pool);
                let range = self.range(other.len());
                self.insert(out, &other[range]);
            }
            9 => self.overwrite(pool, out),
            10 => out.truncate(self.rng.usize(..=out.len())),
            _ => {
                let more = self.rng.usize(1..=40);
                out.extend(std::iter::repeat_with(|| self.rng.u8(..)).take(more));
            }
        }
    }

    /// Mostly a short range, at times a long one.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.rng.usize(..=len);
        let longest = if self.rng.bool() { 8 } else { len };
        start..start + self.rng.usize(..=longest.min(len - start))
    }

    fn flip_bit(&mut self, out: &mut [u8]) {
        if !out.is_empty() {
            out[self.rng.usize(..out.len())] ^= 1 << self.rng.u8(..8);
        }
    }

    fn set_byte(&mut self, out: &mut [u8]) {
        if !out.is_empty() {
            let values = [0, 1, 0x7f, 0x80, 0xff, self.rng.u8(..)];
            out[self.rng.usize(..out.len())] = values[self.rng.usize(..values.len())];
        }
    }

    /// Takes 1, 2, 4 or 8 bytes for a little-endian number: a count, a length, a height.
    fn edit_number(&mut self, out: &mut [u8]) {
        let width = 1 << self.rng.usize(..4);
        let Some(last) = out.len().checked_sub(width) else { return };
        let at = self.rng.usize(..=last);
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&out[at..at + width]);
        let number = u64::from_le_bytes(bytes);
        let edited = match self.rng.u8(..6) {
            0 => number.wrapping_add(self.rng.u64(1..=16)),
            1 => number.wrapping_sub(self.rng.u64(1..=16)),
            2 => EDGES[self.rng.usize(..EDGES.len())],
            3 => 0,
            4 => u64::MAX,
            // What a length of the rest would be.
            _ => (last - at) as u64,
        };
        out[at..at + width].copy_from_slice(&edited.to_le_bytes()[..width]);
    }

    fn insert(&mut self, out: &mut Vec<u8>, piece: &[u8]) {
        let at = self.rng.usize(..=out.len());
        out.splice(at..at, piece.iter().copied());
    }

    fn overwrite(&mut self, pool: &[Vec<u8>], out: &mut [u8]) {
        let other = self.pick(pool);
        let range = self.range(other.len());
        let (start, piece) = (range.start, &other[range]);
        if let Some(last) = out.len().checked_sub(piece.len()) {
            // As often as not to where it stands in the other input: fields stay fields.
            let at = if self.rng.bool() && start <= last { start } else { self.rng.usize(..=last) };
            out[at..at + piece.len()].copy_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_all_inputs() {
        let pool = vec![vec![1; 50], (0..100).collect(), Vec::new()];
        let run = |seed| {
            let mut mutator = Mutator::new(seed, 80);
            let mut out = Vec::new();
            let inputs = std::iter::repeat_with(|| {
                mutator.mutate(&pool, &mut out);
                assert!(out.len() <= 80);
                out.clone()
            });
            inputs.take(5000).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
