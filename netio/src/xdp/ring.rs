//! Rings that a socket shares with the kernel: one writes, the other reads (Documentation/networking/af_xdp.rst).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pool::Mapping;

/// What all four have: memory of the kernel's, with two positions that only grow (and wrap), and slots.
struct Ring<T> {
    memory: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    slots: usize,
    mask: u32,
    entries: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `entries` slots (a power of two).
    fn map(
        socket: BorrowedFd<'_>,
        entries: u32,
        place: libc::off_t,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        assert!(entries.is_power_of_two(), "{entries} slots don't make a ring");
        let offset = |value: u64| usize::try_from(value).expect("the kernel's rings are small");
        let slots = offset(offsets.desc);
        let len = slots + entries as usize * size_of::<T>();
        let memory = Mapping::of_file(socket.as_raw_fd(), len, place)?;
        let (producer, consumer, flags) =
            (offset(offsets.producer), offset(offsets.consumer), offset(offsets.flags));
        assert!(producer.max(consumer).max(flags) + 4 <= slots, "positions lie before the slots");
        Ok(Self { memory, producer, consumer, flags, slots, mask: entries - 1, entries: PhantomData })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the offset is one that the kernel gave for a word of 32 bits, aligned and inside of the mapping (checked
        // when it was made), and both sides access it atomically.
        unsafe { AtomicU32::from_ptr(self.memory.start().add(offset).cast()) }
    }

    fn slot(&self, position: u32) -> *mut T {
        // SAFETY: the masked position is smaller than the number of slots, which lie in the mapping.
        unsafe { self.memory.start().add(self.slots).cast::<T>().add((position & self.mask) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we write: frames to fill, frames to send.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Our position; the kernel sees it after [`publish`](Self::publish).
    next: u32,
    /// The kernel's, as far as known.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        entries: u32,
        place: libc::off_t,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, entries, place, offsets)?, next: 0, consumed: 0 })
    }

    /// Slots that can be written.
    pub(super) fn free(&mut self) -> u32 {
        if self.in_use() > self.ring.mask / 2 {
            self.consumed = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        }
        self.ring.mask + 1 - self.in_use()
    }

    /// Slots that the kernel has not taken, as far as known.
    pub(super) fn in_use(&self) -> u32 {
        self.next.wrapping_sub(self.consumed)
    }

    /// Whether the kernel has not taken all yet.
    pub(super) fn is_pending(&mut self) -> bool {
        self.consumed = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.in_use() > 0
    }

    /// Writes a slot.
    ///
    /// # Panics
    /// When none is free.
    pub(super) fn push(&mut self, entry: T) {
        assert!(self.in_use() <= self.ring.mask, "a slot is free");
        // SAFETY: the slot lies in the ring, and the kernel does not read it before the position is published.
        unsafe { self.ring.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was written.
    pub(super) fn publish(&self) {
        self.ring.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel wants a call to go on.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel writes: frames received, frames sent.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        entries: u32,
        place: libc::off_t,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, entries, place, offsets)?, next: 0, produced: 0 })
    }

    /// The next entry. Its slot is the kernel's again after [`release`](Self::release).
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.word(self.ring.producer).load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the slot lies in the ring, and the kernel wrote it before it moved its position past it.
        let entry = unsafe { self.ring.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the slots of what was popped back.
    pub(super) fn release(&self) {
        self.ring.word(self.ring.consumer).store(self.next, Ordering::Release);
    }
}
