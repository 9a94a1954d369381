//! Clients and their peer, on an AF_XDP socket of their own: what comes in goes out again, so that the load costs less than the relay.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use anyhow::Context;
use netio::{
    Packet,
    xdp::{Flow, Steering, XdpDatagram, XdpSocket},
};
use relay_dp::turn::stun::Message;

use crate::turn::{LOST_AFTER, Line, channel_data, open_channel};

const PEER_PORT: u16 = 10_000;
/// Of the first client.
const CLIENT_PORT: u16 = 20_000;
const BURST: usize = 64;

/// All of the load.
pub struct Load {
    socket: XdpSocket,
    /// Holds its program in place.
    _steering: Steering,
    server: SocketAddr,
    address: Ipv4Addr,
    clients: u16,
    frame: Vec<u8>,
    received: Vec<XdpDatagram>,
    queue: VecDeque<XdpDatagram>,
    rest: Vec<XdpDatagram>,
    /// Packets that the relay sent to the peer, and to clients.
    relayed: u64,
    /// Packets that clients sent anew.
    sent: u64,
    /// Of the next client to send.
    turn: u16,
}

/// One client's part of the socket, before the load begins.
struct ClientLine<'a> {
    load: &'a mut Load,
    client: u16,
}

impl Line for ClientLine<'_> {
    fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.load.push(self.client, request);
        self.load.flush()
    }

    /// The socket is the peer's and all clients': what is no message is not for this one.
    fn receive(&mut self) -> anyhow::Result<Option<Packet>> {
        self.load.socket.recv_burst(&mut self.load.received, 1)?;
        let packet = self.load.received.pop().map(|datagram| datagram.packet);
        Ok(packet.filter(|packet| Message::parse(packet).is_ok()))
    }
}

impl Load {
    /// Makes the allocations and binds the channels, on a device of this thread's network namespace.
    ///
    /// # Errors
    /// No AF_XDP here; or the server refuses, or does not answer.
    pub fn new(
        device: &str,
        address: Ipv4Addr,
        server: SocketAddr,
        (clients, bytes): (u16, u16),
    ) -> anyhow::Result<Load> {
        let ports = PEER_PORT..=CLIENT_PORT + clients;
        let flow = Flow { address: address.into(), ports, core: None, opened_only: false, channels: false };
        let steering = Steering::attach(device, &[flow], 1)?;
        let socket = XdpSocket::open(&steering, 0)?.context("no queue")?;
        let mut load = Load {
            socket,
            _steering: steering,
            server,
            address,
            clients,
            frame: channel_data(bytes),
            received: Vec::new(),
            queue: VecDeque::new(),
            rest: Vec::new(),
            relayed: 0,
            sent: 0,
            turn: 0,
        };
        for client in 0..clients {
            open_channel(&mut ClientLine { load: &mut load, client }, client, (address, PEER_PORT).into())?;
        }
        Ok(load)
    }

    fn local(&self, client: u16) -> SocketAddr {
        (self.address, CLIENT_PORT + client).into()
    }

    /// Queues a datagram of a client's.
    fn push(&mut self, client: u16, bytes: &[u8]) {
        let Some(mut packet) = self.socket.take() else { return };
        packet.fill(bytes);
        let local = self.local(client);
        self.queue.push_back(XdpDatagram { packet, peer: self.server, local });
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.socket.send_burst(&mut self.queue, &mut self.rest)?;
        self.rest.clear(); // the next hop is set by hand, so nothing is left to a kernel's socket
        Ok(())
    }

    /// Queues channel data of the clients, one after the other.
    fn push_data(&mut self, packets: usize) {
        let frame = std::mem::take(&mut self.frame);
        for _ in 0..packets {
            self.push(self.turn, &frame);
            self.turn = (self.turn + 1) % self.clients;
        }
        self.frame = frame;
        self.sent += packets as u64;
    }

    /// Keeps `window` packets on their way until `end`, each of them there and back. Returns the packets relayed, both ways.
    ///
    /// # Errors
    /// The socket fails.
    pub fn exchange(&mut self, window: usize, end: Instant) -> anyhow::Result<u64> {
        let (before, mut heard) = (self.relayed, Instant::now());
        self.push_data(window);
        self.flush()?;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(self.relayed - before);
            }
            if self.socket.recv_burst(&mut self.received, BURST)? > 0 {
                heard = now;
                self.relayed += self.received.len() as u64;
                // Channel data from the relay is what the client sends; what reached the peer goes back.
                self.queue.extend(self.received.drain(..));
            } else if now - heard > LOST_AFTER {
                heard = now;
                self.push_data(window);
            }
            self.flush()?;
        }
    }

    /// Sends from clients to the peer at a rate, whatever comes of it, until `end`. Returns packets sent and arrived.
    ///
    /// # Errors
    /// The socket fails.
    pub fn offer(&mut self, rate: f64, end: Instant) -> anyhow::Result<(u64, u64)> {
        let (sent, relayed, start) = (self.sent, self.relayed, Instant::now());
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok((self.sent - sent, self.relayed - relayed));
            }
            let behind = rate * (now - start).as_secs_f64() - (self.sent - sent) as f64;
            let packets = (1..=BURST).take_while(|packets| *packets as f64 <= behind).count();
            self.push_data(packets);
            self.flush()?;
            self.socket.recv_burst(&mut self.received, BURST)?;
            self.relayed += self.received.len() as u64;
            self.received.clear();
        }
    }

    /// Takes in what is still on its way.
    ///
    /// # Errors
    /// The socket fails.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + LOST_AFTER * 2;
        while Instant::now() < end {
            self.socket.recv_burst(&mut self.received, BURST)?;
            self.received.clear();
        }
        Ok(())
    }
}
