//! Past the kernel: the AF_XDP side of a core's TURN server, where `io = "af_xdp"`.
//!
//! The ports' own sockets stay open beside it. They get what is not steered, and send what can't leave in a frame.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    sync::Arc,
};

use netio::{
    Packet,
    xdp::{ShortcutId, Steering, XdpCounters, XdpDatagram, XdpSocket},
};
use relay_dp::turn::{Direction, RelayId, Server};

use super::{
    Dirty, Now, TurnConfig, TurnConfigError,
    shortcuts::{BothWays, Ends, Passed, Shortcuts},
};

/// Loads the program that steers a server's datagrams to its cores, where that is configured. Where it can't be, says so once, and
/// sockets do all.
///
/// # Errors
/// The configuration can't work.
pub fn steer(config: &TurnConfig, cores: u16) -> Result<Option<Arc<Steering>>, TurnConfigError> {
    let flows = config.flows(cores)?;
    let Some(interface) = config.interface.as_ref().filter(|_| !flows.is_empty()) else { return Ok(None) };
    match Steering::attach(interface, &flows, cores) {
        Ok(steering) => Ok(Some(Arc::new(steering))),
        Err(error) => {
            eprintln!("{error}. TURN uses sockets instead");
            Ok(None)
        }
    }
}

/// A core's way past the kernel.
pub struct Bypass {
    socket: XdpSocket,
    /// To be sent.
    queue: VecDeque<XdpDatagram>,
    /// Left to the ports' sockets.
    rest: Vec<XdpDatagram>,
    listeners: Vec<SocketAddr>,
    /// Slots of relayed addresses by port, plus one; of IPv4 and IPv6.
    relays: [Box<[u32]>; 2],
    shortcuts: Shortcuts<ShortcutId>,
}

impl Bypass {
    /// Opens a core's sockets. `None`, said once, where they can't be; and where the interface has no queue for this core.
    pub fn open(steering: &Steering, core: u16, listeners: &[SocketAddr]) -> Option<Bypass> {
        let mut socket = match XdpSocket::open(steering, core) {
            Ok(socket) => socket?,
            Err(error) => {
                eprintln!("{error}. TURN uses sockets on core {core} instead");
                return None;
            }
        };
        let how = if socket.is_zero_copy() { "without copying" } else { "with one copy each way" };
        let channels = if socket.can_shorten() { "; the driver relays channels" } else { "" };
        eprintln!("TURN on core {core} passes the kernel by, {how}{channels}");
        let ports = || vec![0; usize::from(u16::MAX) + 1].into_boxed_slice();
        Some(Bypass {
            socket,
            queue: VecDeque::new(),
            rest: Vec::new(),
            listeners: listeners.to_vec(),
            relays: [ports(), ports()],
            shortcuts: Shortcuts::default(),
        })
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.socket.descriptors()
    }

    pub fn counters(&self) -> XdpCounters {
        self.socket.counters()
    }

    /// A relayed address was opened or closed.
    pub fn set_relay(&mut self, address: SocketAddr, slot: Option<u32>) {
        *self.relay(address) = slot.map_or(0, |slot| slot + 1);
        // Only a privilege given up since can be in the way. Then its socket serves an opened port, and what comes for a closed
        // one is counted as nobody's.
        let _ = self.socket.set_open(address, slot.is_some());
    }

    fn relay(&mut self, address: SocketAddr) -> &mut u32 {
        let family = usize::from(matches!(address.ip(), IpAddr::V6(_)));
        &mut self.relays[family][usize::from(address.port())]
    }

    /// Whose datagrams to `address` are.
    pub fn port(&mut self, address: SocketAddr) -> Option<Dirty> {
        if let Some(index) = self.listeners.iter().position(|listener| *listener == address) {
            return Some(Dirty::Listener(index));
        }
        self.relay(address).checked_sub(1).map(Dirty::Relay)
    }

    /// When to call [`count_carried`](Self::count_carried), ns.
    pub fn count_at(&self) -> Option<u64> {
        self.shortcuts.count_at()
    }

    /// Has the server count what took shortcuts.
    pub fn count_carried(&mut self, server: &mut Server, now: Now) {
        tell(server, self.shortcuts.count(&mut self.socket, now.ns));
    }

    /// A datagram was here whose next one may take a shortcut. `relayed` is the relayed address.
    pub fn shorten(&mut self, server: &mut Server, passed: Passed, relayed: SocketAddr, now: Now) {
        let ends = || {
            let path = server.channel_path(passed.relay, &passed.peer, now)?;
            let listener = *self.listeners.get(usize::from(path.socket))?;
            Some(Ends { path, relayed, listener })
        };
        let carried = self.shortcuts.passed(&mut self.socket, passed, now.ns, ends);
        tell(server, carried);
    }

    /// Closes the shortcuts of a relayed address.
    pub fn close_shortcuts(&mut self, server: &mut Server, relay: RelayId) {
        tell(server, self.shortcuts.close(&mut self.socket, relay));
    }

    /// Appends what waits, up to `max`.
    pub fn receive(&mut self, received: &mut Vec<XdpDatagram>, max: usize) -> io::Result<()> {
        self.socket.recv_burst(received, max).map(drop)
    }

    /// Whether a packet can leave here.
    pub fn owns(&self, packet: &Packet) -> bool {
        self.socket.owns(packet)
    }

    pub fn queue(&mut self, datagram: XdpDatagram) {
        self.queue.push_back(datagram);
    }

    /// Sends what is queued; returns what the ports' sockets have to send, to be given back to [`reuse`](Self::reuse).
    pub fn flush(&mut self) -> io::Result<Vec<XdpDatagram>> {
        self.socket.send_burst(&mut self.queue, &mut self.rest)?;
        Ok(std::mem::take(&mut self.rest))
    }

    pub fn reuse(&mut self, rest: Vec<XdpDatagram>) {
        debug_assert!(rest.is_empty(), "all of it has been sent");
        self.rest = rest;
    }

    /// Whether the kernel has yet to take some of what was sent.
    pub fn is_pending(&self) -> bool {
        self.socket.is_pending()
    }
}

fn tell(server: &mut Server, BothWays(carried): BothWays) {
    for direction in [Direction::ToPeer, Direction::ToClient] {
        let carried = carried[direction as usize];
        server.count_carried(direction, carried.packets, carried.bytes);
    }
}
