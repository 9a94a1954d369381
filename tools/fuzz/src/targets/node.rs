//! What a node hears from its peers, and what it finds on its disk.

use std::{fs, path::Path};

use bytes::Bytes;
use engine::{
    config::NodeConfig,
    genesis::{ALLOCATIONS_FILE, GENESIS_FILE, Genesis},
    log::{
        LogId, SECTOR,
        frame::{Group, GroupHasher, GroupHeader, SegmentHeader, record_header},
    },
    node::{OutcomeRecord, frame::Frame},
    snapshot::{
        Snapshot,
        format::{self, section_header},
    },
};

use super::{Verdict, words};

const SECTOR_BYTES: usize = SECTOR as usize;
const CHECKSUM: usize = 32;

/// A frame of a peer's channel.
pub fn peer_frame(bytes: &[u8]) -> Verdict {
    let frame = Frame::decode(&Bytes::copy_from_slice(bytes)).map_err(words)?;
    assert_eq!(frame.encode(), bytes);
    Ok(())
}

/// The log's record of an executed block.
pub fn outcome(bytes: &[u8]) -> Verdict {
    let record = OutcomeRecord::decode(bytes).map_err(words)?;
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(again, bytes);
    Ok(())
}

/// The first sector of a log segment, as it is and with the checksum that fits.
pub fn log_segment(bytes: &[u8]) -> Verdict {
    check_segment(bytes).ok();
    let Some(sector) = bytes.get(..SECTOR_BYTES) else { return check_segment(bytes) };
    check_segment(&with_fitting_checksum(sector))
}

fn check_segment(bytes: &[u8]) -> Verdict {
    let header = SegmentHeader::decode(bytes).map_err(words)?;
    let mut again = vec![0xff; SECTOR_BYTES];
    header.encode(&mut again);
    assert_eq!(again, bytes[..SECTOR_BYTES]);
    Ok(())
}

/// The header of a segment or snapshot with the blake3 of its rest in front.
fn with_fitting_checksum(sector: &[u8]) -> Vec<u8> {
    let checksum = blake3::hash(&sector[CHECKSUM..]);
    [checksum.as_bytes(), &sector[CHECKSUM..]].concat()
}

/// A group of the log, as it is and with the checksum that fits.
pub fn log_group(bytes: &[u8]) -> Verdict {
    let key = LogId { chain: 1, core: 2, salt: [3; 32] }.key();
    if let Ok(group) = Group::decode(bytes, &key) {
        check_group(&group, bytes);
    }
    let header = GroupHeader::peek(bytes).map_err(words)?;
    let Some(group) = bytes.get(..header.total_bytes()) else {
        return Group::decode(bytes, &key).map(|_| ()).map_err(words);
    };
    let mut sealed = group.to_vec();
    let checksum = header.seal(&mut sealed, &mut GroupHasher::new(&key));
    let group = Group::decode(&sealed, &key).map_err(words)?;
    assert_eq!((group.header, group.checksum), (header, checksum));
    check_group(&group, &sealed);
    Ok(())
}

fn check_group(group: &Group<'_>, bytes: &[u8]) {
    let mut again = bytes[..engine::log::frame::GROUP_HEADER].to_vec();
    for record in group.records() {
        let length = u32::try_from(record.payload.len()).expect("a group is at most 16 MiB");
        again.extend_from_slice(&record_header(record.kind, length));
        again.extend_from_slice(record.payload);
    }
    again.resize(group.header.total_bytes(), 0);
    assert_eq!(again, bytes[..group.header.total_bytes()]);
}

/// A snapshot file, as it is and with the hashes that fit.
pub fn snapshot(bytes: &[u8]) -> Verdict {
    check_snapshot(bytes).ok();
    let Some((header, rest)) = bytes.split_at_checked(format::SECTOR) else { return check_snapshot(bytes) };
    let mut header = header.to_vec();
    // Body bytes and body hash, see the layout in `engine::snapshot::format`.
    let body = u64::from_le_bytes(*header[64..].first_chunk().expect("a sector is longer"));
    let body = usize::try_from(body).ok().and_then(|body| rest.get(..body)).unwrap_or(rest);
    header[80..112].copy_from_slice(blake3::hash(body).as_bytes());
    let mut file = with_fitting_checksum(&header);
    file.extend_from_slice(rest);
    check_snapshot(&file)
}

fn check_snapshot(file: &[u8]) -> Verdict {
    let snapshot = Snapshot::decode(file.to_vec()).map_err(words)?;
    let mut again = vec![0xff; format::SECTOR];
    snapshot.header().encode(&mut again);
    for section in snapshot.sections() {
        let length = u32::try_from(section.bytes.len()).expect("a section's length has 32 bits");
        again.extend_from_slice(&section_header(section.kind, length));
        again.extend_from_slice(section.bytes);
    }
    again.resize(again.len().next_multiple_of(format::SECTOR), 0);
    assert_eq!(again, file);
    Ok(())
}

/// Runs `then` in an empty directory of its own.
fn in_directory<T>(then: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a temporary directory");
    then(directory.path())
}

/// A genesis text beside an empty file of allocations.
pub fn genesis(bytes: &[u8]) -> Verdict {
    in_directory(|directory| {
        let path = directory.join(GENESIS_FILE);
        fs::write(&path, bytes).expect("written");
        fs::write(directory.join(ALLOCATIONS_FILE), []).expect("written");
        let genesis = Genesis::load(&path).map_err(|error| without_paths(directory, error))?;
        let copy = directory.join("copy");
        fs::create_dir(&copy).expect("made");
        genesis.write(&copy).map_err(words)?;
        let again = Genesis::load(&copy.join(GENESIS_FILE)).expect("what was written is read");
        assert_eq!((again.hash(), again.name()), (genesis.hash(), genesis.name()));
        Ok(())
    })
}

/// A node's configuration.
pub fn config(bytes: &[u8]) -> Verdict {
    in_directory(|directory| {
        let path = directory.join("node.toml");
        fs::write(&path, bytes).expect("written");
        NodeConfig::load(&path).map(|_| ()).map_err(|error| without_paths(directory, error))
    })
}

fn without_paths(directory: &Path, error: impl std::fmt::Display) -> String {
    error.to_string().replace(&*directory.to_string_lossy(), "")
}
