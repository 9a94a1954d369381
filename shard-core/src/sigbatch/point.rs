//! Points of the curve, in memory and in lanes, and the formulas that add them.
//!
//! Formulas: Hisil, Wong, Carter, Dawson, "Twisted Edwards Curves Revisited" (2008), sections 3.1 and 3.3, for a = −1. They
//! are complete: no input is special, the identity and points of low order included.

use super::field::portable::One;
use super::field::{Element, Lanes, MAX_LANES};

/// A point in memory, in extended coordinates: X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Extended(pub(super) [Element; 4]);

/// An affine point in memory, ready to be added: y + x, y − x, 2dxy.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Niels(pub(super) [Element; 3]);

impl Extended {
    pub(super) const IDENTITY: Self = Self([Element::ZERO, Element::ONE, Element::ONE, Element::ZERO]);

    /// The point in a lane.
    pub(super) fn to_lane(self) -> Points<One> {
        self.0.map(|x| One::splat((), &x))
    }

    /// The point of a lane.
    pub(super) fn from_lane(point: Points<One>) -> Self {
        Self(point.map(One::element))
    }

    /// The affine `point`.
    #[cfg(test)]
    pub(super) fn from_niels(point: Niels) -> Self {
        let point = point.0.map(|x| One::splat((), &x));
        Self::from_lane(add_niels(identity(()), point))
    }

    /// `self − other`.
    pub(super) fn minus(self, other: Self) -> Self {
        let negative = negate((), other.to_lane());
        Self::from_lane(add(self.to_lane(), prepare((), negative)))
    }

    /// Whether `[8]self` is the identity: the zero of the cofactored equation.
    ///
    /// It makes reducing scalars mod `l` harmless for points with a torsion part: they differ by a multiple of `l`, and
    /// `[8][l]P = 0` for every `P`.
    pub(super) fn is_zero_cofactored(self) -> bool {
        Self::from_lane(double(double(double(self.to_lane())))).is_identity()
    }

    /// Whether this is the identity.
    pub(super) fn is_identity(self) -> bool {
        let [x, y, z, _] = self.0.map(Element::to_bytes);
        x == [0; 32] && y == z
    }
}

impl Niels {
    pub(super) const IDENTITY: Self = Self([Element::ONE, Element::ONE, Element::ZERO]);
}

/// A point in each lane, in extended coordinates, all tight.
pub(super) type Points<L> = [L; 4];

/// Places of points in memory: lane i in place i.
#[inline(always)]
pub(super) fn in_order<L: Lanes>() -> [u32; MAX_LANES] {
    let mut at = [0; MAX_LANES];
    for (lane, at) in (0..).zip(&mut at[..L::N]) {
        *at = lane;
    }
    at
}

/// The identity in each lane.
#[inline(always)]
pub(super) fn identity<L: Lanes>(cpu: L::Cpu) -> Points<L> {
    let (zero, one) = (L::splat(cpu, &Element::ZERO), L::splat(cpu, &Element::ONE));
    [zero, one, one, zero]
}

/// The sum of `point` and the affine `other` (y + x, y − x, 2dxy): 7 multiplications.
#[inline(always)]
pub(super) fn add_niels<L: Lanes>(point: Points<L>, other: [L; 3]) -> Points<L> {
    let [x, y, z, t] = point;
    let [sum, difference, product] = other;
    let a = y.sub(x).mul(difference);
    let b = y.add(x).mul(sum);
    let c = product.mul(t);
    finish_sum(a, b, c, z.add(z))
}

/// The sum of two points, of which `other` has been prepared: 8 multiplications.
#[inline(always)]
pub(super) fn add<L: Lanes>(point: Points<L>, other: Prepared<L>) -> Points<L> {
    let [x, y, z, t] = point;
    let a = y.sub(x).mul(other.difference);
    let b = y.add(x).mul(other.sum);
    let c = t.mul(other.product);
    let d = z.mul(other.z);
    finish_sum(a, b, c, d.add(d))
}

/// The last four multiplications of an addition. `a`, `b` and `c` are tight, `d` has weight 2.
#[inline(always)]
fn finish_sum<L: Lanes>(a: L, b: L, c: L, d: L) -> Points<L> {
    let (e, f, g, h) = (b.sub(a), d.sub(c), d.add(c), b.add(a));
    [f.mul(e), g.mul(h), f.mul(g), e.mul(h)]
}

/// A point in each lane, ready to be added: Y + X, Y − X, Z, 2dT.
#[derive(Clone, Copy)]
pub(super) struct Prepared<L> {
    sum: L,
    difference: L,
    z: L,
    product: L,
}

/// Prepares points for [`add`].
#[inline(always)]
pub(super) fn prepare<L: Lanes>(cpu: L::Cpu, point: Points<L>) -> Prepared<L> {
    let [x, y, z, t] = point;
    Prepared { sum: y.add(x), difference: y.sub(x), z, product: t.mul(L::splat(cpu, &Element::D2)) }
}

impl<L: Lanes> Prepared<L> {
    /// As four tight elements, for memory.
    #[inline(always)]
    pub(super) fn to_row(self) -> Points<L> {
        [self.sum.carry(), self.difference.carry(), self.z, self.product]
    }

    /// What [`to_row`](Self::to_row) gave.
    #[inline(always)]
    pub(super) fn from_row(row: Points<L>) -> Self {
        let [sum, difference, z, product] = row;
        Self { sum, difference, z, product }
    }

    /// The negative points in the lanes whose bit is set; of tight elements.
    #[inline(always)]
    pub(super) fn negate(self, cpu: L::Cpu, mask: u32) -> Self {
        let Self { sum, difference, z, product } = self;
        let negative = L::splat(cpu, &Element::ZERO).sub(product).carry();
        Self {
            sum: sum.select(difference, mask),
            difference: difference.select(sum, mask),
            z,
            product: product.select(negative, mask),
        }
    }
}

/// The double of `point`: 4 multiplications and 4 squares.
#[inline(always)]
pub(super) fn double<L: Lanes>(point: Points<L>) -> Points<L> {
    let [x, y, z, _] = point;
    let (a, b, zz) = (x.square(), y.square(), z.square());
    let h = a.add(b);
    let e = h.sub(x.add(y).square());
    let g = a.sub(b).carry();
    let f = zz.add(zz).add(g);
    [e.mul(f), g.mul(h), f.mul(g), e.mul(h)]
}

/// `−point`.
#[inline(always)]
pub(super) fn negate<L: Lanes>(cpu: L::Cpu, point: Points<L>) -> Points<L> {
    let [x, y, z, t] = point;
    let zero = L::splat(cpu, &Element::ZERO);
    [zero.sub(x).carry(), y, z, zero.sub(t).carry()]
}
