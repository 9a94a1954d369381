//! The inputs kept for each target: `corpus/TARGET/*`.
//!
//! `valid-*` are the samples; `refused-*` and `accepted-*` the shortest input for each thing that a target says; anything else
//! was found and kept by hand.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    campaign::{Campaign, Finding},
    samples,
    targets::Target,
};

/// Mutations that a made corpus is chosen from.
const EXECUTIONS: u64 = 60_000;
/// Most bytes of a chosen input; samples may be longer.
const MAX_CHOSEN: usize = 9000;
/// Most chosen inputs of a target.
const MAX_FILES: usize = 40;

/// The folder of all corpora.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A target's inputs with their file names, sorted; none where there is no folder.
///
/// # Errors
/// A file can't be read.
pub fn load(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder = folder().join(target.name);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        inputs.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Why a corpus can't be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file can't be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something was found first.
    #[error("{}", .0.what)]
    Found(Finding),
}

/// Makes a target's corpus anew, from its samples; what was kept by hand stays. Returns the number of files.
///
/// # Errors
/// See [`MakeError`].
pub fn make(target: &'static Target) -> Result<usize, MakeError> {
    let folder = folder().join(target.name);
    fs::create_dir_all(&folder)?;
    let mut pool = Vec::new();
    for (name, bytes) in load(target)? {
        if ["valid-", "refused-", "accepted-"].iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_file(folder.join(name))?;
        } else {
            pool.push(bytes);
        }
    }
    for (name, bytes) in samples::of(target.name) {
        fs::write(folder.join(format!("valid-{name}")), &bytes)?;
        pool.push(bytes);
    }
    let mut campaign = Campaign::new(target, 1, pool.clone()).map_err(MakeError::Found)?;
    let mut input = Vec::new();
    while campaign.executions() < EXECUTIONS {
        campaign.step(&mut input).map_err(MakeError::Found)?;
    }
    let short = campaign.said().iter().filter(|(_, said)| said.shortest.len() <= MAX_CHOSEN);
    let mut files = pool.len();
    for (words, said) in short.filter(|(_, said)| !pool.contains(&said.shortest)).take(MAX_FILES) {
        let kind = if words == "accepted" { words } else { "refused" };
        let name = format!("{kind}-{}", &blake3::hash(&said.shortest).to_hex()[..8]);
        fs::write(folder.join(name), &said.shortest)?;
        files += 1;
    }
    Ok(files)
}
