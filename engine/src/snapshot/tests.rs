use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::format::SECTOR;
use super::*;
use crate::side::disk::StdDisk;

const CHAIN: u64 = 0x70b0;
const TABLE: u16 = 12;

fn id(height: u64) -> SnapshotId {
    SnapshotId { chain: CHAIN, table: TABLE, height }
}

fn content(height: u64) -> Vec<(u8, Vec<u8>)> {
    let fill = u8::try_from(height).unwrap();
    vec![(1, vec![fill; 100]), (2, vec![]), (2, vec![fill ^ 0xff; 700_000]), (3, vec![1])]
}

fn write(directory: &Path, height: u64) {
    let content = content(height);
    write_blocking(directory, id(height), content.iter().map(|(kind, bytes)| (*kind, &bytes[..]))).unwrap();
}

fn written(heights: &[u64]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    heights.iter().for_each(|height| write(directory.path(), *height));
    directory
}

fn sections(snapshot: &Snapshot) -> Vec<(u8, Vec<u8>)> {
    snapshot.sections().map(|section| (section.kind, section.bytes.to_vec())).collect()
}

#[test]
fn what_was_written_is_read_and_two_are_kept() {
    let directory = written(&[1, 2, 3]);
    assert_eq!(list(&StdDisk, directory.path(), TABLE).unwrap(), [2, 3]);
    assert!(list(&StdDisk, directory.path(), TABLE + 1).unwrap().is_empty());
    let Newest { snapshot, passed_over } = newest_good(&StdDisk, directory.path(), CHAIN, TABLE).unwrap();
    let snapshot = snapshot.unwrap();
    assert_eq!((snapshot.header().id, passed_over.len()), (id(3), 0));
    assert_eq!(sections(&snapshot), content(3));
    assert!(newest_good(&StdDisk, directory.path(), CHAIN, TABLE + 1).unwrap().snapshot.is_none());
}

#[test]
fn a_damaged_one_is_named_and_the_older_one_serves() {
    let directory = written(&[1, 2]);
    let newest = path(directory.path(), TABLE, 2);
    let mut bytes = fs::read(&newest).unwrap();
    bytes[10_000] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let Newest { snapshot, passed_over } = newest_good(&StdDisk, directory.path(), CHAIN, TABLE).unwrap();
    assert_eq!(sections(&snapshot.unwrap()), content(1));
    let report = passed_over[0].to_string();
    assert!(report.contains("snap-00012-00000000000000000002.top: the content is damaged"), "{report}");
}

#[test]
fn another_network_is_an_error_that_names_both() {
    let directory = written(&[1]);
    let error = newest_good(&StdDisk, directory.path(), CHAIN + 1, TABLE).unwrap_err().to_string();
    assert!(error.contains("00000000000070b0") && error.contains("00000000000070b1"), "{error}");
}

#[test]
fn a_file_under_a_wrong_name_is_not_believed() {
    let directory = written(&[1]);
    fs::rename(path(directory.path(), TABLE, 1), path(directory.path(), TABLE, 9)).unwrap();
    let error = load(&StdDisk, directory.path(), id(9)).unwrap_err();
    let expected = SnapshotDamage::Misplaced { table: TABLE, height: 1 };
    assert!(matches!(error, SnapshotError::Damaged { damage, .. } if damage == expected));
}

#[test]
fn a_cut_file_is_refused_at_every_sector() {
    let directory = written(&[1]);
    let file = path(directory.path(), TABLE, 1);
    let whole = fs::read(&file).unwrap();
    for length in (0..whole.len()).step_by(SECTOR) {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(
            matches!(load(&StdDisk, directory.path(), id(1)), Err(SnapshotError::Damaged { .. })),
            "{length}"
        );
    }
}

#[test]
fn leftovers_of_a_crash_are_no_snapshots() {
    let directory = written(&[1]);
    let leftover = store::temporary_path(directory.path(), TABLE, 2);
    fs::write(&leftover, b"half").unwrap();
    assert_eq!(list(&StdDisk, directory.path(), TABLE).unwrap(), [1]);
    remove_leftovers(&StdDisk, directory.path()).unwrap();
    assert!(!leftover.exists());
    assert_eq!(list(&StdDisk, directory.path(), TABLE).unwrap(), [1]);
}

/// The layout on disk. To write it anew after an intended change: `TOP_WRITE_GOLDEN=1 cargo test -p engine golden`.
#[test]
fn golden_layout() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot.bin");
    let directory = tempfile::tempdir().unwrap();
    write_blocking(directory.path(), id(7), [(1, &b"accounts"[..]), (2, b"")]).unwrap();
    let bytes = fs::read(path(directory.path(), TABLE, 7)).unwrap();
    if std::env::var_os("TOP_WRITE_GOLDEN").is_some() {
        fs::write(&golden, &bytes).unwrap();
    }
    let expected = fs::read(&golden).unwrap();
    assert_eq!(bytes, expected);
    let snapshot = Snapshot::decode(expected).unwrap();
    assert_eq!((snapshot.header().id, snapshot.header().body_bytes), (id(7), 18));
    assert_eq!(sections(&snapshot), [(1, b"accounts".to_vec()), (2, Vec::new())]);
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(
        chunks in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..3000)), 0..5),
        place: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let directory = tempfile::tempdir().unwrap();
        write_blocking(directory.path(), id(7), chunks.iter().map(|(kind, bytes)| (*kind, &bytes[..]))).unwrap();
        let mut bytes = fs::read(path(directory.path(), TABLE, 7)).unwrap();
        let whole = Snapshot::decode(bytes.clone()).unwrap();
        prop_assert_eq!(sections(&whole), chunks);
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Snapshot::decode(bytes).is_err());
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(Snapshot::decode(bytes).is_err());
    }

    #[test]
    fn any_header_under_a_right_checksum_decodes_without_panic(
        body in prop::collection::vec(0u8..4, 0..60),
        body_bytes in prop_oneof![0u64..60, any::<u64>()],
        sections in 0u32..6,
    ) {
        let length = usize::try_from(body_bytes).unwrap_or(usize::MAX).min(body.len());
        let body_hash = dag::Hash(*blake3::hash(&body[..length]).as_bytes());
        let header = SnapshotHeader { id: id(1), body_bytes, sections, body_hash };
        let mut file = vec![0; 2 * SECTOR];
        header.encode(&mut file[..SECTOR]);
        file[SECTOR..][..length].copy_from_slice(&body[..length]);
        if let Ok(snapshot) = Snapshot::decode(file) {
            prop_assert_eq!(snapshot.sections().count(), sections as usize);
        }
    }
}
