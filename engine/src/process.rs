//! A validator as a process: its data directory, its core threads, its side and RPC threads, from start to stop.
//!
//! ```text
//!  main ── opens the data directory ── starts a thread for each core ──► each makes its ring, sends its waker back
//!       ── starts the side executor and the rings between the cores ──► each recovers its tables and log, opens its ports
//!       ── starts the RPC thread once all cores run ── waits for a stop request or the first core that fails
//! ```

use std::{
    cell::Cell,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use dag::{Height, LaneId, ReplicaId, TableId};
use netio::{
    Features, Reactor, ReactorConfig, Waker,
    channel::{ChannelConfig, ChannelLimits, Identity},
    xdp::Steering,
};

use crate::{
    config::{DataDir, DataDirError, Setup, Waiting},
    core_loop::{
        CallQueue, Clock, CoreLoop, CoreRings, IndexFeed, Links, ListenError, LogFile, LoopError, LoopParts,
        LoopSettings, Relay, SideWork, check_clients_port, make_rings,
    },
    index::{self, Index, IndexConfig, IndexError},
    log::{LogConfig, Writer, segment},
    node::{Core, Settings, frame::max_frame},
    recovery::{Agreement, RecoveryError, Sources, recover},
    relay::{
        turn::{ServeError, TurnCore, check_ports, steer},
        vpn::{VpnError, VpnPart, server},
    },
    rpc::{self, BlockInfo, ChainInfo, CoreCalls, Gateway, RpcOptions, Server, ServerError},
    side::{self, Side, SideClient, SideConfig, SideError, disk::StdDisk},
    snapshot,
    topology::{Placement, Shard, pin_to},
};

/// How often the main thread looks whether it is time to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How fast old log segments are read again to find damage, bytes a second for each core.
const SCRUB_RATE: u32 = 4 << 20;

/// How long a start waits, in all, for the block index to take the log's blocks, and in which steps.
const CATCH_UP: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// A connection whose other side has not acknowledged bytes for so long is closed: its machine is gone, or reads nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Slices of work where packets are relayed on the same core, which wait for one of them: some 50 µs of signatures.
fn relaying() -> Settings {
    Settings { verify_slice: 40, execute_slice: 64, execute_steps: 1, ..Settings::default() }
}

/// A request to stop, shared by all threads of a process and by whoever catches its signals.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
}

impl Stop {
    /// Not requested.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Asks for a stop. Safe to call from a signal handler.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

/// Why a validator did not start, or did not go on. Each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The state on disk.
    #[error("can't recover: {0}; `topio log check --config …` says what can be done")]
    Recovery(#[from] RecoveryError),
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The RPC port.
    #[error(transparent)]
    Rpc(#[from] ServerError),
    /// A core's loop.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The block index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The TURN server.
    #[error(transparent)]
    Turn(#[from] ServeError),
    /// The VPN.
    #[error(transparent)]
    Vpn(#[from] VpnError),
    /// The side executor.
    #[error(transparent)]
    Side(#[from] SideError),
    /// A peer's name.
    #[error(
        "the address of validator {peer}, {address}, can't be resolved: {error}; correct it under [[peer]]"
    )]
    Resolve {
        /// The validator.
        peer: ReplicaId,
        /// Its address as configured.
        address: String,
        /// What the name service says.
        error: std::io::Error,
    },
    /// The kernel.
    #[error(
        "io_uring can't be set up: {0}; a kernel of 5.19 or newer that allows it (sysctl kernel.io_uring_disabled) is needed"
    )]
    Ring(std::io::Error),
    /// The disk.
    #[error("the data directory can't be used: {0}{hint}", hint = hint(.0))]
    Disk(std::io::Error),
    /// A programmer's error.
    #[error("core {0} has died of a panic; what it said stands above")]
    Panicked(u16),
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::StorageFull { "; free some, and start again" } else { "" }
}

/// What a core thread sends to the main thread.
enum FromCore {
    Waker(u16, Waker),
    Running,
    Ended(Result<(), NodeError>),
}

/// What a core thread gets once all rings are made.
struct Connections {
    rings: CoreRings,
    side: SideClient,
    calls: CoreCalls,
    index: Option<index::Feed>,
}

/// Runs a validator until `stop` is requested or it can't go on.
pub fn run(setup: Setup, stop: Stop) -> Result<(), NodeError> {
    let directory = DataDir::open(&setup.config.data_dir, &setup.genesis.hash(), &setup.key.address())?;
    snapshot::remove_leftovers(&StdDisk, directory.path()).map_err(NodeError::Disk)?;
    let peers = resolve_peers(&setup)?;
    let setup = Arc::new(setup);
    let (index, feeds) = open_index(&setup, &directory)?;
    let turn = setup.config.relay.turn.as_ref();
    check_clients_port(setup.config.listen.submission)?;
    turn.map(check_ports).transpose().map_err(ServeError::Listen)?;
    let steering =
        turn.map(|turn| steer(turn, setup.cores)).transpose().map_err(ServeError::Config)?.flatten();
    let clock = Clock::start();
    // One for each core, or for the first ones.
    let cores = u8::try_from(setup.cores).unwrap_or(u8::MAX);
    let vpn = setup.config.relay.vpn.as_ref().map(|config| server::open(config, cores, clock));
    let mut vpn = vpn.transpose()?.into_iter().flatten();
    let (to_main, from_cores) = channel();
    let mut to_cores = Vec::new();
    let mut threads = Vec::new();
    for core in 0..setup.cores {
        let (to_core, from_main) = channel();
        to_cores.push(to_core);
        let thread = CoreThread {
            core,
            setup: setup.clone(),
            peers: peers.clone(),
            clock,
            index: index.as_ref().map(|index| index.reader().clone()),
            steering: steering.clone(),
            vpn: Cell::new(vpn.next()),
            silent: directory.is_silent(),
            stop: stop.clone(),
            to_main: to_main.clone(),
            from_main,
        };
        let spawned = thread::Builder::new().name(format!("core-{core}")).spawn(move || thread.run());
        threads.push(spawned.map_err(NodeError::Disk)?);
    }
    drop(to_main);
    let reader = index.as_ref().map(|index| index.reader().clone());
    let result = supervise(&setup, &directory, (reader, feeds), &to_cores, &from_cores, &stop);
    // Whatever ended one core ends all: a validator is whole or stopped.
    stop.request();
    drop(to_cores);
    let mut panicked = None;
    for (core, thread) in (0..).zip(threads) {
        if thread.join().is_err() {
            panicked.get_or_insert(core);
        }
    }
    // The cores' ends of its rings are gone, so it writes what is left and ends.
    if let Some(index) = index {
        index.join();
    }
    match panicked {
        Some(core) => Err(NodeError::Panicked(core)),
        None => result,
    }
}

/// Connects the core threads with each other, with the side executor and with RPC, then waits for the end.
fn supervise(
    setup: &Setup,
    directory: &DataDir,
    (index, feeds): (Option<index::Reader>, Vec<Option<index::Feed>>),
    to_cores: &[Sender<Connections>],
    from_cores: &Receiver<FromCore>,
    stop: &Stop,
) -> Result<(), NodeError> {
    let count = usize::from(setup.cores);
    let mut wakers: Vec<Option<Waker>> = vec![None; count];
    while wakers.iter().any(Option::is_none) {
        match from_cores.recv() {
            Ok(FromCore::Waker(core, waker)) => wakers[usize::from(core)] = Some(waker),
            Ok(FromCore::Ended(result)) => return result,
            Ok(FromCore::Running) => unreachable!("cores run after they are connected"),
            Err(_) => return Ok(()),
        }
    }
    let wake = |waker: &Option<Waker>| -> Box<dyn Fn() + Send> {
        let waker = waker.clone().expect("all are there");
        Box::new(move || waker.wake())
    };
    let config = SideConfig {
        log_directory: directory.path().to_owned(),
        snapshot_directory: directory.path().to_owned(),
        chain: setup.genesis.chain(),
        log: log_config(setup),
        scrub_bytes_per_second: SCRUB_RATE,
    };
    let (side, side_clients): (Side, _) =
        side::start(config, wakers.iter().map(wake).collect(), side::Backend::Automatic)?;
    if let Some(reason) = side.fallback() {
        eprintln!("the side executor runs without glommio: {reason}");
    }
    let (links, calls): (Vec<_>, Vec<_>) =
        wakers.iter().map(|waker| rpc::link(rpc::RING_CAPACITY, wake(waker))).unzip();
    let ends = make_rings(setup.cores).into_iter().zip(side_clients).zip(calls).zip(feeds).zip(to_cores);
    for ((((mut rings, side), calls), index), to_core) in ends {
        rings.set_wakers(wakers.clone());
        // A core that has ended meanwhile says why below.
        let _ = to_core.send(Connections { rings, side, calls, index });
    }
    for _ in 0..count {
        match from_cores.recv() {
            Ok(FromCore::Running) => {}
            Ok(FromCore::Ended(result)) => return result,
            Ok(FromCore::Waker(..)) => unreachable!("each core sends one waker"),
            Err(_) => return Ok(()),
        }
    }
    let core_of_table = (0..setup.genesis.tables())
        .map(|table| usize::from(table % setup.genesis.lanes() % setup.cores))
        .collect();
    let options = RpcOptions::from(&setup.config);
    let chain = ChainInfo::new(&setup.genesis, setup.replica);
    let gateway = Gateway::new(links, core_of_table);
    let server = Server::start(setup.config.listen.rpc, options, chain, gateway, index)?;
    let listen = &setup.config.listen;
    if directory.is_silent() {
        eprintln!("this validator's log was cut: it follows the network and never votes");
    }
    eprintln!(
        "ready: validator {} of «{}», {} cores, peers {}, submission {}, rpc {}",
        setup.replica,
        setup.genesis.name(),
        setup.cores,
        listen.peers,
        listen.submission,
        server.address()
    );
    while !stop.is_requested() {
        match from_cores.recv_timeout(LOOK) {
            Ok(FromCore::Ended(result)) => return result,
            Ok(_) => unreachable!("running cores only end"),
            Err(_) => {}
        }
    }
    wakers.into_iter().flatten().for_each(|waker| waker.wake());
    Ok(())
}

/// The block index, where the operator wants one, and each core's way to it.
fn open_index(
    setup: &Setup,
    directory: &DataDir,
) -> Result<(Option<Index>, Vec<Option<index::Feed>>), IndexError> {
    if !setup.config.index.enabled {
        return Ok((None, (0..setup.cores).map(|_| None).collect()));
    }
    let path = directory.path().join(index::FILE);
    let config = IndexConfig { path, retain_bytes: setup.config.index.retain_bytes };
    let (index, feeds) = Index::start(config, setup.cores)?;
    Ok((Some(index), feeds.into_iter().map(Some).collect()))
}

fn resolve_peers(setup: &Setup) -> Result<Vec<Vec<Option<SocketAddr>>>, NodeError> {
    let lanes = setup.genesis.lanes();
    let resolve = |(peer, address): (usize, &Option<crate::config::HostPort>)| {
        let Some(address) = address else { return Ok(Vec::new()) };
        let lane = |lane: LaneId| {
            address.resolve(lane).map(Some).map_err(|error| NodeError::Resolve {
                peer: ReplicaId::try_from(peer).expect("at most 128"),
                address: address.to_string(),
                error,
            })
        };
        (0..lanes).map(lane).collect()
    };
    setup.peers.iter().enumerate().map(resolve).collect()
}

/// What a core of a node is recovered from.
pub(crate) fn sources<'a>(
    setup: &'a Setup,
    silent: bool,
    indexed: &'a dyn Fn(TableId) -> Height,
) -> Sources<'a, StdDisk> {
    let timeouts = &setup.config.timeouts;
    Sources {
        disk: StdDisk,
        directory: &setup.config.data_dir,
        genesis: &setup.genesis,
        log: log_config(setup),
        log_from: 0,
        silent,
        agreement: Agreement {
            view_timeout: nanos(timeouts.view),
            view_timeout_max: nanos(timeouts.view_max),
            check_all: setup.config.agreement.check_all,
            check_after: nanos(setup.config.agreement.check_after),
        },
        index_seed: u64::from_le_bytes(random()),
        log_salt: random(),
        indexed,
    }
}

fn log_config(setup: &Setup) -> LogConfig {
    let segment_bytes = u32::try_from(setup.config.log.segment_bytes).expect("at most 2 GiB");
    let default = LogConfig::default();
    LogConfig { segment_bytes, group_bytes: default.group_bytes.min(segment_bytes / 4) }
}

/// One core's thread, before it runs.
struct CoreThread {
    core: u16,
    setup: Arc<Setup>,
    peers: Vec<Vec<Option<SocketAddr>>>,
    clock: Clock,
    index: Option<index::Reader>,
    /// What hands the relay its packets past the kernel.
    steering: Option<Arc<Steering>>,
    /// The core's part of the VPN, until it starts.
    vpn: Cell<Option<VpnPart>>,
    /// Whether the validator never votes.
    silent: bool,
    stop: Stop,
    to_main: Sender<FromCore>,
    from_main: Receiver<Connections>,
}

impl CoreThread {
    fn run(self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.prepare_and_run()));
        // The main thread is told of a panic, too, and ends the others. It may be on its way out.
        let (result, panic) = match ended {
            Ok(result) => (result, None),
            Err(panic) => (Err(NodeError::Panicked(self.core)), Some(panic)),
        };
        let _ = self.to_main.send(FromCore::Ended(result));
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn prepare_and_run(&self) -> Result<(), NodeError> {
        if self.setup.config.cores.pin {
            pin_to(self.setup.config.cores.first.saturating_add(self.core));
        }
        let config = ReactorConfig {
            max_connections: self.setup.config.limits.submission_connections as usize + 1024,
            send_queue_bytes: 64 << 20,
            user_timeout: UNACKNOWLEDGED,
            features_mask: Features::all() - self.setup.config.io.disable_features,
            ..ReactorConfig::default()
        };
        let reactor = Reactor::new(config).map_err(NodeError::Ring)?;
        let _ = self.to_main.send(FromCore::Waker(self.core, reactor.waker()));
        let Ok(connections) = self.from_main.recv() else { return Ok(()) };
        let core_loop = self.build(reactor, connections)?;
        let _ = self.to_main.send(FromCore::Running);
        Ok(core_loop.run()?)
    }

    fn build(&self, mut reactor: Reactor, mut connections: Connections) -> Result<CoreLoop, NodeError> {
        let setup = &*self.setup;
        let shard = Shard::of(setup);
        let placement = Placement { cores: setup.cores, core: self.core };
        let key = Rc::new(setup.key.clone());
        let indexed = |table| match &self.index {
            Some(index) => index.newest(table).unwrap_or(Height::MAX),
            None => Height::MAX,
        };
        let sources = sources(setup, self.silent, &indexed);
        let recovered = recover(&sources, &shard, placement, &key)?;
        if let Some(feed) = &mut connections.index {
            catch_up(feed, recovered.past);
        }
        recovered.notes.iter().for_each(|note| eprintln!("{note}"));
        let tail = recovered.tail;
        let segment =
            segment::open_for_writing(sources.directory, self.core, tail.segment, tail.segment_bytes);
        let segment = segment.map_err(NodeError::Disk)?;
        let log = LogFile::new(self.core, tail.segment, segment, &mut reactor).map_err(NodeError::Ring)?;
        let tables = usize::from(setup.genesis.tables());
        let settings = Settings {
            mempool_bytes: usize::try_from(setup.config.limits.mempool_bytes).unwrap_or(usize::MAX) / tables,
            pending_per_account: setup.config.limits.pending_per_account as usize,
            snapshot_interval: setup.config.snapshot.interval_bytes * u64::from(setup.cores) / tables as u64,
            retained_segments: u32::try_from(setup.config.log.retain_bytes / setup.config.log.segment_bytes)
                .unwrap_or(u32::MAX),
            silent: self.silent,
            instructions: setup.config.cores.instructions,
            ..if setup.config.relay.has_relay() { relaying() } else { Settings::default() }
        };
        let writer = Writer::new(sources.log, &tail);
        let mut core = Core::new(
            shard.clone(),
            placement,
            settings,
            key,
            random(),
            recovered.tables,
            (writer, recovered.end),
        );
        for delivery in recovered.deliveries {
            core.deliver(delivery, self.clock.now());
        }
        if recovered.records > 0 {
            eprintln!("core {}: recovered from {} log records", self.core, recovered.records);
        }
        let identity = Identity::from_seed(*setup.key.seed());
        let limits = ChannelLimits { max_frame: max_frame(shard.committee.size()), max_unsealed: 64 << 20 };
        let channels = ChannelConfig::new(identity, shard.peer_keys(), limits);
        let address = |peer: ReplicaId, lane: LaneId| {
            self.peers[usize::from(peer)][usize::from(lane)].expect("every peer has an address for each lane")
        };
        let links =
            Links::new(shard.clone(), placement, channels, setup.config.timeouts.reconnect_max, address);
        let relay = self.relay(&mut reactor)?;
        let parts = LoopParts {
            core,
            core_number: self.core,
            reactor,
            links,
            log,
            rings: connections.rings,
            calls: CallQueue::new(connections.calls),
            index: IndexFeed::new(connections.index),
            side: SideWork::new(connections.side),
            relay,
            clock: self.clock,
            settings: LoopSettings {
                poll: setup.config.io.wait == Waiting::Poll,
                spin: nanos(setup.config.io.spin),
                max_clients: setup.config.limits.submission_connections as usize,
            },
            stop: self.stop.clone(),
        };
        let listen = &setup.config.listen;
        let lanes: Vec<(u64, SocketAddr)> = placement
            .lanes(&shard)
            .map(|lane| (u64::from(lane), SocketAddr::new(listen.peers.ip(), listen.peers.port() + lane)))
            .collect();
        Ok(CoreLoop::new(parts, &lanes, listen.submission)?)
    }
}

/// Tells the index of blocks that the log holds and it does not.
/// Waits for an index that works, and not for one that can't write: that gets them at the next start.
fn catch_up(feed: &mut index::Feed, past: Vec<BlockInfo>) {
    let mut patience = CATCH_UP;
    for (done, mut block) in past.into_iter().enumerate() {
        while let Err(rtrb::PushError::Full(back)) = feed.push(block) {
            if patience.is_zero() {
                eprintln!(
                    "the block index takes no more: it lacks the blocks after {done} of the log, until the next start"
                );
                return;
            }
            block = back;
            patience = patience.saturating_sub(PAUSE);
            thread::sleep(PAUSE);
        }
    }
}

impl CoreThread {
    /// The relay services that are configured.
    fn relay(&self, reactor: &mut Reactor) -> Result<Relay, NodeError> {
        let mut relay = Relay::default();
        if let Some(config) = &self.setup.config.relay.turn {
            let cores = (self.core, self.setup.cores);
            let steering = self.steering.as_deref();
            let turn = TurnCore::new(config, cores, self.clock, &random(), steering)?;
            relay.add(turn, reactor).map_err(NodeError::Ring)?;
        }
        if let Some(part) = self.vpn.take() {
            relay.add(part.start()?, reactor).map_err(NodeError::Ring)?;
        }
        Ok(relay)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("timeouts are minutes at most")
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
