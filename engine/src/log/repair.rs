//! Cutting a damaged log, so that a validator can go on from its snapshots, the good part of its log, and its peers.
//!
//! There are two ways. [`forget`] puts the log's beginning aside, damage included: nothing is lost but old blocks, provided
//! that the snapshots were taken behind it. [`cut`] puts aside everything from the damage on. [`crate::repair`] decides.
//!
//! # What a cut loses
//!
//! Everything from the damage on, and with it the validator's memory of votes it has sent. It could then vote against
//! itself, and a validator that does so is Byzantine, whatever the cause. So this is never done by itself: the caller
//! must have been told to by its operator, must remember durably **before** calling that the log was cut, and must not
//! vote in a view, at a height or at a checkpoint in which it may have voted before. The blocks come back from peers.
//!
//! # How it is cut
//!
//! Nothing is thrown away: the damaged segment and all later ones stay under `….damaged`. The steps are ordered so that
//! a crash between any two leaves a log that is still recognised as damaged, or is cut completely:
//!
//! 1. the good part of the damaged segment is copied, followed by zeros, to a temporary file, and synced;
//! 2. the damaged segment gets a second name, `….damaged`;
//! 3. the copy is renamed over it (or the name removed, when no good part is left);
//! 4. the later segments are renamed, one by one. Until the last one is, a scan finds groups behind a gap.
//!
//! While files under `….damaged` exist, the log goes on in segments above them all, so that no position that was ever
//! handed out comes to name another record.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use futures_lite::future::block_on;

use super::frame::SECTOR;
use super::scan::Damage;
use super::segment::{self, damaged_path, path, temporary_path, zeros};
use crate::side::disk::{Disk, DiskFile, StdDisk, name};

/// Bytes copied at a time.
const COPY_CHUNK: u32 = 1 << 20;

/// What [`cut`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the log ends now: no record at or behind this place is left.
    pub truncated_at: super::LogPosition,
    /// The files that were put aside, in ascending order.
    pub put_aside: Vec<PathBuf>,
}

/// Cuts the log at `damage`, as a scan reported it. See the module's documentation for what the caller owes.
pub fn cut(directory: &Path, core: u16, damage: Damage) -> io::Result<Cut> {
    let segments = segment::list(directory, core)?;
    let mut put_aside = Vec::new();
    if segments.contains(&damage.segment) {
        block_on(replace_by_good_part(&StdDisk, directory, core, damage))?;
        put_aside.push(damaged_path(directory, core, damage.segment));
    }
    for number in segments.into_iter().filter(|number| *number > damage.segment) {
        let aside = damaged_path(directory, core, number);
        block_on(StdDisk.rename(&path(directory, core, number), &aside))?;
        block_on(StdDisk.sync_directory(directory))?;
        put_aside.push(aside);
    }
    let truncated_at = super::LogPosition { segment: damage.segment, offset: damage.offset };
    Ok(Cut { truncated_at, put_aside })
}

/// Puts aside the segments below `before`, damaged or not. The caller has made sure that all promises in them stand in snapshots
/// that were taken later. Ascending, so that what remains after a crash has no hole.
pub fn forget(directory: &Path, core: u16, before: u32) -> io::Result<Vec<PathBuf>> {
    let mut put_aside = Vec::new();
    for number in segment::list(directory, core)?.into_iter().filter(|number| *number < before) {
        let aside = damaged_path(directory, core, number);
        block_on(StdDisk.rename(&path(directory, core, number), &aside))?;
        put_aside.push(aside);
    }
    block_on(StdDisk.sync_directory(directory))?;
    Ok(put_aside)
}

async fn replace_by_good_part<D: Disk>(
    disk: &D,
    directory: &Path,
    core: u16,
    damage: Damage,
) -> io::Result<()> {
    let bad = path(directory, core, damage.segment);
    let aside = damaged_path(directory, core, damage.segment);
    let good = temporary_path(directory, core, damage.segment);
    if damage.offset > SECTOR {
        copy_good_part(disk, &bad, &good, damage.offset).await.map_err(|error| name(error, &good))?;
    }
    match std::fs::hard_link(&bad, &aside) {
        // An earlier attempt got this far and was interrupted; what lies aside is the same or an older bad copy.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.map_err(|error| name(error, &aside))?,
    }
    if damage.offset > SECTOR {
        disk.rename(&good, &bad).await?;
    } else {
        disk.remove(&bad).await?;
    }
    disk.sync_directory(directory).await
}

/// Copies the first `good_bytes` of a segment and fills the rest with zeros.
async fn copy_good_part<D: Disk>(disk: &D, from: &Path, to: &Path, good_bytes: u32) -> io::Result<()> {
    let length = u32::try_from(File::open(from)?.metadata()?.len()).unwrap_or(u32::MAX);
    let source = disk.open(from).await?;
    let copy = disk.create(to).await?;
    let mut offset = 0;
    while offset < length {
        let piece = COPY_CHUNK.min(length - offset).next_multiple_of(SECTOR);
        let mut bytes = zeros(piece);
        if offset < good_bytes {
            source.read_sectors(&mut bytes, 0, offset.into()).await?;
            let good = (good_bytes - offset).min(piece) as usize;
            bytes[good..].fill(0);
        }
        copy.write_sectors(&bytes, offset.into()).await?;
        offset = offset.saturating_add(piece);
    }
    copy.sync().await?;
    copy.close().await?;
    source.close().await
}
