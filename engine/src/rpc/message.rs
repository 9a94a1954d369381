//! What the RPC thread asks a core, and what the core answers: plain data.

use bytes::Bytes;
use dag::{
    Address, Block, Certificate, Hash, Height, ReplicaId, TableId, View,
    client::{AccountState, Code},
    state_tree::{AccountProof, CheckpointPreimage},
};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::metrics::{CoreMetrics, CoreUse};

/// A question for one core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Takes a transaction of an account of this core. Answer: [`Response::Submitted`].
    Submit {
        /// The record; its format is checked, its signature is not.
        record: Bytes,
        /// Answer only when it is executed and durable, or refused; otherwise as soon as it is in the mempool.
        wait: bool,
    },
    /// An account of this core. Answer: [`Response::Account`].
    Account(Address),
    /// A transaction by its id; every core is asked. Answer: [`Response::Transaction`].
    Transaction(Hash),
    /// An executed block of a table of this core. Answer: [`Response::Block`].
    Block {
        /// The table.
        table: TableId,
        /// The height, from 1.
        height: Height,
    },
    /// An executed block by its hash; every core is asked. Answer: [`Response::Block`].
    BlockByHash(Hash),
    /// The last executed block of a table of this core. Answer: [`Response::Block`].
    Latest(TableId),
    /// An account's proof under the last stable checkpoint. Answer: [`Response::Proof`].
    Proof(Address),
    /// The core's tables, peers and load. Answer: [`Response::Status`].
    Status,
    /// The core's numbers. Answer: [`Response::Metrics`].
    Metrics,
}

/// A core's answer.
#[derive(Debug)]
pub enum Response {
    /// What became of a submitted transaction.
    Submitted(Fate),
    /// An account; `None` where it has never been paid.
    Account(Option<AccountState>),
    /// A transaction; `None` where this core does not know it.
    Transaction(Option<TransactionInfo>),
    /// A block; `None` where this core does not hold it.
    Block(Option<Box<BlockInfo>>),
    /// A proof.
    Proof(ProofAnswer),
    /// The core's state.
    Status(CoreStatus),
    /// The core's numbers.
    Metrics(Box<CoreMetrics>),
}

/// A question with the way back. An answer that no one waits for any more is dropped.
#[derive(Debug)]
pub struct Call {
    /// The question.
    pub request: Request,
    /// Where the answer goes. Dropped without an answer, the client is told that the node is stopping.
    pub reply: oneshot::Sender<Response>,
}

impl Call {
    /// Whether the client has given up, so that an answer would be wasted.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers.
    pub fn answer(self, response: Response) {
        // The client may have gone meanwhile: then no one wants it.
        let _ = self.reply.send(response);
    }
}

/// A transaction's place in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The table.
    pub table: TableId,
    /// The block's height there.
    pub height: Height,
    /// The place in the block.
    pub index: u32,
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// In the mempool or in a block that is not yet executed and durable.
    Pending,
    /// Executed and durable, with success ([`Code::Committed`]) or without.
    Executed {
        /// Where.
        place: Place,
        /// The outcome.
        code: Code,
    },
    /// Not taken.
    Refused(Code),
}

/// A transaction that a node holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionInfo {
    /// Where it stands.
    pub fate: Fate,
    /// The record.
    pub record: Bytes,
}

/// An executed block.
#[derive(Clone, Debug)]
pub struct BlockInfo {
    /// The block.
    pub block: Block,
    /// The quorum's commit votes, where the node still has them.
    pub certificate: Option<Certificate>,
    /// The transactions that failed in execution, by ascending index; all others succeeded.
    pub failed: Vec<(u32, Code)>,
}

impl BlockInfo {
    /// What became of a transaction.
    pub fn code(&self, index: u32) -> Code {
        let failed = self.failed.binary_search_by_key(&index, |(failed, _)| *failed);
        failed.map_or(Code::Committed, |place| self.failed[place].1)
    }
}

/// The answer to a question for a proof.
#[derive(Clone, Debug)]
pub enum ProofAnswer {
    /// Here it is.
    Proven(Box<AccountProofInfo>),
    /// The account has never been paid.
    Unknown,
    /// The account has changed since the last stable checkpoint, or there is none yet: ask again after the next.
    Later,
}

/// All that convinces someone who knows the committee of an account's state; see [`dag::state_tree`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountProofInfo {
    /// The account under the checkpoint's root.
    pub proof: AccountProof,
    /// What the checkpoint's digest is the hash of.
    pub checkpoint: CheckpointPreimage,
    /// The quorum's votes on that digest.
    pub certificate: Certificate,
}

/// A core's state.
#[derive(Clone, PartialEq, Debug)]
pub struct CoreStatus {
    /// Where its time went; holds the core's number.
    pub core_use: CoreUse,
    /// Its tables.
    pub tables: Vec<TableStatus>,
    /// The other validators, as seen from this core's lanes.
    pub peers: Vec<PeerStatus>,
    /// What keeps it from working, in one line, such as a full disk.
    pub fault: Option<String>,
    /// Whether the validator votes; one that has forgotten votes only follows.
    pub votes: bool,
}

/// A table's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableStatus {
    /// The table.
    pub table: TableId,
    /// Its view.
    pub view: View,
    /// The primary of that view.
    pub primary: ReplicaId,
    /// Height of the last committed block.
    pub committed: Height,
    /// Height of the last executed block.
    pub executed: Height,
    /// Height of the last stable checkpoint.
    pub checkpoint: Height,
    /// Transactions in the mempool.
    pub pending: u64,
}

/// The channels of a core to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub replica: ReplicaId,
    /// Lanes of this core with an authenticated channel to it.
    pub lanes_connected: u16,
}
