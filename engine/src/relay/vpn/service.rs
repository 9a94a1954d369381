//! The packet loop's part: bursts between socket, endpoint and device, a bounded amount each turn.

use std::{
    collections::VecDeque,
    io,
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use netio::{
    Packet, PacketPool, Tun,
    udp::{Datagram, UdpSocket},
};
use relay_dp::offload::{Joined, Joiner, VNET_HEADER};
use relay_dp::vpn::{Accepted, Endpoint, Nanos, Outcome, Path, PublicKey};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::{VpnError, handover::HandOver, meters::Totals};
use crate::{core_loop::Clock, relay::node_time::NodeTime};

/// Packet buffers of 68 KiB of address space each; memory is used as far as they are filled at once.
const BUFFERS: u32 = 256;
/// Datagrams that wait for the socket: beyond, the device is not read and its queue holds senders back.
const MAX_QUEUED: usize = 64;
/// Datagrams that are received, joined and written before the next: as much as a second-level cache holds.
const BURST_AT_A_TIME: usize = 8;
/// Most parts of one write to the device: vnet header, headers, pieces.
const MAX_PARTS: usize = 2 + 64;
/// What a call to the kernel costs, as the bytes that could be sealed meanwhile.
const CALL: usize = 4 << 10;
/// The same of a key exchange.
const KEY_EXCHANGE: usize = 128 << 10;
/// Initiations handed over by other cores that a turn takes on.
const HANDED_OVER_A_TURN: usize = 1;

/// A running VPN, without a loop: whoever has one calls [`VpnService::turn`] when [`VpnService::descriptor`] is readable.
pub struct VpnService {
    endpoint: Endpoint,
    socket: UdpSocket,
    tun: Tun,
    /// To and from other cores, where there are any.
    others: Option<HandOver>,
    clock: Clock,
    ready: Ready,
    pool: PacketPool,
    received: Vec<Datagram>,
    /// Bytes of the largest datagram of the last burst.
    usual: usize,
    accepted: Vec<Accepted>,
    joiner: Joiner,
    queue: VecDeque<Datagram>,
    /// Packets in the queue, and when the first of them was read.
    queued: (u64, Nanos),
    /// The buffer that the device is read into.
    reading: Option<Packet>,
    times: NodeTime,
}

impl VpnService {
    /// A service over open devices. With several cores each has its own, with its queue of the device and its socket on the port.
    pub fn new(
        endpoint: Endpoint,
        socket: UdpSocket,
        tun: Tun,
        others: Option<HandOver>,
        clock: Clock,
    ) -> io::Result<Self> {
        Ok(Self {
            endpoint,
            joiner: Joiner::new(tun.takes_udp_segments()),
            ready: Ready::new(&socket, &tun, others.as_ref())?,
            socket,
            tun,
            others,
            clock,
            pool: PacketPool::new(BUFFERS)?,
            received: Vec::with_capacity(BURST_AT_A_TIME),
            usual: netio::PACKET_CAPACITY,
            accepted: Vec::with_capacity(64),
            queue: VecDeque::with_capacity(2 * MAX_QUEUED),
            queued: (0, 0),
            reading: None,
            times: NodeTime::default(),
        })
    }

    /// Readable when there is something to do.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ready.descriptor.as_fd()
    }

    /// Moves up to about `budget` bytes in each direction, or fewer packets that cost as much. Returns whether more may be waiting.
    ///
    /// # Errors
    /// When socket or device fail for good.
    pub fn turn(&mut self, budget: usize) -> Result<bool, VpnError> {
        let (taken, mut more) = self.take_initiations();
        more |= self.network_to_device(budget.saturating_sub(taken * KEY_EXCHANGE))?;
        self.hand_initiations_over();
        let now = self.clock.now();
        self.endpoint.handle_timeout(now);
        more |= self.device_to_network(now, budget)?;
        more |= self.speak(now, budget);
        self.flush()?;
        let (device, socket) = (self.has_room(), !self.queue.is_empty());
        self.ready
            .want(&self.socket, &self.tun, device, socket)
            .map_err(|error| VpnError::Io("readiness", error))?;
        Ok(more)
    }

    /// When [`VpnService::turn`] has something to do though nothing comes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.endpoint.poll_timeout()
    }

    /// The endpoint: for its peers.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// The key that others know us by.
    pub fn public_key(&self) -> PublicKey {
        self.endpoint.public_key()
    }

    /// What has passed, and what has not.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            endpoint: self.endpoint.counters(),
            udp: self.socket.counters(),
            tun: self.tun.counters(),
            hand_over_full: self.others.as_ref().map_or(0, HandOver::full),
        }
    }

    /// How long packets were here.
    #[must_use]
    pub fn times(&self) -> &NodeTime {
        &self.times
    }

    fn has_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    /// Datagrams in, packets to the device. What came in one burst is joined before it is written.
    fn network_to_device(&mut self, budget: usize) -> Result<bool, VpnError> {
        let mut spent = 0;
        let mut more = true;
        let mut began = self.clock.now();
        while spent < budget && more {
            let burst = ((budget - spent) / (self.usual + CALL)).clamp(1, BURST_AT_A_TIME);
            let came = self
                .socket
                .recv_burst(&self.pool, &mut self.received, burst)
                .map_err(|error| VpnError::Io("socket", error))?;
            if came == 0 {
                return Ok(false);
            }
            more = came == burst;
            self.usual = 0;
            let packets = self.endpoint.counters().packets_in;
            for (index, datagram) in self.received.iter_mut().enumerate() {
                self.usual = self.usual.max(datagram.packet.len());
                spent += cost(&datagram.packet);
                let path = Path { peer: datagram.peer, local: datagram.local };
                self.endpoint.receive(
                    &mut datagram.packet,
                    datagram.segment,
                    path,
                    began,
                    &mut self.accepted,
                );
                for packet in self.accepted.drain(..) {
                    self.joiner.add(&datagram.packet, index, packet.start..packet.start + packet.len);
                }
            }
            for joined in self.joiner.finish() {
                write(&mut self.tun, joined, &self.received);
            }
            self.joiner.clear();
            self.received.clear();
            let ended = self.clock.now();
            self.times.record(ended - began, self.endpoint.counters().packets_in - packets);
            began = ended;
        }
        Ok(more)
    }

    /// Initiations that came to other cores and are ours. Returns their number, and whether more may wait.
    fn take_initiations(&mut self) -> (usize, bool) {
        let Some(others) = &mut self.others else { return (0, false) };
        let (endpoint, now, mut taken) = (&mut self.endpoint, self.clock.now(), 0);
        let more = others.receive(HANDED_OVER_A_TURN, |initiation| {
            endpoint.take_handed_over(initiation, now);
            taken += 1;
        });
        (taken, more)
    }

    /// Initiations that came here and are other cores'.
    fn hand_initiations_over(&mut self) {
        let Some(others) = &mut self.others else { return };
        while let Some(initiation) = self.endpoint.next_handed_over() {
            others.send(initiation);
        }
    }

    /// Packets from the device, sealed, into the queue.
    fn device_to_network(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        let mut spent = 0;
        while spent < budget && self.has_room() {
            let Some(mut packet) = self.reading.take().or_else(|| self.pool.take()) else { return Ok(true) };
            let read = self.tun.read(&mut packet).map_err(|error| VpnError::Io("TUN device", error))?;
            if !read {
                self.reading = Some(packet);
                return Ok(false);
            }
            spent += packet.len() + CALL;
            self.seal(&packet, now);
            self.reading = Some(packet);
        }
        Ok(self.has_room())
    }

    /// Seals a packet into as many trains as it takes.
    fn seal(&mut self, packet: &[u8], now: Nanos) {
        let mut first = 0;
        let before = self.endpoint.counters().packets_out;
        loop {
            let Some(mut out) = self.pool.take() else { break };
            out.resize(netio::PACKET_CAPACITY);
            let Outcome::Train(train) = self.endpoint.send(packet, first, &mut out, now) else { break };
            out.resize(train.len);
            let Path { peer, local } = train.path;
            self.queue.push_back(Datagram {
                packet: out,
                segment: train.segment,
                peer,
                local,
                dont_fragment: false,
            });
            let Some(next) = train.rest else { break };
            first = next;
        }
        if self.queued.0 == 0 {
            self.queued.1 = now;
        }
        self.queued.0 += self.endpoint.counters().packets_out - before;
    }

    /// What the endpoint says by itself, and packets that waited for a session. Returns whether more of those may wait.
    fn speak(&mut self, now: Nanos, budget: usize) -> bool {
        while let Some(message) = self.endpoint.poll_output() {
            let Some(mut packet) = self.pool.take() else { break };
            packet.fill(message.bytes());
            self.queue.push_back(Datagram::single(packet, message.path.peer, message.path.local));
        }
        let mut spent = 0;
        while spent < budget {
            let Some(packet) = self.endpoint.next_staged() else { return false };
            spent += packet.len() + CALL;
            self.seal(&packet, now);
        }
        true
    }

    fn flush(&mut self) -> Result<(), VpnError> {
        if self.queue.is_empty() {
            return Ok(());
        }
        self.socket.send_burst(&mut self.queue).map_err(|error| VpnError::Io("socket", error))?;
        if self.queue.is_empty() {
            let (packets, since) = std::mem::take(&mut self.queued);
            self.times.record(self.clock.now() - since, packets);
        }
        Ok(())
    }
}

/// What a datagram costs, in bytes that could be moved instead.
fn cost(datagram: &[u8]) -> usize {
    // The types of the two messages that cost a key exchange (WireGuard, section 5.4).
    let exchange = matches!(datagram.first(), Some(1 | 2));
    datagram.len() + CALL + if exchange { KEY_EXCHANGE } else { 0 }
}

/// Writes one packet or super-packet, gathered from where its parts lie.
fn write(tun: &mut Tun, joined: &Joined, received: &[Datagram]) {
    let vnet: [u8; VNET_HEADER] = joined.vnet().encode();
    let mut parts = [IoSlice::new(&[]); MAX_PARTS];
    parts[0] = IoSlice::new(&vnet);
    parts[1] = IoSlice::new(joined.headers());
    for (part, piece) in parts[2..].iter_mut().zip(joined.pieces()) {
        *part = IoSlice::new(&received[piece.buffer].packet[piece.start..piece.start + piece.len]);
    }
    tun.write(&parts[..2 + joined.pieces().len()]);
}

/// Socket, device and the other cores' bell behind one descriptor, which is readable when one of them has something that can be taken on.
struct Ready {
    descriptor: OwnedFd,
    /// Whether a readable device counts, and a writable socket.
    wanted: (bool, bool),
}

impl Ready {
    fn new(socket: &UdpSocket, tun: &Tun, others: Option<&HandOver>) -> io::Result<Ready> {
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        // Nobody asks which of them it is.
        let data = EventData::new_u64(0);
        epoll::add(&descriptor, socket, data, EventFlags::IN)?;
        epoll::add(&descriptor, tun, data, EventFlags::IN)?;
        if let Some(others) = others {
            epoll::add(&descriptor, others.descriptor(), data, EventFlags::IN)?;
        }
        Ok(Ready { descriptor, wanted: (true, false) })
    }

    /// With a full queue the device is not read, so it must not wake us; with an empty one nothing is to be written.
    fn want(&mut self, socket: &UdpSocket, tun: &Tun, device: bool, writable: bool) -> io::Result<()> {
        if self.wanted == (device, writable) {
            return Ok(());
        }
        let data = EventData::new_u64(0);
        let out = if writable { EventFlags::OUT } else { EventFlags::empty() };
        epoll::modify(&self.descriptor, socket, data, EventFlags::IN | out)?;
        let input = if device { EventFlags::IN } else { EventFlags::empty() };
        epoll::modify(&self.descriptor, tun, data, input)?;
        self.wanted = (device, writable);
        Ok(())
    }
}
