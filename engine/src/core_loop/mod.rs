//! The loop of one core: it owns the core's ring, sockets, log file and tables, and does everything that happens there.
//!
//! Each turn: completions in, peers' and clients' frames decoded, the stages of [`Core`], then its effects out, the log group
//! begun, and one system call that submits all of it and waits for more. Waiting adapts: no wait while there is work, then a
//! spin if the operator asked for it, then a sleep in the ring until the next timer.

mod calls;
mod index_feed;
mod links;
mod log_file;
mod notes;
mod ports;
mod relay;
mod rings;
mod side_work;
mod urgency;

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use ahash::AHashMap;
use bytes::Bytes;
use dag::client;
use netio::{CloseReason, ConnId, Event, FrameReader, Reactor, Wait};

pub use calls::CallQueue;
pub use index_feed::IndexFeed;
pub use links::Links;
pub use log_file::LogFile;
pub use ports::{ListenError, check_clients_port};
pub use relay::Relay;
pub use rings::{CoreRings, make_rings};
pub use side_work::SideWork;

use self::{links::LinkEvent, urgency::Urgency};
use crate::{
    metrics::Phase,
    node::{
        Core, Count, Effect,
        clients::{ClientId, Flow},
    },
    process::Stop,
    side::Reply,
};

/// Tag of the listener for clients; lanes' listeners have the lane as tag.
const CLIENTS: u64 = u64::MAX;
/// Sleep at most so long, so that a stop request is seen even if its wake is lost.
const MAX_SLEEP: u64 = 1_000_000_000;

/// Why a core's loop ended.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The ring failed.
    #[error("io_uring failed: {0}")]
    Ring(std::io::Error),
    /// A write or sync of the log failed: what the disk holds is unknown, so the validator stops.
    #[error(
        "the log can't be written: {0}; the validator stops. Check the disk, then start it again: it recovers from its log"
    )]
    Log(std::io::Error),
    /// Going on would be lying.
    #[error("{0}; the validator stops")]
    Halted(String),
}

/// A client's connection.
struct Session {
    id: ClientId,
    reader: FrameReader,
}

/// Monotonic and wall time.
#[derive(Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Begins at zero; all cores of a process share one.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// ns since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a process runs for less than five centuries")
    }

    /// µs since 1970.
    pub fn wall() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).expect("the year is below 500,000")
    }
}

/// What an operator may set about the loop.
#[derive(Clone, Copy, Debug)]
pub struct LoopSettings {
    /// Never sleep.
    pub poll: bool,
    /// Spin so long after the last event before sleeping, ns.
    pub spin: u64,
    /// Most clients' connections.
    pub max_clients: usize,
}

/// One core, running.
pub struct CoreLoop {
    core: Core,
    core_number: u16,
    reactor: Reactor,
    links: Links,
    sessions: AHashMap<ConnId, Session>,
    conns: AHashMap<ClientId, ConnId>,
    next_session: u64,
    log: LogFile,
    rings: CoreRings,
    calls: CallQueue,
    index: IndexFeed,
    side: SideWork,
    relay: Relay,
    /// Where packets are relayed.
    urgency: Option<Urgency>,
    clock: Clock,
    settings: LoopSettings,
    stop: Stop,
    events: Vec<Event>,
    link_events: Vec<LinkEvent>,
    last_event: u64,
    /// Since when time is not yet charged to anything.
    lap_began: u64,
    /// When the side executor may take more.
    side_retry: Option<u64>,
    max_clients: usize,
    halted: Option<String>,
}

/// What a loop is made of.
pub struct LoopParts {
    /// The tables and agreement.
    pub core: Core,
    /// Its number.
    pub core_number: u16,
    /// Its ring, with listeners not yet opened.
    pub reactor: Reactor,
    /// Its channels.
    pub links: Links,
    /// Its log's file.
    pub log: LogFile,
    /// To and from the other cores.
    pub rings: CoreRings,
    /// From the RPC thread.
    pub calls: CallQueue,
    /// To the index thread.
    pub index: IndexFeed,
    /// For snapshots and segments.
    pub side: SideWork,
    /// Its relay services.
    pub relay: Relay,
    /// The process's clock.
    pub clock: Clock,
    /// How to wait.
    pub settings: LoopSettings,
    /// When to end.
    pub stop: Stop,
}

impl CoreLoop {
    /// Opens the listeners: a port for each lane, and the clients' port, which the cores share.
    pub fn new(
        mut parts: LoopParts,
        lanes: &[(u64, SocketAddr)],
        clients: SocketAddr,
    ) -> Result<CoreLoop, ListenError> {
        let open = |reactor: &mut Reactor, address, shared, tag| {
            reactor.listen(address, shared, tag).map_err(|error| ListenError { address, error })
        };
        for &(lane, address) in lanes {
            open(&mut parts.reactor, address, false, lane)?;
        }
        open(&mut parts.reactor, clients, true, CLIENTS)?;
        Ok(CoreLoop {
            core: parts.core,
            core_number: parts.core_number,
            reactor: parts.reactor,
            links: parts.links,
            sessions: AHashMap::new(),
            conns: AHashMap::new(),
            next_session: 0,
            log: parts.log,
            rings: parts.rings,
            calls: parts.calls,
            index: parts.index,
            side: parts.side,
            relay: parts.relay,
            urgency: None,
            clock: parts.clock,
            settings: parts.settings,
            stop: parts.stop,
            events: Vec::new(),
            link_events: Vec::new(),
            last_event: 0,
            lap_began: 0,
            side_retry: None,
            max_clients: parts.settings.max_clients,
            halted: None,
        })
    }

    /// Runs until a stop is requested or going on is impossible.
    pub fn run(mut self) -> Result<(), LoopError> {
        self.core.start(self.clock.now());
        self.lap_began = self.clock.now();
        let asleep = self.core.meters().core_use.waiting_ns();
        self.urgency = (!self.relay.is_empty()).then(|| Urgency::begin(self.lap_began, asleep));
        let mut more = true;
        while !self.stop.is_requested() {
            let working = more || self.relay.has_more();
            let wait = self.wait(working);
            self.lap(Phase::Timers);
            self.reactor.poll(wait, &mut self.events).map_err(LoopError::Ring)?;
            let now = self.after_wait(wait, working);
            self.adapt_urgency(now);
            self.dispatch(now)?;
            more = self.rings.receive(&mut self.core, now);
            more |= self.calls.receive(&mut self.core, &self.links, self.log.fault(), now);
            self.side_replies(now);
            self.links.tick(&mut self.reactor, now);
            self.links.report(self.core.meters());
            self.lap(Phase::Decode);
            more |= self.relay.turn(&mut self.reactor, self.core.meters(), self.clock);
            let now = self.lap(Phase::Relay);
            more |= self.core.verify_stage(now);
            self.relay_between(Phase::Verify);
            let now = self.lap(Phase::Verify);
            more |= self.core.execute_stage(now);
            self.relay_between(Phase::Execute);
            let now = self.lap(Phase::Execute);
            more |= self.core.agree_stage(now, Clock::wall());
            self.relay_between(Phase::Consensus);
            let now = self.lap(Phase::Consensus);
            let side_waits = self.side.flush();
            self.side_retry = side_waits.then_some(now + 1_000_000);
            self.log
                .commit(&mut self.core, &mut self.reactor, &mut self.side, now)
                .map_err(LoopError::Log)?;
            self.lap(Phase::Log);
            self.index.push(&mut self.core);
            more |= self.carry_out();
            while self.links.flush_one(&mut self.reactor) {
                self.relay_between(Phase::Send);
            }
            self.lap(Phase::Send);
            if let Some(reason) = self.halted.take() {
                return Err(LoopError::Halted(reason));
            }
        }
        Ok(())
    }

    /// The end of a step of a phase that may have taken long: where packets are relayed they are looked for, if it did.
    fn relay_between(&mut self, phase: Phase) {
        if self.relay.is_empty() {
            return;
        }
        let now = self.lap(phase);
        if !self.relay.wants_glance(now) {
            return;
        }
        self.relay.glance();
        self.relay.turn(&mut self.reactor, self.core.meters(), self.clock);
        self.lap(Phase::Relay);
    }

    /// Charges the time since the last lap to a phase of the turn.
    fn lap(&mut self, phase: Phase) -> u64 {
        let now = self.clock.now();
        self.core.meters().core_use.charge(phase, now - self.lap_began);
        self.lap_began = now;
        now
    }

    /// A core that relays is urgent, as long as it does.
    fn adapt_urgency(&mut self, now: u64) {
        let Some(urgency) = &mut self.urgency else { return };
        if !self.relay.is_empty() {
            urgency.adapt(now, self.core.meters().core_use.waiting_ns());
        } else if urgency.stand_back().is_ok() {
            self.urgency = None;
        }
    }

    /// Charges the time in the ring: asleep or spinning, or busy with system calls.
    fn after_wait(&mut self, wait: Wait, working: bool) -> u64 {
        let now = match wait {
            Wait::Spin if working || !self.events.is_empty() => self.lap(Phase::Completions),
            _ => {
                let now = self.clock.now();
                let held_back = self.log.fault().is_some() || self.core.is_held_back();
                let core_use = &mut self.core.meters().core_use;
                match held_back {
                    true => core_use.blocked(now - self.lap_began),
                    false => core_use.idle(now - self.lap_began),
                }
                self.lap_began = now;
                now
            }
        };
        if !self.events.is_empty() {
            self.last_event = now;
        }
        now
    }

    fn wait(&self, working: bool) -> Wait {
        let now = self.clock.now();
        // Who runs before others is let in at once, and leaves the processor to them meanwhile.
        let spins = now < self.last_event + self.settings.spin
            && !self.urgency.as_ref().is_some_and(Urgency::is_first);
        if working || spins || self.settings.poll {
            return Wait::Spin;
        }
        let (core, relay) = (self.core.poll_timeout(), self.relay.poll_timeout());
        let timers = [core, self.links.next_tick(), self.log.next_try(), self.side_retry, relay];
        let next = timers.into_iter().flatten().min().unwrap_or(u64::MAX).min(now + MAX_SLEEP);
        if next <= now { Wait::Spin } else { Wait::For(Duration::from_nanos(next - now)) }
    }

    fn dispatch(&mut self, now: u64) -> Result<(), LoopError> {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { listener_tag: CLIENTS, conn, .. } => self.on_client(conn),
                Event::Accepted { listener_tag, conn, .. } => {
                    let lane =
                        u16::try_from(listener_tag).expect("lanes' listeners are tagged with the lane");
                    self.links.on_accepted(conn, lane, now);
                }
                Event::Connected { conn, tag } => self.links.on_connected(conn, tag, now),
                Event::ConnectFailed { tag, error, .. } => self.links.on_connect_failed(tag, &error, now),
                Event::Data { conn, data } => {
                    self.on_data(conn, &data, now);
                    self.relay_between(Phase::Decode);
                }
                Event::Closed { conn, reason } => self.on_closed(conn, &reason, now),
                Event::FileDone { buf, result, .. } => {
                    result.map_err(LoopError::Log)?;
                    self.core.on_durable(buf, now);
                }
                Event::Readable { watch } => self.relay.on_readable(watch),
                Event::Drained { .. } | Event::Woken => {}
            }
        }
        self.events = events;
        Ok(())
    }

    fn on_client(&mut self, conn: ConnId) {
        if self.sessions.len() >= self.max_clients {
            self.core.meters().count(Count::ClientsRefused, 1);
            self.reactor.close(conn);
            return;
        }
        let id = ClientId::new(self.core_number, self.next_session);
        self.next_session += 1;
        self.sessions.insert(conn, Session { id, reader: FrameReader::new(client::MAX_FRAME) });
        self.conns.insert(id, conn);
        self.core.on_client_open(id);
    }

    fn on_data(&mut self, conn: ConnId, data: &[u8], now: u64) {
        if self.links.owns(conn) {
            let mut events = std::mem::take(&mut self.link_events);
            self.links.on_data(&mut self.reactor, conn, data, now, &mut events);
            self.take_link_events(&mut events, now);
            self.link_events = events;
            return;
        }
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let (core, id) = (&mut self.core, session.id);
        let (mut good, mut pause) = (true, false);
        let read = session.reader.push(data, &mut |frame: Bytes| {
            if good {
                match core.on_client_frame(id, &frame, now) {
                    Ok(flow) => pause |= flow == Flow::Pause,
                    Err(_) => good = false,
                }
            }
        });
        if read.is_err() || !good {
            core.meters().count(Count::ClientFramesMalformed, 1);
            self.reactor.close(conn);
        } else if pause {
            self.reactor.pause(conn);
        }
    }

    fn take_link_events(&mut self, events: &mut Vec<LinkEvent>, now: u64) {
        for event in events.drain(..) {
            match event {
                LinkEvent::Up(peer, lane) => self.core.on_peer_up(peer, lane, now),
                LinkEvent::Down(peer, lane) => self.core.on_peer_down(peer, lane),
                LinkEvent::Frame(peer, lane, frame) => self.core.on_peer_frame(peer, lane, *frame, now),
            }
            self.relay_between(Phase::Decode);
        }
    }

    fn on_closed(&mut self, conn: ConnId, reason: &CloseReason, now: u64) {
        if let Some(session) = self.sessions.remove(&conn) {
            self.conns.remove(&session.id);
            self.core.on_client_closed(session.id);
            return;
        }
        let mut events = std::mem::take(&mut self.link_events);
        self.links.on_closed(conn, reason, now, &mut events);
        self.take_link_events(&mut events, now);
        self.link_events = events;
    }

    /// Returns whether a ring to another core was full.
    fn carry_out(&mut self) -> bool {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::ToPeer(peer, lane, frame) => self.links.send(&mut self.reactor, peer, lane, &frame),
                Effect::ToPeers(lane, frame) => self.links.send_all(&mut self.reactor, lane, &frame),
                Effect::ToClient(client, bytes) => {
                    let Some(&conn) = self.conns.get(&client) else { continue };
                    if self.reactor.send(conn, bytes).is_err() {
                        // It does not read its replies.
                        self.core.meters().count(Count::ClientsOverflowed, 1);
                        self.reactor.close(conn);
                    }
                }
                Effect::Resume(client) => {
                    if let Some(&conn) = self.conns.get(&client) {
                        self.reactor.resume(conn);
                    }
                }
                Effect::ToCore(core, cross) => self.rings.send(core, cross),
                Effect::Snapshot(job) => self.side.snapshot(job),
                Effect::TrimLog(before) => self.side.trim(self.core_number, before),
                Effect::Note(line) => eprintln!("{line}"),
                Effect::Halt(reason) => self.halted = Some(reason),
            }
            // Each of them may be a large frame to encrypt, and there may be many.
            self.relay_between(Phase::Send);
        }
        self.rings.flush()
    }

    fn side_replies(&mut self, now: u64) {
        while let Some(reply) = self.side.poll() {
            match reply {
                Reply::SegmentReady { segment, file, .. } => {
                    self.log.on_segment(segment, file, &mut self.core, now);
                }
                Reply::SnapshotWritten { table, height, result } => {
                    self.core.on_snapshot_written(table, height, result, now);
                }
                Reply::SegmentsRemoved { .. } | Reply::Scrubbed { .. } => {}
            }
        }
    }
}
