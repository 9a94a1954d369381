//! Packet buffers: one pool per core, large enough for a whole super-segment, with room in front for headers.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::pool::BufferPool;

/// Free bytes in front of a fresh packet, for headers that are put before it.
pub const PACKET_HEADROOM: usize = 128;

/// Bytes a packet can hold behind its headroom: the largest IP packet (65,535) with a vnet header and an AEAD tag.
pub const PACKET_CAPACITY: usize = 65_536 + 64;

/// Size of a piece: headroom and capacity, rounded up to whole pages.
const BUFFER_SIZE: usize = (PACKET_HEADROOM + PACKET_CAPACITY).next_multiple_of(4096);

/// Size of a frame that an AF_XDP socket takes: a page, which is the most that the kernel allows.
pub(crate) const FRAME_SIZE: usize = 4096;

/// A fixed number of packet buffers of one core. Cloning makes another handle to the same pool.
///
/// Memory is backed when first touched, and the buffer last returned is handed out first, so a pool costs what
/// is used at once, not what it could hold.
#[derive(Clone)]
pub struct PacketPool(Rc<BufferPool>);

impl PacketPool {
    /// A pool of `buffers` packets. Fails when the address space can't be mapped.
    pub fn new(buffers: u32) -> io::Result<Self> {
        let size = u32::try_from(BUFFER_SIZE).expect("a packet buffer is small");
        Ok(Self(BufferPool::list(buffers, size)?))
    }

    /// A pool of `frames` packets of a page each, for AF_XDP.
    pub(crate) fn frames(frames: u32) -> io::Result<Self> {
        Ok(Self(BufferPool::list(frames, u32::try_from(FRAME_SIZE).expect("a page"))?))
    }

    /// First byte and length of all buffers.
    pub(crate) fn region(&self) -> (*mut u8, usize) {
        self.0.region()
    }

    /// Where a packet's window begins in the region, if it is of this pool.
    pub(crate) fn offset_of(&self, packet: &Packet) -> Option<u64> {
        let offset = u64::from(packet.index) * u64::from(self.0.buffer_size()) + packet.start as u64;
        Rc::ptr_eq(&self.0, &packet.pool).then_some(offset)
    }

    /// The packet whose window of `len` bytes begins at `offset` in the region: one that was [forgotten](Packet::lend), and that
    /// its borrower has given back.
    ///
    /// # Panics
    /// When it does not lie in one buffer.
    pub(crate) fn reclaim(&self, offset: u64, len: usize) -> Packet {
        let size = u64::from(self.0.buffer_size());
        let index = u32::try_from(offset / size).expect("a pool has at most 2^32 buffers");
        let start = usize::try_from(offset % size).expect("smaller than a buffer");
        assert!(start + len <= self.0.buffer_size() as usize, "{len} bytes at {offset} lie in one buffer");
        assert!(offset < self.0.region().1 as u64, "{offset} lies in the pool");
        Packet { pool: Rc::clone(&self.0), index, start, len }
    }

    /// An empty packet, or `None` while all are in use: stop reading then.
    #[must_use]
    pub fn take(&self) -> Option<Packet> {
        let index = self.0.take()?;
        Some(Packet { pool: Rc::clone(&self.0), index, start: PACKET_HEADROOM, len: 0 })
    }

    /// Buffers not in use.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.free() as usize
    }
}

impl fmt::Debug for PacketPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketPool").field("free", &self.free()).finish()
    }
}

/// The only handle to one buffer of a [`PacketPool`]: a window of bytes that can grow and shrink at both ends.
/// Dropping it returns the buffer.
pub struct Packet {
    pool: Rc<BufferPool>,
    index: u32,
    /// First byte of the window in the buffer.
    start: usize,
    len: usize,
}

impl Packet {
    fn size(&self) -> usize {
        self.pool.buffer_size() as usize
    }

    /// Lends the buffer to the kernel: it is out of the pool until [`PacketPool::reclaim`].
    pub(crate) fn lend(self) {
        let mut packet = std::mem::ManuallyDrop::new(self);
        // SAFETY: the packet is never used again; only its count of the pool is dropped, not its buffer given back.
        unsafe { std::ptr::drop_in_place(&raw mut packet.pool) };
    }

    /// Bytes in front of the window.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Bytes behind the window.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.size() - self.start - self.len
    }

    /// Sets the length of the window by moving its end. Bytes that come in hold whatever the buffer held before.
    ///
    /// # Panics
    /// When `len` reaches past the buffer.
    pub fn resize(&mut self, len: usize) {
        assert!(self.start + len <= self.size(), "a packet of {len} bytes ends in its buffer");
        self.len = len;
    }

    /// Moves the start `bytes` towards the front, for a header.
    ///
    /// # Panics
    /// When the headroom is smaller.
    pub fn grow_front(&mut self, bytes: usize) {
        assert!(bytes <= self.start, "{bytes} bytes in {} of headroom", self.start);
        self.start -= bytes;
        self.len += bytes;
    }

    /// Takes `bytes` off the front.
    ///
    /// # Panics
    /// When the packet is shorter.
    pub fn trim_front(&mut self, bytes: usize) {
        assert!(bytes <= self.len, "{bytes} bytes off a packet of {}", self.len);
        self.start += bytes;
        self.len -= bytes;
    }

    /// Makes the packet hold `bytes`, with fresh headroom.
    ///
    /// # Panics
    /// When they are more than the buffer holds behind its headroom ([`PACKET_CAPACITY`] of a [`PacketPool::new`]).
    pub fn fill(&mut self, bytes: &[u8]) {
        self.reset();
        self.resize(bytes.len());
        self.copy_from_slice(bytes);
    }

    /// Empties the packet and gives it its headroom back.
    pub fn reset(&mut self) {
        self.start = PACKET_HEADROOM;
        self.len = 0;
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start + len lies in the buffer (kept by every method), the mapping is initialised (it began as
        // zeros), and this is the only handle to the buffer.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.index).add(self.start), self.len) }
    }
}

impl DerefMut for Packet {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pool.address(self.index).add(self.start), self.len) }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        self.pool.give_back(self.index);
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("index", &self.index).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_moves_over_the_same_bytes() {
        let pool = PacketPool::new(2).unwrap();
        let mut packet = pool.take().unwrap();
        packet.fill(b"payload");
        packet.grow_front(4);
        packet[..4].copy_from_slice(b"head");
        assert_eq!(&*packet, b"headpayload");
        packet.trim_front(5);
        packet.resize(3);
        assert_eq!(&*packet, b"ayl");
        assert_eq!(packet.headroom(), PACKET_HEADROOM + 1);
        packet.reset();
        assert!(packet.is_empty() && packet.tailroom() >= PACKET_CAPACITY);
    }

    #[test]
    fn a_pool_runs_dry_and_fills_again() {
        let pool = PacketPool::new(2).unwrap();
        let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        drop(one);
        assert_eq!(pool.free(), 1);
        assert!(pool.take().is_some());
        drop(two);
    }

    #[test]
    #[should_panic(expected = "headroom")]
    fn a_header_has_to_fit_the_headroom() {
        PacketPool::new(1).unwrap().take().unwrap().grow_front(PACKET_HEADROOM + 1);
    }
}
