//! Full disks and damaged files.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use topio::devnet::Sizes;

use crate::{
    network::{Network, SIZES, configure, eventually},
    people::topio,
};

/// Two core loops in each validator, and few tables, so that logs and histories fill soon.
const TWO_CORES: Sizes = Sizes { tables: 4, lanes: 2, cores: 2, ..SIZES };
/// Small files, and a snapshot of a table for each 2 MiB of its log.
const SMALL_FILES: &str = "[log]\nsegment_bytes = 8388608\n[snapshot]\ninterval_bytes = 4194304\n";
/// More than a table's blocks that a validator keeps in memory for those behind: 8 MiB each.
const BEYOND_MEMORY: usize = 48 << 20;

/// A data directory on a disk of its own, which is small.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a memory disk over a folder; none where that is not allowed.
    fn mount(path: PathBuf, mebibytes: u32) -> Option<SmallDisk> {
        fs::create_dir_all(&path).expect("a folder");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk { path })
    }

    /// Fills it to the last byte. Returns the file that holds them.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("log-999-filler.tmp");
        let mut file = fs::File::create(&path).expect("a file");
        let mut chunk = vec![1; 1 << 20];
        while !chunk.is_empty() {
            if file.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[test]
fn a_full_disk_stops_one_validators_votes_until_there_is_room() {
    let mut disk = None;
    let mut network = Network::start_with(TWO_CORES, |devnet| {
        configure(devnet, SMALL_FILES);
        disk = SmallDisk::mount(devnet.layout().node(3).join("data"), 96);
    });
    let Some(disk) = disk else {
        // Past the test harness, which shows nothing of stories that end well.
        let _ =
            writeln!(io::stderr(), "SKIPPED: the story of the full disk needs root, to mount a small one");
        return;
    };
    let filler = disk.fill();
    let fault = |network: &Network| network.devnet.nodes()[3].rpc().healthy().err().unwrap_or_default();
    let full = || fault(&network).contains("no room for the log");
    // The segments that are ready still take something.
    network.push(0, BEYOND_MEMORY, |_| full());
    assert!(full(), "{}", fault(&network));
    let load = network.load();
    load.go_on(2);
    fs::remove_file(filler).expect("the filler is there");
    eventually("the validator goes on once there is room", || fault(&network).is_empty());
    load.go_on(2);
    load.finish();
    network.ledger_is_whole();
    // With another one down, a quorum needs its votes.
    network.devnet.node(0).kill();
    network.commits_in_every_table(3);
    drop(network);
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file of the validator");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the file is longer");
    file.write_all_at(&[byte[0] ^ 16], offset).expect("it can be written");
}

/// The files of a folder with a beginning and an end, in order.
fn files(folder: &Path, prefix: &str, extension: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the data directory").map(|entry| entry.expect("its entry").path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(prefix) && name.ends_with(extension)
    };
    let mut files: Vec<PathBuf> = entries.filter(ours).collect();
    files.sort();
    files
}

/// Starts a validator that can't, and returns what it says last.
fn refuses_to_start(network: &mut Network, node: usize) -> String {
    network.devnet.node(node).start().expect("the process can be started");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(died) = network.devnet.take_died().first() {
            return died.to_string();
        }
        assert!(Instant::now() < deadline, "it starts, damaged as it is");
        thread::sleep(Duration::from_millis(50));
    }
}

fn log(network: &Network, node: usize, command: &str, more: &[&str]) -> (Option<i32>, Value, String) {
    let config = network.devnet.layout().config(node);
    let mut arguments = vec!["log", command, "--json", "--config", config.to_str().expect("a plain path")];
    arguments.extend(more);
    let ran = topio(&arguments);
    (ran.code, serde_json::from_str(&ran.out).unwrap_or_default(), ran.err)
}

#[test]
fn who_was_away_for_long_fetches_the_state_and_who_is_damaged_is_repaired() {
    let mut network = Network::start_with(TWO_CORES, |devnet| configure(devnet, SMALL_FILES));

    // Away for longer than the others keep blocks in memory.
    network.devnet.node(3).kill();
    network.push(0, BEYOND_MEMORY, |_| false);
    network.devnet.node(3).start().expect("it can be started again");
    network.wait_ready();
    let load = network.load();
    load.go_on(2);
    load.finish();
    network.ledger_is_whole();
    assert!(network.counter(3, "state_transfers_total") > 0, "blocks alone can't have brought it here");

    // A damaged beginning of the log, behind which snapshots hold all promises.
    let data = |network: &Network, node: usize| network.devnet.layout().node(node).join("data");
    network.stop(2);
    let segments = files(&data(&network, 2), "log-000-", ".top");
    assert!(segments.len() > 2, "{segments:?}");
    flip(&segments[0], 40_000);
    let refusal = refuses_to_start(&mut network, 2);
    assert!(
        refusal.contains("log segment 0 is damaged at byte") && refusal.contains("topio log check"),
        "{refusal}"
    );
    let (code, report, _) = log(&network, 2, "check", &[]);
    assert_eq!(
        (code, &report["whole"], &report["cores"][0]["remedy"]),
        (Some(1), &Value::Bool(false), &"forget".into())
    );
    let (code, repaired, error) = log(&network, 2, "repair", &[]);
    assert_eq!((code, &repaired["votes"]), (Some(0), &Value::Bool(true)), "{error}");
    assert_eq!(log(&network, 2, "check", &[]).0, Some(0));
    // A damaged snapshot is named and passed over.
    let snapshots = files(&data(&network, 2), "snap-00001-", ".top");
    flip(snapshots.last().expect("each table has snapshots"), 5000);
    network.devnet.node(2).start().expect("it can be started again");
    network.wait_ready();
    assert!(network.devnet.nodes()[2].log_text().contains("going on from an older snapshot"));
    network.ledger_is_whole();
    network.devnet.node(0).kill();
    network.commits_in_every_table(2);
    network.devnet.node(0).start().expect("it can be started again");
    network.wait_ready();

    // Damage at the log's end takes votes that are still in force.
    network.stop(1);
    let last = last_begun(&files(&data(&network, 1), "log-000-", ".top"));
    flip(&last, 4096 + 300);
    assert!(refuses_to_start(&mut network, 1).contains("is damaged at byte"));
    assert_eq!(log(&network, 1, "check", &[]).1["cores"][0]["remedy"], "silence");
    let (code, _, error) = log(&network, 1, "repair", &[]);
    assert!(code == Some(1) && error.contains("--silent") && error.lines().count() == 1, "{error}");
    let (code, repaired, error) = log(&network, 1, "repair", &["--silent"]);
    assert_eq!((code, &repaired["votes"]), (Some(0), &Value::Bool(false)), "{error}");
    network.devnet.node(1).start().expect("it can be started again");
    network.wait_ready();
    network.commits_in_every_table(1);
    network.ledger_is_whole();
    assert!(!network.devnet.nodes()[1].rpc().status().expect("it answers").view.votes);
    assert_eq!(network.counter(1, "votes_total"), 0);
    assert!(network.counter(1, "promises_withheld_total") > 0);
}

/// The last of a log's files that was written to.
fn last_begun(segments: &[PathBuf]) -> PathBuf {
    let begun = |path: &&PathBuf| {
        let mut header = [0; 4096];
        let file = fs::File::open(path).expect("a segment");
        file.read_exact_at(&mut header, 0).expect("it has a header");
        header.iter().any(|&byte| byte != 0)
    };
    segments.iter().rev().find(begun).expect("the log has begun").clone()
}
