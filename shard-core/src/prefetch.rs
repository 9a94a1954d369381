//! Asks the processor for memory that is needed soon, so that the misses of many look-ups run side by side.
//!
//! A load that misses holds up all that follows once the processor's window is full; a prefetch does not.
#![allow(unsafe_code, reason = "the instruction takes a pointer")]

/// Bytes of a line of the cache.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for all of a value. A hint: nothing depends on it, and other processors than x86-64 get none.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        let ask = |offset: usize| {
            // SAFETY: a prefetch reads nothing that a program sees, and faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) }
        };
        (0..size_of::<T>().div_ceil(LINE)).for_each(|line| ask(line * LINE));
        // What is not aligned may reach into one line more than its size says.
        if align_of::<T>() < LINE {
            ask(size_of::<T>().saturating_sub(1));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
