//! glommio needs lockable memory. Without it a plain thread takes over and says why.
//!
//! A test binary of its own, since the limit belongs to the process.

use engine::log::LogConfig;
use engine::side::{Backend, Job, Reply, SideConfig, start};
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn a_plain_thread_takes_over() {
    let limit = Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    setrlimit(Resource::Memlock, limit).expect("a limit can be lowered");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = SideConfig {
        log_directory: directory.path().to_path_buf(),
        snapshot_directory: directory.path().to_path_buf(),
        chain: 1,
        log: LogConfig { segment_bytes: 1 << 20, group_bytes: 64 << 10 },
        scrub_bytes_per_second: 1 << 20,
    };
    let (woken, wakes) = std::sync::mpsc::channel();
    let wake = Box::new(move || woken.send(()).expect("the test waits"));
    let (side, clients) = start(config, vec![wake], Backend::Automatic).expect("something starts");
    let reason = side.fallback().expect("glommio refuses");
    assert!(reason.contains("MemLockLimit") && reason.contains("ulimit -l"), "{reason}");

    clients[0].submit(Job::PrepareSegment { core: 0, segment: 0, recycle: None }).expect("there is room");
    wakes.recv().expect("a reply comes");
    assert!(matches!(clients[0].try_reply(), Some(Reply::SegmentReady { file: Ok(_), .. })));
    drop(clients);
    side.join().expect("the thread ends in peace");
}
