//! A genesis in two files: `genesis.toml` for people, `allocations.bin` beside it for the many accounts.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use dag::Address;
use serde::Deserialize;

use super::{
    ALLOCATION_SIZE, ALLOCATIONS_FILE, GENESIS_FILE, Genesis, GenesisError, GenesisValidator, Parameters,
    decode, encode,
};
use crate::config::toml_file;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisToml {
    version: u16,
    name: String,
    tables: u16,
    lanes: u16,
    time: u64,
    allocations: AllocationsToml,
    #[serde(default)]
    validator: Vec<ValidatorToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllocationsToml {
    count: u64,
    blake3: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidatorToml {
    name: String,
    #[serde(deserialize_with = "toml_file::text")]
    key: Address,
}

impl Genesis {
    /// Writes both files into `directory`, durably, and overwrites none.
    ///
    /// # Errors
    /// One of them exists, or can't be written.
    pub fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        let allocations = encode(self.allocations());
        let text = self.to_toml(&blake3::hash(&allocations));
        // The allocations first: where there is a genesis.toml, it is complete.
        write_new(directory, ALLOCATIONS_FILE, &allocations)?;
        write_new(directory, GENESIS_FILE, text.as_bytes())
    }

    /// Reads `genesis.toml` at `path` and the allocations beside it.
    ///
    /// # Errors
    /// A file is missing or damaged, the two don't belong together, or a rule of [`Genesis::create`] is broken.
    pub fn load(path: &Path) -> Result<Genesis, GenesisError> {
        let toml: GenesisToml = toml_file::read("genesis", path)?;
        if toml.version != 1 {
            return Err(GenesisError::Version { path: path.into(), version: toml.version });
        }
        let file = path.with_file_name(ALLOCATIONS_FILE);
        let bytes = read_allocations(&file, &toml.allocations)?;
        let allocations = decode(&bytes);
        if !allocations.is_sorted_by(|a, b| a.address < b.address) {
            return Err(GenesisError::Allocations { path: file, detail: "its accounts don't ascend" });
        }
        let validators =
            toml.validator.into_iter().map(|v| GenesisValidator { name: v.name, key: v.key }).collect();
        let parameters = Parameters {
            name: toml.name,
            tables: toml.tables,
            lanes: toml.lanes,
            time: toml.time,
            validators,
        };
        Genesis::create(parameters, allocations)
            .map_err(|rule| GenesisError::Rule { path: path.into(), rule: Box::new(rule) })
    }

    fn to_toml(&self, digest: &blake3::Hash) -> String {
        let mut text = String::new();
        // Names hold no character that TOML would escape.
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("a String takes all");
            text.push('\n');
        };
        line(format_args!(
            "# Genesis of the TOP network «{}». Any change makes another network,",
            self.name()
        ));
        line(format_args!("# except to the validators' names. Hash: {}", self.hash()));
        line(format_args!("version = 1\nname = \"{}\"", self.name()));
        line(format_args!("tables = {}\nlanes = {}", self.tables(), self.lanes()));
        line(format_args!("time = {} # µs since 1970", self.time()));
        line(format_args!("\n[allocations] # of {ALLOCATIONS_FILE}, in the same directory"));
        line(format_args!("count = {}\nblake3 = \"{digest}\"", self.allocations().len()));
        for validator in self.validators() {
            line(format_args!("\n[[validator]]\nname = \"{}\"\nkey = \"{}\"", validator.name, validator.key));
        }
        text
    }
}

/// The bytes of the allocations file, which are those that the genesis names.
fn read_allocations(path: &Path, expected: &AllocationsToml) -> Result<Vec<u8>, GenesisError> {
    let io = |source| GenesisError::Io { path: path.into(), action: "read", source };
    let differs = |detail| GenesisError::Allocations { path: path.into(), detail };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    // The size is compared before the file is read, so that a wrong one can't fill the memory.
    if expected.count.checked_mul(ALLOCATION_SIZE as u64) != Some(size) {
        return Err(differs("its size"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    match blake3::Hash::from_hex(&expected.blake3) {
        Ok(digest) if blake3::hash(&bytes) == digest && bytes.len() as u64 == size => Ok(bytes),
        Ok(_) => Err(differs("its blake3")),
        Err(_) => Err(differs("the blake3 there is not 64 hexadecimal digits")),
    }
}

/// Writes a file as a whole or not at all, unless there is one.
fn write_new(directory: &Path, name: &str, content: &[u8]) -> Result<(), GenesisError> {
    let path = directory.join(name);
    let io = |source| GenesisError::Io { path: path.clone(), action: "written", source };
    let mut file = tempfile::Builder::new()
        .prefix(".genesis-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(io)?;
    file.write_all(content).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist_noclobber(&path).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => GenesisError::Exists(path.clone()),
        _ => io(failed.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}
