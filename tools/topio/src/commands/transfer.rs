//! `topio transfer`: one account pays another.

use std::path::PathBuf;

use dag::{
    Address,
    transaction::{Payee, Terms, sign},
};
use engine::{keyfile, rpc::code};
use serde_json::Value;

use super::NodeArgument;
use crate::{
    exit::{Failure, Outcome},
    output::Format,
    rpc::RpcError,
    values::Amount,
};

const EXAMPLES: &str = "\
Examples:
  topio transfer --from alice.key --to top1… --amount 12.5 --wait
  topio transfer --from alice.key --to top1… --amount 12.5 --fee 0.001 --rpc 10.0.0.7:9100

With --wait it ends when the transfer is executed and durable on a quorum, and prints table, height and index. Without, it ends
when the node has it; `topio tx` shows what became of it.";

/// Arguments of `topio transfer`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Key file of the account that pays
    #[arg(long, value_name = "KEYFILE")]
    from: PathBuf,
    /// The account that is paid
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
    /// How much, in TOP
    #[arg(long)]
    amount: Amount,
    /// What is offered to the network, in TOP
    #[arg(long, default_value = "0")]
    fee: Amount,
    /// Wait until it is executed and durable
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    node: NodeArgument,
}

/// Runs `topio transfer`.
pub fn run(arguments: &Arguments, format: Format) -> Outcome {
    let Arguments { from, to, amount, fee, wait, node } = arguments;
    let key = keyfile::load(from).map_err(Failure::usage)?;
    let rpc = node.client();
    let chain = rpc.chain()?;
    let sender = key.address();
    let account = rpc.account(&sender)?.ok_or_else(|| {
        Failure::Failed(format!("{sender} has never been paid, so it has nothing to send: fund it first"))
    })?;
    let sequence = account.view.pending_sequence.max(account.view.sequence) + 1;
    let terms = Terms { chain: chain.chain, epoch: chain.epoch, sequence, fee: fee.0 };
    let record = sign(&key, &terms, &[Payee { to: *to, amount: amount.0 }]).map_err(Failure::usage)?;
    let fate = rpc.send(&record, *wait).map_err(refused)?;
    format.print(&fate)
}

/// A refusal, with the place where the transaction failed in execution.
fn refused(error: RpcError) -> Failure {
    match &error {
        RpcError::Refused { code: code::REFUSED, message, data: Some(data) } => {
            let place = ["table", "height", "index"].map(|name| data.get(name).and_then(Value::as_u64));
            match place {
                [Some(table), Some(height), Some(index)] => Failure::Failed(format!(
                    "failed: {message} (table {table}, height {height}, index {index})"
                )),
                _ => Failure::Failed(format!("refused: {message}")),
            }
        }
        _ => error.into(),
    }
}
