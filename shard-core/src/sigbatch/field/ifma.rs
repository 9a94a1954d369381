//! Eight elements, on the 52-bit multiply-and-add of AVX-512 IFMA.
//!
//! Each element has five limbs of 51 bits, one limb of eight elements to a register. The multiplier sees the low 52 bits of
//! a limb, so sums carry at once, and every element here is tight. All `unsafe` is calls of AVX-512 instructions
//! and gathers and scatters whose bounds are asserted beside them. A [`V`] exists only where a [`Cpu`] was, and a [`Cpu`]
//! only where the instructions were found.
#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "closures of iterators are not compiled for the vectors' instructions"
)]

use std::arch::x86_64::*;

use super::{Element, Kernel, LOW_51, Lanes, MAX_LANES, Rows, Words};
use crate::sigbatch::point::{Extended, Niels};

machine! {
    ["avx512f" "avx512ifma" "avx2"]; Eight; __m512i;
    Add add _mm512_add_epi64;
    Sub sub _mm512_sub_epi64;
    BitAnd bitand _mm512_and_si512;
}

impl V {
    #[inline(always)]
    fn splat(_: Cpu, x: u64) -> Self {
        // SAFETY: a `Cpu` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_set1_epi64(x.cast_signed()) })
    }

    #[inline(always)]
    fn lanes(self) -> [u64; 8] {
        let mut lanes = [0; 8];
        // SAFETY: a `V` exists, so the machine has AVX-512; the array has 64 bytes, and the store wants no alignment.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), self.0) };
        lanes
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_srli_epi64::<BITS>(self.0) })
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_slli_epi64::<BITS>(self.0) })
    }

    /// `self` plus the low 52 bits of the product of the low 52 bits.
    #[inline(always)]
    fn low(self, a: Self, b: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512 IFMA.
        Self(unsafe { _mm512_madd52lo_epu64(self.0, a.0, b.0) })
    }

    /// `self` plus the high 52 bits of the product of the low 52 bits.
    #[inline(always)]
    fn high(self, a: Self, b: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512 IFMA.
        Self(unsafe { _mm512_madd52hi_epu64(self.0, a.0, b.0) })
    }

    /// `other` in the lanes whose bit is set.
    #[inline(always)]
    fn blend(self, other: Self, mask: u8) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_mask_blend_epi64(mask, self.0, other.0) })
    }
}

/// A vector of eight elements, all tight.
#[derive(Clone, Copy)]
pub(in crate::sigbatch) struct Eight([V; 5]);

/// 2p, each limb at least a tight one.
const TWICE_P: [u64; 5] = [2 * (LOW_51 - 18), 2 * LOW_51, 2 * LOW_51, 2 * LOW_51, 2 * LOW_51];

impl Eight {
    /// From limbs below 2⁶²: each gives what exceeds 51 bits to the next, once, which leaves less than 2⁵¹ + 2¹⁶.
    #[inline(always)]
    fn reduce(h: [V; 5]) -> Self {
        let low = h[0].all(LOW_51);
        let [a, b, c, d, e] = h;
        // 2²⁵⁵ = 19
        let top = e.shr::<51>();
        let folded = top + (top.shl::<1>() + top.shl::<4>());
        Self([
            (a & low) + folded,
            (b & low) + a.shr::<51>(),
            (c & low) + b.shr::<51>(),
            (d & low) + c.shr::<51>(),
            (e & low) + d.shr::<51>(),
        ])
    }
}

/// `x`, about which the compiler knows nothing: it would turn shifts and additions into a multiplication.
#[target_feature(enable = "avx512f")]
#[inline]
fn opaque(mut x: V) -> V {
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {} */", inout(zmm_reg) x.0, options(pure, nomem, nostack, preserves_flags))
    };
    x
}

/// From the ten columns of a product: low halves, and high halves, which weigh twice as much.
///
/// A column is below 5 · 2⁵² + 10 · 2⁵¹, so below 2⁵⁷ even with what 19 times its upper partner adds to it, less than 2⁶².
#[target_feature(enable = "avx512f,avx512ifma,avx2")]
#[inline]
fn fold(low: [V; 10], high: [V; 10]) -> Eight {
    let mut column = low;
    for i in 1..10 {
        column[i] = low[i] + (high[i] + high[i]);
    }
    // 2²⁵⁵ = 19
    let mut h = [column[0]; 5];
    for i in 0..5 {
        let upper = column[i + 5];
        h[i] = (column[i] + upper) + (opaque(upper.shl::<1>()) + opaque(upper.shl::<4>()));
    }
    Eight::reduce(h)
}

/// The product.
#[target_feature(enable = "avx512f,avx512ifma,avx2")]
#[inline]
fn multiply(f: Eight, g: Eight) -> Eight {
    let (f, g) = (f.0, g.0);
    let z = f[0].all(0);
    let (mut low, mut high) = ([z; 10], [z; 10]);
    for i in 0..5 {
        for j in 0..5 {
            low[i + j] = low[i + j].low(f[i], g[j]);
            high[i + j + 1] = high[i + j + 1].high(f[i], g[j]);
        }
    }
    fold(low, high)
}

/// The square.
#[target_feature(enable = "avx512f,avx512ifma,avx2")]
#[inline]
fn square(f: Eight) -> Eight {
    let f = f.0;
    let z = f[0].all(0);
    // The products of two different limbs, then all of them twice, then the squares.
    let (mut low, mut high) = ([z; 10], [z; 10]);
    for i in 0..5 {
        for j in i + 1..5 {
            low[i + j] = low[i + j].low(f[i], f[j]);
            high[i + j + 1] = high[i + j + 1].high(f[i], f[j]);
        }
    }
    for i in 0..10 {
        low[i] = low[i] + low[i];
        high[i] = high[i] + high[i];
    }
    for i in 0..5 {
        low[2 * i] = low[2 * i].low(f[i], f[i]);
        high[2 * i + 1] = high[2 * i + 1].high(f[i], f[i]);
    }
    fold(low, high)
}

impl Lanes for Eight {
    type Cpu = Cpu;
    const N: usize = 8;

    #[inline(always)]
    fn splat(cpu: Cpu, x: &Element) -> Self {
        Self(V::broadcast(cpu, x))
    }

    #[inline(always)]
    fn load(cpu: Cpu, from: &[Element]) -> Self {
        assert!(from.len() >= Self::N);
        let mut limbs = [V::splat(cpu, 0); 5];
        for i in 0..5 {
            let mut words = [0; 8];
            for lane in 0..8 {
                words[lane] = from[lane].0[i].cast_signed();
            }
            let [a, b, c, d, e, f, g, h] = words;
            // SAFETY: a `Cpu` exists, so the machine has AVX-512.
            limbs[i] = V(unsafe { _mm512_setr_epi64(a, b, c, d, e, f, g, h) });
        }
        Self::reduce(limbs)
    }

    #[inline(always)]
    fn store(self, to: &mut [Element]) {
        for i in 0..5 {
            let lanes = self.0[i].lanes();
            for lane in 0..8 {
                to[lane].0[i] = lanes[lane];
            }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut out = self.0;
        for i in 0..5 {
            out[i] = self.0[i] + other.0[i];
        }
        Self::reduce(out)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let mut out = self.0;
        for i in 0..5 {
            out[i] = self.0[i] + (self.0[i].all(TWICE_P[i]) - other.0[i]);
        }
        Self::reduce(out)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512 IFMA.
        unsafe { multiply(self, other) }
    }

    #[inline(always)]
    fn square(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512 IFMA.
        unsafe { square(self) }
    }

    #[inline(always)]
    fn carry(self) -> Self {
        self
    }

    #[inline(always)]
    fn select(self, other: Self, mask: u32) -> Self {
        let mask = (mask & 0xff) as u8;
        let mut out = self.0;
        for i in 0..5 {
            out[i] = self.0[i].blend(other.0[i], mask);
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
    fn load(_: Cpu, from: &[u64; MAX_LANES]) -> Self {
        // SAFETY: a `Cpu` exists, so the machine has AVX-512; the array has 64 bytes, and the load wants no alignment.
        Self(unsafe { _mm512_loadu_si512(from.as_ptr().cast()) })
    }

    #[inline(always)]
    fn store(self) -> [u64; MAX_LANES] {
        self.lanes()
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn rotate<const BITS: u32>(self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_rorv_epi64(self.0, self.all(u64::from(BITS)).0) })
    }

    #[inline(always)]
    fn shift<const BITS: u32>(self) -> Self {
        self.shr::<BITS>()
    }

    #[inline(always)]
    fn choose(which: Self, one: Self, zero: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_ternarylogic_epi64::<0xca>(which.0, one.0, zero.0) })
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: a `V` exists, so the machine has AVX-512.
        Self(unsafe { _mm512_ternarylogic_epi64::<0xe8>(a.0, b.0, c.0) })
    }
}

impl Rows for Eight {
    type Words = V;

    #[inline(always)]
    fn load_points(cpu: Cpu, rows: &[Extended], at: &[u32; MAX_LANES]) -> [Self; 4] {
        let offsets = offsets(cpu, rows, at);
        let base = rows.as_ptr().cast::<i64>();
        let mut point = [Self([V::splat(cpu, 0); 5]); 4];
        for i in 0..4 {
            for j in 0..5 {
                // SAFETY: a `Cpu` exists, so the machine has AVX-512. `offsets` has checked that the rows exist; the gather
                // reads word 5i + j of each, of 20.
                point[i].0[j] =
                    V(unsafe { _mm512_i64gather_epi64::<8>(offsets.0, base.wrapping_add(5 * i + j)) });
            }
        }
        point
    }

    #[inline(always)]
    fn store_points(point: [Self; 4], rows: &mut [Extended], at: &[u32; MAX_LANES]) {
        let offsets = offsets(Cpu(()), rows, at);
        let base = rows.as_mut_ptr().cast::<i64>();
        for i in 0..4 {
            for j in 0..5 {
                let limb = point[i].0[j].0;
                // SAFETY: a `V` exists, so the machine has AVX-512. `offsets` has checked that the rows exist; the scatter
                // writes word 5i + j of each, of 20.
                unsafe { _mm512_i64scatter_epi64::<8>(base.wrapping_add(5 * i + j), offsets.0, limb) };
            }
        }
    }

    #[inline(always)]
    fn prefetch(rows: &[Extended], at: &[u32; MAX_LANES]) {
        for &row in at {
            let row = (&raw const rows[row as usize]).cast::<i8>();
            // SAFETY: prefetching reads nothing, and every machine with AVX-512 can.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(row);
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(64));
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(128));
            }
        }
    }

    #[inline(always)]
    fn signed(cpu: Cpu, point: &Niels, negative: u32) -> [Self; 3] {
        let mask = (negative & 0xff) as u8;
        let [sum, difference, product] = &point.0;
        let (sum, difference) = (V::broadcast(cpu, sum), V::broadcast(cpu, difference));
        let product = V::broadcast(cpu, product);
        let mut out = [sum, difference, product];
        for i in 0..5 {
            out[0][i] = sum[i].blend(difference[i], mask);
            out[1][i] = difference[i].blend(sum[i], mask);
            out[2][i] = product[i].blend(V::splat(cpu, TWICE_P[i]) - product[i], mask);
        }
        let [sum, difference, product] = out;
        [Self(sum), Self(difference), Self::reduce(product)]
    }
}

/// Where the rows `at` begin, in words from the first.
#[inline(always)]
fn offsets(_: Cpu, rows: &[Extended], at: &[u32; MAX_LANES]) -> V {
    const WORDS: i64 = 20;
    let mut words = [0; MAX_LANES];
    for lane in 0..MAX_LANES {
        assert!((at[lane] as usize) < rows.len());
        words[lane] = i64::from(at[lane]) * WORDS;
    }
    let [a, b, c, d, e, f, g, h] = words;
    // SAFETY: a `Cpu` exists, so the machine has AVX-512.
    V(unsafe { _mm512_setr_epi64(a, b, c, d, e, f, g, h) })
}
