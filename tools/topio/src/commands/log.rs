//! `topio log`: what a stopped validator's disk is like, and how it is repaired.

use std::{
    fmt::{self, Display},
    path::PathBuf,
};

use engine::{
    config::Setup,
    repair::{self, Finding, Remedy, RepairError},
};
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    output::Format,
};

/// Subcommands of `topio log`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read a stopped validator's log and snapshots, and say what is damaged and what a repair would cost
    #[command(after_help = CHECK)]
    Check(CheckArguments),
    /// Put the damaged part of a stopped validator's log aside
    #[command(after_help = REPAIR)]
    Repair(RepairArguments),
}

const CHECK: &str = "\
Example:
  topio log check --config node.toml

Exit code 0 where the validator can start, 1 where it is damaged. Nothing is changed.";

const REPAIR: &str = "\
Examples:
  topio log repair --config node.toml
  topio log repair --config node.toml --silent

Where all votes are known from snapshots that were taken later, the log's damaged beginning is put aside and the validator votes
on. Where votes may be lost, nothing is done without --silent: then the validator follows its network and never votes again in
this epoch. A validator that votes after it has forgotten votes can break the network's agreement: so never delete its data
directory, and never restore it from a copy. Files that are put aside end in «.damaged»; they may be removed later.";

/// Arguments of `topio log check`.
#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    /// The node's configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Arguments of `topio log repair`.
#[derive(Debug, clap::Args)]
pub struct RepairArguments {
    /// The node's configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Go on without a vote, where votes may be lost
    #[arg(long)]
    silent: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether the validator can start.
    whole: bool,
    votes: bool,
    cores: Vec<Core>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Core {
    core: usize,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// What a repair does: `forget` costs old blocks, `silence` costs the validator's votes.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Core {
    fn new((core, finding): (usize, Finding)) -> Core {
        let (state, records, fault, remedy) = match finding {
            Finding::Empty => ("empty", None, None, None),
            Finding::Whole { records } => ("whole", Some(records), None, None),
            Finding::Damaged { fault, remedy } => {
                let remedy = match remedy {
                    Remedy::Forget { .. } => "forget",
                    Remedy::Silence { .. } => "silence",
                };
                ("damaged", None, Some(fault), Some(remedy))
            }
        };
        Core { core, state, records, fault, remedy }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Core { core, records, fault, remedy, .. } in &self.cores {
            match (records, fault, remedy) {
                (Some(records), ..) => writeln!(f, "core {core}: whole, {records} log records")?,
                (_, Some(fault), remedy) => {
                    writeln!(f, "core {core}: DAMAGED: {fault}")?;
                    f.write_str(match remedy {
                        Some("forget") => {
                            "  All votes are known from snapshots that were taken later. `topio log repair` puts the damaged part\n  \
                             aside; old blocks are lost here, peers have them. The validator votes on.\n"
                        }
                        _ => {
                            "  Votes may be lost, and no repair gives them back. `topio log repair --silent` puts the damaged part\n  \
                             aside; the validator then follows its network, but never votes again in this epoch.\n"
                        }
                    })?;
                }
                _ => writeln!(f, "core {core}: no log yet")?,
            }
        }
        if !self.votes {
            writeln!(f, "This validator does not vote: its log was cut.")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Repaired {
    put_aside: Vec<PathBuf>,
    votes: bool,
}

impl Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.put_aside.is_empty() {
            writeln!(f, "nothing was put aside")?;
        }
        self.put_aside.iter().try_for_each(|file| writeln!(f, "put aside: {}", file.display()))?;
        match self.votes {
            true => writeln!(f, "the validator can be started, and votes"),
            false => writeln!(f, "the validator can be started; it follows its network and does not vote"),
        }
    }
}

/// Runs `topio log`.
pub fn run(command: &Command, format: Format) -> Outcome {
    match command {
        Command::Check(arguments) => {
            let setup = Setup::load(&arguments.config).map_err(Failure::usage)?;
            let report = report(&setup)?;
            format.print(&report)?;
            if report.whole { Ok(()) } else { Err(Failure::failed("the validator can't start like this")) }
        }
        Command::Repair(arguments) => {
            let setup = Setup::load(&arguments.config).map_err(Failure::usage)?;
            let put_aside = repair::run(&setup, arguments.silent).map_err(failure)?;
            let votes = report(&setup)?.votes;
            format.print(&Repaired { put_aside, votes })
        }
    }
}

fn report(setup: &Setup) -> Outcome<Report> {
    let report = repair::check(setup).map_err(failure)?;
    let cores: Vec<Core> = report.cores.into_iter().enumerate().map(Core::new).collect();
    let whole = cores.iter().all(|core| core.remedy.is_none());
    Ok(Report { whole, votes: !report.silent, cores })
}

fn failure(error: RepairError) -> Failure {
    match error {
        RepairError::DataDir(_) | RepairError::Missing(_) => Failure::usage(error),
        _ => Failure::failed(error),
    }
}
