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
    /// Bytes in front of the window.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Bytes behind the window.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        BUFFER_SIZE - self.start - self.len
    }

    /// Sets the length of the window by moving its end. Bytes that come in hold whatever the buffer held before.
    ///
    /// # Panics
    /// When `len` reaches past the buffer.
    pub fn resize(&mut self, len: usize) {
        assert!(self.start + len <= BUFFER_SIZE, "a packet of {len} bytes ends in its buffer");
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
    /// When they are more than [`PACKET_CAPACITY`].
    pub fn fill(&mut self, bytes: &[u8]) {
        self.reset();
        assert!(bytes.len() <= PACKET_CAPACITY, "{} bytes fit a packet", bytes.len());
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
