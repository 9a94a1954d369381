//! Durable writes, and what can go wrong with them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use netio::{ALIGNMENT, AlignedBuf, Event, FileId, ReactorConfig};

use crate::{Node, feature_masks, pattern, pump, small};

fn filled(bytes: &[u8]) -> AlignedBuf {
    let mut buf = AlignedBuf::with_capacity(bytes.len());
    buf.extend_from_slice(bytes);
    buf
}

/// Opened for direct IO, or without it on file systems that have none (older tmpfs).
fn open_log(path: &std::path::Path) -> OwnedFd {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
    direct.or_else(|_| options.open(path)).expect("a writable folder").into()
}

struct Done {
    tag: u64,
    buf: AlignedBuf,
    result: io::Result<()>,
}

fn wait_done(node: &mut Node) -> Done {
    let is_done = |event: &Event| matches!(event, Event::FileDone { .. });
    pump(&mut [node], |nodes| nodes[0].events.iter().any(is_done));
    let position = node.events.iter().position(is_done).expect("just seen");
    match node.events.remove(position) {
        Event::FileDone { tag, buf, result } => Done { tag, buf, result },
        other => unreachable!("{other:?}"),
    }
}

fn write(node: &mut Node, file: FileId, bytes: &[u8]) -> Done {
    node.reactor.write_durable(file, 0, filled(bytes), 5).expect("room for one write");
    wait_done(node)
}

#[test]
fn what_was_reported_durable_reads_back() {
    const WRITES: usize = 20;
    for mask in feature_masks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut node = Node::with_features(mask);
        let file = node.reactor.register_file(open_log(&path)).unwrap();
        let content = pattern(WRITES * 3 * ALIGNMENT);
        for (tag, piece) in content.chunks(3 * ALIGNMENT).enumerate() {
            let offset = (tag * 3 * ALIGNMENT) as u64;
            node.reactor.write_durable(file, offset, filled(piece), tag as u64).unwrap();
        }
        let mut tags: Vec<u64> = (0..WRITES)
            .map(|_| {
                let Done { tag, buf, result } = wait_done(&mut node);
                result.unwrap();
                assert_eq!(buf.len(), 3 * ALIGNMENT, "the buffer comes back");
                tag
            })
            .collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..WRITES as u64).collect::<Vec<_>>(), "each is reported once");
        let mut back = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == content, "with {mask}");
        assert_eq!(node.reactor.counters().file_bytes, content.len() as u64);
        drop(node.reactor.unregister_file(file));
    }
}

#[test]
fn a_full_device_is_an_error() {
    for mask in feature_masks() {
        let mut node = Node::with_features(mask);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = node.reactor.register_file(full.into()).unwrap();
        let Done { tag, buf, result } = write(&mut node, file, &[1; ALIGNMENT]);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!((tag, &buf[..]), (5, &[1; ALIGNMENT][..]));
        assert_eq!(node.reactor.counters().file_errors, 1);
    }
}

/// A memory file that may not grow takes the part that fits, and then nothing.
#[test]
fn a_short_write_is_continued_and_its_failure_reported() {
    // SAFETY: the name is a C string; the descriptor, checked below, is ours.
    let memory = unsafe {
        let fd = libc::memfd_create(c"short".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, 2 * ALIGNMENT as libc::off_t), 0);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW), 0);
        OwnedFd::from_raw_fd(fd)
    };
    let mut node = Node::new(small());
    let file = node.reactor.register_file(memory).unwrap();
    let Done { result, .. } = write(&mut node, file, &pattern(4 * ALIGNMENT));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(node.reactor.counters().file_retries, 1, "the rest was tried");
    let Done { result, .. } = write(&mut node, file, &pattern(2 * ALIGNMENT));
    result.expect("what fits is written");
}

#[test]
fn writes_beyond_the_limit_come_back_with_their_buffer() {
    let mut node = Node::new(ReactorConfig { max_file_writes: 2, max_files: 1, ..small() });
    let file = node.reactor.register_file(tempfile::tempfile().unwrap().into()).unwrap();
    let second = node.reactor.register_file(tempfile::tempfile().unwrap().into()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::QuotaExceeded);
    for tag in 0..2 {
        node.reactor.write_durable(file, 0, filled(&[0; ALIGNMENT]), tag).unwrap();
    }
    let refused = node.reactor.write_durable(file, 0, filled(&[8; ALIGNMENT]), 2).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::WouldBlock);
    assert_eq!(refused.buf[..], [8; ALIGNMENT]);
    wait_done(&mut node).result.unwrap();
    node.reactor.write_durable(file, 0, refused.buf, 2).unwrap();
    wait_done(&mut node).result.unwrap();
    wait_done(&mut node).result.unwrap();
    assert_eq!(node.reactor.writes_in_flight(), 0);
}

#[test]
#[should_panic(expected = "unaligned")]
fn unaligned_lengths_are_a_programmers_error() {
    let mut node = Node::new(small());
    let file = node.reactor.register_file(tempfile::tempfile().unwrap().into()).unwrap();
    let _refused = node.reactor.write_durable(file, 0, filled(b"short"), 0);
}
