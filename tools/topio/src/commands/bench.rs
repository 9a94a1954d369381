//! `topio bench`: load against a running network.

use std::{path::PathBuf, time::Duration};

use perf::loadgen::Routing;

use super::node::ParentArgument;
use crate::{
    bench::{self, Findings, Plan},
    exit::{Failure, Outcome},
    output::Format,
    signals::Interrupt,
    values::{Amount, DevSeed, NodeAddress, duration},
};

/// Subcommands of `topio bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Offer signed transfers at a constant rate, and report what became of them and how long it took
    Tps(TpsArguments),
}

const EXAMPLES: &str = "\
Example:
  topio bench tps --genesis genesis.toml --dev-seed accounts.seed --rate 20000 --duration 30 \\
    --node 10.0.0.1:9104,10.0.0.1:9100 --node 10.0.0.2:9104,10.0.0.2:9100 --report before

The load is open: transfer i is due at start + i / rate, whatever became of those before it, and
its latency counts from then. So a stall is seen in the latencies, not hidden by a generator that
waits. All transfers are signed before the run. Ctrl-C ends the load early; what was measured by
then is reported.";

/// Arguments of `topio bench tps`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TpsArguments {
    /// The network's genesis.toml
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The seed of the accounts that pay: 64 hexadecimal digits, or a file that holds them
    #[arg(long, value_name = "HEX|FILE")]
    dev_seed: DevSeed,
    /// Submission and RPC port of a validator; once for each of them, in the genesis' order
    #[arg(long = "node", value_name = "SUBMISSION,RPC", required = true)]
    nodes: Vec<NodeAddress>,
    /// Transactions per second
    #[arg(long)]
    rate: u64,
    /// How long, in seconds or with a unit
    #[arg(long, value_parser = duration)]
    duration: Duration,
    /// Load before the measured time
    #[arg(long, default_value = "1", value_parser = duration, value_name = "DURATION")]
    warm_up: Duration,
    /// Payees of each transaction: 1 for transfers, up to 255 for multi-transfers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    payees: u8,
    /// What each payee gets, in TOP
    #[arg(long, default_value = "0.000001")]
    amount: Amount,
    /// What each transaction offers to the network, in TOP
    #[arg(long, default_value = "0")]
    fee: Amount,
    /// Connections to each validator
    #[arg(long, default_value_t = 1)]
    connections: u16,
    /// Send to any validator, instead of the first primary of the sender's table
    #[arg(long)]
    any_validator: bool,
    /// Write the report folder here
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// List each acknowledged transaction in this file
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    #[command(flatten)]
    parent: ParentArgument,
}

/// Runs `topio bench`.
pub fn run(command: Command, format: Format) -> Outcome {
    let Command::Tps(arguments) = command;
    arguments.parent.tie()?;
    let interrupt = Interrupt::from_signals()?;
    let report = arguments.report.clone();
    let findings = bench::run(&arguments.plan(), report.as_deref(), &interrupt)?;
    format.print(&findings)?;
    interrupt.check()?;
    judge(&findings)
}

/// A load of which nothing was committed is a failure, whoever's it is.
fn judge(findings: &Findings) -> Outcome {
    if findings.summary.committed > 0 || findings.summary.offered == 0 {
        return Ok(());
    }
    Err(Failure::Failed(
        "nothing was committed: look at the refusals, and at `topio status` of each validator".into(),
    ))
}

impl TpsArguments {
    fn plan(self) -> Plan {
        Plan {
            genesis: self.genesis,
            seed: self.dev_seed,
            nodes: self.nodes,
            rate: self.rate,
            duration: self.duration,
            warm_up: self.warm_up,
            payees: self.payees,
            amount: self.amount.0,
            fee: self.fee.0,
            connections: self.connections,
            routing: if self.any_validator { Routing::Any } else { Routing::Primary },
            acks: self.acks,
        }
    }
}
