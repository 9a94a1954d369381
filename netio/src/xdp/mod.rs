//! Kernel bypass: AF_XDP sockets for the flows of a relay, in the bursts and buffers of [`udp`](crate::udp).
//!
//! [`Steering::attach`] loads an XDP program into an interface's driver that hands the datagrams of some [`Flow`]s to [`XdpSocket`]s, and
//! everything else to the kernel. A core's socket serves the receive queues that are the core's (`queue % cores`), with frames
//! of one pool that is registered once. A datagram is read in the frame that it came in, changed in place, given other headers,
//! and leaves in that frame.
//!
//! Steering is a short cut and no replacement: the kernel's own sockets stay open on the same ports. What the program
//! does not understand (fragments, options, VLAN tags, another core's port, another MAC) comes to them, and what can't leave here (no
//! known neighbour, longer than the path, not in a frame) leaves through them. So the kernel resolves neighbours and routes; we look
//! them up.
//!
//! A flow that needs no more than other headers can take a [`Shortcut`]: then the program passes it on by itself.
//!
//! What is steered passes no firewall rules of the kernel's, and is not seen by its packet counters.

mod frame;
mod interface;
mod netlink;
mod program;
mod queue;
mod rewrite;
mod ring;
mod route;
mod shortcut;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bpf;
use crate::packet::{Packet, PacketPool};
use interface::Interface;
use program::{Maps, Own};
use queue::{Flushed, Queue, SLOTS};
use route::Routes;
use shortcut::{Shortcuts, Table, monotonic_ns};

pub use frame::{FrameError, HEADERS_V4, HEADERS_V6, Mac, Parsed, headers_len, parse, write};
pub use program::Flow;
pub use shortcut::{Carried, Channel, Renewed, Shortcut, ShortcutId};

/// Frames of each queue: what its rings hold, and as many being worked on.
const FRAMES: u32 = 4 * SLOTS;
/// Bytes of an Ethernet header, which do not count for the MTU.
const ETHERNET: usize = 14;

/// Why there is no AF_XDP.
#[derive(Debug)]
pub struct XdpError {
    interface: String,
    step: &'static str,
    error: io::Error,
}

impl std::error::Error for XdpError {}

impl std::fmt::Display for XdpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { interface, step, error } = self;
        let hint = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "; it takes the capabilities NET_ADMIN, NET_RAW and BPF",
            Some(libc::EOPNOTSUPP | libc::EINVAL) => {
                "; the driver must support XDP in native mode, at this MTU"
            }
            Some(libc::EBUSY | libc::EEXIST) => "; another program has the interface or the queue",
            Some(libc::ENOBUFS | libc::ENOMEM) => "; raise the limit of locked memory (LimitMEMLOCK)",
            Some(libc::ENOSPC) => {
                "; a veth device needs as many receive queues as its peer has transmit queues"
            }
            Some(libc::ENODEV) => "; `ip link` lists the interfaces",
            _ => "",
        };
        write!(f, "no AF_XDP on {interface}: {step}: {error}{hint}")
    }
}

/// The program on its interface, with room for every core's sockets. The kernel detaches it when the last handle is dropped, or the
/// process dies.
#[derive(Debug)]
pub struct Steering {
    name: String,
    interface: Interface,
    cores: u16,
    sockets: OwnedFd,
    /// The map of open ports.
    open: Arc<OwnedFd>,
    shortcuts: Option<Arc<Table>>,
    /// Holds the program in place.
    _link: OwnedFd,
}

impl Steering {
    /// Steers `flows` to the sockets of `cores` cores. Until they are opened, everything goes on to the kernel.
    ///
    /// # Errors
    /// No such interface, a driver without native XDP, or no privilege.
    ///
    /// # Panics
    /// With no core.
    pub fn attach(name: &str, flows: &[Flow], cores: u16) -> Result<Self, XdpError> {
        assert!(cores > 0, "somebody serves the flows");
        let failed = |step: &'static str| move |error| XdpError { interface: name.to_owned(), step, error };
        let interface = Interface::find(name).map_err(failed("finding the interface"))?;
        let sockets = bpf::socket_map(interface.queues).map_err(failed("making a map of sockets"))?;
        let open = bpf::array(program::PORTS).map_err(failed("making a map of ports"))?;
        let own = Own { index: interface.index, mac: interface.mac, is_veth: interface.is_veth };
        let load = |shortcuts: Option<&Table>| {
            let shortcuts = shortcuts.map(Table::maps);
            let maps = Maps { sockets: sockets.as_fd(), open: open.as_fd(), shortcuts };
            bpf::load(bpf::Kind::Xdp, &program::assemble(flows, cores, own, maps))
        };
        // An old kernel, or a privilege less, may refuse shortcuts; the rest goes on without.
        let with = Table::new(cores).and_then(|table| Ok((load(Some(&table))?, Some(Arc::new(table)))));
        let (program, shortcuts) =
            with.or_else(|_| Ok((load(None)?, None))).map_err(failed("loading the program"))?;
        let link = bpf::attach(program.as_fd(), interface.index).map_err(failed("attaching the program"))?;
        Ok(Self {
            name: name.to_owned(),
            interface,
            cores,
            sockets,
            open: Arc::new(open),
            shortcuts,
            _link: link,
        })
    }
}

/// A datagram in a frame. Unlike [`udp::Datagram`](crate::udp::Datagram) it names its port at this end, as one socket serves all.
#[derive(Debug)]
pub struct XdpDatagram {
    /// The payload. Headers go in front of it.
    pub packet: Packet,
    /// Who sent it, or who it goes to.
    pub peer: SocketAddr,
    /// Where it was sent to, or where it comes from.
    pub local: SocketAddr,
}

/// Running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpCounters {
    /// Datagrams received.
    pub received: u64,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them.
    pub bytes_out: u64,
    /// Frames that are no datagrams for us.
    pub malformed: u64,
    /// Frames that the kernel dropped because we were too slow.
    pub dropped_full: u64,
    /// Datagrams dropped because the ring to the kernel was full, or left in it when the interface went down: these leave late if it
    /// comes back, and are in `sent` as well.
    pub send_full: u64,
    /// Datagrams that were left to the kernel's sockets to send.
    pub to_kernel: u64,
    /// Datagrams that the program has passed on by itself. They are in no other number.
    pub carried: u64,
}

impl XdpCounters {
    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.bytes_in += other.bytes_in;
        self.sent += other.sent;
        self.bytes_out += other.bytes_out;
        self.malformed += other.malformed;
        self.dropped_full += other.dropped_full;
        self.send_full += other.send_full;
        self.to_kernel += other.to_kernel;
        self.carried += other.carried;
    }
}

/// A core's sockets, one for each receive queue that is the core's.
pub struct XdpSocket {
    queues: Vec<Queue>,
    pool: PacketPool,
    interface: Interface,
    routes: Routes,
    /// The map of open ports.
    open: Arc<OwnedFd>,
    shortcuts: Option<Shortcuts>,
    far_end: FarEnd,
    counters: XdpCounters,
    /// Where the next burst begins, so that no queue waits for another's.
    next: usize,
    /// How the last burst left.
    flushed: Flushed,
}

impl XdpSocket {
    /// Opens the sockets of core `core`, and has the flows steered to them. `None` when the interface has fewer queues than there are
    /// cores and none is left for this one.
    ///
    /// # Errors
    /// A queue is taken, or there is no memory to lock.
    pub fn open(steering: &Steering, core: u16) -> Result<Option<Self>, XdpError> {
        let failed = |step, error| XdpError { interface: steering.name.clone(), step, error };
        let numbers: Vec<u32> =
            (u32::from(core)..steering.interface.queues).step_by(usize::from(steering.cores)).collect();
        if numbers.is_empty() {
            return Ok(None);
        }
        let count = u32::try_from(numbers.len()).expect("few queues");
        let pool = PacketPool::frames(count * FRAMES).map_err(|error| failed("mapping memory", error))?;
        let routes =
            Routes::new(steering.interface.index).map_err(|error| failed("opening netlink", error))?;
        let mut queues: Vec<Queue> = Vec::new();
        for &number in &numbers {
            let queue = Queue::bind(steering.interface.index, number, &pool, queues.first())
                .map_err(|(step, error)| failed(step, error))?;
            queues.push(queue);
        }
        for (&number, queue) in numbers.iter().zip(&queues) {
            bpf::put_socket(steering.sockets.as_fd(), number, queue.descriptor())
                .map_err(|error| failed("steering to a socket", error))?;
        }
        let (interface, open) = (steering.interface, steering.open.clone());
        let shortcuts = steering.shortcuts.clone().map(|table| Shortcuts::new(table, core)).transpose();
        let shortcuts = shortcuts.map_err(|error| failed("mapping the memory of shortcuts", error))?;
        Ok(Some(Self {
            queues,
            pool,
            interface,
            routes,
            open,
            shortcuts,
            far_end: FarEnd::default(),
            counters: XdpCounters::default(),
            next: 0,
            flushed: Flushed::All,
        }))
    }

    /// Opens or closes a port of the [flows](Flow::opened_only) that steer open ones only; to begin with, all are closed. What was
    /// steered before still comes. Addresses of a family share their ports.
    ///
    /// # Errors
    /// The kernel's, which has none for a process that keeps its privileges.
    pub fn set_open(&self, address: SocketAddr, open: bool) -> io::Result<()> {
        bpf::put(self.open.as_fd(), program::port_key(address), open.into())
    }

    /// Has the program pass a flow on by itself, for `most` or as long as the next hop is known for sure. Returns for how long. `None` when
    /// that can't be: the next hop is not known, there are too many, or [none at all](Self::can_shorten).
    pub fn shorten(&mut self, shortcut: &Shortcut, most: Duration) -> Option<(ShortcutId, Duration)> {
        let (now, clock) = (Instant::now(), monotonic_ns());
        let (way, until) = self.routes.known(shortcut.to.ip(), now)?;
        let mtu = way.mtu.unwrap_or(self.interface.mtu).min(self.interface.mtu);
        let shortcuts = self.shortcuts.as_mut().filter(|_| self.far_end.takes_frames(self.interface, now))?;
        let id = shortcuts.open(shortcut, self.interface.mac, (way, mtu), now)?;
        let length = most.min(until - now);
        shortcuts.lease(&id, clock + nanos(length));
        Some((id, length))
    }

    /// Has the program go on for `most` or as long as the next hop is known for sure.
    pub fn renew_shortcut(&mut self, id: &ShortcutId, most: Duration) -> Renewed {
        let (now, clock) = (Instant::now(), monotonic_ns());
        let Some(shortcuts) = &self.shortcuts else { return Renewed::NotNow };
        let Some((way, until)) = self.routes.known(shortcuts.destination(id), now) else {
            return Renewed::NotNow;
        };
        if !self.far_end.takes_frames(self.interface, now) {
            return Renewed::NotNow;
        }
        if shortcuts.way(id) != way || shortcuts.reclaim(id).is_err() {
            return Renewed::Never;
        }
        let length = most.min(until - now);
        shortcuts.lease(id, clock + nanos(length));
        Renewed::For(length)
    }

    /// Has the program stop, until it is renewed.
    pub fn suspend_shortcut(&mut self, id: &ShortcutId) {
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.suspend(id);
        }
    }

    /// What the program has passed on along a shortcut since the last call.
    pub fn take_carried(&mut self, id: &ShortcutId) -> Carried {
        let carried = self.shortcuts.as_mut().map(|shortcuts| shortcuts.take_carried(id)).unwrap_or_default();
        self.counters.carried += carried.packets;
        carried
    }

    /// Closes a shortcut. Returns what it has passed on since it was asked last.
    pub fn close_shortcut(&mut self, id: ShortcutId) -> Carried {
        self.suspend_shortcut(&id);
        let carried = self.take_carried(&id);
        if let Some(shortcuts) = &mut self.shortcuts {
            shortcuts.close(id, Instant::now());
        }
        carried
    }

    /// Whether there are shortcuts at all: as far as the kernel has them, and the other end takes frames. A veth device's does with GRO
    /// or XDP on.
    #[must_use]
    pub fn can_shorten(&mut self) -> bool {
        self.shortcuts.is_some() && self.far_end.takes_frames(self.interface, Instant::now())
    }

    /// Readable when datagrams wait.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(Queue::descriptor)
    }

    /// Whether the driver works on our frames without copying, on every queue.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.queues.iter().all(Queue::is_zero_copy)
    }

    /// Running totals; asks the kernel for its drops.
    #[must_use]
    pub fn counters(&self) -> XdpCounters {
        XdpCounters { dropped_full: self.queues.iter().map(Queue::dropped).sum(), ..self.counters }
    }

    /// Whether a packet lies in a frame of this socket's, so that it can leave here.
    #[must_use]
    pub fn owns(&self, packet: &Packet) -> bool {
        self.pool.offset_of(packet).is_some()
    }

    /// An empty frame, for a datagram of our own.
    #[must_use]
    pub fn take(&self) -> Option<Packet> {
        self.pool.take()
    }

    /// Appends up to `max` waiting datagrams to `out`, and returns how many came. Frames that are none are counted. Never blocks.
    ///
    /// # Errors
    /// Those of the socket itself.
    pub fn recv_burst(&mut self, out: &mut Vec<XdpDatagram>, max: usize) -> io::Result<usize> {
        let before = out.len();
        let count = self.queues.len();
        for index in 0..count {
            let queue = &mut self.queues[(self.next + index) % count];
            let mut seen = 0;
            while out.len() - before < max && seen < max {
                let Some(frame) = queue.receive() else { break };
                seen += 1;
                match datagram(frame) {
                    Some(datagram) => {
                        self.counters.received += 1;
                        self.counters.bytes_in += datagram.packet.len() as u64;
                        out.push(datagram);
                    }
                    None => self.counters.malformed += 1,
                }
            }
            if seen > 0 {
                queue.refill()?;
            }
        }
        self.next = (self.next + 1) % count;
        Ok(out.len() - before)
    }

    /// Sends all of `queue` but what only the kernel can send, which goes to `rest`. What there is no room for is dropped and counted: it
    /// would only grow older.
    ///
    /// # Errors
    /// Those of the socket itself.
    ///
    /// # Panics
    /// When a datagram's two addresses are of two families.
    pub fn send_burst(
        &mut self,
        queue: &mut VecDeque<XdpDatagram>,
        rest: &mut Vec<XdpDatagram>,
    ) -> io::Result<()> {
        if queue.is_empty() && !self.is_pending() {
            return Ok(());
        }
        let now = Instant::now();
        self.routes.begin();
        for datagram in queue.drain(..) {
            if let Err(datagram) = self.send(datagram, now) {
                self.counters.to_kernel += 1;
                rest.push(datagram);
            }
        }
        self.flush()
    }

    /// Whether the kernel has not taken all that was sent: call [`send_burst`](Self::send_burst) again soon.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.flushed == Flushed::Partly
    }

    fn flush(&mut self) -> io::Result<()> {
        let before = self.flushed;
        self.flushed = self.queues[0].flush()?;
        if self.flushed == Flushed::Down && before != Flushed::Down {
            self.counters.send_full += u64::from(self.queues[0].waiting());
        }
        Ok(())
    }

    fn send(&mut self, datagram: XdpDatagram, now: Instant) -> Result<(), XdpDatagram> {
        let headers = headers_len(&datagram.peer.ip());
        let frame_len = headers + datagram.packet.len();
        let fits = self.owns(&datagram.packet) && datagram.packet.headroom() >= headers;
        // While the interface is down the kernel may know another; each burst tries again what was left here.
        let can_leave = fits && self.flushed != Flushed::Down;
        let Some(way) = self.routes.to(datagram.peer.ip(), now).filter(|_| can_leave) else {
            return Err(datagram);
        };
        if frame_len - ETHERNET > way.mtu.unwrap_or(self.interface.mtu).min(self.interface.mtu) {
            return Err(datagram);
        }
        // All leave through one queue of the card; which one makes no difference to anybody.
        let queue = &mut self.queues[0];
        if !queue.has_room() {
            self.counters.send_full += 1;
            return Ok(());
        }
        let XdpDatagram { mut packet, peer, local } = datagram;
        self.counters.sent += 1;
        self.counters.bytes_out += packet.len() as u64;
        packet.grow_front(headers);
        write(&mut packet, (self.interface.mac, way.to), local, peer);
        queue.send(packet);
        Ok(())
    }
}

/// Whether what the program sends arrives anywhere, where that can change.
#[derive(Default)]
struct FarEnd {
    asked: Option<(Instant, bool)>,
}

impl FarEnd {
    /// Asks anew once a second.
    fn takes_frames(&mut self, interface: Interface, now: Instant) -> bool {
        if !interface.is_veth {
            return true;
        }
        match self.asked {
            Some((at, takes)) if now < at + Duration::from_secs(1) => takes,
            _ => {
                // Before Linux 6.3 it can't be known.
                let takes = interface::sends_frames(interface.index).unwrap_or(false);
                self.asked = Some((now, takes));
                takes
            }
        }
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// The datagram in a frame.
fn datagram(mut frame: Packet) -> Option<XdpDatagram> {
    let parsed = parse(&frame).ok()?;
    frame.resize(parsed.payload.end);
    frame.trim_front(parsed.payload.start);
    Some(XdpDatagram { packet: frame, peer: parsed.source, local: parsed.destination })
}

/// Whether flows to `address` can be steered: one of this host's, and the same on every interface.
#[must_use]
pub fn can_steer(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !link_local
}
