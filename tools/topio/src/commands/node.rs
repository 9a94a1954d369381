//! `topio node`: a validator, from start to stop.

use std::path::PathBuf;

use engine::{
    config::Setup,
    process::{self, NodeError, Stop},
    relay::turn::ServeError,
};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::{
    exit::{Failure, Outcome},
    signals::on_signal,
};

const EXAMPLES: &str = "\
Example:
  topio node --config node.toml

engine/examples/node.toml explains every line of the configuration. The node prints a line that begins with «ready» when its
RPC answers. SIGINT and SIGTERM stop it cleanly; killed in any other way, it recovers from its log at the next start.";

/// Arguments of `topio node`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The node's configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    parent: ParentArgument,
}

/// For commands that other commands start.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ParentArgument {
    /// Be killed when this process, the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<i32>,
}

impl ParentArgument {
    /// Ties this process to its parent, where it was asked to.
    pub fn tie(self) -> Outcome {
        let Some(parent) = self.with_parent else { return Ok(()) };
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| Failure::failed(format!("can't be tied to the parent process: {error}")))?;
        // It may have ended before the kernel was told.
        let actual = getppid().map_or(0, Pid::as_raw_pid);
        if actual == parent { Ok(()) } else { Err(Failure::Failed("the parent process has ended".into())) }
    }
}

/// Runs `topio node`.
pub fn run(arguments: &Arguments) -> Outcome {
    arguments.parent.tie()?;
    let setup = Setup::load(&arguments.config).map_err(Failure::usage)?;
    let stop = Stop::new();
    let signalled = stop.clone();
    on_signal(move || signalled.request())?;
    process::run(setup, stop).map_err(failure)
}

/// What the operator can put right before the next start is a matter of configuration.
fn failure(error: NodeError) -> Failure {
    match error {
        NodeError::DataDir(_)
        | NodeError::Listen(_)
        | NodeError::Rpc(_)
        | NodeError::Resolve { .. }
        | NodeError::Turn(ServeError::Config(_) | ServeError::Listen(_)) => Failure::usage(error),
        _ => Failure::failed(error),
    }
}
