//! SHA-512 of several short messages at once, a message to a lane (FIPS 180-4).

use super::field::{Backend, Kernel, Rows, Words};

use super::decompress::GROUP;

/// Bytes of the longest input: R, A and the longest message.
const LONGEST: usize = 64 + super::job::MAX_MESSAGE;
/// Blocks of the longest input, with its end mark and length.
const BLOCKS: usize = (LONGEST + 17).div_ceil(BLOCK);
/// Bytes of a block.
const BLOCK: usize = 128;

/// Inputs, padded and ready to be hashed.
pub(super) struct Inputs {
    blocks: [[u8; BLOCKS * BLOCK]; GROUP],
    used: [usize; GROUP],
    count: usize,
}

impl Inputs {
    /// No inputs.
    pub(super) fn new() -> Self {
        Self { blocks: [[0; BLOCKS * BLOCK]; GROUP], used: [1; GROUP], count: 0 }
    }

    /// Adds `parts`, one after the other: at most [`GROUP`] times, and no more bytes than the longest message has.
    pub(super) fn push(&mut self, parts: [&[u8]; 3]) {
        let blocks = &mut self.blocks[self.count];
        let mut length = 0;
        for part in parts {
            blocks[length..length + part.len()].copy_from_slice(part);
            length += part.len();
        }
        assert!(length <= LONGEST);
        blocks[length] = 0x80;
        let used = (length + 17).div_ceil(BLOCK);
        let bits = u64::try_from(length * 8).expect("a short input");
        blocks[used * BLOCK - 8..used * BLOCK].copy_from_slice(&bits.to_be_bytes());
        self.used[self.count] = used;
        self.count += 1;
    }

    /// The digests, in order.
    pub(super) fn digests(&self, backend: Backend) -> [[u8; 64]; GROUP] {
        backend.run(self)
    }
}

impl Kernel for &Inputs {
    type Output = [[u8; 64]; GROUP];

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output {
        let mut digests = [[0; 64]; GROUP];
        let mut first = 0;
        while first < self.count {
            self.digest_lanes::<L>(cpu, first, &mut digests);
            first += L::N;
        }
        digests
    }
}

impl Inputs {
    /// The digests of as many inputs as there are lanes, from `first` on.
    #[inline(always)]
    fn digest_lanes<L: Rows>(&self, cpu: L::Cpu, first: usize, digests: &mut [[u8; 64]; GROUP]) {
        let used = &self.used[first..first + L::N];
        let most = used.iter().fold(0, |most, &used| usize::max(most, used));
        let mut state = [L::Words::splat(cpu, 0); 8];
        for (word, &initial) in state.iter_mut().zip(&INITIAL) {
            *word = L::Words::splat(cpu, initial);
        }
        for block in 0..most {
            let mut schedule = [L::Words::splat(cpu, 0); 16];
            for (i, word) in schedule.iter_mut().enumerate() {
                let mut lanes = [0; super::field::MAX_LANES];
                for (lane, input) in lanes.iter_mut().zip(&self.blocks[first..first + L::N]) {
                    let at = block * BLOCK + 8 * i;
                    *lane = u64::from_be_bytes(*input[at..].first_chunk().expect("a block is 16 words"));
                }
                *word = L::Words::load(cpu, &lanes);
            }
            compress(cpu, &mut state, &mut schedule);
            for (i, word) in state.iter().enumerate() {
                let lanes = word.store();
                for (lane, &used) in used.iter().enumerate() {
                    if used == block + 1 {
                        digests[first + lane][8 * i..8 * i + 8].copy_from_slice(&lanes[lane].to_be_bytes());
                    }
                }
            }
        }
    }
}

/// FIPS 180-4, section 6.4.2.
#[inline(always)]
fn compress<W: Words>(cpu: W::Cpu, state: &mut [W; 8], schedule: &mut [W; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $k:expr, $word:expr) => {
            let big_1 = $e.rotate::<14>().xor($e.rotate::<18>()).xor($e.rotate::<41>());
            let t1 = $h.add(big_1).add(W::choose($e, $f, $g)).add(W::splat(cpu, $k).add($word));
            let big_0 = $a.rotate::<28>().xor($a.rotate::<34>()).xor($a.rotate::<39>());
            $d = $d.add(t1);
            $h = t1.add(big_0).add(W::majority($a, $b, $c));
        };
    }
    let mut first = 0;
    while first < 80 {
        if first > 0 {
            for i in 0..16 {
                let (old, recent) = (schedule[(i + 1) % 16], schedule[(i + 14) % 16]);
                let small_0 = old.rotate::<1>().xor(old.rotate::<8>()).xor(old.shift::<7>());
                let small_1 = recent.rotate::<19>().xor(recent.rotate::<61>()).xor(recent.shift::<6>());
                schedule[i] = schedule[i].add(small_0).add(schedule[(i + 9) % 16].add(small_1));
            }
        }
        let (k, w) = (&ROUND[first..first + 16], &*schedule);
        for i in [0, 8] {
            round!(a b c d e f g h k[i], w[i]);
            round!(h a b c d e f g k[i + 1], w[i + 1]);
            round!(g h a b c d e f k[i + 2], w[i + 2]);
            round!(f g h a b c d e k[i + 3], w[i + 3]);
            round!(e f g h a b c d k[i + 4], w[i + 4]);
            round!(d e f g h a b c k[i + 5], w[i + 5]);
            round!(c d e f g h a b k[i + 6], w[i + 6]);
            round!(b c d e f g h a k[i + 7], w[i + 7]);
        }
        first += 16;
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.add(add);
    }
}

/// Section 5.3.5: square roots of the first 8 primes.
#[rustfmt::skip]
const INITIAL: [u64; 8] = [
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
];

/// Section 4.2.3: cube roots of the first 80 primes.
#[rustfmt::skip]
const ROUND: [u64; 80] = [
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
    0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
    0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
    0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
    0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
    0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
    0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
    0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
    0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
    0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
    0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
    0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
];

#[cfg(test)]
mod tests {
    use super::super::tests::Source;
    use super::*;
    use sha2::{Digest, Sha512};

    #[test]
    fn digests_are_those_of_one_at_a_time() {
        let mut source = Source::new(50);
        let text = source.bytes::<LONGEST>();
        let range = |length: usize, i: usize| i..length + 3 * i;
        for backend in Backend::available() {
            for length in 0..=LONGEST - 3 * GROUP {
                let mut inputs = Inputs::new();
                let count = 1 + length % GROUP;
                for i in 0..count {
                    let input = &text[range(length, i)];
                    let (a, rest) = input.split_at(input.len() / 3);
                    let (b, c) = rest.split_at(rest.len() / 2);
                    inputs.push([a, b, c]);
                }
                let digests = inputs.digests(backend);
                for (i, digest) in digests.iter().enumerate().take(count) {
                    let expected: [u8; 64] = Sha512::digest(&text[range(length, i)]).into();
                    assert_eq!(*digest, expected, "{} {length} {i}", backend.name());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "length <= LONGEST")]
    fn a_long_input_is_the_callers_mistake() {
        Inputs::new().push([&[0; 64], &[0; 64], &[0; LONGEST - 127]]);
    }
}
