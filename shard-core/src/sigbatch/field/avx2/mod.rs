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

mod product;

use product::{multiply, reduce, square};

use super::{Element, Kernel, Lanes, MAX_LANES, Rows, Words};
use crate::sigbatch::point::{Extended, Niels};

machine! {
    ["avx2"]; Four; __m256i;
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

    #[inline(always)]
    fn new(_: Cpu, x: [u64; 4]) -> Self {
        let [a, b, c, d] = [x[0].cast_signed(), x[1].cast_signed(), x[2].cast_signed(), x[3].cast_signed()];
        // SAFETY: a `Cpu` exists, so the machine has AVX2.
        Self(unsafe { _mm256_setr_epi64x(a, b, c, d) })
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
