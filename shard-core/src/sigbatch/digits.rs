//! Scalars of 128 bits with a sign, cut into windows of c bits whose digits are from −2ᶜ⁻¹ to 2ᶜ⁻¹.
#![allow(clippy::cast_possible_truncation, reason = "windows and digits are below 2¹⁶")]

/// Bits of a scalar, its sign included.
pub(super) const SCALAR_BITS: u32 = 128;

/// How scalars are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bits of a window.
    pub(super) bits: u32,
}

impl Cut {
    /// Windows, the narrower one on top included.
    pub(super) const fn windows(self) -> usize {
        SCALAR_BITS.div_ceil(self.bits) as usize
    }

    /// The largest digit.
    pub(super) fn half(self) -> usize {
        1 << (self.bits - 1)
    }

    /// Absolute values that a digit can have.
    pub(super) fn rows(self) -> usize {
        self.half() + 1
    }

    /// Bits below the top window.
    pub(super) const fn below_top(self) -> u32 {
        SCALAR_BITS - (SCALAR_BITS - 1) % self.bits - 1
    }
}

/// A scalar ready to be cut: windows below the top one are offset by half their range, so that digits come out without
/// a carry from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Digits {
    cut: Cut,
    low: u128,
    top: i32,
}

impl Digits {
    /// Prepares `scalar`.
    #[inline(always)]
    pub(super) fn new(cut: Cut, scalar: i128) -> Self {
        let below = cut.below_top();
        let mask = (1u128 << below) - 1;
        // half · (1 + 2ᶜ + 2²ᶜ + …), below the top window
        let offset = (mask / ((1 << cut.bits) - 1)) << (cut.bits - 1);
        let low = (scalar.cast_unsigned() & mask) + offset;
        let carry = low >> below;
        let top = (scalar >> below) + carry.cast_signed();
        Self { cut, low: low & mask, top: top as i32 }
    }

    /// The digit of `window`; 0 of one that does not exist.
    #[inline(always)]
    pub(super) fn get(self, window: usize) -> i32 {
        let shift = window as u32 * self.cut.bits;
        let below = self.cut.below_top();
        if shift < below {
            let window = (self.low >> shift) as u32 & ((1 << self.cut.bits) - 1);
            window as i32 - (1 << (self.cut.bits - 1))
        } else if shift == below {
            self.top
        } else {
            0
        }
    }
}
