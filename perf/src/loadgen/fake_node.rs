//! A node without a network: it takes transactions in the order of their sequences and does what a test asks of it.

use std::{
    collections::HashMap,
    io::Write,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use dag::{
    Address, Hash, Transaction,
    client::{AccountState, Code, Reply, Request, Response},
};

use crate::client::FrameBuffer;

/// Sequence that every account has at first.
pub const FIRST_SEQUENCE: u64 = 100;

/// What all nodes of one network know.
#[derive(Default)]
pub struct Ledger {
    /// Ids by place: a sender's transactions from [`FIRST_SEQUENCE`] + 1.
    executed: HashMap<Address, Vec<Hash>>,
    /// How often each transaction came in.
    pub seen: HashMap<Hash, u32>,
}

impl Ledger {
    fn sequence(&self, sender: &Address) -> u64 {
        FIRST_SEQUENCE + self.executed.get(sender).map_or(0, |chain| chain.len() as u64)
    }

    /// How many are executed.
    pub fn len(&self) -> usize {
        self.executed.values().map(Vec::len).sum()
    }

    /// Whether this one is executed with this sequence.
    pub fn holds(&self, sender: &Address, sequence: u64, id: &Hash) -> bool {
        let chain = self.executed.get(sender).map_or(&[][..], Vec::as_slice);
        chain.get(usize::try_from(sequence - FIRST_SEQUENCE - 1).unwrap()) == Some(id)
    }

    /// Executes a transaction, as idempotently as a real node.
    fn execute(&mut self, transaction: &Transaction<'_>) -> Code {
        let (sender, id) = (transaction.sender(), transaction.id());
        if transaction.sequence() <= self.sequence(sender) {
            let same = self.holds(sender, transaction.sequence(), &id);
            return if same { Code::Committed } else { Code::StaleSequence };
        }
        if transaction.sequence() > self.sequence(sender) + 1 {
            return Code::GappedSequence;
        }
        self.executed.entry(*sender).or_default().push(id);
        Code::Committed
    }
}

/// Judges a transaction that came in so many times before; `None` executes it.
pub type Judge = fn(&Transaction<'_>, u32) -> Option<Code>;

/// What a node does besides its work.
#[derive(Clone)]
pub struct Manners {
    /// Time from receiving to answering.
    pub delay: Duration,
    /// Refusals.
    pub judge: Judge,
    /// Takes transactions, and never answers them.
    pub mute: bool,
    /// Closes the connection that brings the n-th record, once, before it answers it.
    pub drop_at: Option<usize>,
    /// At the n-th record, reads and answers nothing for so long, once.
    pub stall_at: Option<(usize, Duration)>,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners { delay: Duration::ZERO, judge: |_, _| None, mute: false, drop_at: None, stall_at: None }
    }
}

struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    manners: Manners,
    received: AtomicUsize,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

/// A running node; dropping it closes its port and connections.
pub struct FakeNode {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl FakeNode {
    pub fn start(ledger: &Arc<Mutex<Ledger>>, manners: Manners) -> FakeNode {
        FakeNode::start_at(([127, 0, 0, 1], 0).into(), ledger, manners)
    }

    pub fn start_at(address: SocketAddr, ledger: &Arc<Mutex<Ledger>>, manners: Manners) -> FakeNode {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            ledger: Arc::clone(ledger),
            manners,
            received: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let acceptor = Some(thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        }));
        FakeNode { address, shared, acceptor }
    }

    /// Connections accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Records received.
    pub fn received(&self) -> usize {
        self.shared.received.load(Ordering::Relaxed)
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut sockets = Vec::new();
    while !shared.stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                sockets.push(socket.try_clone().unwrap());
                let shared = Arc::clone(shared);
                thread::spawn(move || serve(socket, &shared));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    for socket in sockets {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Reads one connection; a second thread writes the answers when their time has come.
fn serve(mut socket: TcpStream, shared: &Shared) {
    let (answers, due) = mpsc::channel::<(Instant, Response)>();
    let mut writer = socket.try_clone().unwrap();
    thread::spawn(move || {
        for (at, response) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let mut frame = Vec::new();
            response.encode_frame(&mut frame);
            if writer.write_all(&frame).is_err() {
                return;
            }
        }
    });
    let mut inbound = FrameBuffer::new();
    while inbound.fill(&mut socket).is_ok() {
        while let Some(frame) = inbound.take().unwrap() {
            let Some(response) = answer(&Request::parse(frame).unwrap(), shared) else {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            };
            let _ = answers.send((Instant::now() + shared.manners.delay, response));
        }
    }
}

/// Nothing where the connection is to be closed.
fn answer(request: &Request<'_>, shared: &Shared) -> Option<Response> {
    match *request {
        Request::Account { tag, address } => {
            let sequence = shared.ledger.lock().unwrap().sequence(&address);
            Some(Response::Account { tag, state: Some(AccountState { sequence, ..AccountState::default() }) })
        }
        Request::Submit { first_tag, records } => {
            let mut replies = Vec::new();
            for (tag, record) in (first_tag..).zip(records) {
                let received = shared.received.fetch_add(1, Ordering::Relaxed) + 1;
                let code = receive(&Transaction::parse(record).unwrap(), shared);
                if shared.manners.drop_at == Some(received) {
                    return None;
                }
                if let Some((at, time)) = shared.manners.stall_at
                    && at == received
                {
                    thread::sleep(time);
                }
                replies.push(Reply { table: 1, height: 2, index: 3, ..Reply::refused(tag, code) });
            }
            if shared.manners.mute {
                replies.clear();
            }
            Some(Response::Replies(replies))
        }
    }
}

fn receive(transaction: &Transaction<'_>, shared: &Shared) -> Code {
    let mut ledger = shared.ledger.lock().unwrap();
    let seen = ledger.seen.entry(transaction.id()).or_default();
    *seen += 1;
    let before = *seen - 1;
    (shared.manners.judge)(transaction, before).unwrap_or_else(|| ledger.execute(transaction))
}
