//! Clients and a peer that keep packets on their way through a relay.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use netio::{
    Packet, PacketPool,
    udp::{BURST, Datagram, UdpConfig, UdpSocket},
};

use super::session::{LOST_AFTER, Line, channel_data, open_channel};

/// Trains of each client that are on their way.
const TRAINS: usize = 4;
/// Single packets of each client that are on their way.
const SINGLES: usize = 16;
/// All clients' packets on their way, at least: enough that the server never waits.
const MIN_IN_FLIGHT: usize = 512;
/// Before the clock starts.
const WARM_UP: Duration = Duration::from_millis(200);
const BUFFERS: u32 = 4096;

/// One round's result.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    seconds: f64,
    /// Packets that reached the peer, and that came back.
    relayed: u64,
    sent: u64,
    back: u64,
    server_cpu: f64,
    load_cpu: f64,
}

impl Round {
    pub fn packets_per_second(&self) -> f64 {
        self.relayed as f64 / self.seconds
    }

    pub fn per_server_cpu_second(&self) -> f64 {
        self.relayed as f64 / self.server_cpu
    }

    pub fn per_cpu_second_with_load(&self) -> f64 {
        self.relayed as f64 / (self.server_cpu + self.load_cpu)
    }

    /// %.
    pub fn lost(&self) -> f64 {
        100.0 * self.sent.saturating_sub(self.back) as f64 / self.sent.max(1) as f64
    }
}

struct Client {
    socket: UdpSocket,
    queue: VecDeque<Datagram>,
    /// Packets on their way.
    in_flight: usize,
    heard: Instant,
}

/// All of the load.
pub struct Load {
    server: SocketAddr,
    pool: PacketPool,
    clients: Vec<Client>,
    peer: UdpSocket,
    peer_queue: VecDeque<Datagram>,
    frame: Vec<u8>,
    train: usize,
    window: usize,
    received: Vec<Datagram>,
    sent: u64,
    at_peer: u64,
    back: u64,
}

fn socket(train: u16) -> anyhow::Result<UdpSocket> {
    let config = UdpConfig { local_address: false, offload: train > 1, ..UdpConfig::default() };
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), &config)?)
}

/// A client's socket, before its load begins.
struct SocketLine<'a> {
    socket: &'a mut UdpSocket,
    pool: &'a PacketPool,
    server: SocketAddr,
}

impl Line for SocketLine<'_> {
    fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let mut packet = self.pool.take().context("no buffers")?;
        packet.fill(request);
        self.socket.send_burst(&mut VecDeque::from([Datagram::single(packet, self.server, None)]))?;
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Option<Packet>> {
        let mut received = Vec::new();
        self.socket.recv_burst(self.pool, &mut received, 1)?;
        Ok(received.pop().map(|datagram| datagram.packet))
    }
}

impl Load {
    /// Makes the allocations and binds the channels.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub fn new(server: SocketAddr, clients: u16, train: u16, bytes: u16) -> anyhow::Result<Load> {
        let peer = socket(train)?;
        let peer_address = peer.local_addr()?;
        let sockets_train = train;
        let train = usize::from(train);
        let least = if train == 1 { SINGLES } else { TRAINS * train };
        let mut load = Load {
            server,
            pool: PacketPool::new(BUFFERS)?,
            clients: Vec::new(),
            peer,
            peer_queue: VecDeque::new(),
            frame: channel_data(bytes),
            train,
            window: least.max(MIN_IN_FLIGHT / usize::from(clients)).next_multiple_of(train),
            received: Vec::new(),
            sent: 0,
            at_peer: 0,
            back: 0,
        };
        for number in 0..clients {
            let mut socket = socket(sockets_train)?;
            let mut line = SocketLine { socket: &mut socket, pool: &load.pool, server };
            open_channel(&mut line, number, peer_address)?;
            let (queue, heard) = (VecDeque::new(), Instant::now());
            load.clients.push(Client { socket, queue, in_flight: 0, heard });
        }
        Ok(load)
    }

    /// Keeps packets on their way for so long.
    ///
    /// # Errors
    /// A socket fails, or nothing is relayed.
    pub fn run(
        &mut self,
        length: Duration,
        server_cpu: impl Fn() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Round> {
        self.run_until(Instant::now() + WARM_UP)?;
        (self.sent, self.at_peer, self.back) = (0, 0, 0);
        let (start, cpu, own) = (Instant::now(), server_cpu()?, own_cpu());
        self.run_until(start + length)?;
        let round = Round {
            seconds: start.elapsed().as_secs_f64(),
            relayed: self.at_peer + self.back,
            sent: self.sent,
            back: self.back,
            server_cpu: (server_cpu()? - cpu).as_secs_f64(),
            load_cpu: (own_cpu() - own).as_secs_f64(),
        };
        ensure!(round.relayed > 1000, "next to nothing was relayed");
        Ok(round)
    }

    fn run_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            for index in 0..self.clients.len() {
                self.client(index, now)?;
            }
            self.echo()?;
        }
    }

    /// Takes in what came back to a client and sends as much anew.
    fn client(&mut self, index: usize, now: Instant) -> anyhow::Result<()> {
        let client = &mut self.clients[index];
        client.socket.recv_burst(&self.pool, &mut self.received, BURST)?;
        for datagram in self.received.drain(..) {
            let packets = datagram.segments().len();
            self.back += packets as u64;
            client.in_flight = client.in_flight.saturating_sub(packets);
            client.heard = now;
        }
        if now - client.heard > LOST_AFTER {
            client.in_flight = 0;
            client.heard = now;
        }
        while client.in_flight + self.train <= self.window {
            let Some(mut packet) = self.pool.take() else { break };
            packet.resize(self.frame.len() * self.train);
            packet.chunks_mut(self.frame.len()).for_each(|segment| segment.copy_from_slice(&self.frame));
            let segment = self.frame.len();
            client.queue.push_back(Datagram {
                packet,
                segment,
                peer: self.server,
                local: None,
                dont_fragment: false,
            });
            client.in_flight += self.train;
            self.sent += self.train as u64;
        }
        client.socket.send_burst(&mut client.queue)?;
        Ok(())
    }

    /// The peer sends back what came.
    fn echo(&mut self) -> anyhow::Result<()> {
        self.peer.recv_burst(&self.pool, &mut self.received, BURST)?;
        for datagram in self.received.drain(..) {
            self.at_peer += datagram.segments().len() as u64;
            self.peer_queue.push_back(datagram);
        }
        self.peer.send_burst(&mut self.peer_queue)?;
        Ok(())
    }
}

/// Processor time of this thread.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
