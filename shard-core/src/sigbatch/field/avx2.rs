//! Four elements, on 32 × 32 → 64-bit multiplications of AVX2.
//!
//! Each element has ten limbs of 26 and 25 bits in turn (so limb i weighs 2^⌈25.5 i⌉), one limb of four elements to a
//! register. All `unsafe` here is calls of AVX2 instructions and loads and stores whose bounds are asserted beside them. A
//! [`V`] exists only where a [`Cpu`] was, and a [`Cpu`] only where AVX2 was found.
#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "closures of iterators are not compiled for the vectors' instructions"
)]

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitXor, Sub};

use super::{Element, Kernel, Lanes, MAX_LANES, Rows, Words};
use crate::sigbatch::point::{Extended, Niels};

/// Shows that the machine has AVX2.
#[derive(Clone, Copy, Debug)]
pub(in crate::sigbatch) struct Cpu(());

impl Cpu {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Runs `kernel`, compiled for AVX2.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2")]
        fn compiled<K: Kernel>(cpu: Cpu, kernel: K) -> K::Output {
            kernel.run::<Four>(cpu)
        }
        // SAFETY: a `Cpu` exists, so the machine has AVX2.
        unsafe { compiled(self, kernel) }
    }
}

/// Four unsigned 64-bit numbers.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(in crate::sigbatch) struct V(__m256i);

macro_rules! operators {
    ($($trait:ident $function:ident $intrinsic:ident;)*) => { $(
        impl $trait for V {
            type Output = V;
            #[inline(always)]
            fn $function(self, other: V) -> V {
                // SAFETY: a `V` exists, so the machine has AVX2.
                V(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )* };
}

operators! {
    Add add _mm256_add_epi64;
    Sub sub _mm256_sub_epi64;
    BitAnd bitand _mm256_and_si256;
    BitXor bitxor _mm256_xor_si256;
}

/// The product of the low halves.
#[inline(always)]
fn m(a: V, b: V) -> V {
    // SAFETY: a `V` exists, so the machine has AVX2.
    V(unsafe { _mm256_mul_epu32(a.0, b.0) })
}

impl V {
    #[inline(always)]
    fn splat(_: Cpu, x: u64) -> Self {
        // SAFETY: a `Cpu` exists, so the machine has AVX2.
        Self(unsafe { _mm256_set1_epi64x(x.cast_signed()) })
    }

    /// The five limbs of `x`, each in all lanes.
    #[inline(always)]
    fn broadcast(cpu: Cpu, x: &Element) -> [Self; 5] {
        let [a, b, c, d, e] = x.0;
        [
            Self::splat(cpu, a),
            Self::splat(cpu, b),
            Self::splat(cpu, c),
            Self::splat(cpu, d),
            Self::splat(cpu, e),
        ]
    }

    #[inline(always)]
    fn new(_: Cpu, x: [u64; 4]) -> Self {
        let [a, b, c, d] = [x[0].cast_signed(), x[1].cast_signed(), x[2].cast_signed(), x[3].cast_signed()];
        // SAFETY: a `Cpu` exists, so the machine has AVX2.
        Self(unsafe { _mm256_setr_epi64x(a, b, c, d) })
    }

    /// `x` in all four, for whoever has a `V` already.
    #[inline(always)]
    fn all(self, x: u64) -> Self {
        let _ = self;
        Self::splat(Cpu(()), x)
    }

    #[inline(always)]
    fn lanes(self) -> [u64; 4] {
        let mut lanes = [0; 4];
        // SAFETY: a `V` exists, so the machine has AVX2; the array has 32 bytes, and the store wants no alignment.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), self.0) };
        lanes
    }

    #[inline(always)]
    fn shl<const BITS: i32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        Self(unsafe { _mm256_slli_epi64::<BITS>(self.0) })
    }

    #[inline(always)]
    fn shr<const BITS: i32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        Self(unsafe { _mm256_srli_epi64::<BITS>(self.0) })
    }

    /// Words 2i and 2i + 1 of `a`, then of `b`.
    #[inline(always)]
    fn two_rows(_: Cpu, a: &Extended, b: &Extended, i: usize) -> Self {
        assert!(i < 10);
        let (a, b): (*const Extended, *const Extended) = (a, b);
        // SAFETY: a `Cpu` exists, so the machine has AVX2. An `Extended` is 20 words, of which these are read; a load
        // wants no alignment.
        Self(unsafe {
            let a = _mm_loadu_si128(a.cast::<__m128i>().add(i));
            let b = _mm_loadu_si128(b.cast::<__m128i>().add(i));
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)
        })
    }

    /// Lanes 0 and 1 into the words 2i and 2i + 1 of `row`.
    #[inline(always)]
    fn store_low(self, row: &mut Extended, i: usize) {
        assert!(i < 10);
        let row: *mut Extended = row;
        // SAFETY: a `V` exists, so the machine has AVX2. An `Extended` is 20 words, of which these are written; a store
        // wants no alignment.
        unsafe { _mm_storeu_si128(row.cast::<__m128i>().add(i), _mm256_castsi256_si128(self.0)) };
    }

    /// Lanes 2 and 3 into the words 2i and 2i + 1 of `row`.
    #[inline(always)]
    fn store_high(self, row: &mut Extended, i: usize) {
        assert!(i < 10);
        let row: *mut Extended = row;
        // SAFETY: as in `store_low`.
        unsafe { _mm_storeu_si128(row.cast::<__m128i>().add(i), _mm256_extracti128_si256::<1>(self.0)) };
    }

    /// Lane 0 of both, lane 0 of `other` second, and lane 2 of both; then lanes 1 and 3.
    #[inline(always)]
    fn interleave(self, other: Self) -> (Self, Self) {
        // SAFETY: a `V` exists, so the machine has AVX2.
        unsafe {
            (Self(_mm256_unpacklo_epi64(self.0, other.0)), Self(_mm256_unpackhi_epi64(self.0, other.0)))
        }
    }

    /// All ones in the lanes whose bit is set.
    #[inline(always)]
    fn mask(cpu: Cpu, bits: u32) -> Self {
        let lane = Self::new(cpu, [1, 2, 4, 8]);
        let set = Self::splat(cpu, u64::from(bits)) & lane;
        // SAFETY: a `Cpu` exists, so the machine has AVX2.
        Self(unsafe { _mm256_cmpeq_epi64(set.0, lane.0) })
    }

    /// `other` where `mask` is all ones, `self` where it is zero.
    #[inline(always)]
    fn blend(self, other: Self, mask: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        Self(unsafe { _mm256_blendv_epi8(self.0, other.0, mask.0) })
    }
}

/// A vector of four elements.
#[derive(Clone, Copy)]
pub(in crate::sigbatch) struct Four([V; 10]);

const LOW_26: u64 = (1 << 26) - 1;
const LOW_25: u64 = (1 << 25) - 1;

/// 2p in ten limbs, each at least a tight limb.
const TWICE_P: [u64; 10] = [
    2 * (LOW_26 - 18),
    2 * LOW_25,
    2 * LOW_26,
    2 * LOW_25,
    2 * LOW_26,
    2 * LOW_25,
    2 * LOW_26,
    2 * LOW_25,
    2 * LOW_26,
    2 * LOW_25,
];

/// 2p in five limbs of 51 bits, each at least a tight limb.
const TWICE_P_51: [u64; 5] =
    [2 * (super::LOW_51 - 18), 2 * super::LOW_51, 2 * super::LOW_51, 2 * super::LOW_51, 2 * super::LOW_51];

impl Four {
    /// From limbs of 51 bits, which may have grown to 52.
    #[inline(always)]
    fn unpack(cpu: Cpu, words: [V; 5]) -> Self {
        let low = V::splat(cpu, LOW_26);
        let [a, b, c, d, e] = words;
        Self([
            a & low,
            a.shr::<26>(),
            b & low,
            b.shr::<26>(),
            c & low,
            c.shr::<26>(),
            d & low,
            d.shr::<26>(),
            e & low,
            e.shr::<26>(),
        ])
    }

    /// To limbs of 51 bits. Weight 1.
    #[inline(always)]
    fn pack(self) -> [V; 5] {
        let [a, b, c, d, e, f, g, h, i, j] = self.0;
        [a + b.shl::<26>(), c + d.shl::<26>(), e + f.shl::<26>(), g + h.shl::<26>(), i + j.shl::<26>()]
    }
}

/// From columns of any size up to 2⁶⁴ − 2⁴⁵. Afterwards limbs have at most 26 and 25 bits, limbs 1 and 5 at most 2²⁵ + 2¹⁸.
#[target_feature(enable = "avx2")]
#[inline]
fn reduce(h: [V; 10]) -> Four {
    let [mut h0, mut h1, mut h2, mut h3, mut h4, mut h5, mut h6, mut h7, mut h8, mut h9] = h;
    let (low_26, low_25) = (h0.all(LOW_26), h0.all(LOW_25));
    macro_rules! carry {
        (26 $from:ident $to:ident) => {
            $to = $to + $from.shr::<26>();
            $from = $from & low_26;
        };
        (25 $from:ident $to:ident) => {
            $to = $to + $from.shr::<25>();
            $from = $from & low_25;
        };
    }
    // Two chains, so that one waits less for the other.
    carry!(26 h0 h1);
    carry!(26 h4 h5);
    carry!(25 h1 h2);
    carry!(25 h5 h6);
    carry!(26 h2 h3);
    carry!(26 h6 h7);
    carry!(25 h3 h4);
    carry!(25 h7 h8);
    carry!(26 h4 h5);
    carry!(26 h8 h9);
    // 2²⁵⁵ = 19. The carry may have 39 bits, too many for a multiplication.
    let carry = opaque(h9.shr::<25>());
    h9 = h9 & low_25;
    h0 = h0 + (opaque(carry.shl::<4>()) + (opaque(carry.shl::<1>()) + carry));
    carry!(26 h0 h1);
    Four([h0, h1, h2, h3, h4, h5, h6, h7, h8, h9])
}

/// `x`, about which the compiler knows nothing: it would turn products with small constants into more, narrower ones.
#[target_feature(enable = "avx2")]
#[inline]
fn opaque(mut x: V) -> V {
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {} */", inout(ymm_reg) x.0, options(pure, nomem, nostack, preserves_flags))
    };
    x
}

#[target_feature(enable = "avx2")]
#[inline]
fn twice(x: V) -> V {
    opaque(x + x)
}

/// The product. A function, not inlined, because seven of them in a row would not fit into the cache of decoded instructions.
#[target_feature(enable = "avx2")]
#[inline(never)]
fn multiply(f: &Four, g: &Four) -> Four {
    let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9] = f.0;
    let [g0, g1, g2, g3, g4, g5, g6, g7, g8, g9] = g.0;
    let by_19 = g0.all(19);
    let (g1_19, g2_19, g3_19) = (opaque(m(g1, by_19)), opaque(m(g2, by_19)), opaque(m(g3, by_19)));
    let (g4_19, g5_19, g6_19) = (opaque(m(g4, by_19)), opaque(m(g5, by_19)), opaque(m(g6, by_19)));
    let (g7_19, g8_19, g9_19) = (opaque(m(g7, by_19)), opaque(m(g8, by_19)), opaque(m(g9, by_19)));
    // Two odd limbs weigh together half as much as their product's place.
    let (f1_2, f3_2, f5_2, f7_2, f9_2) = (twice(f1), twice(f3), twice(f5), twice(f7), twice(f9));
    // Row by row: a limb of f and the ten sums stay in registers.
    let mut h0 = m(f0, g0);
    let mut h1 = m(f0, g1);
    let mut h2 = m(f0, g2);
    let mut h3 = m(f0, g3);
    let mut h4 = m(f0, g4);
    let mut h5 = m(f0, g5);
    let mut h6 = m(f0, g6);
    let mut h7 = m(f0, g7);
    let mut h8 = m(f0, g8);
    let mut h9 = m(f0, g9);
    h1 = h1 + m(f1, g0);
    h2 = h2 + m(f1_2, g1);
    h3 = h3 + m(f1, g2);
    h4 = h4 + m(f1_2, g3);
    h5 = h5 + m(f1, g4);
    h6 = h6 + m(f1_2, g5);
    h7 = h7 + m(f1, g6);
    h8 = h8 + m(f1_2, g7);
    h9 = h9 + m(f1, g8);
    h0 = h0 + m(f1_2, g9_19);
    h2 = h2 + m(f2, g0);
    h3 = h3 + m(f2, g1);
    h4 = h4 + m(f2, g2);
    h5 = h5 + m(f2, g3);
    h6 = h6 + m(f2, g4);
    h7 = h7 + m(f2, g5);
    h8 = h8 + m(f2, g6);
    h9 = h9 + m(f2, g7);
    h0 = h0 + m(f2, g8_19);
    h1 = h1 + m(f2, g9_19);
    h3 = h3 + m(f3, g0);
    h4 = h4 + m(f3_2, g1);
    h5 = h5 + m(f3, g2);
    h6 = h6 + m(f3_2, g3);
    h7 = h7 + m(f3, g4);
    h8 = h8 + m(f3_2, g5);
    h9 = h9 + m(f3, g6);
    h0 = h0 + m(f3_2, g7_19);
    h1 = h1 + m(f3, g8_19);
    h2 = h2 + m(f3_2, g9_19);
    h4 = h4 + m(f4, g0);
    h5 = h5 + m(f4, g1);
    h6 = h6 + m(f4, g2);
    h7 = h7 + m(f4, g3);
    h8 = h8 + m(f4, g4);
    h9 = h9 + m(f4, g5);
    h0 = h0 + m(f4, g6_19);
    h1 = h1 + m(f4, g7_19);
    h2 = h2 + m(f4, g8_19);
    h3 = h3 + m(f4, g9_19);
    h5 = h5 + m(f5, g0);
    h6 = h6 + m(f5_2, g1);
    h7 = h7 + m(f5, g2);
    h8 = h8 + m(f5_2, g3);
    h9 = h9 + m(f5, g4);
    h0 = h0 + m(f5_2, g5_19);
    h1 = h1 + m(f5, g6_19);
    h2 = h2 + m(f5_2, g7_19);
    h3 = h3 + m(f5, g8_19);
    h4 = h4 + m(f5_2, g9_19);
    h6 = h6 + m(f6, g0);
    h7 = h7 + m(f6, g1);
    h8 = h8 + m(f6, g2);
    h9 = h9 + m(f6, g3);
    h0 = h0 + m(f6, g4_19);
    h1 = h1 + m(f6, g5_19);
    h2 = h2 + m(f6, g6_19);
    h3 = h3 + m(f6, g7_19);
    h4 = h4 + m(f6, g8_19);
    h5 = h5 + m(f6, g9_19);
    h7 = h7 + m(f7, g0);
    h8 = h8 + m(f7_2, g1);
    h9 = h9 + m(f7, g2);
    h0 = h0 + m(f7_2, g3_19);
    h1 = h1 + m(f7, g4_19);
    h2 = h2 + m(f7_2, g5_19);
    h3 = h3 + m(f7, g6_19);
    h4 = h4 + m(f7_2, g7_19);
    h5 = h5 + m(f7, g8_19);
    h6 = h6 + m(f7_2, g9_19);
    h8 = h8 + m(f8, g0);
    h9 = h9 + m(f8, g1);
    h0 = h0 + m(f8, g2_19);
    h1 = h1 + m(f8, g3_19);
    h2 = h2 + m(f8, g4_19);
    h3 = h3 + m(f8, g5_19);
    h4 = h4 + m(f8, g6_19);
    h5 = h5 + m(f8, g7_19);
    h6 = h6 + m(f8, g8_19);
    h7 = h7 + m(f8, g9_19);
    h9 = h9 + m(f9, g0);
    h0 = h0 + m(f9_2, g1_19);
    h1 = h1 + m(f9, g2_19);
    h2 = h2 + m(f9_2, g3_19);
    h3 = h3 + m(f9, g4_19);
    h4 = h4 + m(f9_2, g5_19);
    h5 = h5 + m(f9, g6_19);
    h6 = h6 + m(f9_2, g7_19);
    h7 = h7 + m(f9, g8_19);
    h8 = h8 + m(f9_2, g9_19);
    reduce([h0, h1, h2, h3, h4, h5, h6, h7, h8, h9])
}

/// The square.
#[target_feature(enable = "avx2")]
#[inline(never)]
fn square(f: &Four) -> Four {
    let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9] = f.0;
    let (f0_2, f1_2, f2_2, f3_2) = (twice(f0), twice(f1), twice(f2), twice(f3));
    let (f4_2, f5_2, f6_2, f7_2) = (twice(f4), twice(f5), twice(f6), twice(f7));
    let (by_19, by_38) = (f0.all(19), f0.all(38));
    let (f6_19, f8_19) = (opaque(m(f6, by_19)), opaque(m(f8, by_19)));
    let (f5_38, f7_38, f9_38) = (opaque(m(f5, by_38)), opaque(m(f7, by_38)), opaque(m(f9, by_38)));
    let h0 = m(f0, f0) + m(f1_2, f9_38) + m(f2_2, f8_19) + m(f3_2, f7_38) + m(f4_2, f6_19) + m(f5, f5_38);
    let h1 = m(f0_2, f1) + m(f2, f9_38) + m(f3_2, f8_19) + m(f4, f7_38) + m(f5_2, f6_19);
    let h2 = m(f0_2, f2) + m(f1_2, f1) + m(f3_2, f9_38) + m(f4_2, f8_19) + m(f5_2, f7_38) + m(f6, f6_19);
    let h3 = m(f0_2, f3) + m(f1_2, f2) + m(f4, f9_38) + m(f5_2, f8_19) + m(f6, f7_38);
    let h4 = m(f0_2, f4) + m(f1_2, f3_2) + m(f2, f2) + m(f5_2, f9_38) + m(f6_2, f8_19) + m(f7, f7_38);
    let h5 = m(f0_2, f5) + m(f1_2, f4) + m(f2_2, f3) + m(f6, f9_38) + m(f7_2, f8_19);
    let h6 = m(f0_2, f6) + m(f1_2, f5_2) + m(f2_2, f4) + m(f3_2, f3) + m(f7_2, f9_38) + m(f8, f8_19);
    let h7 = m(f0_2, f7) + m(f1_2, f6) + m(f2_2, f5) + m(f3_2, f4) + m(f8, f9_38);
    let h8 = m(f0_2, f8) + m(f1_2, f7_2) + m(f2_2, f6) + m(f3_2, f5_2) + m(f4, f4) + m(f9, f9_38);
    let h9 = m(f0_2, f9) + m(f1_2, f8) + m(f2_2, f7) + m(f3_2, f6) + m(f4_2, f5);
    reduce([h0, h1, h2, h3, h4, h5, h6, h7, h8, h9])
}

impl Lanes for Four {
    type Cpu = Cpu;
    const N: usize = 4;

    #[inline(always)]
    fn splat(cpu: Cpu, x: &Element) -> Self {
        Self::unpack(cpu, V::broadcast(cpu, x))
    }

    #[inline(always)]
    fn load(cpu: Cpu, from: &[Element]) -> Self {
        let mut words = [V::splat(cpu, 0); 5];
        for i in 0..5 {
            words[i] = V::new(cpu, [from[0].0[i], from[1].0[i], from[2].0[i], from[3].0[i]]);
        }
        Self::unpack(cpu, words)
    }

    #[inline(always)]
    fn store(self, to: &mut [Element]) {
        let words = self.pack();
        for i in 0..5 {
            let lanes = words[i].lanes();
            for lane in 0..4 {
                to[lane].0[i] = lanes[lane];
            }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        let mut out = a;
        for i in 0..10 {
            out[i] = a[i] + b[i];
        }
        Self(out)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        let mut out = a;
        for i in 0..10 {
            out[i] = a[i] + (a[i].all(TWICE_P[i]) - b[i]);
        }
        Self(out)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        unsafe { multiply(&self, &other) }
    }

    #[inline(always)]
    fn square(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        unsafe { square(&self) }
    }

    #[inline(always)]
    fn carry(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        unsafe { reduce(self.0) }
    }

    #[inline(always)]
    fn select(self, other: Self, mask: u32) -> Self {
        let mask = V::mask(Cpu(()), mask);
        let (a, b) = (self.0, other.0);
        let mut out = a;
        for i in 0..10 {
            out[i] = a[i].blend(b[i], mask);
        }
        Self(out)
    }
}

impl Words for V {
    type Cpu = Cpu;

    #[inline(always)]
    fn splat(cpu: Cpu, x: u64) -> Self {
        V::splat(cpu, x)
    }

    #[inline(always)]
    fn load(cpu: Cpu, from: &[u64; MAX_LANES]) -> Self {
        Self::new(cpu, [from[0], from[1], from[2], from[3]])
    }

    #[inline(always)]
    fn store(self) -> [u64; MAX_LANES] {
        let [a, b, c, d] = self.lanes();
        [a, b, c, d, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    fn rotate<const BITS: u32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        unsafe {
            let right = _mm256_srl_epi64(self.0, _mm_cvtsi32_si128(BITS.cast_signed()));
            let left = _mm256_sll_epi64(self.0, _mm_cvtsi32_si128(64 - BITS.cast_signed()));
            Self(_mm256_or_si256(right, left))
        }
    }

    #[inline(always)]
    fn shift<const BITS: u32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX2.
        Self(unsafe { _mm256_srl_epi64(self.0, _mm_cvtsi32_si128(BITS.cast_signed())) })
    }

    #[inline(always)]
    fn choose(which: Self, one: Self, zero: Self) -> Self {
        zero ^ (which & (one ^ zero))
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        (a & b) ^ (c & (a ^ b))
    }
}

impl Rows for Four {
    type Words = V;

    #[inline(always)]
    fn load_points(cpu: Cpu, rows: &[Extended], at: &[u32; MAX_LANES]) -> [Self; 4] {
        let (a, b) = (&rows[at[0] as usize], &rows[at[1] as usize]);
        let (c, d) = (&rows[at[2] as usize], &rows[at[3] as usize]);
        let mut words = [V::splat(cpu, 0); 20];
        for i in 0..10 {
            let (ac, bd) = (V::two_rows(cpu, a, c, i), V::two_rows(cpu, b, d, i));
            (words[2 * i], words[2 * i + 1]) = ac.interleave(bd);
        }
        let [x0, x1, x2, x3, x4, y0, y1, y2, y3, y4, z0, z1, z2, z3, z4, t0, t1, t2, t3, t4] = words;
        [
            Self::unpack(cpu, [x0, x1, x2, x3, x4]),
            Self::unpack(cpu, [y0, y1, y2, y3, y4]),
            Self::unpack(cpu, [z0, z1, z2, z3, z4]),
            Self::unpack(cpu, [t0, t1, t2, t3, t4]),
        ]
    }

    #[inline(always)]
    fn store_points(point: [Self; 4], rows: &mut [Extended], at: &[u32; MAX_LANES]) {
        let [x, y, z, t] = point;
        let ([x0, x1, x2, x3, x4], [y0, y1, y2, y3, y4]) = (x.pack(), y.pack());
        let ([z0, z1, z2, z3, z4], [t0, t1, t2, t3, t4]) = (z.pack(), t.pack());
        let words = [x0, x1, x2, x3, x4, y0, y1, y2, y3, y4, z0, z1, z2, z3, z4, t0, t1, t2, t3, t4];
        for i in 0..10 {
            let (ac, bd) = words[2 * i].interleave(words[2 * i + 1]);
            ac.store_low(&mut rows[at[0] as usize], i);
            bd.store_low(&mut rows[at[1] as usize], i);
            ac.store_high(&mut rows[at[2] as usize], i);
            bd.store_high(&mut rows[at[3] as usize], i);
        }
    }

    #[inline(always)]
    fn prefetch(rows: &[Extended], at: &[u32; MAX_LANES]) {
        for &row in &at[..Self::N] {
            let row = (&raw const rows[row as usize]).cast::<i8>();
            // SAFETY: prefetching reads nothing, and every machine with AVX2 can.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(row);
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(64));
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(128));
            }
        }
    }

    #[inline(always)]
    fn signed(cpu: Cpu, point: &Niels, negative: u32) -> [Self; 3] {
        let mask = V::mask(cpu, negative);
        let [sum, difference, product] = &point.0;
        let (mut sum, mut difference) = (V::broadcast(cpu, sum), V::broadcast(cpu, difference));
        let mut product = V::broadcast(cpu, product);
        for i in 0..5 {
            let swap = (sum[i] ^ difference[i]) & mask;
            sum[i] = sum[i] ^ swap;
            difference[i] = difference[i] ^ swap;
            // 2p − x = 2p + 1 + !x
            product[i] = (product[i] ^ mask) + (V::splat(cpu, TWICE_P_51[i] + 1) & mask);
        }
        [Self::unpack(cpu, sum), Self::unpack(cpu, difference), Self::unpack(cpu, product)]
    }
}
