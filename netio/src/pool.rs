//! Receive buffers: one region of memory, cut into equal pieces that go round between kernel and loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Most buffers that the kernel takes in one provided-buffer ring.
pub(crate) const MAX_RING_BUFFERS: u32 = 1 << 15;

/// Memory straight from the kernel, aligned to a page.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Anonymous memory: zero, and not backed until first touched.
    fn new(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Memory that the kernel shares through a descriptor, backed at once.
    pub(crate) fn of_file(descriptor: RawFd, len: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, descriptor, offset)
    }

    fn map(len: usize, flags: libc::c_int, descriptor: RawFd, offset: libc::off_t) -> io::Result<Self> {
        assert!(len > 0, "a mapping has a size");
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                descriptor,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap never places a mapping at zero");
        Ok(Self { base, len })
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of our own mapping, and no one borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Where a buffer goes when it is given back.
enum Home {
    /// The provided-buffer ring: an array of descriptors shared with the kernel, and our write position in it.
    Ring { descriptors: Mapping, mask: u16, tail: Cell<u16> },
    /// A list of our own, for kernels without such rings. A receive takes its buffer when it is armed.
    List(RefCell<Vec<u32>>),
}

/// A fixed number of equal buffers. Nothing is allocated after it is made.
pub(crate) struct BufferPool {
    memory: Mapping,
    buffer_size: u32,
    home: Home,
    /// Buffers not held by a [`RecvBuf`], as far as completions have been reaped.
    free: Cell<u32>,
}

impl BufferPool {
    /// A pool behind a provided-buffer ring of `buffers` (a power of two) pieces. All of them are in the ring.
    pub(crate) fn ring(buffers: u32, buffer_size: u32) -> io::Result<Rc<Self>> {
        assert!(
            buffers.is_power_of_two() && buffers <= MAX_RING_BUFFERS,
            "{buffers} buffers don't make a ring"
        );
        let mask = u16::try_from(buffers - 1).expect("MAX_RING_BUFFERS - 1 fits u16");
        let descriptors = Mapping::new(buffers as usize * size_of::<BufRingEntry>())?;
        let home = Home::Ring { descriptors, mask, tail: Cell::new(0) };
        Self::filled(buffers, buffer_size, home)
    }

    /// A pool of `buffers` pieces without a ring.
    pub(crate) fn list(buffers: u32, buffer_size: u32) -> io::Result<Rc<Self>> {
        let home = Home::List(RefCell::new(Vec::with_capacity(buffers as usize)));
        Self::filled(buffers, buffer_size, home)
    }

    fn filled(buffers: u32, buffer_size: u32, home: Home) -> io::Result<Rc<Self>> {
        assert!(buffers > 0 && buffer_size > 0, "a pool has buffers and they have a size");
        let memory = Mapping::new(buffers as usize * buffer_size as usize)?;
        let pool = Self { memory, buffer_size, home, free: Cell::new(0) };
        (0..buffers).for_each(|index| pool.give_back(index));
        Ok(Rc::new(pool))
    }

    /// Address and entry count of the descriptor ring, for its registration; `None` for a list.
    pub(crate) fn descriptor_ring(&self) -> Option<(u64, u16)> {
        match &self.home {
            Home::Ring { descriptors, mask, .. } => Some((descriptors.base.as_ptr() as u64, mask + 1)),
            Home::List(_) => None,
        }
    }

    /// First byte and length of all of its memory.
    pub(crate) fn region(&self) -> (*mut u8, usize) {
        (self.memory.start(), self.memory.len)
    }

    pub(crate) fn buffer_size(&self) -> u32 {
        self.buffer_size
    }

    /// Buffers that a receive could be given now.
    pub(crate) fn free(&self) -> u32 {
        self.free.get()
    }

    /// Takes a buffer out of a list, to arm a receive with it.
    pub(crate) fn take(&self) -> Option<u32> {
        let Home::List(list) = &self.home else { panic!("the kernel takes buffers out of a ring, not we") };
        let index = list.borrow_mut().pop()?;
        self.free.set(self.free.get() - 1);
        Some(index)
    }

    /// Address of a buffer's first byte, for the kernel to write to.
    pub(crate) fn address(&self, index: u32) -> *mut u8 {
        let offset = index as usize * self.buffer_size as usize;
        assert!(offset < self.memory.len, "buffer {index} lies outside of the pool");
        // SAFETY: the offset lies inside of the mapping.
        unsafe { self.memory.base.as_ptr().add(offset) }
    }

    /// The handle of a buffer that a completion says the kernel took out of the ring and filled with `len` bytes.
    pub(crate) fn claim_from_ring(self: &Rc<Self>, index: u16, len: usize) -> RecvBuf {
        assert!(matches!(self.home, Home::Ring { .. }), "only a ring's buffers are picked by the kernel");
        self.free.set(self.free.get().checked_sub(1).expect("no more buffers are out than there are"));
        self.handle(u32::from(index), len)
    }

    /// The handle of a buffer that we took and a completion says was filled with `len` bytes.
    pub(crate) fn claim_taken(self: &Rc<Self>, index: u32, len: usize) -> RecvBuf {
        self.handle(index, len)
    }

    fn handle(self: &Rc<Self>, index: u32, len: usize) -> RecvBuf {
        let len = u32::try_from(len).expect("a receive is no longer than its buffer");
        assert!(len <= self.buffer_size, "{len} bytes in a buffer of {}", self.buffer_size);
        RecvBuf { pool: Rc::clone(self), index, len }
    }

    /// Takes back a buffer that no one uses any more.
    pub(crate) fn give_back(&self, index: u32) {
        self.free.set(self.free.get() + 1);
        match &self.home {
            Home::List(list) => list.borrow_mut().push(index),
            Home::Ring { descriptors, mask, tail } => {
                let position = tail.get();
                let first: *mut BufRingEntry = descriptors.base.as_ptr().cast();
                let id = u16::try_from(index).expect("a ring has at most 2^15 buffers");
                // SAFETY: position & mask lies inside of the array, which is page-aligned and ours. The kernel reads
                // an entry only once the tail covers it, and the tail has not covered this one since the kernel
                // took its buffer. The tail is written with release, so that the entry is seen before it.
                unsafe {
                    let entry = &mut *first.add(usize::from(position & mask));
                    entry.set_addr(self.address(index) as u64);
                    entry.set_len(self.buffer_size);
                    entry.set_bid(id);
                    let shared_tail = AtomicU16::from_ptr(BufRingEntry::tail(first).cast_mut());
                    shared_tail.store(position.wrapping_add(1), Ordering::Release);
                }
                tail.set(position.wrapping_add(1));
            }
        }
    }
}

/// Received bytes in a buffer of the reactor's pool.
///
/// Dropping it gives the buffer back. It is tied to its pool by reference count rather than handed back by hand,
/// so a forgotten path can't leak buffers until the ring runs dry. Keep it short: while every buffer is out, no
/// connection of the reactor receives. Copy out what has to stay.
pub struct RecvBuf {
    pool: Rc<BufferPool>,
    index: u32,
    len: u32,
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes were written by the kernel (and the mapping began as zeros), and neither the
        // kernel nor another handle has this buffer until we are dropped.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.index), self.len as usize) }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        self.pool.give_back(self.index);
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBuf").field("index", &self.index).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_hands_out_each_buffer_once() {
        let pool = BufferPool::list(4, 128).unwrap();
        let mut taken: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(pool.free(), 0);
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3]);
        drop(pool.claim_taken(2, 128));
        assert_eq!(pool.take(), Some(2));
    }

    #[test]
    fn handles_see_what_was_written_into_their_buffer() {
        let pool = BufferPool::list(2, 16).unwrap();
        let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
        // SAFETY: both buffers are taken and 16 bytes long.
        unsafe {
            pool.address(one).write_bytes(1, 16);
            pool.address(two).write_bytes(2, 16);
        }
        assert_eq!(&*pool.claim_taken(one, 16), &[1; 16]);
        assert_eq!(&*pool.claim_taken(two, 5), &[2; 5]);
    }

    #[test]
    fn a_handle_keeps_the_memory_alive() {
        let pool = BufferPool::list(1, 8).unwrap();
        let index = pool.take().unwrap();
        let buf = pool.claim_taken(index, 8);
        drop(pool);
        assert_eq!(&*buf, &[0; 8]);
    }
}
