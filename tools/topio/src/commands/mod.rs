//! The subcommands: a file for each, with its arguments, what it does and what it prints.

mod bench;
mod devnet;
mod genesis;
mod keys;
mod ledger;
mod log;
mod node;
mod report;
mod sim;
mod status;
mod transfer;
mod turn;
mod vpn;

use clap::{Args, Parser, Subcommand};
use engine::config::HostPort;

use crate::{
    exit::{self, Outcome},
    output::Format,
    rpc::Rpc,
};

/// TOP: a sharded ledger and the network that it pays for
#[derive(Debug, Parser)]
#[command(version, after_help = exit::HELP, max_term_width = 110)]
pub struct Cli {
    /// Print facts as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole network on this machine, put it under load, and report
    Devnet(devnet::Arguments),
    /// Run a validator
    Node(node::Arguments),
    /// Make and show secret keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Make the genesis of a new network
    Genesis(genesis::Arguments),
    /// Check and repair a stopped validator's disk
    #[command(subcommand)]
    Log(log::Command),
    /// Show an account
    #[command(alias = "queryAccount")]
    Account(ledger::AccountArguments),
    /// Pay an account
    Transfer(transfer::Arguments),
    /// Show a block
    #[command(alias = "queryBlock")]
    Block(ledger::BlockArguments),
    /// Show a transaction
    #[command(alias = "querytx")]
    Tx(ledger::TransactionArguments),
    /// Show how a validator is: tables, peers, cores
    Status(status::Arguments),
    /// Run a TURN server, make credentials for one
    #[command(subcommand)]
    Turn(turn::Command),
    /// Run a WireGuard VPN: serve, add clients, connect
    #[command(subcommand)]
    Vpn(vpn::Command),
    /// Measure a running network
    #[command(subcommand)]
    Bench(bench::Command),
    /// Show and compare reports of measured runs
    #[command(subcommand)]
    Report(report::Command),
    /// Simulate whole networks of the real validator code under faults
    Sim(sim::Arguments),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever kept it from that.
    pub fn run(self) -> Outcome {
        let format = if self.json { Format::Json } else { Format::Text };
        match self.command {
            Command::Devnet(arguments) => devnet::run(&arguments, format),
            Command::Node(arguments) => node::run(&arguments),
            Command::Keys(command) => keys::run(&command, format),
            Command::Genesis(arguments) => genesis::run(arguments, format),
            Command::Log(command) => log::run(&command, format),
            Command::Account(arguments) => ledger::account(&arguments, format),
            Command::Transfer(arguments) => transfer::run(&arguments, format),
            Command::Block(arguments) => ledger::block(&arguments, format),
            Command::Tx(arguments) => ledger::transaction(&arguments, format),
            Command::Status(arguments) => status::run(&arguments, format),
            Command::Turn(command) => turn::run(command, format),
            Command::Vpn(command) => vpn::run(&command, format),
            Command::Bench(command) => bench::run(command, format),
            Command::Report(command) => report::run(&command, format),
            Command::Sim(arguments) => sim::run(&arguments, format),
        }
    }
}

/// Which node is asked.
#[derive(Clone, Debug, Args)]
struct NodeArgument {
    /// RPC port of the node to ask
    #[arg(long, env = "TOPIO_RPC", default_value = "127.0.0.1:9100", value_name = "HOST:PORT")]
    rpc: HostPort,
}

impl NodeArgument {
    fn client(&self) -> Rpc {
        Rpc::new(&self.rpc)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_that_users_know_are_understood() {
        for line in ["topio querytx 00", "topio queryAccount top1x", "topio queryBlock 1 2"] {
            let parsed = Cli::try_parse_from(line.split(' '));
            let unknown =
                parsed.err().filter(|error| error.kind() == clap::error::ErrorKind::InvalidSubcommand);
            assert!(unknown.is_none(), "{line}");
        }
    }
}
