//! A disk in memory that can be torn, filled, broken and damaged.
//!
//! What was synced stays; what was not may be lost at a crash, sector by sector. Names come back as a prefix of what was done to
//! them, as a journalling file system gives them. The log's writes are durable when they are done, and torn in blocks of 512 bytes,
//! which is all that many disks promise, when the crash comes first.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use engine::side::disk::{Disk, DiskFile};
use netio::AlignedBuf;

use crate::random::Random;

/// The unit of writing.
pub const SECTOR: usize = 4096;

/// What a disk writes whole or not at all.
const BLOCK: usize = 512;

static ZEROS: [u8; SECTOR] = [0; SECTOR];

/// Shared with forks of the disk, until one of them writes.
type Sector = Rc<[u8]>;

#[derive(Clone, Debug, Default)]
struct Content {
    /// Sectors that are not all zeros.
    sectors: BTreeMap<u64, Sector>,
    length: u64,
    /// What each sector written since the last sync held before.
    unsynced: BTreeMap<u64, Option<Sector>>,
    synced_length: u64,
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: u64, synced: bool) {
        let first = offset / SECTOR as u64;
        for (number, sector) in (first..).zip(bytes.chunks(SECTOR)) {
            let before = if *sector == ZEROS[..sector.len()] {
                self.sectors.remove(&number)
            } else {
                self.sectors.insert(number, sector.into())
            };
            if !synced {
                self.unsynced.entry(number).or_insert(before);
            }
        }
        self.length = self.length.max(offset + bytes.len() as u64);
        if synced {
            self.synced_length = self.synced_length.max(self.length);
        }
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) {
        for (number, into) in (offset / SECTOR as u64..).zip(bytes.chunks_mut(SECTOR)) {
            self.fill_sector(number, into);
        }
    }

    fn fill_sector(&self, number: u64, into: &mut [u8]) {
        let sector = self.sectors.get(&number).map_or(&[][..], |sector| sector);
        let held = into.len().min(sector.len());
        into[..held].copy_from_slice(&sector[..held]);
        into[held..].fill(0);
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.synced_length = self.length;
    }

    fn crash(&mut self, random: &mut Random) {
        let tear = random.below(4);
        for (number, before) in std::mem::take(&mut self.unsynced) {
            if tear == 0 || (tear < 3 && random.percent(50)) {
                match before {
                    Some(sector) => self.sectors.insert(number, sector),
                    None => self.sectors.remove(&number),
                };
            }
        }
        if random.percent(50) {
            self.length = self.synced_length;
        }
        let sectors = self.length.div_ceil(SECTOR as u64);
        self.sectors.retain(|number, _| *number < sectors);
        self.synced_length = self.length;
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// A read that will go wrong.
#[derive(Clone, Copy, Debug)]
struct Misread {
    file: usize,
    /// Who reads this sector,
    wanted: u64,
    /// is given that one.
    given: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory.
    changes: Vec<NameChange>,
    /// The crash comes before the operation after so many.
    fuse: Option<u32>,
    burnt: bool,
    full: bool,
    unreadable: bool,
    misread: Option<Misread>,
}

impl State {
    /// Whether the next operation still happens.
    fn step(&mut self) -> io::Result<()> {
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                self.burnt = true;
            } else {
                *fuse -= 1;
            }
        }
        if self.burnt { Err(io::Error::other("the machine has crashed")) } else { Ok(()) }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file", path.display()))
        })
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Add(path, file) => {
            names.insert(path.clone(), *file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

/// A validator's disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Rc<RefCell<State>>);

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The same disk in a world of its own, in which it is sound: what is done to one is not done to the other.
    pub fn fork(&self) -> SimDisk {
        let state =
            State { fuse: None, burnt: false, full: false, unreadable: false, ..self.0.borrow().clone() };
        SimDisk(Rc::new(RefCell::new(state)))
    }

    /// The crash comes after so many operations more.
    pub fn set_fuse(&self, operations: Option<u32>) {
        let mut state = self.0.borrow_mut();
        state.fuse = operations;
        state.burnt = false;
    }

    /// Whether the crash has come.
    pub fn is_burnt(&self) -> bool {
        self.0.borrow().burnt
    }

    /// No room for anything new, or again.
    pub fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }

    /// Nothing can be read, or again.
    pub fn set_unreadable(&self, unreadable: bool) {
        self.0.borrow_mut().unreadable = unreadable;
    }

    /// Whether it is full, or can't be read.
    pub fn is_failing(&self) -> bool {
        let state = self.0.borrow();
        state.full || state.unreadable
    }

    /// One write of the log, durable at once.
    pub fn write_durable(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let file = state.file(path).expect("the log writes to files that are there");
        state.files[file].write(bytes, offset, true);
    }

    /// A write of the log that the crash has cut: of its blocks some arrived.
    pub fn write_torn(&self, path: &Path, offset: u64, bytes: &[u8], random: &mut Random) {
        let count = bytes.len().div_ceil(BLOCK) as u64;
        let (tear, upto) = (random.below(6), random.below(count + 1));
        let mut torn = vec![0; bytes.len()];
        {
            let state = self.0.borrow();
            let file = state.file(path).expect("the log writes to files that are there");
            state.files[file].fill(&mut torn, offset);
        }
        for (number, (old, new)) in (0..).zip(torn.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK))) {
            let arrived = match tear {
                0 => false,
                1 => true,
                2 | 3 => number < upto,
                4 => number >= upto,
                _ => random.percent(50),
            };
            if arrived {
                old.copy_from_slice(new);
            }
        }
        self.write_durable(path, offset, &torn);
    }

    /// The machine loses its memory.
    pub fn crash(&self, random: &mut Random) {
        let mut state = self.0.borrow_mut();
        let State { files, names, durable_names, changes, .. } = &mut *state;
        files.iter_mut().for_each(|file| file.crash(random));
        let kept = random.index(changes.len() + 1);
        changes.drain(..).take(kept).for_each(|change| apply(durable_names, &change));
        names.clone_from(durable_names);
        state.fuse = None;
        state.burnt = false;
    }

    /// A place that holds something: a file, and a sector of it. Of the log only, where `log` says so.
    pub fn any_sector(&self, log: bool, random: &mut Random) -> Option<(PathBuf, u64)> {
        let state = self.0.borrow();
        let wanted = |path: &Path| !log || path.to_string_lossy().contains("log-");
        let mut places = Vec::new();
        for (path, file) in state.names.iter().filter(|(path, _)| wanted(path)) {
            places.extend(state.files[*file].sectors.keys().map(|number| (path.clone(), *number)));
        }
        if places.is_empty() { None } else { Some(places.swap_remove(random.index(places.len()))) }
    }

    /// Turns one bit of a sector.
    pub fn flip(&self, path: &Path, sector: u64, random: &mut Random) {
        let mut state = self.0.borrow_mut();
        let Ok(file) = state.file(path) else { return };
        if let Some(bytes) = state.files[file].sectors.get_mut(&sector) {
            let at = random.index(bytes.len());
            Rc::make_mut(bytes)[at] ^= 1 << random.below(8);
        }
    }

    /// Puts what one sector holds in the place of another one of the same file, as a misdirected write does.
    pub fn misdirect(&self, path: &Path, from: u64, to: u64) {
        let mut state = self.0.borrow_mut();
        let Ok(file) = state.file(path) else { return };
        if let Some(bytes) = state.files[file].sectors.get(&from).cloned() {
            state.files[file].sectors.insert(to, bytes);
        }
    }

    /// The next read of one sector gives what another one of the same file holds.
    pub fn misread(&self, path: &Path, wanted: u64, given: u64) {
        let mut state = self.0.borrow_mut();
        let Ok(file) = state.file(path) else { return };
        state.misread = Some(Misread { file, wanted, given });
    }

    /// The names that are there.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.borrow().names.keys().cloned().collect()
    }
}

/// A file that is open.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.change(NameChange::Add(path.to_owned(), file));
        Ok(SimFile { disk: self.clone(), file })
    }

    async fn open(&self, path: &Path) -> io::Result<SimFile> {
        let state = self.0.borrow();
        if state.unreadable {
            return Err(io::Error::other("input/output error"));
        }
        Ok(SimFile { disk: self.clone(), file: state.file(path)? })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.file(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.file(path)?;
        state.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    async fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.step()?;
        state.changes.clear();
        let State { files, names, durable_names, .. } = &mut *state;
        durable_names.clone_from(names);
        let mut named = vec![false; files.len()];
        names.values().for_each(|file| named[*file] = true);
        let lost = files.iter_mut().zip(named).filter(|(_, named)| !named);
        lost.for_each(|(file, _)| *file = Content::default());
        Ok(())
    }

    async fn pause(&self, _: Duration) {}

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let state = self.0.borrow();
        let inside = state.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let state = self.0.borrow();
        Ok(state.files[state.file(path)?].length)
    }

    fn read(&self, path: &Path, length: u64) -> io::Result<Vec<u8>> {
        let file = futures_lite::future::block_on(self.open(path))?;
        let length = self.length(path)?.min(length);
        let mut bytes = vec![0; usize::try_from(length).expect("a file of a simulation fits the memory")];
        file.fill(&mut bytes, 0);
        Ok(bytes)
    }
}

impl SimFile {
    fn fill(&self, bytes: &mut [u8], offset: u64) {
        let mut state = self.disk.0.borrow_mut();
        state.files[self.file].fill(bytes, offset);
        let (first, count) = (offset / SECTOR as u64, bytes.len().div_ceil(SECTOR) as u64);
        let strikes = |misread: &mut Misread| {
            misread.file == self.file && (first..first + count).contains(&misread.wanted)
        };
        if let Some(Misread { wanted, given, .. }) = state.misread.take_if(strikes) {
            let at = usize::try_from(wanted - first).expect("it is one of those that are read") * SECTOR;
            let end = bytes.len().min(at + SECTOR);
            state.files[self.file].fill_sector(given, &mut bytes[at..end]);
        }
    }
}

impl DiskFile for SimFile {
    async fn write_sectors(&self, bytes: &AlignedBuf, offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        state.step()?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.file].write(bytes, offset, false);
        Ok(())
    }

    async fn read_sectors(&self, into: &mut AlignedBuf, at: usize, offset: u64) -> io::Result<usize> {
        let length = self.disk.0.borrow().files[self.file].length;
        let wanted = into.len() - at;
        let held = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(wanted);
        self.fill(&mut into[at..at + held], offset);
        Ok(held)
    }

    async fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        state.step()?;
        state.files[self.file].sync();
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    fn disk_with(path: &Path, sectors: u8) -> SimDisk {
        let disk = SimDisk::new();
        block_on(disk.create(path)).unwrap();
        for number in 0..sectors {
            disk.write_durable(path, u64::from(number) * SECTOR as u64, &[number + 1; SECTOR]);
        }
        disk
    }

    #[test]
    fn a_torn_write_is_torn_between_blocks() {
        let path = Path::new("/log");
        let mut seen = [false; 3];
        for seed in 0..200 {
            let disk = disk_with(path, 2);
            disk.write_torn(path, 0, &[9; 2 * SECTOR], &mut Random::new(seed, "torn"));
            let bytes = disk.read(path, 2 * SECTOR as u64).unwrap();
            let mut arrived = 0;
            for (number, block) in bytes.chunks(BLOCK).enumerate() {
                let old = [u8::try_from(number * BLOCK / SECTOR).unwrap() + 1; BLOCK];
                assert!(block == [9; BLOCK] || block == old, "blocks are whole");
                arrived += usize::from(block == [9; BLOCK]);
            }
            seen[if arrived == 0 { 0 } else { 1 + usize::from(arrived < 16) }] = true;
        }
        assert_eq!(seen, [true; 3], "nothing, all of it, and a part");
    }

    #[test]
    fn a_misread_strikes_once() {
        let path = Path::new("/log");
        let disk = disk_with(path, 3);
        let first_bytes = || {
            let bytes = disk.read(path, 3 * SECTOR as u64).unwrap();
            [bytes[0], bytes[SECTOR], bytes[2 * SECTOR]]
        };
        disk.misread(path, 1, 2);
        assert_eq!(first_bytes(), [1, 3, 3]);
        assert_eq!(first_bytes(), [1, 2, 3], "the disk holds what it held");
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let path = Path::new("/log");
        let disk = disk_with(path, 1);
        disk.set_unreadable(true);
        let fork = disk.fork();
        fork.write_durable(path, 0, &[7; SECTOR]);
        assert_eq!(fork.read(path, 1).unwrap(), [7]);
        disk.set_unreadable(false);
        assert_eq!(disk.read(path, 1).unwrap(), [1]);
    }
}
