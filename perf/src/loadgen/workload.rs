//! What to send, and where to.

use std::{net::SocketAddr, time::Duration};

use dag::{ChainId, Epoch, keys::KeyPair, transaction};

use super::{acks::AcksError, schedule::Schedule};
use crate::client::ClientError;

/// Most bytes that the signed transactions of one run may take.
pub const MAX_SCRIPT_BYTES: u64 = 8 << 30;
/// Longest run, warm-up included.
const MAX_RUN: Duration = Duration::from_secs(24 * 3600);
/// Highest rate, transactions per second: beyond what one thread can send.
const MAX_RATE: u64 = 10_000_000;

/// The network under load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Submission ports; the i-th is the i-th validator of the committee, as far as known.
    pub submission: Vec<SocketAddr>,
    /// The network.
    pub chain: ChainId,
    /// The current epoch.
    pub epoch: Epoch,
    /// Tables of the shard, a power of two.
    pub tables: u16,
    /// Size of the committee.
    pub validators: u16,
}

/// Which validator a transaction is submitted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Routing {
    /// The first primary of the sender's table, which saves a forwarding. Clients may, but need not, do this.
    #[default]
    Primary,
    /// Any: each sender uses one validator drawn at random, so that most transactions have to be forwarded.
    Any,
}

/// The load. Senders and payees are drawn uniformly.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Accounts with money, at least two (see [`accounts`](super::accounts)).
    pub accounts: Vec<KeyPair>,
    /// Payees of each transaction: 1 for transfers, 2 to 255 for multi-transfers.
    pub payees: u8,
    /// Micro-TOP for each payee.
    pub amount: u64,
    /// Micro-TOP offered to the network.
    pub fee: u64,
    /// Transactions per second.
    pub rate: u64,
    /// Load at the same rate before the measured time.
    pub warm_up: Duration,
    /// The measured time.
    pub duration: Duration,
    /// Connections to each validator.
    pub connections: u16,
    /// Which validator to submit to.
    pub routing: Routing,
    /// What all random choices follow from.
    pub seed: [u8; 32],
    /// How often a refusal that says "later" is tried again, 100 ms after it. Below six, a validator that takes no
    /// transactions is not left.
    pub retries: u8,
    /// Silence, with answers due, after which a connection counts as lost.
    pub stall_timeout: Duration,
    /// How long to wait, after the last transaction was due, for outstanding replies.
    pub drain: Duration,
}

impl Workload {
    /// Transfers at this rate for this long, after a second of warm-up; everything else at its default.
    pub fn transfers(accounts: Vec<KeyPair>, rate: u64, duration: Duration) -> Workload {
        Workload {
            accounts,
            payees: 1,
            amount: 1,
            fee: 0,
            rate,
            warm_up: Duration::from_secs(1),
            duration,
            connections: 1,
            routing: Routing::Primary,
            seed: [0; 32],
            retries: 20,
            stall_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }

    /// When the transactions are due.
    pub(super) fn schedule(&self) -> Schedule {
        Schedule::new(self.rate, self.warm_up, self.duration)
    }

    /// Bytes of one transaction with its length, as a submit frame holds it.
    pub(super) fn slot(&self) -> usize {
        2 + transaction::size(usize::from(self.payees))
    }

    /// Refuses what cannot be sent.
    pub(super) fn check(&self, target: &Target) -> Result<(), LoadError> {
        let invalid = |text: &'static str| Err(LoadError::Invalid(text));
        if target.submission.is_empty() || target.submission.len() > usize::from(target.validators) {
            return invalid("give the submission address of at least one, at most every, validator");
        }
        if !target.tables.is_power_of_two() {
            return invalid("the number of tables is a power of two: take it from the genesis");
        }
        if self.accounts.len() < 2 || u32::try_from(self.accounts.len()).is_err() {
            return invalid("transfers need at least 2 accounts, at most 2³² − 1");
        }
        if self.payees == 0 || self.amount == 0 {
            return invalid("a transaction has 1 to 255 payees and pays each of them at least 1 micro-TOP");
        }
        let paid = self.amount.checked_mul(u64::from(self.payees)).and_then(|sum| sum.checked_add(self.fee));
        if paid.is_none() {
            return invalid("amount × payees + fee is more than 2⁶⁴ − 1");
        }
        if !(1..=MAX_RATE).contains(&self.rate) || self.connections == 0 {
            return invalid(
                "the rate is 1 to 10,000,000 per second, over at least 1 connection per validator",
            );
        }
        if self.duration.is_zero() || self.warm_up.saturating_add(self.duration) > MAX_RUN {
            return invalid("a run lasts more than no time and at most a day");
        }
        let count = self.schedule().total();
        let bytes = u128::from(count) * u128::try_from(self.slot()).expect("a slot is small");
        if bytes > u128::from(MAX_SCRIPT_BYTES) || u32::try_from(count).is_err() {
            return Err(LoadError::TooLong { count, gib: bytes >> 30 });
        }
        Ok(())
    }
}

/// Why there was no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Settings that contradict each other or the protocol.
    #[error("{0}")]
    Invalid(&'static str),
    /// More transactions than memory is meant to hold.
    #[error("the run would hold {count} signed transactions ({gib} GiB) in memory: lower rate or duration")]
    TooLong {
        /// How many.
        count: u64,
        /// Memory for them.
        gib: u128,
    },
    /// No validator told the senders' sequences.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The network does not know an account.
    #[error(
        "account {0} has never been paid: are seed and number of accounts those of this network's genesis?"
    )]
    UnknownAccount(u32),
    /// The acknowledgements cannot be written down.
    #[error(transparent)]
    Acks(#[from] AcksError),
    /// The system refused to wait for sockets.
    #[error("waiting for sockets failed: {0}")]
    Poll(std::io::Error),
}
