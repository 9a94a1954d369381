//! The packet loop's part: bursts between socket, endpoint and device, a bounded amount each turn.

use std::{collections::VecDeque, io, io::IoSlice, os::fd::AsFd, os::fd::BorrowedFd, time::Duration};

use netio::{
    Packet, PacketPool, Tun, TunCounters,
    udp::{Datagram, UdpCounters, UdpSocket},
};
use relay_dp::offload::{Joined, Joiner, VNET_HEADER};
use relay_dp::vpn::{Accepted, Endpoint, Nanos, Outcome, Path};

use super::VpnError;

/// Packet buffers of 68 KiB of address space each; memory is used as far as they are filled at once.
const BUFFERS: u32 = 256;
/// Datagrams that wait for the socket: beyond, the device is not read and its queue holds senders back.
const MAX_QUEUED: usize = 64;
/// Datagrams that are received, joined and written before the next: as much as a second-level cache holds.
const BURST_AT_A_TIME: usize = 8;
/// Most parts of one write to the device: vnet header, headers, pieces.
const MAX_PARTS: usize = 2 + 64;

/// A running VPN, without a loop: whoever has one calls [`VpnService::turn`].
pub struct VpnService {
    endpoint: Endpoint,
    socket: UdpSocket,
    tun: Tun,
    pool: PacketPool,
    received: Vec<Datagram>,
    accepted: Vec<Accepted>,
    joiner: Joiner,
    queue: VecDeque<Datagram>,
    /// The buffer that the device is read into.
    reading: Option<Packet>,
}

impl VpnService {
    /// A service over open devices.
    pub fn new(endpoint: Endpoint, socket: UdpSocket, tun: Tun) -> io::Result<Self> {
        Ok(Self {
            endpoint,
            joiner: Joiner::new(tun.takes_udp_segments()),
            socket,
            tun,
            pool: PacketPool::new(BUFFERS)?,
            received: Vec::with_capacity(BURST_AT_A_TIME),
            accepted: Vec::with_capacity(64),
            queue: VecDeque::with_capacity(2 * MAX_QUEUED),
            reading: None,
        })
    }

    /// Moves up to about `budget` bytes in each direction. Returns whether more may be waiting.
    ///
    /// # Errors
    /// When socket or device fail for good.
    pub fn turn(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        let mut more = self.network_to_device(now, budget)?;
        self.endpoint.handle_timeout(now);
        more |= self.device_to_network(now, budget)?;
        self.speak(now);
        self.flush()?;
        Ok(more)
    }

    /// When [`VpnService::turn`] has something to do though nothing comes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.endpoint.poll_timeout()
    }

    /// Waits until something comes or `timeout` is over.
    pub fn wait(&self, timeout: Duration) -> Result<(), VpnError> {
        let (socket, device) = (self.socket.as_fd(), self.tun.as_fd());
        let waiting: &[BorrowedFd<'_>] = if self.queue.is_empty() { &[] } else { &[socket] };
        // With a full queue the device is not read, so it must not wake us.
        let reading: &[BorrowedFd<'_>] = if self.has_room() { &[socket, device] } else { &[socket] };
        netio::wait(reading, waiting, timeout).map_err(|error| VpnError::Io("waiting", error))
    }

    /// The endpoint: for its peers and counters.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// Totals of socket and device.
    #[must_use]
    pub fn counters(&self) -> (UdpCounters, TunCounters) {
        (self.socket.counters(), self.tun.counters())
    }

    fn has_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    /// Datagrams in, packets to the device. What came in one turn is joined before it is written.
    fn network_to_device(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        let mut bytes = 0;
        let mut more = true;
        while bytes < budget && more {
            let came = self
                .socket
                .recv_burst(&self.pool, &mut self.received, BURST_AT_A_TIME)
                .map_err(|error| VpnError::Io("socket", error))?;
            more = came == BURST_AT_A_TIME;
            for (index, datagram) in self.received.iter_mut().enumerate() {
                bytes += datagram.packet.len();
                let path = Path { peer: datagram.peer, local: datagram.local };
                self.endpoint.receive(&mut datagram.packet, datagram.segment, path, now, &mut self.accepted);
                for packet in self.accepted.drain(..) {
                    self.joiner.add(&datagram.packet, index, packet.start..packet.start + packet.len);
                }
            }
            for joined in self.joiner.finish() {
                write(&mut self.tun, joined, &self.received);
            }
            self.joiner.clear();
            self.received.clear();
        }
        Ok(more)
    }

    /// Packets from the device, sealed, into the queue.
    fn device_to_network(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        let mut bytes = 0;
        while bytes < budget && self.has_room() {
            let Some(mut packet) = self.reading.take().or_else(|| self.pool.take()) else { return Ok(true) };
            let read = self.tun.read(&mut packet).map_err(|error| VpnError::Io("TUN device", error))?;
            if !read {
                self.reading = Some(packet);
                return Ok(false);
            }
            bytes += packet.len();
            self.seal(&packet, now);
            self.reading = Some(packet);
        }
        Ok(self.has_room())
    }

    /// Seals a packet into as many trains as it takes.
    fn seal(&mut self, packet: &[u8], now: Nanos) {
        let mut first = 0;
        loop {
            let Some(mut out) = self.pool.take() else { return };
            out.resize(netio::PACKET_CAPACITY);
            let Outcome::Train(train) = self.endpoint.send(packet, first, &mut out, now) else { return };
            out.resize(train.len);
            let Path { peer, local } = train.path;
            self.queue.push_back(Datagram { packet: out, segment: train.segment, peer, local });
            let Some(next) = train.rest else { return };
            first = next;
        }
    }

    /// What the endpoint says by itself, and packets that waited for a session.
    fn speak(&mut self, now: Nanos) {
        while let Some(packet) = self.endpoint.next_staged() {
            self.seal(&packet, now);
        }
        while let Some(message) = self.endpoint.poll_output() {
            let Some(mut packet) = self.pool.take() else { return };
            packet.fill(message.bytes());
            self.queue.push_back(Datagram::single(packet, message.path.peer, message.path.local));
        }
    }

    fn flush(&mut self) -> Result<(), VpnError> {
        if !self.queue.is_empty() {
            self.socket.send_burst(&mut self.queue).map_err(|error| VpnError::Io("socket", error))?;
        }
        Ok(())
    }
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
