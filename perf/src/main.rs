//! The figures that a load against a network does not show. Each command prints what it measured and how that stands to what
//! is required; with `--json`, the same for programs. Progress goes to standard error.
#![forbid(unsafe_code)]

use std::{fmt::Display, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use perf::{burst, exec, idle, log, mixed, network, restart, sig, turn, vpn};
use serde::Serialize;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Examples:
  cargo run --release -p perf -- exec
  cargo run --release -p perf -- idle --json

perf/README.md says which command is behind which figure. A figure that misses what is required is printed, not an error.

Exit codes:
  0    measured
  1    could not be measured
  2    wrong usage";

/// Measurements of the engine
#[derive(Debug, Parser)]
#[command(name = "perf", version, after_help = HELP, max_term_width = 110)]
struct Cli {
    /// Print facts as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a transfer's execution costs on one core, and the memory of an account
    Exec(exec::Arguments),
    /// Append rate of the log beside fio's
    Log(log::Arguments),
    /// How long a validator takes to restart
    Restart(restart::Arguments),
    /// What a network costs that has nothing to do
    Idle(idle::Arguments),
    /// What a relayed packet costs, beside coturn's
    Turn(turn::Arguments),
    /// A TURN server that is measured
    #[command(hide = true)]
    TurnServer {
        #[arg(long)]
        port: u16,
    },
    /// What a relayed packet costs past the kernel, beside sockets, and under overload
    Burst(burst::Arguments),
    /// A relay that is measured
    #[command(hide = true)]
    BurstServer {
        #[arg(long)]
        config: String,
        /// The interface that it sends by
        #[arg(long)]
        device: String,
    },
    /// A VPN of ours beside others
    Vpn(vpn::Arguments),
    /// One end of a VPN that is measured
    #[command(hide = true)]
    VpnEnd(vpn::End),
    /// A VPN and agreement on the same cores
    Mixed(mixed::Arguments),
    /// The part of `mixed` in the validators' namespace
    #[command(hide = true)]
    MixedInside(mixed::Inside),
    /// What a signature costs in a batch, beside ed25519-dalek
    Sig(sig::Arguments),
    /// A validator of a measured network
    #[command(hide = true)]
    Node {
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let text = match &cli.command {
        Command::Exec(arguments) => exec::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::Log(arguments) => log::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::Restart(arguments) => restart::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::Idle(arguments) => idle::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::Turn(arguments) => turn::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::TurnServer { port } => turn::serve(*port).map(|()| String::new()),
        Command::Burst(arguments) => burst::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::BurstServer { config, device } => burst::serve(config, device).map(|()| String::new()),
        Command::Vpn(arguments) => vpn::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::VpnEnd(end) => vpn::serve(end).map(|()| String::new()),
        Command::Mixed(arguments) => mixed::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::MixedInside(inside) => mixed::run_inside(inside),
        Command::Sig(arguments) => sig::run(arguments).map(|facts| render(&facts, cli.json)),
        Command::Node { config } => network::serve(config).map(|()| String::new()),
    };
    match text {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn render(facts: &(impl Serialize + Display), json: bool) -> String {
    if json {
        serde_json::to_string_pretty(facts).expect("facts are plain data") + "\n"
    } else {
        facts.to_string()
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
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("  perf {name}\n")), "{name}");
        }
    }
}
