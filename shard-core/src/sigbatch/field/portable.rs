//! One element, on 64-bit multiplications: code from fiat-crypto, generated from a proof that it computes what it says for
//! all limbs within its bounds. Elements here are always tight by fiat-crypto's measure (limbs at most 2⁵¹).

use fiat_crypto::curve25519_64::{self as fiat, fiat_25519_loose_field_element as Loose};

use super::{Element, Lanes, MAX_LANES, Rows, Words};
use crate::sigbatch::point::{Extended, Niels};

/// A vector of one element.
#[derive(Clone, Copy)]
pub(in crate::sigbatch) struct One(fiat::fiat_25519_tight_field_element);

impl One {
    const ZERO: Self = Self(fiat::fiat_25519_tight_field_element([0; 5]));

    #[inline(always)]
    fn tighten(limbs: [u64; 5]) -> Self {
        let mut tight = Self::ZERO;
        fiat::fiat_25519_carry(&mut tight.0, &Loose(limbs));
        tight
    }

    /// The element in memory.
    pub(in crate::sigbatch) fn element(self) -> Element {
        Element(self.0.0)
    }

    #[inline(always)]
    fn loose(self) -> Loose {
        Loose(self.0.0)
    }
}

impl Lanes for One {
    type Cpu = ();
    const N: usize = 1;

    #[inline(always)]
    fn splat((): (), x: &Element) -> Self {
        Self::tighten(x.0)
    }

    #[inline(always)]
    fn load((): (), from: &[Element]) -> Self {
        Self::tighten(from[0].0)
    }

    #[inline(always)]
    fn store(self, to: &mut [Element]) {
        to[0] = Element(self.0.0);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut sum = Loose([0; 5]);
        fiat::fiat_25519_add(&mut sum, &self.0, &other.0);
        Self::tighten(sum.0)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let mut difference = Loose([0; 5]);
        fiat::fiat_25519_sub(&mut difference, &self.0, &other.0);
        Self::tighten(difference.0)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let mut product = Self::ZERO;
        fiat::fiat_25519_carry_mul(&mut product.0, &self.loose(), &other.loose());
        product
    }

    #[inline(always)]
    fn square(self) -> Self {
        let mut square = Self::ZERO;
        fiat::fiat_25519_carry_square(&mut square.0, &self.loose());
        square
    }

    #[inline(always)]
    fn carry(self) -> Self {
        self
    }

    #[inline(always)]
    fn select(self, other: Self, mask: u32) -> Self {
        if mask & 1 == 0 { self } else { other }
    }
}

impl Words for u64 {
    type Cpu = ();

    #[inline(always)]
    fn splat((): (), x: u64) -> Self {
        x
    }

    #[inline(always)]
    fn load((): (), from: &[u64; MAX_LANES]) -> Self {
        from[0]
    }

    #[inline(always)]
    fn store(self) -> [u64; MAX_LANES] {
        [self, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    fn rotate<const BITS: u32>(self) -> Self {
        self.rotate_right(BITS)
    }

    #[inline(always)]
    fn shift<const BITS: u32>(self) -> Self {
        self >> BITS
    }

    #[inline(always)]
    fn choose(which: Self, one: Self, zero: Self) -> Self {
        (which & one) | (!which & zero)
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        (a & b) | (a & c) | (b & c)
    }
}

impl Rows for One {
    type Words = u64;

    #[inline(always)]
    fn load_points((): (), rows: &[Extended], at: &[u32; MAX_LANES]) -> [Self; 4] {
        rows[at[0] as usize].0.map(|x| Self::tighten(x.0))
    }

    #[inline(always)]
    fn store_points(point: [Self; 4], rows: &mut [Extended], at: &[u32; MAX_LANES]) {
        rows[at[0] as usize] = Extended(point.map(|x| Element(x.0.0)));
    }

    #[inline(always)]
    fn signed((): (), point: &Niels, negative: u32) -> [Self; 3] {
        let [sum, difference, product] = point.0.map(|x| Self::tighten(x.0));
        if negative & 1 == 0 {
            [sum, difference, product]
        } else {
            [difference, sum, Self::ZERO.sub(product)]
        }
    }
}
