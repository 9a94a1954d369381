//! How a command ends: its exit code, and its error in one line that says what to do next.

use std::{fmt, process::ExitCode};

/// Why a command did not do what it was asked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It was refused, or something failed on the way.
    Failed(String),
    /// The command line, a configuration, key or genesis can't be used; nothing was done.
    Usage(String),
    /// No answer in time; what was asked for may still happen.
    TimedOut(String),
    /// Stopped by SIGINT or SIGTERM.
    Interrupted,
}

/// The outcome of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// What `topio --help` says about exit codes.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    refused, or failed on the way
  2    wrong usage, or a configuration, key or genesis that can't be used; nothing was done
  3    no answer in time; what was asked for may still happen
  130  interrupted (Ctrl-C, SIGTERM)";

impl Failure {
    /// An error that came up on the way.
    pub fn failed(error: impl fmt::Display) -> Failure {
        Failure::Failed(error.to_string())
    }

    /// An error in what the user gave.
    pub fn usage(error: impl fmt::Display) -> Failure {
        Failure::Usage(error.to_string())
    }

    /// The process's exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::TimedOut(_) => 3,
            Failure::Interrupted => 130,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text) | Failure::Usage(text) | Failure::TimedOut(text) => f.write_str(text),
            Failure::Interrupted => f.write_str("interrupted"),
        }
    }
}
