//! The snapshot files of a directory.

use std::io;
use std::path::{Path, PathBuf};

use dag::{ChainId, Height, TableId};
use futures_lite::future::block_on;

use super::format::{SECTOR, Snapshot, SnapshotDamage, SnapshotHeader, SnapshotId};
use super::writer::SnapshotWriter;
use crate::side::disk::{Disk, StdDisk};

/// Snapshots of each table that stay on disk: the newest, and one more in case it is damaged.
pub const SNAPSHOTS_KEPT: usize = 2;

const EXTENSION: &str = "top";
const TEMPORARY: &str = "tmp";

/// Why a snapshot can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It belongs to another network.
    #[error("{path} belongs to chain {found:016x}, not to chain {expected:016x}")]
    WrongChain {
        /// The file.
        path: PathBuf,
        /// Our chain.
        expected: ChainId,
        /// Its chain.
        found: ChainId,
    },
    /// It is not what was written.
    #[error("{path}: {damage}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        damage: SnapshotDamage,
    },
    /// The file or the directory can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What [`newest_good`] found.
#[derive(Debug)]
pub struct Newest {
    /// The newest snapshot that is whole.
    pub snapshot: Option<Snapshot>,
    /// Newer ones that can't be read, and why. To be reported.
    pub passed_over: Vec<SnapshotError>,
}

/// Path of a snapshot.
#[must_use]
pub fn path(directory: &Path, table: TableId, height: Height) -> PathBuf {
    directory.join(format!("snap-{table:05}-{height:020}.{EXTENSION}"))
}

pub(super) fn temporary_path(directory: &Path, table: TableId, height: Height) -> PathBuf {
    path(directory, table, height).with_extension(TEMPORARY)
}

fn parse(file_name: &str) -> Option<(TableId, Height, &str)> {
    let (stem, extension) = file_name.split_once('.')?;
    let (table, height) = stem.strip_prefix("snap-")?.split_once('-')?;
    Some((table.parse().ok()?, height.parse().ok()?, extension))
}

/// Heights of a table's snapshots, ascending.
pub fn list(disk: &impl Disk, directory: &Path, table: TableId) -> io::Result<Vec<Height>> {
    let mut heights = Vec::new();
    for file_name in disk.names(directory)? {
        match file_name.to_str().and_then(parse) {
            Some((of, height, EXTENSION)) if of == table => heights.push(height),
            _ => {}
        }
    }
    heights.sort_unstable();
    Ok(heights)
}

/// Reads and verifies one snapshot.
pub fn load(disk: &impl Disk, directory: &Path, id: SnapshotId) -> Result<Snapshot, SnapshotError> {
    let path = path(directory, id.table, id.height);
    let damaged = |damage| SnapshotError::Damaged { path: path.clone(), damage };
    let bytes = read_file(disk, &path)?.map_err(damaged)?;
    let snapshot = Snapshot::decode(bytes).map_err(damaged)?;
    let SnapshotId { chain, table, height } = snapshot.header().id;
    if chain != id.chain {
        return Err(SnapshotError::WrongChain { path, expected: id.chain, found: chain });
    }
    if (table, height) != (id.table, id.height) {
        return Err(damaged(SnapshotDamage::Misplaced { table, height }));
    }
    Ok(snapshot)
}

/// Reads a file whole, once its header has said how long it is: a damaged length must not make us allocate.
fn read_file(disk: &impl Disk, path: &Path) -> io::Result<Result<Vec<u8>, SnapshotDamage>> {
    let found = disk.length(path)?;
    let expected = match SnapshotHeader::decode(&disk.read(path, SECTOR as u64)?) {
        Ok(header) => header.file_bytes(),
        Err(damage) => return Ok(Err(damage)),
    };
    if expected != found {
        return Ok(Err(SnapshotDamage::Length { expected, found }));
    }
    Ok(Ok(disk.read(path, found)?))
}

/// The newest whole snapshot of a table. One that is damaged or unreadable is passed over and reported; one of another
/// network is an error at once, since then the directory is somebody else's.
pub fn newest_good(
    disk: &impl Disk,
    directory: &Path,
    chain: ChainId,
    table: TableId,
) -> Result<Newest, SnapshotError> {
    let mut passed_over = Vec::new();
    for height in list(disk, directory, table)?.into_iter().rev() {
        match load(disk, directory, SnapshotId { chain, table, height }) {
            Ok(snapshot) => return Ok(Newest { snapshot: Some(snapshot), passed_over }),
            Err(error @ SnapshotError::WrongChain { .. }) => return Err(error),
            Err(error) => passed_over.push(error),
        }
    }
    Ok(Newest { snapshot: None, passed_over })
}

/// Removes a table's snapshots but the newest [`SNAPSHOTS_KEPT`].
pub(super) async fn prune<D: Disk>(disk: &D, directory: &Path, table: TableId) -> io::Result<()> {
    let heights = list(disk, directory, table)?;
    let surplus = heights.len().saturating_sub(SNAPSHOTS_KEPT);
    for height in &heights[..surplus] {
        disk.remove(&path(directory, table, *height)).await?;
    }
    Ok(())
}

/// Removes what a crash left half written. To be called before snapshots are written.
pub fn remove_leftovers(disk: &impl Disk, directory: &Path) -> io::Result<()> {
    for file_name in disk.names(directory)? {
        if file_name.to_str().and_then(parse).is_some_and(|(_, _, extension)| extension == TEMPORARY) {
            block_on(disk.remove(&directory.join(file_name)))?;
        }
    }
    Ok(())
}

/// Writes a whole snapshot; returns once it is durable.
pub fn write_blocking<'a>(
    directory: &Path,
    id: SnapshotId,
    sections: impl IntoIterator<Item = (u8, &'a [u8])>,
) -> io::Result<()> {
    block_on(write(StdDisk, directory, id, sections))
}

/// The same on another disk.
pub async fn write<'a, D: Disk>(
    disk: D,
    directory: &Path,
    id: SnapshotId,
    sections: impl IntoIterator<Item = (u8, &'a [u8])>,
) -> io::Result<()> {
    let mut writer = SnapshotWriter::create(disk, directory, id).await?;
    for (kind, bytes) in sections {
        if let Err(error) = writer.section(kind, bytes).await {
            writer.abandon().await;
            return Err(error);
        }
    }
    writer.finish().await
}
