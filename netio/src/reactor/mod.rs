//! One core's IO: its ring, its sockets, its files.

mod connections;
mod events;
mod files;
mod listeners;
mod streams;
mod watches;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use io_uring::types::Timespec;
use io_uring::{opcode, types};

use crate::counters::Counters;
use crate::pool::{BufferPool, MAX_RING_BUFFERS};
use crate::probe::{self, Features};
use crate::ring::{Completion, Op, OpKind, Ring, Wait};
use crate::slots::{Key, Slots};
use crate::tcp::Conn;
use crate::waker::{WakeReceiver, Waker};

pub use events::{CloseReason, ConnId, Event, FileId};
pub use files::WriteRefused;
pub use watches::WatchId;

use files::{File, FileWrite};
use listeners::Listener;
use watches::Watch;

/// Buffer group of the receive pool.
const RECV_GROUP: u16 = 0;

/// How long a listener rests after it could not accept for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long dropping a reactor waits for cancelled operations, in turns of [`DROP_TURN`].
const DROP_TURNS: u32 = 100;
const DROP_TURN: Duration = Duration::from_millis(50);

/// Sizes and limits of a reactor. All memory follows from them.
#[derive(Clone, Debug)]
pub struct ReactorConfig {
    /// Entries of the submission queue, rounded up to a power of two.
    pub entries: u32,
    /// Receive buffers, shared by all connections: a power of two up to 32,768. Without
    /// [`Features::BUFFER_RING`], `max_connections` more are made (each armed receive holds one).
    pub recv_buffers: u32,
    /// Bytes of one receive buffer.
    pub recv_buffer_size: u32,
    /// Most connections at a time, accepted and own together.
    pub max_connections: usize,
    /// Most listening sockets.
    pub max_listeners: usize,
    /// Most bytes queued for sending on one connection.
    pub send_queue_bytes: usize,
    /// Most registered files.
    pub max_files: usize,
    /// Most durable writes in flight.
    pub max_file_writes: usize,
    /// A connection whose sent bytes are not acknowledged, or whose peer offers no window for them, for so long is closed; an idle
    /// one is probed after as long. TCP alone would wait a quarter of an hour.
    pub user_timeout: Duration,
    /// How long a connection under [`Reactor::close_after_flush`] waits, after all has left, for the peer to close.
    pub linger: Duration,
    /// Features that may be used if the kernel has them. All, except to test what happens without.
    pub features_mask: Features,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            recv_buffers: 1024,
            recv_buffer_size: 32 << 10,
            max_connections: 4096,
            max_listeners: 16,
            send_queue_bytes: 16 << 20,
            max_files: 16,
            max_file_writes: 64,
            user_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(1),
            features_mask: Features::all(),
        }
    }
}

impl ReactorConfig {
    /// Twice what can complete at a time: every receive buffer, and the few single operations of each connection.
    /// The kernel rounds up to a power of two and cuts at its own limit; beyond that it keeps completions back
    /// and counts an overflow.
    fn completion_entries(&self) -> u32 {
        let connections = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        let at_a_time = self.recv_buffers.max(self.entries).saturating_add(connections);
        at_a_time.saturating_mul(2)
    }
}

/// One io_uring with its sockets, buffers and files. See the [crate] documentation.
///
/// It must be made on the thread that uses it and stays there (it is not `Send`): the kernel ties the ring to its
/// first thread.
///
/// # Order of events
/// A connection begins with [`Event::Accepted`] or [`Event::Connected`], then [`Event::Data`] and
/// [`Event::Drained`] come in any number, and [`Event::Closed`] ends it, exactly once. An attempt of our own that
/// fails ends with [`Event::ConnectFailed`] instead. After [`Reactor::close`] nothing but `Closed` follows.
pub struct Reactor {
    config: ReactorConfig,
    features: Features,
    ring: Ring,
    pool: Rc<BufferPool>,
    conns: Slots<Conn>,
    listeners: Slots<Listener>,
    files: Slots<File>,
    writes: Slots<FileWrite>,
    /// Connections with bytes to send and no send in flight.
    dirty: Vec<Key>,
    /// Connections that found no receive buffer, longest waiting first.
    starved: VecDeque<Key>,
    /// Events not yet handed out.
    ready: Vec<Event>,
    /// Scratch of `poll`.
    completions: Vec<Completion>,
    wake: WakeReceiver,
    watches: Vec<Watch>,
    /// What the kernel reads the wake descriptor into.
    wake_count: Box<[u8; 8]>,
    timers: Box<Timers>,
    counters: Counters,
    /// Being dropped: nothing is armed any more.
    stopping: bool,
}

/// Timer lengths where the kernel can read them.
struct Timers {
    linger: Timespec,
    accept_rest: Timespec,
}

impl Reactor {
    /// Sets up the ring, the buffers and the tables.
    ///
    /// # Errors
    /// When the kernel has no usable io_uring, or not enough memory or descriptors.
    ///
    /// # Panics
    /// When a size in `config` is zero or beyond the limit its documentation names.
    pub fn new(config: ReactorConfig) -> io::Result<Self> {
        assert!(config.recv_buffers.is_power_of_two() && config.recv_buffers <= MAX_RING_BUFFERS);
        assert!(config.entries > 0 && config.recv_buffer_size > 0 && config.max_connections > 0);
        let features = Features::of_running_kernel()? & config.features_mask;
        let ring = Ring::new(config.entries, config.completion_entries(), features)?;
        let pool = receive_pool(&config, features, &ring)?;
        if features.contains(Features::REGISTERED_FILES) && config.max_files > 0 {
            let files = u32::try_from(config.max_files).expect("a table is small");
            ring.uring().submitter().register_files_sparse(files)?;
        }
        let timers = Timers { linger: config.linger.into(), accept_rest: ACCEPT_REST.into() };
        let mut reactor = Self {
            features,
            ring,
            pool,
            conns: Slots::with_capacity(config.max_connections),
            listeners: Slots::with_capacity(config.max_listeners),
            files: Slots::with_capacity(config.max_files),
            writes: Slots::with_capacity(config.max_file_writes),
            dirty: Vec::with_capacity(config.max_connections),
            starved: VecDeque::with_capacity(config.max_connections),
            ready: Vec::new(),
            completions: Vec::with_capacity(config.completion_entries() as usize),
            wake: WakeReceiver::new()?,
            watches: Vec::new(),
            wake_count: Box::new([0; 8]),
            timers: Box::new(timers),
            counters: Counters::default(),
            stopping: false,
            config,
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// The features in use: the kernel's, cut by [`ReactorConfig::features_mask`].
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Running totals.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Running totals, for those that the caller counts.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Connections that hold a slot.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// A handle that wakes [`poll`](Self::poll) from other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.wake.waker()
    }

    /// One turn: submits what was queued since the last, waits as `wait` says if nothing has completed, and appends
    /// what happened to `events`. One system call, or none if there is nothing to do.
    ///
    /// It may return early and with no events: after a signal, or when all that completed was internal.
    ///
    /// # Errors
    /// When the ring itself fails. The reactor is unusable then.
    pub fn poll(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.counters.polls += 1;
        self.rearm_starved();
        self.flush_dirty();
        self.sleep(wait)?;
        self.work_off_completions();
        if self.wake.take_pending() {
            self.counters.wakeups += 1;
            self.ready.push(Event::Woken);
        }
        events.append(&mut self.ready);
        Ok(())
    }

    fn sleep(&mut self, wait: Wait) -> io::Result<()> {
        let wait = if self.ready.is_empty() { wait } else { Wait::Spin };
        if wait == Wait::Spin || !self.wake.fall_asleep() {
            return self.ring.enter(Wait::Spin);
        }
        let entered = self.ring.enter(wait);
        self.wake.wake_up();
        entered
    }

    fn work_off_completions(&mut self) {
        if self.ring.overflowed() {
            self.counters.cq_overflows += 1;
        }
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
    }

    fn dispatch(&mut self, completion: Completion) {
        let key = completion.op.key;
        match completion.op.kind {
            OpKind::Accept => self.on_accept(key, completion),
            OpKind::AcceptRetry => self.on_accept_retry(key),
            OpKind::Connect => self.on_connect(key, completion),
            OpKind::Recv => self.on_recv(key, completion),
            OpKind::Send => self.on_send(key, completion),
            OpKind::Linger => self.on_linger_over(key),
            OpKind::ConnCancel => self.on_conn_cancel(key),
            OpKind::Cancel => {}
            OpKind::FileWrite => self.on_file_write(key, completion),
            OpKind::Wake => self.arm_wake(),
            OpKind::Watch => self.on_readable(key),
        }
    }

    fn arm_wake(&mut self) {
        if self.stopping {
            return;
        }
        let count = self.wake_count.as_mut_ptr();
        let read = opcode::Read::new(types::Fd(self.wake.fd()), count, 8).build();
        // SAFETY: the count and the descriptor are ours until the reactor is dropped, which waits for this read.
        unsafe { self.ring.push(Op { kind: OpKind::Wake, key: WAKE_KEY }, read) };
    }
}

/// The wake descriptor has no slot.
const WAKE_KEY: Key = Key { index: 0, generation: 0 };

fn receive_pool(config: &ReactorConfig, features: Features, ring: &Ring) -> io::Result<Rc<BufferPool>> {
    if features.contains(Features::BUFFER_RING) {
        let pool = BufferPool::ring(config.recv_buffers, config.recv_buffer_size)?;
        probe::register(ring, &pool, RECV_GROUP)?;
        return Ok(pool);
    }
    let connections = u32::try_from(config.max_connections).expect("a table is small");
    BufferPool::list(config.recv_buffers + connections, config.recv_buffer_size)
}

impl Drop for Reactor {
    /// Closing an io_uring does not wait for its operations, and they would go on to write into freed memory. So
    /// they are cancelled and waited for; should one refuse to end, its memory is leaked.
    fn drop(&mut self) {
        self.stopping = true;
        let conns: Vec<Key> = self.conns.keys().collect();
        conns.into_iter().for_each(|key| self.begin_close(key, CloseReason::Local));
        self.cancel_listeners();
        self.cancel(OpKind::Cancel, Op { kind: OpKind::Wake, key: WAKE_KEY });
        self.cancel_watches();
        for _ in 0..DROP_TURNS {
            if self.ring.in_flight() == 0 {
                return;
            }
            if self.ring.enter(Wait::For(DROP_TURN)).is_err() {
                break;
            }
            self.work_off_completions();
        }
        self.leak_memory_in_flight();
    }
}

impl Reactor {
    fn leak_memory_in_flight(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.conns, Slots::with_capacity(0)));
        std::mem::forget(std::mem::replace(&mut self.listeners, Slots::with_capacity(0)));
        std::mem::forget(std::mem::replace(&mut self.files, Slots::with_capacity(0)));
        std::mem::forget(std::mem::replace(&mut self.writes, Slots::with_capacity(0)));
        std::mem::forget(std::mem::take(&mut self.wake_count));
        std::mem::forget(Rc::clone(&self.pool));
        std::mem::forget(self.waker());
    }

    /// Asks the kernel to end the operation `target`, as an operation of `kind` with the same owner. The
    /// target's own completion says when it has ended.
    fn cancel(&mut self, kind: OpKind, target: Op) {
        let cancel = opcode::AsyncCancel::new(target.user_data()).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.ring.push(Op { kind, key: target.key }, cancel) };
    }

    fn set_timer(&mut self, kind: OpKind, key: Key) {
        let length = match kind {
            OpKind::Linger => &raw const self.timers.linger,
            OpKind::AcceptRetry => &raw const self.timers.accept_rest,
            other => panic!("{other:?} is not a timer"),
        };
        let timeout = opcode::Timeout::new(length).build();
        // SAFETY: the length is boxed and lives as long as the reactor, which waits for its timers when dropped.
        unsafe { self.ring.push(Op { kind, key }, timeout) };
    }
}
