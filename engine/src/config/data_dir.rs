//! The data directory: one network's, one validator's, and one process's at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use dag::{Address, Hash};
use serde::Deserialize;

use super::toml_file::{self, TomlFileError};

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "identity.toml";
/// Its presence says that the validator has lost votes; see [`crate::repair`].
const SILENT_FILE: &str = "SILENT";
const TEMPORARY_PREFIX: &str = ".identity-";

/// An open data directory. The lock is held until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory can't be used. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds it.
    #[error("another node runs on the data directory {0}: stop it, or set another data_dir")]
    Locked(PathBuf),
    /// It holds another network's ledger.
    #[error(
        "data directory {path} is of another chain (genesis {found}, not {wanted}): set another data_dir, or that chain's genesis"
    )]
    OtherChain {
        /// The directory.
        path: PathBuf,
        /// The genesis hash that it was made for.
        found: Hash,
        /// The genesis hash of the configuration.
        wanted: Hash,
    },
    /// It holds another validator's votes.
    #[error(
        "data directory {path} is of another validator ({found}, not {wanted}): set another data_dir, or that validator's key_file"
    )]
    OtherValidator {
        /// The directory.
        path: PathBuf,
        /// The validator that it was made for.
        found: Address,
        /// The validator of the configuration.
        wanted: Address,
    },
    /// Something else's directory.
    #[error("{0} is neither empty nor a data directory of TOP: set data_dir to a directory of its own")]
    Foreign(PathBuf),
    /// Its identity file is damaged.
    #[error("{0}: restore the file from a backup; without it the directory can't be trusted")]
    Identity(#[from] TomlFileError),
    /// The operating system refused.
    #[error("data directory {path} can't be used: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(deserialize_with = "hash")]
    genesis: Hash,
    #[serde(deserialize_with = "toml_file::text")]
    validator: Address,
}

fn hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
    let text = String::deserialize(deserializer)?;
    Hash::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not 64 hexadecimal digits"))
}

impl DataDir {
    /// Opens the directory for one validator of one network, and makes it where there is none.
    ///
    /// # Errors
    /// It is in use, of another network or validator, something else's, or not writable.
    pub fn open(path: &Path, genesis: &Hash, validator: &Address) -> Result<DataDir, DataDirError> {
        let io = |source| DataDirError::Io { path: path.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        if !path.join(IDENTITY_FILE).exists() && !is_fresh(path).map_err(io)? {
            return Err(DataDirError::Foreign(path.into()));
        }
        let lock = lock(path)?;
        // Looked at again under the lock: another process may have made it meanwhile.
        if !path.join(IDENTITY_FILE).exists() {
            write_identity(path, genesis, validator).map_err(io)?;
        }
        let identity: Identity = toml_file::read("identity", &path.join(IDENTITY_FILE))?;
        let path = path.to_path_buf();
        if identity.genesis != *genesis {
            return Err(DataDirError::OtherChain { path, found: identity.genesis, wanted: *genesis });
        }
        if identity.validator != *validator {
            return Err(DataDirError::OtherValidator { path, found: identity.validator, wanted: *validator });
        }
        Ok(DataDir { path, _lock: lock })
    }

    /// Whether the validator must never vote again: its directory has lost votes.
    pub fn is_silent(&self) -> bool {
        self.path.join(SILENT_FILE).exists()
    }

    /// Notes durably that the validator must never vote again.
    ///
    /// # Errors
    /// The disk's.
    pub fn silence(&self) -> io::Result<()> {
        let text = "This validator's log was cut: it may have forgotten votes, so it follows its network and never votes.\n\
                    Who removes this file risks that it votes against its past, which breaks the network's agreement.\n";
        let mut file = File::create(self.path.join(SILENT_FILE))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        File::open(&self.path)?.sync_all()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether nothing is in the directory but what an interrupted first start, or a new file system, leaves there.
fn is_fresh(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        if !ours && name != LOCK_FILE && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let io = |source| DataDirError::Io { path: path.into(), source };
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_FILE)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(path.into())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

fn write_identity(path: &Path, genesis: &Hash, validator: &Address) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(path)?;
    writeln!(file, "# Whose data this directory holds. Written once, at the first start; don't change it.")?;
    writeln!(file, "genesis = \"{genesis}\"\nvalidator = \"{validator}\"")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path.join(IDENTITY_FILE))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GENESIS: Hash = Hash([1; 32]);
    const VALIDATOR: Address = Address([2; 32]);

    fn refused(path: &Path, genesis: Hash, validator: Address) -> String {
        DataDir::open(path, &genesis, &validator).unwrap_err().to_string()
    }

    #[test]
    fn belongs_to_one_chain_and_one_validator() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        drop(DataDir::open(&path, &GENESIS, &VALIDATOR).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(DataDir::open(&path, &GENESIS, &VALIDATOR).unwrap());
        assert!(refused(&path, Hash([9; 32]), VALIDATOR).contains("is of another chain (genesis 0101"));
        assert!(refused(&path, GENESIS, Address([9; 32])).contains("is of another validator (top1"));
    }

    #[test]
    fn one_node_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let open = DataDir::open(root.path(), &GENESIS, &VALIDATOR).unwrap();
        let text = refused(root.path(), GENESIS, VALIDATOR);
        assert!(text.starts_with("another node runs on the data directory"), "{text}");
        drop(open);
        DataDir::open(root.path(), &GENESIS, &VALIDATOR).unwrap();
    }

    #[test]
    fn refuses_what_it_did_not_make() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.txt"), "x").unwrap();
        assert!(refused(root.path(), GENESIS, VALIDATOR).contains("neither empty nor a data directory"));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing was left there");
        let file = root.path().join("thesis.txt");
        assert!(refused(&file, GENESIS, VALIDATOR).contains("can't be used"));
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), &GENESIS, &VALIDATOR).unwrap());
        fs::write(root.path().join(IDENTITY_FILE), "genesis = \"12\"\n").unwrap();
        assert!(refused(root.path(), GENESIS, VALIDATOR).contains("identity.toml:1:11: not 64"));
    }

    #[test]
    fn an_interrupted_first_start_is_repeated() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(LOCK_FILE), "").unwrap();
        fs::write(root.path().join(".identity-x1"), "gen").unwrap();
        DataDir::open(root.path(), &GENESIS, &VALIDATOR).unwrap();
    }
}
