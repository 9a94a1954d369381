//! Questions of the RPC thread: submissions that wait for their fate, and what the core knows of its tables.

use ahash::AHashMap;
use dag::{
    Address, Hash, Transaction,
    client::{Code, Reply},
};
use shard_core::{accounts::ProofError, mempool::Origin};

use super::{Core, TableNode, clients::ClientId, history::Committed, meters::Count};
use crate::rpc::{
    AccountProofInfo, BlockInfo, Call, CoreStatus, Fate, PeerStatus, Place, ProofAnswer, Request, Response,
    TableStatus, TransactionInfo,
};

/// Numbers of sessions from here on stand for submissions over RPC.
const FIRST: u64 = 1 << 47;
/// Submissions over RPC that wait at once.
const MAX_WAITING: usize = 4096;

/// Submissions over RPC that wait for an answer.
#[derive(Default)]
pub(super) struct Calls {
    waiting: AHashMap<ClientId, Waiting>,
    next: u64,
}

struct Waiting {
    call: Call,
    /// Answer only when the transaction is executed.
    to_the_end: bool,
}

impl Calls {
    fn insert(&mut self, core: u16, call: Call, to_the_end: bool) -> ClientId {
        let client = ClientId::new(core, FIRST + self.next);
        self.next += 1;
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.retain(|_, waiting| !waiting.call.is_abandoned());
        }
        self.waiting.insert(client, Waiting { call, to_the_end });
        client
    }

    /// The transaction is in the mempool.
    pub fn accepted(&mut self, client: Option<ClientId>) {
        let Some(client) = client else { return };
        if self.waiting.get(&client).is_some_and(|waiting| !waiting.to_the_end) {
            let waiting = self.waiting.remove(&client).expect("just found");
            waiting.call.answer(Response::Submitted(Fate::Pending));
        }
    }

    /// Passes a reply on; `false` where it is not for a call.
    pub fn answer(&mut self, client: ClientId, reply: &Reply) -> bool {
        let Some(waiting) = self.waiting.remove(&client) else { return false };
        waiting.call.answer(Response::Submitted(fate(reply)));
        true
    }
}

fn fate(reply: &Reply) -> Fate {
    if reply.height == 0 {
        return Fate::Refused(reply.code);
    }
    let place = Place { table: reply.table, height: reply.height, index: reply.index };
    Fate::Executed { place, code: reply.code }
}

impl Core {
    /// A question of the RPC thread. `fault` is what keeps the core from working, if anything; `lanes_up` counts the links to
    /// each validator.
    pub fn on_call(&mut self, call: Call, lanes_up: &[u16], fault: Option<&str>, now: u64) {
        let response = match &call.request {
            Request::Submit { record, wait } => {
                let (record, wait) = (record.clone(), *wait);
                return self.on_submit_call(call, record, wait, now);
            }
            Request::Account(address) => Response::Account(self.account_state(address)),
            Request::Transaction(id) => Response::Transaction(self.find_transaction(id)),
            Request::Block { table, height } => {
                Response::Block(self.table(*table).and_then(|table| table.history.at(*height)).and_then(info))
            }
            Request::BlockByHash(hash) => Response::Block(
                self.tables.iter().find_map(|table| table.history.by_hash(hash)).and_then(info),
            ),
            Request::Latest(table) => {
                let executed =
                    |table: &TableNode| table.history.at(table.state.executed_height()).and_then(info);
                Response::Block(self.table(*table).and_then(executed))
            }
            Request::Proof(address) => Response::Proof(self.proof(address)),
            Request::Status => Response::Status(self.status(lanes_up, fault)),
            Request::Metrics => {
                let waiting = self.tables.iter().map(|table| table.mempool.len() as u64).sum();
                let mut metrics = self.meters.snapshot();
                metrics.gauge("mempool_transactions", "Transactions that wait.", waiting);
                Response::Metrics(Box::new(metrics))
            }
        };
        call.answer(response);
    }

    /// The next executed block for the index: each is handed out once, those of a table in order.
    pub fn next_executed(&mut self) -> Option<BlockInfo> {
        let mut missed = 0;
        let next = self.tables.iter_mut().find_map(|table| {
            let executed = table.state.executed_height();
            table.history.take_executed(executed, &mut missed).and_then(info).map(|info| *info)
        });
        self.meters.count(Count::BlocksUnindexed, missed);
        next
    }

    fn table(&self, table: dag::TableId) -> Option<&TableNode> {
        self.slots.get(usize::from(table)).copied().flatten().map(|slot| &self.tables[slot])
    }

    fn on_submit_call(&mut self, call: Call, record: bytes::Bytes, wait: bool, now: u64) {
        let transaction = match Transaction::parse(&record) {
            Ok(transaction) => transaction,
            Err(error) => return call.answer(Response::Submitted(Fate::Refused(error.into()))),
        };
        let table = transaction.sender().table(self.shard.tables);
        let Some(slot) = self.slots[usize::from(table)] else {
            return call.answer(Response::Submitted(Fate::Refused(Code::UnknownTable)));
        };
        let client = self.calls.insert(self.placement.core, call, wait);
        self.submit(slot, Origin::Client { handle: client.to_u64(), tag: 0 }, record, now);
        self.answer_settled(now);
    }

    fn find_transaction(&self, id: &Hash) -> Option<TransactionInfo> {
        for table in &self.tables {
            if let Some(record) = table.mempool.waiting(id) {
                return Some(TransactionInfo { fate: Fate::Pending, record: record.clone() });
            }
            if let Some(place) = table.mempool.place(id) {
                let index = usize::try_from(place.index).expect("at most a block's transactions");
                let committed = table.history.at(place.height);
                let record = committed.map(|committed| committed.block.transaction_bytes(index));
                let code = committed.and_then(|committed| committed.codes.as_ref()?.get(index)).copied();
                let place = Place { table: place.table, height: place.height, index: place.index };
                let fate = Fate::Executed { place, code: code.unwrap_or(Code::Committed) };
                return Some(TransactionInfo { fate, record: record.unwrap_or_default() });
            }
        }
        None
    }

    fn proof(&self, address: &Address) -> ProofAnswer {
        let Some(table) = self.table(address.table(self.shard.tables)) else { return ProofAnswer::Unknown };
        let checkpoint = table.state.checkpoint();
        let stable = table.replica.stable().filter(|stable| stable.vote.height == checkpoint.height);
        match (table.state.prove(address), stable) {
            (Err(ProofError::Unknown), _) => ProofAnswer::Unknown,
            (Ok(proof), Some(certificate)) => ProofAnswer::Proven(Box::new(AccountProofInfo {
                proof,
                checkpoint: *checkpoint,
                certificate: certificate.clone(),
            })),
            _ => ProofAnswer::Later,
        }
    }

    fn status(&self, lanes_up: &[u16], fault: Option<&str>) -> CoreStatus {
        let tables = self.tables.iter().map(|table| {
            let summary = table.replica.summary();
            TableStatus {
                table: table.id,
                view: summary.view,
                primary: summary.primary,
                committed: summary.committed,
                executed: table.state.height(),
                checkpoint: summary.stable,
                pending: table.mempool.len() as u64,
            }
        });
        let peers = self.shard.peers().map(|replica| PeerStatus {
            replica,
            lanes_connected: lanes_up.get(usize::from(replica)).copied().unwrap_or(0),
        });
        CoreStatus {
            core_use: self.meters.core_use,
            tables: tables.collect(),
            peers: peers.collect(),
            fault: fault.map(str::to_owned),
            votes: !self.settings.silent,
        }
    }
}

/// An executed block as the RPC thread wants it.
fn info(committed: &Committed) -> Option<Box<BlockInfo>> {
    let failed = committed.codes.as_ref()?.iter().enumerate().filter(|(_, code)| **code != Code::Committed);
    Some(Box::new(BlockInfo {
        block: committed.block.clone(),
        certificate: Some(committed.certificate.clone()),
        failed: failed.map(|(index, code)| (u32::try_from(index).expect("at most 1024"), *code)).collect(),
    }))
}
