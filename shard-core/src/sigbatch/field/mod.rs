//! Arithmetic in the field of 2²⁵⁵ − 19 elements, on several elements at once.
//!
//! One source of formulas, several machines: what works on curve points is a [`Kernel`], generic over [`Lanes`], a
//! vector whose lanes each hold one field element. [`Backend`] chooses the lanes when the program runs.
//!
//! | lanes | are | multiplication |
//! | --- | --- | --- |
//! | [`portable`] | one element | fiat-crypto, whose code is generated from a proof |
//! | [`avx2`] | 4 elements of ten limbs, 26 and 25 bits in turn | 32 × 32 → 64 bits |
//! | [`ifma`] | 8 elements of five limbs of 51 bits | 52 × 52 → low and high 52 bits |
//!
//! In memory all of them use [`Element`], so tables, caches and results do not depend on the backend. The vectors are
//! checked against the portable lanes in `tests`, limb patterns at the edge of their bounds included.
//!
//! # Weights
//!
//! A product is **tight**: its limbs are at most a sliver above their nominal size. Sums of tight elements need no carry
//! as long as the limbs fit. The *weight* of an element is how many times the nominal size its limbs may be:
//! tight is 1, [`Lanes::add`] adds the weights, and [`Lanes::sub`] adds 2, for a multiple of p is added to stay above
//! zero. A multiplication takes weights up to 4 on the left and 3 on the right; a square takes 3; what is subtracted or
//! stored must be tight. Lanes that need smaller limbs carry within their additions.
//!
//! Nothing here is in constant time: it is for verifying, where all inputs are public.

/// What the modules of vectors share: `Cpu`, which shows that the machine has the instructions; kernels compiled for them; `V`,
/// a register of 64-bit numbers, and its operators. Only those modules can make a `Cpu` or a `V`.
#[cfg(target_arch = "x86_64")]
macro_rules! machine {
    ([$($feature:tt)+]; $lanes:ident; $register:ty; $($trait:ident $function:ident $intrinsic:ident;)*) => {
        /// Shows that the machine has the instructions.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(in crate::sigbatch) struct Cpu(());

        impl Cpu {
            pub(super) fn detect() -> Option<Self> {
                let found = $(std::arch::is_x86_feature_detected!($feature))&&+;
                found.then_some(Self(()))
            }

            /// Runs `kernel`, compiled for these instructions.
            pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
                #[target_feature($(enable = $feature),+)]
                fn compiled<K: Kernel>(cpu: Cpu, kernel: K) -> K::Output {
                    kernel.run::<$lanes>(cpu)
                }
                // SAFETY: a `Cpu` exists, so the machine has the features.
                unsafe { compiled(self, kernel) }
            }
        }

        /// Unsigned 64-bit numbers, as many as fit into a register.
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(in crate::sigbatch) struct V($register);

        impl V {
            /// `x` in all lanes, for whoever has a `V` already.
            #[inline(always)]
            fn all(self, x: u64) -> Self {
                let _ = self;
                Self::splat(Cpu(()), x)
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
        }

        $(
            impl std::ops::$trait for V {
                type Output = V;
                #[inline(always)]
                fn $function(self, other: V) -> V {
                    // SAFETY: a `V` exists, so the machine has the features.
                    V(unsafe { $intrinsic(self.0, other.0) })
                }
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod ifma;
pub(super) mod portable;
#[cfg(test)]
mod tests;

use fiat_crypto::curve25519_64 as fiat;

use super::point::{Extended, Niels};

/// A field element in memory: five limbs of 51 bits, little-endian, tight (at most 2⁵¹ + 2⁴⁵ each).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Element(pub(super) [u64; 5]);

/// 51 one bits.
pub(super) const LOW_51: u64 = (1 << 51) - 1;

impl Element {
    pub(super) const ZERO: Self = Self([0; 5]);
    pub(super) const ONE: Self = Self([1, 0, 0, 0, 0]);
    /// d = −121665/121666, of the curve −x² + y² = 1 + dx²y² (RFC 8032, section 5.1).
    pub(super) const D: Self =
        Self([929955233495203, 466365720129213, 1662059464998953, 2033849074728123, 1442794654840575]);
    /// 2d.
    pub(super) const D2: Self =
        Self([1859910466990425, 932731440258426, 1072319116312658, 1815898335770999, 633789495995903]);
    /// A square root of −1.
    pub(super) const SQRT_M1: Self =
        Self([1718705420411056, 234908883556509, 2233514472574048, 2117202627021982, 765476049583133]);

    /// The low 255 bits of `bytes`, mod p. Values from p on are not refused.
    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |i: usize| u64::from_le_bytes(*bytes[8 * i..].first_chunk().expect("4 words of 8 bytes"));
        let (a, b, c, d) = (word(0), word(1), word(2), word(3));
        Self([
            a & LOW_51,
            (a >> 51 | b << 13) & LOW_51,
            (b >> 38 | c << 26) & LOW_51,
            (c >> 25 | d << 39) & LOW_51,
            d >> 12 & LOW_51,
        ])
    }

    /// The canonical encoding: the value below p.
    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut tight = fiat::fiat_25519_tight_field_element([0; 5]);
        fiat::fiat_25519_carry(&mut tight, &fiat::fiat_25519_loose_field_element(self.0));
        let mut bytes = [0; 32];
        fiat::fiat_25519_to_bytes(&mut bytes, &tight);
        bytes
    }
}

/// A vector of [`N`](Self::N) field elements. See the [module](self) for weights.
pub(super) trait Lanes: Copy {
    /// Shows that the machine has the instructions.
    type Cpu: Copy;
    /// Elements in the vector.
    const N: usize;

    /// `x` in every lane.
    fn splat(cpu: Self::Cpu, x: &Element) -> Self;
    /// The first N of `from`.
    fn load(cpu: Self::Cpu, from: &[Element]) -> Self;
    /// Into the first N of `to`. Weight 1.
    fn store(self, to: &mut [Element]);

    /// The sum.
    fn add(self, other: Self) -> Self;
    /// The difference; `other` is tight.
    fn sub(self, other: Self) -> Self;
    /// The product; weights up to 4 and 3.
    fn mul(self, other: Self) -> Self;
    /// The square; weight up to 3.
    fn square(self) -> Self;
    /// The same element, tight.
    fn carry(self) -> Self;
    /// Lane i of `other` where bit i of `mask` is set, else of `self`.
    fn select(self, other: Self, mask: u32) -> Self;
}

/// A vector of plain 64-bit words, one to a lane, for hashing.
pub(super) trait Words: Copy {
    /// Shows that the machine has the instructions.
    type Cpu: Copy;

    /// `x` in every lane.
    fn splat(cpu: Self::Cpu, x: u64) -> Self;
    /// Lane i from `from[i]`.
    fn load(cpu: Self::Cpu, from: &[u64; MAX_LANES]) -> Self;
    /// Lane i in place i, zeros after the last.
    fn store(self) -> [u64; MAX_LANES];
    /// The sum mod 2⁶⁴.
    fn add(self, other: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Rotated right.
    fn rotate<const BITS: u32>(self) -> Self;
    /// Shifted right.
    fn shift<const BITS: u32>(self) -> Self;
    /// Bits of `one` where `which` has ones, of `zero` elsewhere.
    fn choose(which: Self, one: Self, zero: Self) -> Self;
    /// Bits that at least two have.
    fn majority(a: Self, b: Self, c: Self) -> Self;
}

/// Lanes that can fetch points from places of their own.
pub(super) trait Rows: Lanes {
    /// As many words.
    type Words: Words<Cpu = Self::Cpu>;

    /// Lane i from `rows[at[i]]`: x, y, z, t.
    fn load_points(cpu: Self::Cpu, rows: &[Extended], at: &[u32; MAX_LANES]) -> [Self; 4];
    /// Lane i into `rows[at[i]]`. Weight 1. Where lanes share a place, it is unspecified whose point it gets.
    fn store_points(point: [Self; 4], rows: &mut [Extended], at: &[u32; MAX_LANES]);
    /// Asks the memory for rows that will be loaded soon.
    fn prefetch(_rows: &[Extended], _at: &[u32; MAX_LANES]) {}
    /// y + x, y − x and 2dxy of `point` in every lane, of −`point` where the bit of `negative` is set. Weight 3.
    fn signed(cpu: Self::Cpu, point: &Niels, negative: u32) -> [Self; 3];
}

/// The most lanes that a vector has.
pub(super) const MAX_LANES: usize = 8;

/// Work on lanes, which [`Backend::run`] compiles for each kind of machine.
pub(super) trait Kernel {
    /// What it gives.
    type Output;
    /// Does the work. Has to be `#[inline(always)]`, with all that it calls, for the vector instructions to be inlined too.
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output;
}

/// Which instructions verify signatures. All give the same verdicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Cpu),
    #[cfg(target_arch = "x86_64")]
    Ifma(ifma::Cpu),
}

impl Backend {
    /// Plain 64-bit arithmetic, on any machine.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// What this machine can run, the fastest last.
    #[must_use]
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = [avx2::Cpu::detect().map(Kind::Avx2), ifma::Cpu::detect().map(Kind::Ifma)];
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = [None; 2];
        [Some(Kind::Portable)].into_iter().chain(vectors).flatten().map(Self)
    }

    /// The fastest that this machine can run.
    #[must_use]
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::PORTABLE)
    }

    /// Those of a name, where this machine can run them.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|backend| backend.name() == name)
    }

    /// What this machine can run, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::available().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// Its name: `portable`, `avx2` or `avx512ifma`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Ifma(_) => "avx512ifma",
        }
    }

    /// Lanes of its vectors.
    pub(super) fn lanes(self) -> usize {
        match self.0 {
            Kind::Portable => portable::One::N,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => avx2::Four::N,
            #[cfg(target_arch = "x86_64")]
            Kind::Ifma(_) => ifma::Eight::N,
        }
    }

    /// Runs `kernel` on this backend's lanes.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Portable => kernel.run::<portable::One>(()),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(cpu) => cpu.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Ifma(cpu) => cpu.run(kernel),
        }
    }
}

/// Two vectors side by side: their instructions interleave, which hides the latency of long chains.
#[derive(Clone, Copy)]
pub(super) struct Pair<L>(L, L);

impl<L: Lanes> Lanes for Pair<L> {
    type Cpu = L::Cpu;
    const N: usize = 2 * L::N;

    #[inline(always)]
    fn splat(cpu: L::Cpu, x: &Element) -> Self {
        Self(L::splat(cpu, x), L::splat(cpu, x))
    }

    #[inline(always)]
    fn load(cpu: L::Cpu, from: &[Element]) -> Self {
        Self(L::load(cpu, from), L::load(cpu, &from[L::N..]))
    }

    #[inline(always)]
    fn store(self, to: &mut [Element]) {
        self.0.store(to);
        self.1.store(&mut to[L::N..]);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0), self.1.add(other.1))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0.sub(other.0), self.1.sub(other.1))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0.mul(other.0), self.1.mul(other.1))
    }

    #[inline(always)]
    fn square(self) -> Self {
        Self(self.0.square(), self.1.square())
    }

    #[inline(always)]
    fn carry(self) -> Self {
        Self(self.0.carry(), self.1.carry())
    }

    #[inline(always)]
    fn select(self, other: Self, mask: u32) -> Self {
        Self(self.0.select(other.0, mask), self.1.select(other.1, mask >> L::N))
    }
}
