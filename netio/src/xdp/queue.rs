//! One AF_XDP socket: a receive queue of an interface, its four rings, and frames of the core's pool that go round through them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::ring::{Consumer, Producer};
use crate::packet::{FRAME_SIZE, Packet, PacketPool};

/// Slots of each ring. As deep as the bursts that are to be taken: a longer queue is only older packets.
pub(super) const SLOTS: u32 = 1024;
/// Frames that one call sends where packets are copied; the kernel's own limit is 32.
const SEND_BUDGET: u32 = 256;
/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h (Linux 6.17).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Bytes of frames on their way where packets are copied.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// What came of having the kernel send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// It took all.
    All,
    /// Some is left, for want of room on its side.
    Partly,
    /// Some is left, and stays until the interface is up again, or for ever if it is gone.
    Down,
}

/// A bound socket.
pub(super) struct Queue {
    received: Consumer<libc::xdp_desc>,
    to_send: Producer<libc::xdp_desc>,
    to_fill: Producer<u64>,
    sent: Consumer<u64>,
    pool: PacketPool,
    /// Behind the rings, which are its memory.
    socket: OwnedFd,
}

impl Queue {
    /// Opens and binds a socket. The first of a core registers its pool, others name that one in `shares`. On error, says what
    /// was refused.
    pub(super) fn bind(
        interface: u32,
        queue: u32,
        pool: &PacketPool,
        shares: Option<&Queue>,
    ) -> Result<Queue, (&'static str, io::Error)> {
        // SAFETY: no pointers.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(("opening a socket", io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just opened it for us.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let fd = socket.as_fd();
        if shares.is_none() {
            register(fd, pool).map_err(|error| ("locking the memory of packets", error))?;
        }
        let rings = |error| ("making rings", error);
        for ring in
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
        {
            set(fd, libc::SOL_XDP, ring, &SLOTS).map_err(rings)?;
        }
        let offsets = offsets(fd).map_err(rings)?;
        let place =
            |offset: libc::c_ulonglong| libc::off_t::try_from(offset).expect("a constant of the kernel's");
        let queue_of = |socket| -> io::Result<Queue> {
            let fill = place(libc::XDP_UMEM_PGOFF_FILL_RING);
            let completion = place(libc::XDP_UMEM_PGOFF_COMPLETION_RING);
            Ok(Queue {
                received: Consumer::map(fd, SLOTS, libc::XDP_PGOFF_RX_RING, offsets.rx)?,
                to_send: Producer::map(fd, SLOTS, libc::XDP_PGOFF_TX_RING, offsets.tx)?,
                to_fill: Producer::map(fd, SLOTS, fill, offsets.fr)?,
                sent: Consumer::map(fd, SLOTS, completion, offsets.cr)?,
                pool: pool.clone(),
                socket,
            })
        };
        let copy = socket.try_clone().map_err(rings)?;
        let mut bound = queue_of(copy).map_err(rings)?;
        bound.fill();
        // Neither is known to every kernel, and both only make sending shorter.
        let _ = set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &SEND_BUDGET);
        let _ = set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER);
        connect(fd, interface, queue, shares).map_err(|error| ("binding to a queue", error))?;
        Ok(bound)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next frame that came.
    pub(super) fn receive(&mut self) -> Option<Packet> {
        let descriptor = self.received.pop()?;
        Some(self.pool.reclaim(descriptor.addr, descriptor.len as usize))
    }

    /// After receiving: gives the kernel its slots back, and frames for more.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        self.received.release();
        self.reap();
        self.fill();
        if self.to_fill.needs_wakeup() { wake_receive(self.descriptor()) } else { Ok(()) }
    }

    /// Offers free frames to the kernel, as many as the ring has slots.
    fn fill(&mut self) {
        for _ in 0..self.to_fill.free() {
            let Some(packet) = self.pool.take() else { break };
            // The kernel leaves its own headroom in each frame, wherever we point in it.
            let start =
                self.pool.offset_of(&packet).expect("of our pool") / FRAME_SIZE as u64 * FRAME_SIZE as u64;
            self.to_fill.push(start);
            packet.lend();
        }
        self.to_fill.publish();
    }

    /// Takes back frames that have been sent.
    fn reap(&mut self) {
        while let Some(offset) = self.sent.pop() {
            drop(self.pool.reclaim(offset, 0));
        }
        self.sent.release();
    }

    /// Whether another frame can be queued.
    pub(super) fn has_room(&mut self) -> bool {
        self.to_send.free() > 0
    }

    /// Queues a frame of the pool, to leave with the next [`flush`](Self::flush).
    ///
    /// # Panics
    /// When there is no room, or the frame is of another pool.
    pub(super) fn send(&mut self, packet: Packet) {
        let addr = self.pool.offset_of(&packet).expect("a frame of this socket's pool");
        let len = u32::try_from(packet.len()).expect("a frame is small");
        self.to_send.push(libc::xdp_desc { addr, len, options: 0 });
        packet.lend();
    }

    /// Frames that the kernel has not taken, as of the last [`flush`](Self::flush).
    pub(super) fn waiting(&self) -> u32 {
        self.to_send.in_use()
    }

    /// Has the kernel send what is queued.
    pub(super) fn flush(&mut self) -> io::Result<Flushed> {
        self.to_send.publish();
        let rounds = SLOTS.div_ceil(32);
        for _ in 0..rounds {
            if !self.to_send.is_pending() {
                break;
            }
            if !self.to_send.needs_wakeup() {
                break; // the driver is at it
            }
            // Up, though some may be left: the budget of one call is used up (EAGAIN).
            if !wake_send(self.descriptor())? {
                return Ok(Flushed::Down);
            }
            self.reap();
        }
        self.reap();
        Ok(if self.to_send.is_pending() { Flushed::Partly } else { Flushed::All })
    }

    /// Frames that the kernel dropped because we were too slow: no slot to put them, or no frame to put them in.
    pub(super) fn dropped(&self) -> u64 {
        let mut statistics = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        match get(self.descriptor(), libc::XDP_STATISTICS, &mut statistics) {
            Ok(()) => statistics.rx_dropped + statistics.rx_ring_full,
            Err(_) => 0,
        }
    }

    /// Whether the driver works on our memory without copying.
    pub(super) fn is_zero_copy(&self) -> bool {
        let mut options = libc::xdp_options { flags: 0 };
        get(self.descriptor(), libc::XDP_OPTIONS, &mut options).is_ok()
            && options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0
    }
}

/// Registers the core's pool with its first socket.
fn register(socket: BorrowedFd<'_>, pool: &PacketPool) -> io::Result<()> {
    let (start, len) = pool.region();
    let region = libc::xdp_umem_reg {
        addr: start as u64,
        len: len as u64,
        chunk_size: u32::try_from(FRAME_SIZE).expect("a page"),
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    let none = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: none, tx: none, fr: none, cr: none };
    get(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

fn connect(socket: BorrowedFd<'_>, interface: u32, queue: u32, shares: Option<&Queue>) -> io::Result<()> {
    let shared = shares.map(|queue| u32::try_from(queue.socket.as_raw_fd()).expect("open"));
    // Zero-copy where the driver can: the kernel tries that first. What is shared follows the first socket.
    let flags = if shared.is_some() { libc::XDP_SHARED_UMEM } else { libc::XDP_USE_NEED_WAKEUP };
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).expect("44"),
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.unwrap_or(0),
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).expect("16");
    // SAFETY: the kernel reads `len` bytes of the address, which lives through the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel send. Returns whether the interface is up.
fn wake_send(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: an empty send without address.
    let result = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    is_up(result)
}

/// Has a driver that sleeps look for frames to fill.
fn wake_receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty receive without address.
    let result = unsafe {
        let none = std::ptr::null_mut();
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            none,
            std::ptr::null_mut(),
        )
    };
    is_up(result).map(drop)
}

/// What a call says of the interface: up, or down (or gone). What only says «not now» is no error.
fn is_up(result: libc::ssize_t) -> io::Result<bool> {
    if result >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENETDOWN | libc::ENXIO) => Ok(false),
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::EMSGSIZE | libc::EINVAL) => {
            Ok(true)
        }
        _ => Err(error),
    }
}

fn set<T: Copy>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel reads at most `len` bytes of a value that lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option into a structure of integers. Older kernels fill less of it.
fn get<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel writes at most `len` bytes, which `value` has.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, (&raw mut *value).cast(), &raw mut len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
