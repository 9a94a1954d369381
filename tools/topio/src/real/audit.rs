//! Reads what the validators say of themselves and feeds the model ledger, which judges.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::Receiver},
    time::Duration,
};

use bytes::Bytes;
use dag::{
    Address, Block, Hash, Height, TableId,
    client::{Code, Reply},
};
use engine::{genesis::Genesis, topology::Signatures};
use serde::Deserialize;
use serde_json::{Value, json};
use sim::model::{Invariant, Ledger, Violation};

use super::clients::{News, Shared};
use crate::{
    devnet::Ports,
    rpc::{Rpc, RpcError, Status},
};

/// How long a validator may take to answer before it counts as out of reach.
const REACHED_WITHIN: Duration = Duration::from_secs(2);
/// Most blocks of a table that are read at once.
const READ: usize = 256;

/// A block as a validator tells it over JSON-RPC.
#[derive(Debug, Deserialize)]
pub struct ToldBlock {
    #[serde(deserialize_with = "hash")]
    hash: Hash,
    transactions: Vec<ToldResult>,
    /// In hexadecimal, where it was asked for.
    bytes: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToldResult {
    code: u8,
}

fn hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes).map_err(serde::de::Error::custom)?;
    Ok(Hash(bytes))
}

/// Who judges, and what was read so far.
pub struct Auditor {
    /// The judge.
    pub ledger: Ledger,
    pub(super) genesis: Genesis,
    pub(super) nodes: Arc<[Ports]>,
    rpcs: Vec<Rpc>,
    /// By validator and table: up to which height its blocks were read.
    seen: Vec<Vec<Height>>,
    news: Receiver<News>,
    /// Promises whose blocks were not read yet.
    waiting: Vec<(Hash, Reply)>,
    /// Transactions that are called executed without saying where.
    stale: Vec<Hash>,
    /// All promises that are final.
    pub(super) promises: Vec<(Hash, Reply)>,
    /// Blocks that a validator has only the state after.
    pub(super) absent: HashSet<(usize, TableId, Height)>,
    pub(super) shared: Arc<Shared>,
}

impl Auditor {
    /// Before anything has happened.
    pub fn new(genesis: Genesis, nodes: Arc<[Ports]>, news: Receiver<News>, shared: Arc<Shared>) -> Auditor {
        let tables = genesis.tables();
        let funded = genesis.allocations().iter().map(|allocation| (allocation.address, allocation.balance));
        Auditor {
            ledger: Ledger::new(Signatures::Ed25519.verify(), tables, funded),
            rpcs: nodes
                .iter()
                .map(|ports| Rpc::new(&ports.rpc_address()).with_timeout(REACHED_WITHIN))
                .collect(),
            seen: vec![vec![0; usize::from(tables)]; nodes.len()],
            genesis,
            nodes,
            news,
            waiting: Vec::new(),
            stale: Vec::new(),
            promises: Vec::new(),
            absent: HashSet::new(),
            shared,
        }
    }

    /// What is violated.
    pub fn violation(&self) -> Option<&Violation> {
        self.ledger.violation()
    }

    /// Notes a violation, now.
    pub fn fail(&mut self, invariant: Invariant, what: String) {
        self.ledger.fail(self.shared.now(), invariant, what);
    }

    /// A validator's RPC.
    pub(super) fn rpc(&self, host: usize) -> &Rpc {
        &self.rpcs[host]
    }

    /// Reads what is new on all validators that can be reached, and compares. Returns their states.
    pub fn look(&mut self) -> Vec<Option<Status>> {
        let states = (0..self.nodes.len()).map(|host| self.look_at(host)).collect();
        self.hear();
        states
    }

    /// A validator's state, where it can be reached and told of all that it has.
    fn look_at(&mut self, host: usize) -> Option<Status> {
        if self.has_to_stop() {
            return None;
        }
        let status = self.rpcs[host].status().ok()?.view;
        if let Some(fault) = status.faults.first() {
            self.fail(Invariant::Halt, format!("v{host} has a fault: {fault}"));
        }
        if !status.votes {
            self.fail(Invariant::Recovery, format!("v{host} has forgotten votes and only follows"));
        }
        for table in &status.tables {
            self.read(host, table.table, table.executed).ok()?;
        }
        Some(status)
    }

    fn has_to_stop(&self) -> bool {
        self.shared.stop.load(Relaxed)
    }

    /// Reads a validator's blocks of a table up to a height, which it has executed.
    fn read(&mut self, host: usize, table: TableId, executed: Height) -> Result<(), RpcError> {
        loop {
            let from = self.seen[host][usize::from(table)] + 1;
            if from > executed || self.has_to_stop() {
                return Ok(());
            }
            let heights: Vec<Height> = (from..=executed).take(READ).collect();
            let question = |&height: &Height| -> Value {
                json!({ "table": table, "height": height, "bytes": !self.ledger.knows(table, height) })
            };
            let questions: Vec<Value> = heights.iter().map(question).collect();
            let blocks: Vec<Option<ToldBlock>> = self.rpcs[host].call_each("getBlock", &questions)?;
            for (height, told) in heights.into_iter().zip(blocks) {
                match told {
                    Some(told) => self.on_block(host, table, height, &told),
                    // It has fetched a state in place of blocks. Others tell of them first, as the model skips none.
                    None if self.ledger.knows(table, height) => {
                        self.absent.insert((host, table, height));
                    }
                    None => return Ok(()),
                }
                self.seen[host][usize::from(table)] = height;
            }
        }
    }

    /// A validator tells of a block that it has executed.
    fn on_block(&mut self, host: usize, table: TableId, height: Height, told: &ToldBlock) {
        let now = self.shared.now();
        self.ledger.on_committed(now, host, table, height, told.hash);
        if !self.ledger.knows(table, height) {
            match parse(told) {
                Some(block)
                    if (block.hash(), block.height(), block.header().table) == (told.hash, height, table) =>
                {
                    self.ledger.on_block(now, table, &block);
                }
                _ => {
                    let what =
                        format!("v{host} tells of height {height} of table {table} and shows another block");
                    return self.fail(Invariant::Frames, what);
                }
            }
        }
        let codes: Option<Vec<Code>> =
            told.transactions.iter().map(|result| Code::from_byte(result.code)).collect();
        match codes {
            Some(codes) => self.ledger.on_executed(now, host, table, height, &codes),
            None => self.fail(Invariant::Frames, format!("v{host} gives a code that there is not")),
        }
        self.ledger.on_height(table, height);
    }

    /// Judges what the clients have heard, as far as the blocks are known.
    pub(super) fn hear(&mut self) {
        let now = self.shared.now();
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Acknowledged(id, reply) => {
                    // One that stood in a block too early stands in a later one too, which is asked for in its place.
                    if reply.code != Code::GappedSequence {
                        self.promises.push((id, reply));
                    }
                    self.waiting.push((id, reply));
                }
                News::Stale(id) => self.stale.push(id),
                News::Refused(host, id, code) => {
                    self.fail(Invariant::Admission, format!("{id} is good and refused by v{host}: {code}"));
                }
                News::Account(address, state) => self.ledger.on_account(now, &address, state.as_ref()),
                News::Foreign(what) => self.fail(Invariant::Frames, what),
            }
        }
        let tables = self.genesis.tables();
        for (id, reply) in std::mem::take(&mut self.waiting) {
            if reply.table < tables && self.ledger.knows(reply.table, reply.height) {
                self.ledger.on_acknowledged(now, &id, &reply);
            } else {
                self.waiting.push((id, reply));
            }
        }
    }

    /// When all blocks are read: no promise may be open.
    pub(super) fn close(&mut self) {
        self.hear();
        if let Some((id, reply)) = self.waiting.first() {
            let what = format!("{id} is acknowledged in a block that no validator has: {reply:?}");
            self.fail(Invariant::Acknowledged, what);
        }
        let now = self.shared.now();
        self.stale.iter().for_each(|id| self.ledger.on_called_stale(now, id));
    }

    /// Has every block read once more, from the first, and gives validators so long to answer from now on.
    pub(super) fn read_again(&mut self, answer_within: Duration) {
        self.rpcs.iter_mut().for_each(|rpc| *rpc = rpc.with_timeout(answer_within));
        self.seen.iter_mut().for_each(|seen| seen.fill(0));
        self.absent.clear();
    }

    /// Up to which height a validator's blocks of a table were read.
    pub(super) fn seen(&self, host: usize, table: TableId) -> Height {
        self.seen[host][usize::from(table)]
    }

    /// All accounts that the model knows.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.ledger.accounts().copied().collect()
    }
}

fn parse(told: &ToldBlock) -> Option<Block> {
    let bytes = hex::decode(told.bytes.as_ref()?).ok()?;
    Block::parse(Bytes::from(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use dag::{
        Transaction,
        table_block::{BlockBuilder, BlockHeader},
        transaction::{Payee, Terms, sign},
    };
    use engine::genesis::{
        GenesisValidator, Parameters,
        dev::{dev_account_key, dev_allocations},
    };

    use super::*;

    const SEED: [u8; 32] = [1; 32];

    fn auditor() -> (Auditor, Sender<News>) {
        let validators = (0..4).map(|index| GenesisValidator {
            name: format!("v{index}"),
            key: dev_account_key(&[9; 32], index).address(),
        });
        let parameters =
            Parameters { name: "t".into(), tables: 1, lanes: 1, time: 1, validators: validators.collect() };
        let genesis = Genesis::create(parameters, dev_allocations(&SEED, 2, 100)).unwrap();
        let nodes: Arc<[Ports]> = (1..=4).map(|host| Ports::alone_on([127, 0, 0, host].into())).collect();
        let (sender, news) = channel();
        (Auditor::new(genesis, nodes, news, Arc::new(Shared::new())), sender)
    }

    /// The first block of the table, with one transfer.
    fn block(time: u64) -> Block {
        let terms = Terms { chain: 5, epoch: 0, sequence: 1, fee: 0 };
        let payee = Payee { to: dev_account_key(&SEED, 1).address(), amount: 10 };
        let record = sign(&dev_account_key(&SEED, 0), &terms, &[payee]).unwrap();
        let transaction = Transaction::parse(&record).unwrap();
        let mut builder = BlockBuilder::new();
        assert!(builder.push(transaction.id(), &transaction));
        builder.seal(BlockHeader { chain: 5, height: 1, time, ..BlockHeader::default() })
    }

    fn told(block: &Block, code: u8) -> ToldBlock {
        let told = json!({
            "hash": block.hash().to_string(), "bytes": hex::encode(block.bytes()), "transactions": [{ "code": code }],
        });
        serde_json::from_value(told).unwrap()
    }

    fn violated(auditor: &Auditor) -> Option<Invariant> {
        auditor.violation().map(|violation| violation.invariant)
    }

    #[test]
    fn validators_that_agree_and_keep_their_promise_pass() {
        let (mut auditor, news) = auditor();
        let block = block(1);
        let reply = Reply { tag: 0, code: Code::Committed, table: 0, height: 1, index: 0 };
        // The promise comes before the block is read.
        news.send(News::Acknowledged(block.id(0), reply)).unwrap();
        auditor.hear();
        for host in 0..4 {
            auditor.on_block(host, 0, 1, &told(&block, 0));
        }
        auditor.close();
        assert_eq!(violated(&auditor), None);
        assert_eq!(auditor.ledger.acknowledged().len(), 1);
    }

    #[test]
    fn validators_that_differ_are_found() {
        let (one, other) = (block(1), block(2));
        for (second, expected) in [
            (told(&other, 0), Invariant::Agreement),
            (told(&one, 14), Invariant::Execution),
            (told(&one, 255), Invariant::Frames),
        ] {
            let (mut auditor, _news) = auditor();
            auditor.on_block(0, 0, 1, &told(&one, 0));
            auditor.on_block(1, 0, 1, &second);
            assert_eq!(violated(&auditor), Some(expected));
        }
        let (mut auditor, _news) = auditor();
        let shown = ToldBlock { bytes: Some(hex::encode(other.bytes())), ..told(&one, 0) };
        auditor.on_block(0, 0, 1, &shown);
        assert_eq!(violated(&auditor), Some(Invariant::Frames));
    }

    #[test]
    fn promises_that_nobody_keeps_are_found() {
        let block = block(1);
        let reply = Reply { tag: 0, code: Code::Committed, table: 0, height: 2, index: 0 };
        for (heard, expected) in [
            (News::Acknowledged(block.id(0), reply), Invariant::Acknowledged),
            (News::Acknowledged(Hash::ZERO, Reply { height: 1, ..reply }), Invariant::Acknowledged),
            (News::Stale(Hash::ZERO), Invariant::Admission),
            (News::Refused(2, Hash::ZERO, Code::BadSignature), Invariant::Admission),
            (News::Account(Address([3; 32]), None), Invariant::AccountChain),
            (News::Foreign("garbage".into()), Invariant::Frames),
        ] {
            let (mut auditor, news) = auditor();
            auditor.on_block(0, 0, 1, &told(&block, 0));
            news.send(heard).unwrap();
            auditor.close();
            assert_eq!(violated(&auditor), Some(expected));
        }
    }
}
