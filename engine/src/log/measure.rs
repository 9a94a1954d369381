//! Append rate of the log against that of the bare disk, in one session.
//!
//! Disks drift, so absolute rates say little. All sides write the same sizes to files prepared alike, with direct IO and
//! `fdatasync`, one write at a time, in short alternating rounds; the ratio is the result.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use netio::{Event, Reactor, ReactorConfig, Wait};

use super::frame::{GROUP_HEADER, LogId, RECORD_HEADER, SECTOR};
use super::{BlockingLog, LogConfig, Tail, Writer, segment};

/// Payload of the records that fill the measured groups, in bytes: about a transfer with its signature.
const RECORD: usize = 192;

/// Bytes that the log on a ring appends in one turn of its loop.
const TURN: usize = 16 << 10;

/// Rates for one group size, in writes per second.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// Size of each write in bytes.
    pub group_bytes: u32,
    /// The log as a core runs it: a group fills while the one before is written through the core's ring.
    pub ring: f64,
    /// The log with blocking calls: fill, write, fill, write.
    pub blocking: f64,
    /// The bare file: nothing but writes and syncs.
    pub raw: f64,
}

impl Measurement {
    /// The rate of the log as a core runs it, as a part of the bare file's.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ring / self.raw
    }
}

/// Measures groups of `group_bytes` (a multiple of [`SECTOR`]), `per_round` of them on each side in each of `rounds`
/// rounds. Works in a new subdirectory of `directory` and removes it.
pub fn append_rate(
    directory: &Path,
    group_bytes: u32,
    per_round: u32,
    rounds: u32,
) -> io::Result<Measurement> {
    let directory = directory.join(format!("measure-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let result = alternate(&directory, group_bytes, per_round, rounds);
    std::fs::remove_dir_all(&directory)?;
    result
}

fn alternate(directory: &Path, group_bytes: u32, per_round: u32, rounds: u32) -> io::Result<Measurement> {
    // All of it in one segment: making segments is the side thread's work, not the commit's.
    let segment_bytes = SECTOR + group_bytes * (per_round * rounds + 1);
    let config = LogConfig { segment_bytes, group_bytes };
    let log = |core| segment::create(directory, LogId { chain: 0, core, salt: [7; 32] }, config);

    let mut ring = RingLog::open(directory, config, &log(0)?)?;
    let tail = log(1)?;
    let mut blocking = BlockingLog::open(directory, config, &tail)?;
    let mut raw = RawFile::open(directory, config, &log(2)?)?;

    let mut times = [Duration::ZERO; 3];
    for _ in 0..rounds {
        times[0] += timed(|| ring.run(per_round, group_bytes))?;
        times[1] += timed(|| run_blocking(&mut blocking, per_round, group_bytes))?;
        times[2] += timed(|| raw.run(per_round))?;
    }
    let [ring, blocking, raw] = times.map(|time| f64::from(per_round * rounds) / time.as_secs_f64());
    Ok(Measurement { group_bytes, ring, blocking, raw })
}

fn timed(run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    run().map(|()| start.elapsed())
}

/// Appends records until the group has just the size that is measured.
fn fill_group(group_bytes: u32, mut append: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let payload = [0x5a; RECORD];
    let mut room = group_bytes as usize - GROUP_HEADER;
    while room >= RECORD_HEADER + RECORD {
        append(&payload)?;
        room -= RECORD_HEADER + RECORD;
    }
    Ok(())
}

fn run_blocking(log: &mut BlockingLog<super::FileSink>, groups: u32, group_bytes: u32) -> io::Result<()> {
    for _ in 0..groups {
        fill_group(group_bytes, |record| log.append(1, &[record]).map(drop).map_err(io::Error::other))?;
        log.commit()?;
    }
    Ok(())
}

/// A log on a ring.
struct RingLog {
    writer: Writer,
    reactor: Reactor,
    file: netio::FileId,
    events: Vec<Event>,
}

impl RingLog {
    fn open(directory: &Path, config: LogConfig, tail: &Tail) -> io::Result<RingLog> {
        let mut reactor = Reactor::new(ReactorConfig::default())?;
        let file = segment::open_for_writing(directory, tail.id.core, tail.segment, tail.segment_bytes)?;
        let file = reactor.register_file(file.into())?;
        Ok(RingLog { writer: Writer::new(config, tail), reactor, file, events: Vec::new() })
    }

    fn run(&mut self, groups: u32, group_bytes: u32) -> io::Result<()> {
        for _ in 0..groups {
            fill_group(group_bytes, |record| self.append(record))?;
            self.wait_for_write()?;
            let write = self.writer.begin_commit().expect("nothing is in flight, and all is in one segment");
            self.reactor.write_durable(self.file, write.offset.into(), write.buf, write.sequence)?;
            self.reactor.poll(Wait::Spin, &mut self.events)?;
        }
        self.wait_for_write()
    }

    /// Appends, and gives the ring a turn now and then, as the core's loop does.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let before = self.writer.pending_bytes() / TURN;
        self.writer.append(1, &[record]).map_err(io::Error::other)?;
        if self.writer.pending_bytes() / TURN > before {
            self.reactor.poll(Wait::Spin, &mut self.events)?;
        }
        Ok(())
    }

    fn wait_for_write(&mut self) -> io::Result<()> {
        loop {
            for event in self.events.drain(..) {
                if let Event::FileDone { buf, result, .. } = event {
                    result?;
                    self.writer.commit_done(buf);
                }
            }
            if !self.writer.is_committing() {
                return Ok(());
            }
            self.reactor.poll(Wait::Forever, &mut self.events)?;
        }
    }
}

/// A bare file, prepared as a segment is.
struct RawFile {
    file: File,
    bytes: netio::AlignedBuf,
    offset: u64,
}

impl RawFile {
    fn open(directory: &Path, config: LogConfig, tail: &Tail) -> io::Result<RawFile> {
        let file = segment::open_for_writing(directory, tail.id.core, tail.segment, tail.segment_bytes)?;
        Ok(RawFile { file, bytes: segment::zeros(config.group_bytes), offset: SECTOR.into() })
    }

    fn run(&mut self, writes: u32) -> io::Result<()> {
        for _ in 0..writes {
            self.file.write_all_at(&self.bytes, self.offset)?;
            self.file.sync_data()?;
            self.offset += self.bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sides_run_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let measured = append_rate(directory.path(), 2 * SECTOR, 2, 2).expect("measured");
        assert!(measured.ring > 0.0 && measured.blocking > 0.0 && measured.raw > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 0);
    }
}
