//! Secret keys in files that only their owner can read.
//!
//! ```text
//! # TOP secret key (Ed25519). Whoever reads this file owns the account: keep it at mode 0600.
//! <seed, 64 hexadecimal digits> <address, top1…>
//! ```
//!
//! The address is the public key of the seed (RFC 8032, section 5.1.5), so that a damaged file is noticed, not used.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use dag::{Address, Hash, address::AddressError, keys::KeyPair};
use zeroize::Zeroizing;

const HEADER: &str =
    "# TOP secret key (Ed25519). Whoever reads this file owns the account: keep it at mode 0600.";
/// Largest file that is looked at. A key file has 220 bytes; the rest is room for comments.
const MAX_FILE_SIZE: usize = 4096;

/// Why a key file can't be used. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("key file {0} does not exist: make one with `topio keys new`, or correct the path")]
    Missing(PathBuf),
    /// There is one already, and a key is never overwritten.
    #[error("key file {0} exists already and is not overwritten: choose another path, or move it away")]
    Exists(PathBuf),
    /// Another account of this machine could read it.
    #[error("key file {path} has mode {mode:04o}, so others can read it: chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key file, or damaged.
    #[error(
        "key file {path} {problem}: restore it from your backup, or make a new one with `topio keys new`"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: KeyFileProblem,
    },
    /// The operating system refused.
    #[error("key file {path} can't be {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

/// What is wrong with a key file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyFileProblem {
    /// A directory, a pipe, or too large.
    #[error("is not a key file")]
    NotAKeyFile,
    /// No line of the two fields.
    #[error("has no line «seed address»")]
    Layout,
    /// The seed is not 64 hexadecimal digits.
    #[error("has a damaged seed")]
    Seed,
    /// The address is none.
    #[error("has a damaged address ({0})")]
    Address(#[from] AddressError),
    /// Seed and address belong to different keys.
    #[error("is damaged (seed and address don't belong together)")]
    Mismatch,
}

/// A new key from the operating system's random source.
///
/// # Errors
/// The system has no random bytes to give.
pub fn generate() -> io::Result<KeyPair> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut())?;
    Ok(KeyPair::from_seed(&seed))
}

/// Writes a key to a new file of mode 0600, durably. Either the whole file appears or none; an existing one stays.
///
/// # Errors
/// The path exists, or can't be written.
pub fn create(path: &Path, key: &KeyPair) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.into(), action: "written", source };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let seed = Zeroizing::new(Hash(*key.seed()).to_string());
    // Created exclusively and with mode 0600, then linked to its name unless that is taken.
    let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(directory).map_err(io)?;
    let content = Zeroizing::new(format!("{HEADER}\n{} {}\n", seed.as_str(), key.address()));
    file.write_all(content.as_bytes()).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist_noclobber(path).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.into()),
        _ => io(failed.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Reads a key. The file has to be closed to all but its owner.
///
/// # Errors
/// Missing, unreadable, open to others, or damaged.
pub fn load(path: &Path) -> Result<KeyPair, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.into(), action: "read", source };
    let content = |problem| KeyFileError::Content { path: path.into(), problem };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.into()),
        _ => io(error),
    })?;
    // Of the opened file, not of the path: no one can change what the path means in between.
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_SIZE as u64 {
        return Err(content(KeyFileProblem::NotAKeyFile));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.into(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_SIZE));
    file.take(MAX_FILE_SIZE as u64).read_to_end(&mut text).map_err(io)?;
    let text = std::str::from_utf8(&text).map_err(|_| content(KeyFileProblem::NotAKeyFile))?;
    parse(text).map_err(content)
}

fn parse(text: &str) -> Result<KeyPair, KeyFileProblem> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(KeyFileProblem::Layout) };
    let (seed, address) = line.split_once(' ').ok_or(KeyFileProblem::Layout)?;
    let seed = Zeroizing::new(Hash::from_hex(seed).ok_or(KeyFileProblem::Seed)?.0);
    let address: Address = address.trim().parse()?;
    let key = KeyPair::from_seed(&seed);
    if key.address() == address { Ok(key) } else { Err(KeyFileProblem::Mismatch) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn round_trip_with_owner_only_access() {
        let directory = directory();
        let path = directory.path().join("key");
        let key = generate().unwrap();
        create(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(load(&path).unwrap().public(), key.public());
        assert_ne!(generate().unwrap().public(), key.public());
    }

    #[test]
    fn never_overwrites_and_leaves_no_rest() {
        let directory = directory();
        let path = directory.path().join("key");
        let first = KeyPair::from_seed(&[1; 32]);
        create(&path, &first).unwrap();
        let refused = create(&path, &KeyPair::from_seed(&[2; 32])).unwrap_err();
        assert!(matches!(refused, KeyFileError::Exists(_)), "{refused}");
        assert_eq!(load(&path).unwrap().public(), first.public());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_files_that_others_can_read() {
        let directory = directory();
        let path = directory.path().join("key");
        create(&path, &KeyPair::from_seed(&[1; 32])).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let text = load(&path).unwrap_err().to_string();
            assert!(text.contains("chmod 600") && text.contains(&format!("{mode:04o}")), "{text}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        load(&path).unwrap();
    }

    #[test]
    fn names_what_is_missing_or_damaged() {
        let directory = directory();
        let path = directory.path().join("key");
        let missing = load(&path).unwrap_err().to_string();
        assert!(missing.contains("topio keys new") && missing.contains("key"), "{missing}");
        assert!(load(directory.path()).unwrap_err().to_string().contains("is not a key file"));

        create(&path, &KeyPair::from_seed(&[1; 32])).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let (seed, address) = good.lines().nth(1).unwrap().split_once(' ').unwrap();
        let other = KeyPair::from_seed(&[2; 32]).address();
        for (text, problem) in [
            (format!("{seed} {other}"), KeyFileProblem::Mismatch),
            (format!("{} {address}", &seed[1..]), KeyFileProblem::Seed),
            (format!("{seed} {}", &address[1..]), KeyFileProblem::Address(AddressError::Text)),
            (seed.to_string(), KeyFileProblem::Layout),
            (format!("{good}{good}"), KeyFileProblem::Layout),
            (String::new(), KeyFileProblem::Layout),
        ] {
            assert_eq!(parse(&text).unwrap_err(), problem, "{text}");
        }
    }
}
