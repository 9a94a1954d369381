//! Products and squares of four elements.

use super::{Four, LOW_25, LOW_26, V, m};

/// From columns of any size up to 2⁶⁴ − 2⁴⁵. Afterwards limbs have at most 26 and 25 bits, limbs 1 and 5 at most 2²⁵ + 2¹⁸.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn reduce(h: [V; 10]) -> Four {
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
pub(super) fn multiply(f: &Four, g: &Four) -> Four {
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
pub(super) fn square(f: &Four) -> Four {
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
