//! `perf log`: append rate of the engine's log beside that of `fio` with the same pattern.
//!
//! Disks drift, so all sides write in turn, in short rounds, to files prepared alike (allocated and written over with
//! zeros): sequential writes of one size with direct IO, each durable before the next one begins. The log fills, chains and
//! hashes its groups meanwhile; `fio` writes what lies in its buffer. It does so in two ways, with `fdatasync` after each write
//! and with `O_DSYNC`, and the log has to stand up to the faster one.

mod fio;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use engine::log::{LogConfig, LogId, SECTOR, measure::append_rate, segment};
use serde::Serialize;

use self::fio::{Durable, Pattern};
use crate::{
    figure::{self, Figure, Goal, median},
    progress::Progress,
    report::Machine,
};

const APPEND: Goal = Goal { what: "log append, part of fio's rate", unit: "%", required: 80.0, aim: 95.0 };

/// What one side writes in a round, about a tenth of a second: so long that fio's whole milliseconds are exact to a hundredth,
/// and so short that the disk is the same for all sides.
const ROUND_BYTES: u32 = 64 << 20;
const ROUND_WRITES: u32 = 2_000;

const EXAMPLES: &str = "\
Examples:
  perf log
  perf log --directory /mnt/nvme --sizes 4 --rounds 31
  perf log --json | jq '.sizes[].ratio'

The figure is that of the worst size. fio is installed by apt-get where it is missing.";

/// Arguments of `perf log`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A directory on the disk that is measured; nothing is left in it
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// Sizes of the writes in KiB
    #[arg(long, default_value = "4,64,256", value_delimiter = ',', value_parser = kib)]
    sizes: Vec<u32>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Fail where there is no fio
    #[arg(long)]
    no_install: bool,
}

/// Whole sectors, at most a group of the log.
fn kib(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|size: &u32| size.is_multiple_of(4) && (4..=2048).contains(size));
    size.ok_or_else(|| "use a multiple of 4 from 4 to 2048".into())
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: [Figure; 1],
    sizes: Vec<Size>,
    fio: String,
    machine: Machine,
}

/// Writes of one size: medians of all rounds, in writes per second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Size {
    kib: u32,
    writes_per_round: u32,
    /// The log as a core runs it: through the core's ring, the next group filling meanwhile.
    log: f64,
    /// The log with blocking calls.
    log_blocking: f64,
    fio_fdatasync: f64,
    fio_dsync: f64,
    /// The log's rate as a part of fio's faster one, round by round.
    ratio: f64,
    ratio_blocking: f64,
}

/// Writes per second in one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    log: f64,
    blocking: f64,
    fdatasync: f64,
    dsync: f64,
}

impl Round {
    fn fio(&self) -> f64 {
        self.fdatasync.max(self.dsync)
    }
}

/// Measures.
///
/// # Errors
/// There is no `fio`, or the disk refuses.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let fio = fio::version(!arguments.no_install)?;
    let directory = tempfile::Builder::new()
        .prefix("perf-log-")
        .tempdir_in(&arguments.directory)
        .with_context(|| format!("can't write to {}", arguments.directory.display()))?;
    let progress = Progress::new(u64::from(arguments.rounds) * arguments.sizes.len() as u64);
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); arguments.sizes.len()];
    for number in 0..arguments.rounds {
        for (&kib, rounds) in arguments.sizes.iter().zip(&mut rounds) {
            let round = measure(directory.path(), kib << 10, number % 2 == 0)?;
            progress.note(format!(
                "round {}, {kib} KiB: log {:.0}/s, fio {:.0}/s",
                number + 1,
                round.log,
                round.fio()
            ));
            progress.step();
            rounds.push(round);
        }
    }
    let sizes: Vec<Size> =
        arguments.sizes.iter().zip(&rounds).map(|(&kib, rounds)| summary(kib, rounds)).collect();
    let worst = sizes.iter().map(|size| size.ratio).fold(f64::INFINITY, f64::min);
    Ok(Facts { figures: [APPEND.judge(100.0 * worst)], sizes, fio, machine: Machine::read() })
}

fn writes(bytes: u32) -> u32 {
    (ROUND_BYTES / bytes).min(ROUND_WRITES)
}

/// One round of all sides; fio before or after the log.
fn measure(directory: &Path, bytes: u32, fio_first: bool) -> anyhow::Result<Round> {
    let writes = writes(bytes);
    let by_fio = || -> anyhow::Result<_> {
        let rate = |durable| fio_rate(directory, bytes, writes, durable);
        Ok((rate(Durable::Fdatasync)?, rate(Durable::Dsync)?))
    };
    let by_log = || append_rate(directory, bytes, writes, 1).context("the log can't be written");
    let ((fdatasync, dsync), log) = if fio_first {
        let fio = by_fio()?;
        (fio, by_log()?)
    } else {
        let log = by_log()?;
        (by_fio()?, log)
    };
    Ok(Round { log: log.ring, blocking: log.blocking, fdatasync, dsync })
}

/// Lets `fio` write to a file that was made as the log's are.
fn fio_rate(directory: &Path, bytes: u32, writes: u32, durable: Durable) -> anyhow::Result<f64> {
    let config = LogConfig { segment_bytes: SECTOR + bytes * (writes + 1), group_bytes: bytes };
    let id = LogId { chain: 0, core: 0, salt: [0; 32] };
    let tail = segment::create(directory, id, config).context("the file can't be prepared")?;
    let file = segment::path(directory, id.core, tail.segment);
    let rate = fio::write_rate(Pattern { file: &file, offset: SECTOR, bytes, writes, durable });
    std::fs::remove_file(&file)?;
    rate
}

fn summary(kib: u32, rounds: &[Round]) -> Size {
    let middle = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    Size {
        kib,
        writes_per_round: writes(kib << 10),
        log: middle(|round| round.log),
        log_blocking: middle(|round| round.blocking),
        fio_fdatasync: middle(|round| round.fdatasync),
        fio_dsync: middle(|round| round.dsync),
        ratio: middle(|round| round.log / round.fio()),
        ratio_blocking: middle(|round| round.blocking / round.fio()),
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}\n", self.machine, self.fio)?;
        let header =
            ["KiB", "", "log", "log, blocking", "fio fdatasync", "fio O_DSYNC", "log/fio", "blocking/fio"];
        let mut rows = vec![header.map(String::from).to_vec()];
        for size in &self.sizes {
            let rates = [size.log, size.log_blocking, size.fio_fdatasync, size.fio_dsync];
            let megabytes = rates.map(|rate| rate * f64::from(size.kib) * 1024.0 / 1e6);
            let ratios = [size.ratio, size.ratio_blocking].map(|ratio| format!("{:.1} %", 100.0 * ratio));
            let row = |name: &str, unit: &str, values: [f64; 4]| {
                [name.to_owned(), unit.to_owned()].into_iter().chain(values.map(figure::number))
            };
            rows.push(row(&size.kib.to_string(), "writes/s", rates).chain(ratios).collect());
            rows.push(row("", "MB/s", megabytes).collect());
        }
        writeln!(f, "{}", figure::columns(&rows))?;
        f.write_str(&figure::table(&self.figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let round = |log, fio| Round { log, blocking: log / 2.0, fdatasync: fio, dsync: fio / 2.0 };
        // The disk was half as fast in two of the rounds, for both sides alike.
        let size = summary(64, &[round(90.0, 100.0), round(45.0, 50.0), round(45.0, 50.0)]);
        assert_eq!((size.ratio, size.ratio_blocking), (0.9, 0.45));
        assert_eq!((size.log, size.fio_fdatasync, size.fio_dsync), (45.0, 50.0, 25.0));
        assert_eq!((size.writes_per_round, writes(2048 << 10)), (1024, 32));
    }
}
