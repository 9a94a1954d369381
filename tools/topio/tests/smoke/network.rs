//! The devnet of a story, and what must be true of its ledger.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use dag::{
    Address,
    client::{AccountState, Code, Reply},
    keys::KeyPair,
    transaction::{Payee, Terms, sign},
};
use engine::genesis::Genesis;
use perf::{
    client::Client,
    loadgen::{Ack, Target, read_acks},
};
use tempfile::TempDir;
use topio::{
    devnet::{Devnet, Instructions, READY_WITHIN, STOP_WITHIN, Sizes},
    signals::Interrupt,
};

use crate::load::Load;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_topio");
/// Micro-TOP of each account.
const BALANCE: u64 = 1_000_000_000;
/// The usual size of a story's network.
pub const SIZES: Sizes = Sizes {
    validators: 4,
    tables: 16,
    lanes: 1,
    cores: 1,
    accounts: 400,
    balance: BALANCE,
    check_all: false,
    pin: false,
    instructions: Instructions::Auto,
};
/// How long validators may take to catch up and agree on everything.
const AGREED_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long anything else that must happen may take.
const HAPPENS_WITHIN: Duration = Duration::from_secs(30);
/// Payees of the transactions of a push: as many as may be.
const PAYEES: usize = 255;
/// Transactions of a push that are submitted together.
const PUSHED: usize = 100;
/// Acknowledged transactions that are asked for one by one.
const SAMPLE: usize = 200;

/// Two networks at once would measure each other, and look for the same ports.
static ALONE: Mutex<()> = Mutex::new(());

/// A network of four, with accounts that have money.
pub struct Network {
    pub devnet: Devnet,
    pub genesis: Genesis,
    sizes: Sizes,
    keys: Vec<KeyPair>,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Network {
    /// Starts one that is ready.
    pub fn start() -> Network {
        Network::start_with(SIZES, |_| {})
    }

    /// Starts one of another size, once its files are prepared.
    pub fn start_with(sizes: Sizes, prepare: impl FnOnce(&Devnet)) -> Network {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let devnet = Devnet::create(Path::new(PROGRAM), &folder.path().join("devnet"), sizes, None);
        let mut devnet = devnet.expect("a devnet can be made");
        prepare(&devnet);
        devnet.start().expect("validators can be started");
        let genesis = Genesis::load(&devnet.layout().genesis()).expect("just made");
        let keys = (0..sizes.accounts).map(|index| devnet.account_key(index)).collect();
        let mut network = Network { devnet, genesis, sizes, keys, folder, _alone: alone };
        network.wait_ready();
        network
    }

    /// Waits until all validators answer and are connected.
    pub fn wait_ready(&mut self) {
        if let Err(error) = self.devnet.wait_ready(READY_WITHIN, &Interrupt::none()) {
            panic!("{error}");
        }
    }

    /// Stops a validator cleanly.
    pub fn stop(&mut self, node: usize) {
        let node = self.devnet.node(node);
        node.terminate();
        assert!(node.reap_until(Instant::now() + STOP_WITHIN), "it stops by itself");
    }

    /// Has at least so many bytes of transactions committed over a validator, or until something is the case.
    pub fn push(&self, node: usize, bytes: usize, mut until: impl FnMut(&Network) -> bool) {
        let mut sequences: Vec<u64> = self.accounts(node).iter().map(|state| state.pending).collect();
        let mut client = self.client(node);
        let (mut pushed, mut from) = (0, 0);
        while pushed < bytes && !until(self) {
            let records: Vec<Vec<u8>> = (0..PUSHED)
                .map(|_| {
                    from = (from + 1) % self.keys.len();
                    sequences[from] += 1;
                    let terms = Terms { sequence: sequences[from], ..self.terms() };
                    let payee =
                        |i: usize| Payee { to: self.keys[(from + i) % self.keys.len()].address(), amount: 1 };
                    let payees: Vec<Payee> = (1..=PAYEES).map(payee).collect();
                    sign(&self.keys[from], &terms, &payees).expect("well-formed")
                })
                .collect();
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            for reply in client.submit_all(&records).expect("the validator answers") {
                assert_eq!(reply.code, Code::Committed, "{}", reply.code);
            }
            pushed += records.iter().map(|record| record.len()).sum::<usize>();
        }
    }

    /// A funded account.
    pub fn key(&self, index: usize) -> &KeyPair {
        &self.keys[index]
    }

    /// Starts a load of transfers between all accounts, over all validators.
    pub fn load(&self) -> Load {
        let target = Target {
            submission: self.devnet.nodes().iter().map(|node| node.ports().submission_address()).collect(),
            chain: self.genesis.chain(),
            epoch: self.genesis.epoch(),
            tables: self.genesis.tables(),
            validators: self.sizes.validators,
        };
        Load::start(target, self.keys.clone(), self.acks_file())
    }

    fn acks_file(&self) -> PathBuf {
        self.folder.path().join("acks")
    }

    /// A connection to a validator's submission port.
    pub fn client(&self, node: usize) -> Client {
        let address = self.devnet.nodes()[node].ports().submission_address();
        Client::connect(address, ANSWER_WITHIN).expect("the validator takes clients")
    }

    /// What a validator says about an account.
    pub fn account(&self, node: usize, address: &Address) -> AccountState {
        let state = self.client(node).account(address).expect("the validator answers");
        state.expect("the account is funded")
    }

    /// A signed transfer of 1 micro-TOP from an account, with its next sequence.
    pub fn next_record(&self, node: usize, from: usize) -> Vec<u8> {
        let sequence = self.account(node, &self.key(from).address()).pending + 1;
        self.record(from, Terms { sequence, ..self.terms() }, 1)
    }

    /// What is right for this network, but for the sequence.
    pub fn terms(&self) -> Terms {
        Terms { chain: self.genesis.chain(), epoch: self.genesis.epoch(), sequence: 0, fee: 0 }
    }

    /// A signed transfer from an account to the one after it.
    pub fn record(&self, from: usize, terms: Terms, amount: u64) -> Vec<u8> {
        let to = self.key(from + 1).address();
        sign(self.key(from), &terms, &[Payee { to, amount }]).expect("well-formed")
    }

    /// Asserts that transfers of every table are committed, though only this validator is told of them.
    pub fn commits_in_every_table(&self, node: usize) {
        let tables = self.genesis.tables();
        let of_table = |table| {
            let lives_there = |key: &KeyPair| key.address().table(tables) == table;
            // The last account has no one after it to pay to.
            self.keys[..self.keys.len() - 1]
                .iter()
                .position(lives_there)
                .expect("every table has many accounts")
        };
        let mut open: Vec<u16> = (0..tables).collect();
        let deadline = Instant::now() + AGREED_WITHIN;
        loop {
            // Written anew each time: a validator that is catching up does not know the account's newest sequence yet.
            let records: Vec<Vec<u8>> =
                open.iter().map(|&table| self.next_record(node, of_table(table))).collect();
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let replies = self.client(node).submit_all(&records).expect("the validator answers");
            let open_still = |(table, reply): (u16, &Reply)| match reply.code {
                Code::Committed => None,
                Code::Unavailable | Code::MempoolFull | Code::StaleSequence if Instant::now() < deadline => {
                    Some(table)
                }
                code => panic!("table {table}: {code}"),
            };
            open = open.iter().copied().zip(&replies).filter_map(open_still).collect();
            if open.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asserts that all validators come to hold the same accounts, that no money came or went, and that all that was ever
    /// acknowledged is there, on each of them.
    pub fn ledger_is_whole(&self) {
        let states = self.agreed();
        let acks = read_acks(&self.acks_file()).expect("the load has listed its acknowledgements");
        assert!(!acks.is_empty());
        let sequences: HashMap<Address, u64> = self.keys.iter().map(KeyPair::address).zip(states).collect();
        for ack in &acks {
            assert!(sequences[&ack.sender] >= ack.sequence, "acknowledged and gone: {ack}");
        }
        let step = (acks.len() / SAMPLE).max(1);
        for (index, ack) in acks.iter().step_by(step).enumerate() {
            self.has_place(index % usize::from(self.sizes.validators), ack);
        }
    }

    fn has_place(&self, node: usize, ack: &Ack) {
        let rpc = self.devnet.nodes()[node].rpc();
        let found = rpc.transaction(&ack.id.to_string()).expect("the validator answers");
        // A validator that caught up by fetching state, not blocks, need not know each transaction.
        let fetched = self.counter(node, "state_transfers_total") > 0;
        let Some(found) = found else { return assert!(fetched, "validator {node} does not know {ack}") };
        let fate = found.view.fate;
        assert_eq!(fate.status, "committed", "{ack}");
        assert_eq!(
            (fate.table, fate.height, fate.index),
            (Some(ack.table), Some(ack.height), Some(ack.index))
        );
    }

    /// Waits until all validators tell the same of all accounts, and all money is there. Returns the sequences.
    fn agreed(&self) -> Vec<u64> {
        let deadline = Instant::now() + AGREED_WITHIN;
        loop {
            let told: Vec<Vec<AccountState>> =
                (0..self.devnet.nodes().len()).map(|node| self.accounts(node)).collect();
            let sums: Vec<u64> =
                told.iter().map(|states| states.iter().map(|state| state.balance).sum()).collect();
            // Money between two tables is in neither account, so less is a matter of time; more never is.
            assert!(sums.iter().all(|&sum| sum <= self.genesis.supply()), "money out of nothing: {sums:?}");
            if sums.iter().all(|&sum| sum == self.genesis.supply())
                && told.iter().all(|states| *states == told[0])
            {
                return told[0].iter().map(|state| state.sequence).collect();
            }
            assert!(
                Instant::now() < deadline,
                "validators don't agree: of {} they find {sums:?}; {}",
                self.genesis.supply(),
                differences(&told)
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn accounts(&self, node: usize) -> Vec<AccountState> {
        let addresses: Vec<Address> = self.keys.iter().map(KeyPair::address).collect();
        let states = self.client(node).accounts(&addresses).expect("the validator answers");
        states.into_iter().map(|state| state.expect("all accounts are funded")).collect()
    }

    /// The sum of a counter's samples on one validator, by its Prometheus name.
    pub fn counter(&self, node: usize, name: &str) -> u64 {
        let metrics = self.devnet.nodes()[node].rpc().metrics().expect("the validator answers");
        metrics.metrics.value(name)
    }
}

/// Adds to the configuration of every validator.
pub fn configure(devnet: &Devnet, text: &str) {
    for index in 0..devnet.nodes().len() {
        let path = devnet.layout().config(index);
        let config = fs::read_to_string(&path).expect("a configuration");
        fs::write(&path, format!("{config}\n{text}")).expect("it can be changed");
    }
}

/// Waits until something is the case.
pub fn eventually(what: &str, such: impl Fn() -> bool) {
    let deadline = Instant::now() + HAPPENS_WITHIN;
    while !such() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many accounts each validator tells otherwise than the first one.
fn differences(told: &[Vec<AccountState>]) -> String {
    let others = |states: &Vec<AccountState>| states.iter().zip(&told[0]).filter(|(a, b)| a != b).count();
    format!("accounts told otherwise than by v0: {:?}", told.iter().map(others).collect::<Vec<_>>())
}

impl Drop for Network {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in self.devnet.nodes() {
                let text = node.log_text();
                let lines: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("--- end of {}'s log", node.name());
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
