//! `topio account`, `topio block`, `topio tx`: what the ledger holds.

use dag::{Address, Hash, Height, TableId};
use serde_json::json;

use super::NodeArgument;
use crate::{
    exit::{Failure, Outcome},
    output::Format,
    rpc::{Answered, Block},
};

/// Arguments of `topio account`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  topio account top1pvsphz97shl7pvunkr4q03gx4uc5xa3nnuxf74c22uy9l4h0khxss60tz4"
)]
pub struct AccountArguments {
    /// The account
    address: Address,
    #[command(flatten)]
    node: NodeArgument,
}

/// Arguments of `topio block`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  topio block 3            the newest block of table 3\n  topio block 3 17\n  topio block --hash 8e0c…"
)]
pub struct BlockArguments {
    /// The table
    #[arg(required_unless_present = "hash")]
    table: Option<TableId>,
    /// The block's height there; without it, the newest block
    height: Option<Height>,
    /// The block's hash
    #[arg(long, value_name = "HASH", conflicts_with = "table", value_parser = hash)]
    hash: Option<Hash>,
    #[command(flatten)]
    node: NodeArgument,
}

/// Arguments of `topio tx`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  topio tx 5f1d… --json")]
pub struct TransactionArguments {
    /// The transaction's id, as `topio transfer` prints it
    #[arg(value_parser = hash)]
    id: Hash,
    #[command(flatten)]
    node: NodeArgument,
}

fn hash(text: &str) -> Result<Hash, &'static str> {
    Hash::from_hex(text).ok_or("write 64 hexadecimal digits")
}

/// Runs `topio account`.
pub fn account(arguments: &AccountArguments, format: Format) -> Outcome {
    let AccountArguments { address, node } = arguments;
    match node.client().account(address)? {
        Some(account) => format.print(&account),
        None => {
            Err(Failure::Failed(format!("{address} has never been paid: check the address and the network")))
        }
    }
}

/// Runs `topio block`.
pub fn block(arguments: &BlockArguments, format: Format) -> Outcome {
    let BlockArguments { table, height, hash, node } = arguments;
    let (method, params) = match (table, height, hash) {
        (_, _, Some(hash)) => ("getBlock", json!({ "hash": hash.to_string() })),
        (Some(table), Some(height), None) => ("getBlock", json!({ "table": table, "height": height })),
        (table, _, None) => ("getLatestBlock", json!({ "table": table })),
    };
    match node.client().call::<Option<Answered<Block>>>(method, &params)? {
        Some(block) => format.print(&block),
        None => Err(Failure::Failed(
            "this node holds no such block: ask another one, or look at `topio status`".into(),
        )),
    }
}

/// Runs `topio tx`.
pub fn transaction(arguments: &TransactionArguments, format: Format) -> Outcome {
    let TransactionArguments { id, node } = arguments;
    match node.client().transaction(&id.to_string())? {
        Some(transaction) => format.print(&transaction),
        None => Err(Failure::Failed(format!(
            "this node knows no transaction {id}: submit it, or ask another node"
        ))),
    }
}
