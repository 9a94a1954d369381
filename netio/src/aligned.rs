//! A heap buffer that direct IO accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, copy_nonoverlapping, write_bytes};

/// Alignment of address, length and file offset that direct IO asks for, in bytes. Devices ask for 512 or 4,096;
/// 4,096 suits them all.
pub const ALIGNMENT: usize = 4096;

/// A growable byte buffer whose address is a multiple of [`ALIGNMENT`].
///
/// It keeps its memory over [`clear`](Self::clear), so a log writer that reuses a few of them stops allocating
/// once they have grown to the size of its usual batch.
pub struct AlignedBuf {
    base: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer owns its memory exclusively, as Vec<u8> does.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference gives only shared access to the bytes.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer with room for `capacity` bytes, rounded up to a multiple of [`ALIGNMENT`] (at least one).
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(ALIGNMENT);
        Self { base: allocate(capacity), len: 0, capacity }
    }

    /// Bytes it can hold without allocating; a multiple of [`ALIGNMENT`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`, growing to at least twice the size when there is no room.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        // SAFETY: `reserve` made room for `bytes.len()` bytes behind `len`, and `bytes` can't overlap memory that
        // we borrow mutably.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(self.len), bytes.len()) };
        self.len += bytes.len();
    }

    /// Appends zero bytes until the length is a multiple of `unit`, which must not be zero.
    pub fn pad_to(&mut self, unit: usize) {
        let padding = self.len.next_multiple_of(unit) - self.len;
        self.reserve(padding);
        // SAFETY: `reserve` made room for `padding` bytes behind `len`.
        unsafe { write_bytes(self.base.as_ptr().add(self.len), 0, padding) };
        self.len += padding;
    }

    fn reserve(&mut self, additional: usize) {
        let needed = self.len.checked_add(additional).expect("a buffer is smaller than the address space");
        if needed <= self.capacity {
            return;
        }
        let mut larger = Self::with_capacity(needed.max(self.capacity * 2));
        larger.extend_from_slice(self);
        *self = larger;
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGNMENT).expect("a capacity below isize::MAX")
}

fn allocate(capacity: usize) -> NonNull<u8> {
    let layout = layout(capacity);
    // SAFETY: the layout's size is not zero, since `with_capacity` rounds up to one unit or more.
    let base = unsafe { alloc_zeroed(layout) };
    NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: `base` came from `allocate` with the same capacity.
        unsafe { dealloc(self.base.as_ptr(), layout(self.capacity)) };
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `base` are allocated and initialised.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_pads_and_stays_aligned() {
        let mut buf = AlignedBuf::with_capacity(1);
        let mut expected = Vec::new();
        for round in 0..50u8 {
            let piece = vec![round; 977];
            buf.extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
        }
        assert_eq!(&buf[..], &expected[..]);
        assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
        buf.pad_to(ALIGNMENT);
        assert_eq!(buf.len(), expected.len().next_multiple_of(ALIGNMENT));
        assert!(buf[expected.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn padding_after_clear_is_zero_again() {
        let mut buf = AlignedBuf::with_capacity(ALIGNMENT);
        buf.extend_from_slice(&[7; ALIGNMENT]);
        let address = buf.as_ptr();
        buf.clear();
        buf.extend_from_slice(b"x");
        buf.pad_to(ALIGNMENT);
        assert_eq!(buf.as_ptr(), address, "clear keeps the memory");
        assert!(buf[1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn padding_a_full_unit_adds_nothing() {
        let mut buf = AlignedBuf::with_capacity(0);
        buf.pad_to(ALIGNMENT);
        assert!(buf.is_empty());
        buf.extend_from_slice(&[1; ALIGNMENT]);
        buf.pad_to(ALIGNMENT);
        assert_eq!(buf.len(), ALIGNMENT);
    }
}
