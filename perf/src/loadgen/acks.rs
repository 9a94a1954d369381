//! The list of what was acknowledged, so that a test can ask later whether it is all still there.
//!
//! One line for each acknowledgement: transaction id (hexadecimal), sender, sequence, table, height, index. Lines are
//! written out once a second and at the end of the run. Whoever reads them may rely on every line; an acknowledgement of
//! the last second may be missing where the generator itself was killed.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use dag::{Address, Hash, Height, TableId, Transaction, client::Reply};

/// Bytes in which a whole line always fits.
const LONGEST_LINE: u64 = 512;

/// An acknowledged transaction and its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The transaction.
    pub id: Hash,
    /// Who paid.
    pub sender: Address,
    /// With which sequence.
    pub sequence: u64,
    /// Where it was executed.
    pub table: TableId,
    /// In which block.
    pub height: Height,
    /// At which place of the block.
    pub index: u32,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ack { id, sender, sequence, table, height, index } = self;
        write!(f, "{id} {sender} {sequence} {table} {height} {index}")
    }
}

impl FromStr for Ack {
    type Err = ();

    fn from_str(line: &str) -> Result<Ack, ()> {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or(());
        let ack = Ack {
            id: Hash::from_hex(word()?).ok_or(())?,
            sender: word()?.parse().map_err(drop)?,
            sequence: word()?.parse().map_err(drop)?,
            table: word()?.parse().map_err(drop)?,
            height: word()?.parse().map_err(drop)?,
            index: word()?.parse().map_err(drop)?,
        };
        if words.next().is_none() { Ok(ack) } else { Err(()) }
    }
}

/// Why a list of acknowledgements cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AcksError {
    /// The file system.
    #[error("the list of acknowledgements {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A line that is no acknowledgement.
    #[error("{}:{line}: not an acknowledgement: is this the right file?", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// The list while it grows.
#[derive(Debug)]
pub struct AckFile {
    path: PathBuf,
    file: File,
    lines: Vec<u8>,
}

impl AckFile {
    /// Opens a list to add to; a line that was cut short at its end is taken away.
    pub fn open(path: &Path) -> Result<AckFile, AcksError> {
        let open = || {
            let mut file = File::options().read(true).append(true).create(true).open(path)?;
            let length = file.seek(SeekFrom::End(0))?;
            let start = file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LINE)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            file.set_len(start + u64::try_from(whole).expect("a short tail"))?;
            Ok(file)
        };
        let file = open().map_err(|cause| AcksError::Io { path: path.to_owned(), cause })?;
        Ok(AckFile { path: path.to_owned(), file, lines: Vec::new() })
    }

    /// Adds an acknowledgement.
    pub fn append(&mut self, transaction: &Transaction<'_>, reply: &Reply) {
        let ack = Ack {
            id: transaction.id(),
            sender: *transaction.sender(),
            sequence: transaction.sequence(),
            table: reply.table,
            height: reply.height,
            index: reply.index,
        };
        writeln!(self.lines, "{ack}").expect("memory takes all");
    }

    /// Writes out what was added.
    pub fn flush(&mut self) -> Result<(), AcksError> {
        let written = self.file.write_all(&self.lines);
        self.lines.clear();
        written.map_err(|cause| AcksError::Io { path: self.path.clone(), cause })
    }
}

/// Reads a list of acknowledgements. A last line that is cut short does not count.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read_acks(path: &Path) -> Result<Vec<Ack>, AcksError> {
    let io = |cause| AcksError::Io { path: path.to_owned(), cause };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let (mut acks, mut text) = (Vec::new(), String::new());
    loop {
        text.clear();
        reader.read_line(&mut text).map_err(io)?;
        let Some(whole) = text.strip_suffix('\n') else { return Ok(acks) };
        let damaged = |()| AcksError::Line { path: path.to_owned(), line: acks.len() + 1 };
        let ack = whole.parse().map_err(damaged)?;
        acks.push(ack);
    }
}

#[cfg(test)]
mod tests {
    use dag::{
        client::Code,
        keys::KeyPair,
        transaction::{Payee, Terms, sign},
    };

    use super::*;

    fn record(sequence: u64) -> Vec<u8> {
        let terms = Terms { chain: 1, epoch: 2, sequence, fee: 0 };
        sign(&KeyPair::from_seed(&[1; 32]), &terms, &[Payee { to: Address([3; 32]), amount: 1 }]).unwrap()
    }

    fn reply() -> Reply {
        Reply { tag: 0, code: Code::Committed, table: 4, height: 5, index: 6 }
    }

    #[test]
    fn lists_grow_and_lose_only_a_torn_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acks");
        for run in 0..3 {
            let mut file = AckFile::open(&path).unwrap();
            for sequence in 0..10 {
                file.append(&Transaction::parse(&record(run * 10 + sequence)).unwrap(), &reply());
            }
            file.flush().unwrap();
            file.file.write_all(b"0123 top1torn").unwrap();
        }
        let acks = read_acks(&path).unwrap();
        assert!(acks.iter().map(|ack| ack.sequence).eq(0..30));
        let first = record(0);
        let first = Transaction::parse(&first).unwrap();
        assert_eq!((acks[0].id, acks[0].sender), (first.id(), *first.sender()));
        assert_eq!((acks[0].table, acks[0].height, acks[0].index), (4, 5, 6));
        assert!(u64::try_from(acks[0].to_string().len()).unwrap() + 60 < LONGEST_LINE);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acks");
        let mut file = AckFile::open(&path).unwrap();
        file.append(&Transaction::parse(&record(1)).unwrap(), &reply());
        file.flush().unwrap();
        file.file.write_all(b"something else\n").unwrap();
        assert!(matches!(read_acks(&path), Err(AcksError::Line { line: 2, .. })));
        assert!(matches!(read_acks(folder.path()), Err(AcksError::Io { .. })));
        assert!(matches!(AckFile::open(folder.path()), Err(AcksError::Io { .. })));
    }
}
