//! A node whose cores are threads that answer from a small made-up ledger of real records.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use dag::{
    Address, Block, Certificate, Hash, Vote, VoteBundle, VoteKind,
    client::{AccountState, Code},
    keys::KeyPair,
    state_tree::{AccountLeaf, AccountProof, CheckpointPreimage},
    table_block::{BlockBuilder, BlockHeader},
    transaction::{self, Payee, Terms, Transaction},
};
use engine::{
    genesis::{Genesis, GenesisValidator, Parameters, dev::dev_account_key},
    index,
    metrics::{CoreMetrics, CoreUse, Phase, Stage, Stages},
    rpc::{
        AccountProofInfo, BlockInfo, Call, ChainInfo, CoreCalls, CoreStatus, Fate, Gateway, PeerStatus,
        Place, ProofAnswer, Request, Response, RpcOptions, Server, TableStatus, TransactionInfo, link,
    },
};

pub const TABLES: u16 = 4;
pub const CORES: usize = 2;
/// Height of the one block that each table has.
pub const HEIGHT: u64 = 5;
/// Fees that decide a submitted transaction's fate.
pub const REFUSED_FEE: u64 = 13;
pub const FAILING_FEE: u64 = 14;

/// How the cores behave.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    /// They answer.
    Willing,
    /// They take calls and never answer.
    Silent,
    /// They take no calls.
    Stuck,
    /// Their loops have ended.
    Ended,
}

pub fn account(index: u64) -> KeyPair {
    dev_account_key(&[7; 32], index)
}

pub fn validator(index: u64) -> KeyPair {
    dev_account_key(&[9; 32], index)
}

pub fn genesis() -> Genesis {
    let validators =
        (0..4).map(|i| GenesisValidator { name: format!("v{i}"), key: validator(i).address() }).collect();
    let parameters = Parameters { name: "test".into(), tables: TABLES, lanes: 2, time: 1, validators };
    Genesis::create(parameters, Vec::new()).unwrap()
}

/// A transfer from account 0 to account 1.
pub fn transfer(sequence: u64, fee: u64) -> Vec<u8> {
    let terms = Terms { chain: genesis().chain(), epoch: 0, sequence, fee };
    transaction::sign(&account(0), &terms, &[Payee { to: account(1).address(), amount: 1 << 60 }]).unwrap()
}

/// The table of account 0.
pub fn home() -> u16 {
    account(0).address().table(TABLES)
}

pub fn block(table: u16) -> Block {
    block_at(table, HEIGHT)
}

/// A block of three transfers; no two heights have one in common.
pub fn block_at(table: u16, height: u64) -> Block {
    let mut builder = BlockBuilder::new();
    for sequence in (1..=3).map(|sequence| if height == HEIGHT { sequence } else { 10 * height + sequence }) {
        let record = transfer(sequence, 2);
        let transaction = Transaction::parse(&record).unwrap();
        assert!(builder.push(transaction.id(), &transaction));
    }
    builder.seal(BlockHeader {
        chain: genesis().chain(),
        table,
        height,
        view: 2,
        time: 1_700_000_000_000_000,
        proposer: 1,
        parent: Hash([1; 32]),
        ..BlockHeader::default()
    })
}

/// Three of the four validators' votes.
pub fn certificate(kind: VoteKind, table: u16, view: u64, digest: Hash) -> Certificate {
    let vote = Vote { kind, checked: false, table, view, height: HEIGHT, digest };
    let genesis = genesis();
    let proofs = [0u16, 1, 3].map(|replica| {
        let key = validator(u64::from(replica));
        VoteBundle::sign(&key, genesis.committee(), replica, 0, vec![vote]).proof(0)
    });
    Certificate { vote, proofs: proofs.into() }
}

fn proof(address: Address) -> AccountProofInfo {
    let leaf = AccountLeaf { address, balance: 77, sequence: 3, unit_height: 4, unit_head: Hash([4; 32]) };
    let checkpoint = CheckpointPreimage {
        chain: genesis().chain(),
        epoch: 0,
        table: home(),
        height: HEIGHT,
        block: block(home()).hash(),
        accounts: 1,
        accounts_root: leaf.hash(),
        meta: Hash([5; 32]),
        outbox: Hash([6; 32]),
    };
    let certificate = certificate(VoteKind::Checkpoint, home(), 0, checkpoint.digest());
    let proof = AccountProof { leaf, position: 0, accounts: 1, path: Vec::new() };
    AccountProofInfo { proof, checkpoint, certificate }
}

/// The block with its outcome: the second transaction has failed.
pub fn executed(block: Block) -> Box<BlockInfo> {
    let certificate = Some(certificate(VoteKind::Commit, block.header().table, 2, block.hash()));
    Box::new(BlockInfo { block, certificate, failed: vec![(1, Code::Overdraft)] })
}

struct FakeCore {
    core: u16,
    tables: Vec<u16>,
}

impl FakeCore {
    fn respond(&self, request: &Request) -> Response {
        match request {
            Request::Submit { record, wait } => Response::Submitted(self.submit(record, *wait)),
            Request::Account(address) => {
                assert!(self.tables.contains(&address.table(TABLES)), "the core of the account is asked");
                let state = AccountState {
                    balance: u64::MAX,
                    sequence: 3,
                    pending: 4,
                    unit_height: 9,
                    unit_head: Hash([2; 32]),
                };
                Response::Account((*address == account(0).address()).then_some(state))
            }
            Request::Transaction(id) => {
                let record = transfer(1, 2).into();
                let known = self.tables.contains(&home()) && *id == block(home()).id(0);
                let place = Place { table: home(), height: HEIGHT, index: 0 };
                let fate = Fate::Executed { place, code: Code::Committed };
                Response::Transaction(known.then_some(TransactionInfo { fate, record }))
            }
            Request::Block { table, height } => {
                Response::Block((*height == HEIGHT).then(|| self.block(*table)))
            }
            Request::BlockByHash(hash) => {
                let table = self.tables.iter().find(|&&table| block(table).hash() == *hash);
                Response::Block(table.map(|&table| self.block(table)))
            }
            Request::Latest(table) => Response::Block(Some(self.block(*table))),
            Request::Proof(address) if *address == account(0).address() => {
                Response::Proof(ProofAnswer::Proven(Box::new(proof(*address))))
            }
            Request::Proof(address) if *address == account(1).address() => {
                Response::Proof(ProofAnswer::Later)
            }
            Request::Proof(_) => Response::Proof(ProofAnswer::Unknown),
            Request::Status => Response::Status(self.status()),
            Request::Metrics => Response::Metrics(Box::new(self.metrics())),
        }
    }

    fn submit(&self, record: &[u8], wait: bool) -> Fate {
        let transaction = Transaction::parse(record).expect("the format was checked before");
        assert!(self.tables.contains(&home()), "the core of the sender is asked");
        let place = Place { table: home(), height: HEIGHT, index: 2 };
        match (transaction.fee(), wait) {
            (REFUSED_FEE, _) => Fate::Refused(Code::StaleSequence),
            (FAILING_FEE, true) => Fate::Executed { place, code: Code::Overdraft },
            (_, true) => Fate::Executed { place, code: Code::Committed },
            (_, false) => Fate::Pending,
        }
    }

    fn block(&self, table: u16) -> Box<BlockInfo> {
        assert!(self.tables.contains(&table), "the core of the table is asked");
        executed(block(table))
    }

    fn status(&self) -> CoreStatus {
        let table = |&table| TableStatus {
            table,
            view: 2,
            primary: (table + 2) % 4,
            committed: 7,
            executed: 6,
            checkpoint: HEIGHT,
            pending: 8,
        };
        let peers = [0, 1, 3].map(|replica| PeerStatus { replica, lanes_connected: 1 });
        CoreStatus {
            core_use: self.core_use(),
            tables: self.tables.iter().map(table).collect(),
            peers: peers.into(),
            fault: None,
            votes: true,
        }
    }

    fn core_use(&self) -> CoreUse {
        let mut core_use = CoreUse::new(self.core);
        core_use.charge(Phase::Verify, 250);
        core_use.idle(750);
        core_use
    }

    fn metrics(&self) -> CoreMetrics {
        let mut stages = Stages::new();
        stages.record_n(Stage::Commit, 1000, 10);
        let mut metrics = CoreMetrics::new(self.core_use(), stages);
        metrics.counter("frames_total", "Frames received.", 21);
        metrics
    }

    fn run(self, mut calls: CoreCalls, mood: Mood, stop: &AtomicBool) {
        let mut unanswered: Vec<Call> = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            thread::park_timeout(std::time::Duration::from_millis(1));
            while let Some(call) = if mood == Mood::Stuck { None } else { calls.next_call() } {
                if mood == Mood::Silent {
                    unanswered.push(call);
                } else {
                    let response = self.respond(&call.request);
                    call.answer(response);
                }
            }
        }
    }
}

/// A running server with its cores; stops them when dropped.
pub struct FakeNode {
    server: Option<Server>,
    cores: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl FakeNode {
    pub fn start(mood: Mood, ring: usize, options: RpcOptions) -> FakeNode {
        FakeNode::with_index(mood, ring, options, None)
    }

    pub fn with_index(
        mood: Mood,
        ring: usize,
        options: RpcOptions,
        index: Option<index::Reader>,
    ) -> FakeNode {
        let stop = Arc::new(AtomicBool::new(mood == Mood::Ended));
        let core_of_table: Vec<usize> = (0..usize::from(TABLES)).map(|table| table % CORES).collect();
        let (mut links, mut cores) = (Vec::new(), Vec::new());
        for core in 0..CORES {
            let tables = (0..TABLES).filter(|&table| core_of_table[usize::from(table)] == core).collect();
            let fake = FakeCore { core: u16::try_from(core).unwrap(), tables };
            let stop = stop.clone();
            let (calls_out, calls_in) = std::sync::mpsc::channel();
            let thread = thread::spawn(move || fake.run(calls_in.recv().unwrap(), mood, &stop));
            let handle = thread.thread().clone();
            let (link, calls) = link(ring, Box::new(move || handle.unpark()));
            calls_out.send(calls).unwrap();
            links.push(link);
            cores.push(thread);
        }
        if mood == Mood::Ended {
            cores.drain(..).for_each(|core| core.join().unwrap());
        }
        let chain = ChainInfo::new(&genesis(), 2);
        let gateway = Gateway::new(links, core_of_table);
        let server = Server::start("127.0.0.1:0".parse().unwrap(), options, chain, gateway, index).unwrap();
        FakeNode { server: Some(server), cores, stop }
    }

    pub fn willing() -> FakeNode {
        FakeNode::start(Mood::Willing, 64, RpcOptions::default())
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    pub fn stop_server(&mut self) {
        self.server = None;
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for core in self.cores.drain(..) {
            core.join().expect("a core's assertion failed");
        }
    }
}
