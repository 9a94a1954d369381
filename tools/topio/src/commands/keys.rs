//! `topio keys`: secret keys in files.

use std::{fmt, path::PathBuf};

use engine::keyfile;
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    output::Format,
};

/// Subcommands of `topio keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new key, in a file that only you can read
    #[command(after_help = "Example:\n  topio keys new alice.key")]
    New {
        /// The file, which must not exist yet
        file: PathBuf,
    },
    /// Show a key's address; the secret stays in the file
    #[command(after_help = "Example:\n  topio keys show alice.key --json")]
    Show {
        /// The file
        file: PathBuf,
    },
}

/// What people may know of a key.
#[derive(Debug, Serialize)]
struct Key {
    address: String,
    public_key: String,
    file: PathBuf,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "address     {}", self.address)?;
        writeln!(f, "public key  {}", self.public_key)?;
        writeln!(f, "file        {}", self.file.display())
    }
}

/// Runs `topio keys`.
pub fn run(command: &Command, format: Format) -> Outcome {
    let (key, file) = match command {
        Command::New { file } => {
            let key = keyfile::generate()
                .map_err(|error| Failure::Failed(format!("the system gives no random numbers: {error}")))?;
            keyfile::create(file, &key).map_err(Failure::failed)?;
            (key, file)
        }
        Command::Show { file } => (keyfile::load(file).map_err(Failure::usage)?, file),
    };
    format.print(&Key {
        address: key.address().to_string(),
        public_key: hex::encode(key.public()),
        file: file.clone(),
    })
}
