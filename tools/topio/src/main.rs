//! The `topio` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use topio::{commands::Cli, exit::Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        // Who interrupts knows it.
        Err(Failure::Interrupted) => Failure::Interrupted.code(),
        Err(failure) => {
            eprintln!("topio: {failure}");
            failure.code()
        }
    }
}
