//! The TURN server on a core: its sockets, and the loop's turn for them.
//!
//! One [`TurnCore`] belongs to one thread. Listening sockets are shared with other cores (`SO_REUSEPORT`), so the kernel puts each
//! client on one core for as long as the set of cores stays; relayed ports are split among the cores. Readiness of all sockets is
//! gathered by one epoll descriptor: a relay has thousands of sockets, and most of them are idle at any time. Sockets
//! that are ready are emptied in bursts of super-segments, and what they hold leaves in bursts.

mod bypass;
mod config;
mod meters;
mod out;
mod ports;
mod ready;
mod serve;
mod shortcuts;
mod streams;

use std::{collections::VecDeque, io, net::SocketAddr, os::fd::BorrowedFd};

pub use bypass::steer;

use netio::{
    Packet, PacketPool,
    udp::{BURST, Datagram, UdpSocket},
    xdp::{Steering, XdpDatagram},
};
use relay_dp::turn::{Client, Direction, Now, Outbox, RelayId, Server, To, Train};

pub use config::{Io, Rate, TurnConfig, TurnConfigError};
pub use meters::{Loss, TurnMeters};
pub use ports::{ListenError, check_ports};
pub use relay_dp::turn::rest_password;
pub use serve::{ServeError, serve};

use self::{
    bypass::Bypass,
    ports::Sharing,
    ready::{Ready, Token},
    shortcuts::Passed,
    streams::Streams,
};
use crate::core_loop::Clock;

/// What one turn takes in at most: datagrams (super-segments), and segments in them. Consensus waits for no more than this; what
/// one socket's last burst exceeds it by comes on top.
const MAX_PER_TURN: usize = 64;
const MAX_SEGMENTS_PER_TURN: u64 = 1024;
/// Datagrams that wait before they are sent together.
const FLUSH_AT: usize = 64;
/// Packet buffers of a core: what a turn takes in, with room for copies. Memory is backed when it is used.
const BUFFERS: u32 = 1024;
/// Longest frame that a connection without an allocation may send: requests are short.
const STRANGER_FRAME: usize = 2048;

/// A UDP socket and what is to leave through it.
struct Port {
    socket: UdpSocket,
    /// What it is bound to.
    address: SocketAddr,
    queue: VecDeque<Datagram>,
}

impl Port {
    fn new(socket: UdpSocket, address: SocketAddr) -> Port {
        Port { socket, address, queue: VecDeque::new() }
    }
}

/// A port with something in its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dirty {
    Listener(usize),
    Relay(u32),
}

/// One core's TURN server.
pub struct TurnCore {
    server: Server,
    clock: Clock,
    pool: PacketPool,
    ready: Ready,
    listeners: Vec<Port>,
    /// By slot.
    relays: Vec<Option<(RelayId, Port)>>,
    streams: Streams,
    bypass: Option<Bypass>,
    dirty: Vec<Dirty>,
    queued: usize,
    out: Outbox,
    received: Vec<Datagram>,
    frames: Vec<XdpDatagram>,
    /// Datagrams of this burst that were relayed past the kernel.
    passed: Vec<Passed>,
    tokens: Vec<Token>,
    meters: TurnMeters,
}

impl TurnCore {
    /// Opens the listening sockets of core `core` out of `cores`, and those that `steering` steers to. `seed` is secret and new at each
    /// start.
    ///
    /// # Errors
    /// The configuration can't work, or a port is taken.
    pub fn new(
        config: &TurnConfig,
        (core, cores): (u16, u16),
        clock: Clock,
        seed: &[u8; 32],
        steering: Option<&Steering>,
    ) -> Result<TurnCore, ServeError> {
        allow_many_sockets();
        let server = Server::new(config.server(core, cores)?, seed).map_err(TurnConfigError::from)?;
        let pool = PacketPool::new(BUFFERS).map_err(ServeError::Io)?;
        let mut ready = Ready::new().map_err(ServeError::Io)?;
        let (mut listeners, mut streams) = (Vec::new(), Streams::new(config.max_connections(cores)));
        for &address in &config.listen {
            let failed = |error| ServeError::Listen(ListenError { address, error });
            let socket = ports::datagrams(address, Sharing::Cores).map_err(failed)?;
            ready.add(&socket, Token::Listener(listeners.len())).map_err(failed)?;
            listeners.push(Port::new(socket, address));
            if config.tcp {
                let listener = ports::connections(address, Sharing::Cores).map_err(failed)?;
                streams.listen(listener, &mut ready).map_err(failed)?;
            }
        }
        let bypass = steering.and_then(|steering| Bypass::open(steering, core, &config.listen));
        for descriptor in bypass.iter().flat_map(Bypass::descriptors) {
            ready.add(&descriptor, Token::Bypass).map_err(ServeError::Io)?;
        }
        Ok(TurnCore {
            server,
            clock,
            pool,
            ready,
            listeners,
            relays: Vec::new(),
            streams,
            bypass,
            dirty: Vec::new(),
            queued: 0,
            out: Outbox::default(),
            received: Vec::with_capacity(BURST),
            frames: Vec::with_capacity(MAX_PER_TURN),
            passed: Vec::with_capacity(2 * MAX_PER_TURN),
            tokens: Vec::new(),
            meters: TurnMeters::default(),
        })
    }

    /// Readable when a socket is.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ready.descriptor()
    }

    /// When [`turn`](Self::turn) has something to do though nothing comes in, in the clock's ns.
    pub fn poll_timeout(&self) -> Option<u64> {
        let count_at = self.bypass.as_ref().and_then(Bypass::count_at);
        [self.server.poll_timeout(), self.streams.poll_timeout(), count_at].into_iter().flatten().min()
    }

    /// What passed, what did not, and how long it took.
    pub fn meters(&mut self) -> &TurnMeters {
        self.meters.set_server(&self.server);
        if let Some(bypass) = &self.bypass {
            self.meters.set_bypass(bypass.counters());
        }
        &self.meters
    }

    fn now(&self) -> Now {
        Now { ns: self.clock.now(), unix: Clock::wall() / 1_000_000 }
    }

    /// Takes in a bounded number of datagrams from sockets that are ready and sends what follows from them. Returns whether more may
    /// wait.
    ///
    /// # Errors
    /// Only what leaves the server unusable.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut tokens = std::mem::take(&mut self.tokens);
        self.ready.poll(&mut tokens)?;
        let now = self.now();
        if self.poll_timeout().is_some_and(|at| at <= now.ns) {
            self.on_timeout(now)?;
        }
        let mut began = now;
        let (mut taken, mut segments_taken, mut packets) = (0, 0, 0);
        for token in tokens.drain(..) {
            let (datagrams, segments) = self.on_ready(token, began)?;
            taken += datagrams;
            segments_taken += segments;
            packets += segments;
            if self.queued >= FLUSH_AT {
                began = self.finish(began, &mut packets)?;
            }
            if taken >= MAX_PER_TURN || segments_taken >= MAX_SEGMENTS_PER_TURN {
                break;
            }
        }
        self.finish(began, &mut packets)?;
        self.tokens = tokens;
        Ok(taken > 0 || self.bypass.as_ref().is_some_and(Bypass::is_pending))
    }

    /// Sends what waits, and notes how long the packets since `began` were here.
    fn finish(&mut self, began: Now, packets: &mut u64) -> io::Result<Now> {
        self.flush()?;
        let now = self.now();
        self.shorten(now);
        self.meters.record(now.ns - began.ns, *packets);
        *packets = 0;
        Ok(now)
    }

    /// Empties a socket, up to a burst. Returns the datagrams (super-segments) and segments that came.
    fn on_ready(&mut self, token: Token, now: Now) -> io::Result<(usize, u64)> {
        let mut received = std::mem::take(&mut self.received);
        match token {
            Token::Listener(index) => {
                self.listeners[index].socket.recv_burst(&self.pool, &mut received, BURST)?;
            }
            Token::Relay(slot) => {
                if let Some(Some((_, port))) = self.relays.get_mut(slot as usize) {
                    port.socket.recv_burst(&self.pool, &mut received, BURST)?;
                }
            }
            Token::Accept(index) => self.streams.accept(index, &mut self.ready, &mut self.meters, now),
            Token::Stream(slot) => {
                self.received = received;
                return Ok((1, self.on_stream(slot, now)?));
            }
            Token::Bypass => {
                self.received = received;
                return self.on_frames(now);
            }
        }
        let count = received.len();
        let segments = received.iter().map(|datagram| datagram.segments().len().max(1) as u64).sum();
        for datagram in received.drain(..) {
            match token {
                Token::Listener(index) => drop(self.on_client_datagram(index, datagram, now)?),
                Token::Relay(slot) => drop(self.on_peer_datagram(slot, datagram, now)?),
                Token::Accept(_) | Token::Stream(_) | Token::Bypass => {} // nothing was received
            }
        }
        self.received = received;
        Ok((count, segments))
    }

    /// Takes in a burst past the kernel. Returns the datagrams that came, twice: none of them is a train.
    fn on_frames(&mut self, now: Now) -> io::Result<(usize, u64)> {
        let Some(bypass) = &mut self.bypass else { return Ok((0, 0)) };
        let mut frames = std::mem::take(&mut self.frames);
        bypass.receive(&mut frames, MAX_PER_TURN)?;
        let count = frames.len();
        for XdpDatagram { packet, peer, local } in frames.drain(..) {
            let datagram = Datagram::single(packet, peer, None);
            match self.bypass.as_mut().and_then(|bypass| bypass.port(local)) {
                Some(Dirty::Listener(index)) => {
                    let to = self.on_client_datagram(index, datagram, now)?;
                    let passed = |(relay, peer)| Passed { direction: Direction::ToPeer, relay, peer };
                    self.passed.extend(to.map(passed));
                }
                Some(Dirty::Relay(slot)) => {
                    let at = self.on_peer_datagram(slot, datagram, now)?;
                    let passed = |relay| Passed { direction: Direction::ToClient, relay, peer };
                    self.passed.extend(at.map(passed));
                }
                None => self.meters.lose(Loss::NoPort, 1),
            }
        }
        self.frames = frames;
        Ok((count, count as u64))
    }

    /// What has left: does the next one have to come here?
    fn shorten(&mut self, now: Now) {
        let Some(bypass) = &mut self.bypass else { return };
        for passed in self.passed.drain(..) {
            if let Some(Some((_, port))) = self.relays.get(passed.relay.slot as usize) {
                bypass.shorten(&mut self.server, passed, port.address, now);
            }
        }
    }

    /// Returns where the last of it went, if a peer has it.
    fn on_client_datagram(
        &mut self,
        index: usize,
        mut datagram: Datagram,
        now: Now,
    ) -> io::Result<Option<(RelayId, SocketAddr)>> {
        let socket = u16::try_from(index).expect("few listeners");
        let client = Client::Udp { socket, address: datagram.peer };
        let train = whole(&mut datagram.packet, datagram.segment);
        self.server.handle_client(client, train, now, &mut self.out);
        let relayed = self.out.sends.last().and_then(|send| match send.to {
            To::Peer { relay, address } => Some((relay, address)),
            To::Client(_) => None,
        });
        self.carry_out(Some(datagram.packet), now)?;
        Ok(relayed)
    }

    /// Returns to which relayed address it came, if somebody has it.
    fn on_peer_datagram(
        &mut self,
        slot: u32,
        mut datagram: Datagram,
        now: Now,
    ) -> io::Result<Option<RelayId>> {
        let Some(Some((relay, _))) = self.relays.get(slot as usize) else { return Ok(None) };
        let relay = *relay;
        let train = whole(&mut datagram.packet, datagram.segment);
        self.server.handle_peer(relay, datagram.peer, train, now, &mut self.out);
        let passed = !self.out.sends.is_empty();
        self.carry_out(Some(datagram.packet), now)?;
        Ok(passed.then_some(relay))
    }

    fn on_timeout(&mut self, now: Now) -> io::Result<()> {
        self.server.handle_timeout(now, &mut self.out);
        if let Some(bypass) = &mut self.bypass
            && bypass.count_at().is_some_and(|at| at <= now.ns)
        {
            bypass.count_carried(&mut self.server, now);
        }
        self.streams.resume(&mut self.ready, now);
        let server = &self.server;
        self.streams.expire(now, |client| server.is_allocated(client));
        self.carry_out(None, now)
    }

    /// Reads a connection and handles the frames that are whole. Returns their number.
    fn on_stream(&mut self, slot: u32, now: Now) -> io::Result<u64> {
        let Some(mut packet) = self.pool.take() else { return Ok(0) };
        let Some(client) = self.streams.client(slot) else { return Ok(0) };
        let mut count = 0;
        let mut frames = self.streams.read(slot, &mut packet, now);
        let space = packet.headroom();
        packet.grow_front(space);
        while let Some(frame) = frames.next(&packet[space..]) {
            count += 1;
            let train = Train {
                room: &mut packet,
                start: space + frame.start,
                len: frame.len(),
                segment: frame.len(),
            };
            self.server.handle_client(client, train, now, &mut self.out);
            self.carry_out_copies(&packet, now)?;
        }
        let most = if self.server.is_allocated(&client) { usize::MAX } else { STRANGER_FRAME };
        self.streams.keep(slot, frames, &packet[space..], most);
        if self.streams.is_closed(slot) {
            self.server.on_client_closed(&client, &mut self.out);
            self.streams.remove(slot);
            self.carry_out(None, now)?;
        }
        Ok(count)
    }
}

/// Every allocation has a socket; the usual limit of a process is made for others. A lower one shows as refused allocations.
fn allow_many_sockets() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// A packet's window as a train, with all of its buffer as room.
fn whole(packet: &mut Packet, segment: usize) -> Train<'_> {
    let (start, len) = (packet.headroom(), packet.len());
    packet.grow_front(start);
    packet.resize(start + len + packet.tailroom());
    Train { room: packet, start, len, segment }
}
