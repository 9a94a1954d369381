//! Accounts, transactions and blocks in the nodes' answers, as far as commands read them, and how people read them.

use std::{
    fmt::{self, Display},
    time::{Duration, UNIX_EPOCH},
};

use dag::{Height, ReplicaId, TableId, View};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::Value;

use crate::values::Amount;

/// A node's answer: as JSON unchanged, for people as `T` shows it.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    raw: Value,
    /// The part that commands read.
    pub view: T,
}

impl<T> Serialize for Answered<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<T: Display> Display for Answered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Answered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Value::deserialize(deserializer)?;
        let view = T::deserialize(&raw).map_err(D::Error::custom)?;
        Ok(Answered { raw, view })
    }
}

fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| D::Error::custom(format!("«{text}»: {error}")))
}

/// The network.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its id.
    #[serde(deserialize_with = "parsed")]
    pub chain: u64,
    /// The hash of its genesis.
    pub genesis: String,
    /// The epoch that transactions are to be signed in.
    pub epoch: u32,
    /// Its tables.
    pub tables: u16,
    /// Money in existence.
    pub supply: Amount,
}

/// An account.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its address.
    pub address: String,
    /// Its table.
    pub table: TableId,
    /// What it holds.
    pub balance: Amount,
    /// The last executed sequence.
    pub sequence: u64,
    /// The last sequence that the node holds, executed or waiting.
    pub pending_sequence: u64,
    /// Length of its chain.
    pub unit_height: u64,
    /// Hash of its newest unit.
    pub unit_head: String,
}

impl Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { address, table, balance, sequence, pending_sequence, unit_height, unit_head } = self;
        writeln!(f, "address    {address}")?;
        writeln!(f, "balance    {balance} TOP")?;
        writeln!(
            f,
            "sequence   {sequence} executed, {} waiting",
            pending_sequence.saturating_sub(*sequence)
        )?;
        writeln!(f, "chain      {unit_height} units, the newest {unit_head}")?;
        writeln!(f, "table      {table}")
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, Deserialize)]
pub struct Fate {
    /// Its id.
    pub id: String,
    /// `pending`, `committed`, `failed` or `refused`.
    pub status: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// The table that executed it.
    pub table: Option<TableId>,
    /// The block's height there.
    pub height: Option<Height>,
    /// Its place in the block.
    pub index: Option<u32>,
}

impl Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let (true, Some(reason)) = (self.status != "committed", &self.reason) {
            write!(f, " ({reason})")?;
        }
        if let (Some(table), Some(height), Some(index)) = (self.table, self.height, self.index) {
            write!(f, "  table {table}  height {height}  index {index}")?;
        }
        writeln!(f, "  id {}", self.id)
    }
}

/// Who pays whom.
#[derive(Clone, Debug, Deserialize)]
pub struct Transaction {
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
    /// Who pays.
    pub sender: String,
    /// With which sequence.
    pub sequence: u64,
    /// What is offered to the network.
    pub fee: Amount,
    /// Who receives.
    pub payees: Vec<Payee>,
}

/// One that is paid.
#[derive(Clone, Debug, Deserialize)]
pub struct Payee {
    /// The account.
    pub to: String,
    /// How much.
    pub amount: Amount,
}

impl Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fate)?;
        writeln!(f, "from {}  sequence {}  fee {} TOP", self.sender, self.sequence, self.fee)?;
        self.payees.iter().try_for_each(|payee| writeln!(f, "to   {}  {} TOP", payee.to, payee.amount))
    }
}

/// A block of a table.
#[derive(Clone, Debug, Deserialize)]
pub struct Block {
    /// Its hash.
    pub hash: String,
    /// Its table.
    pub table: TableId,
    /// Its height.
    pub height: Height,
    /// The view that it was proposed in.
    pub view: View,
    /// When, µs since 1970.
    pub time: u64,
    /// Who proposed it.
    pub proposer: ReplicaId,
    /// The block before it.
    pub parent: String,
    /// Blocks of other tables whose receipts it applies.
    pub inbox: Vec<Value>,
    /// Its transactions.
    pub transactions: Vec<Transaction>,
    /// The votes for it, where the node still has them.
    pub certificate: Option<Votes>,
}

/// A certificate.
#[derive(Clone, Debug, Deserialize)]
pub struct Votes {
    /// Who voted.
    pub signers: Vec<ReplicaId>,
}

impl Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Block { hash, table, height, view, time, proposer, parent, inbox, transactions, certificate } =
            self;
        let time = UNIX_EPOCH + Duration::from_micros(*time);
        writeln!(f, "block      {hash}")?;
        writeln!(f, "place      table {table}  height {height}  view {view}  proposer {proposer}")?;
        writeln!(f, "time       {}", humantime::format_rfc3339_micros(time))?;
        writeln!(f, "parent     {parent}")?;
        if let Some(Votes { signers }) = certificate {
            writeln!(f, "committed  by {signers:?}")?;
        }
        writeln!(f, "holds      {} transactions, receipts of {} blocks", transactions.len(), inbox.len())?;
        for (index, transaction) in transactions.iter().enumerate() {
            let paid = transaction.payees.iter().fold(0u64, |sum, payee| sum.saturating_add(payee.amount.0));
            let (fate, to) = (&transaction.fate, transaction.payees.first().map_or("", |payee| &payee.to));
            let more = if transaction.payees.len() > 1 { " and others" } else { "" };
            let (sender, paid) = (&transaction.sender, Amount(paid));
            writeln!(f, "{index:>5}  {}  {}  {sender} pays {paid} TOP to {to}{more}", fate.id, fate.status)?;
        }
        Ok(())
    }
}
