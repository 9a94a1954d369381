//! `topio report`: measured runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use perf::report::{Summary, compare};

use crate::{
    exit::{Failure, Outcome},
    output::Format,
};

/// Subcommands of `topio report`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the figures of a run
    #[command(after_help = "Example:\n  topio report show topio-report")]
    Show {
        /// The report folder
        report: PathBuf,
    },
    /// Compare two runs, figure by figure
    #[command(
        after_help = "Example:\n  topio report compare before after\n\nFigures move with the machine: compare runs of one machine and one session."
    )]
    Compare {
        /// Report folder of the first run
        a: PathBuf,
        /// Report folder of the second run
        b: PathBuf,
    },
}

/// Runs `topio report`.
pub fn run(command: &Command, format: Format) -> Outcome {
    match command {
        Command::Show { report } => format.print(&read(report)?),
        Command::Compare { a, b } => format.print(&compare(a, b).map_err(Failure::usage)?),
    }
}

fn read(report: &Path) -> Outcome<Summary> {
    let path = if report.is_dir() { report.join("summary.json") } else { report.to_path_buf() };
    let text = fs::read(&path).map_err(|error| {
        Failure::Usage(format!("{} can't be read: {error}: give a report folder", path.display()))
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| Failure::Usage(format!("{} is no summary of a run: {error}", path.display())))
}
