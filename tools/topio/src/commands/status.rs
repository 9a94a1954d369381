//! `topio status`: how a validator is.

use super::NodeArgument;
use crate::{exit::Outcome, output::Format};

/// Arguments of `topio status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  topio status --rpc 127.0.0.1:9101")]
pub struct Arguments {
    #[command(flatten)]
    node: NodeArgument,
}

/// Runs `topio status`.
pub fn run(arguments: &Arguments, format: Format) -> Outcome {
    format.print(&arguments.node.client().status()?)
}
