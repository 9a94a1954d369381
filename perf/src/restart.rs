//! `perf restart`: how long a validator with many accounts takes from its start until it is ready.
//!
//! Measured twice: from nothing but the genesis, and from what a crash leaves after real work: a snapshot of every table, and
//! the log of many transfers behind them. A network of real processes makes that: it works with small snapshot intervals until
//! every table has a snapshot, is killed, works on with snapshots far apart, and is killed again.
//!
//! A validator that answers need not know all that it knew. So it is also asked for the senders' accounts until they are
//! what they were before the crash. The files are in the page cache, as after a crash of the process, not of the machine.

use std::{
    fmt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use dag::{Address, TableId, keys::KeyPair};
use engine::{log::Scanner, side::disk::StdDisk, snapshot};
use serde::Serialize;

use crate::{
    client::Client,
    figure::{self, Figure, Goal, median},
    network::{Network, Sizes},
    progress::Progress,
    report::Machine,
};

const FROM_LOG: Goal = Goal { what: "restart from snapshots and log", unit: "s", required: 10.0, aim: 2.0 };
const FROM_GENESIS: Goal = Goal { what: "start from genesis only", unit: "s", required: 10.0, aim: 2.0 };

/// The validator that is restarted.
const SUBJECT: usize = 0;
/// Snapshot intervals, bytes of log: until all tables have one, and then on.
const OFTEN: u64 = 2 << 20;
const SELDOM: u64 = 64 << 30;
/// Load per round of waiting for snapshots, and how many rounds at most.
const SNAPSHOT_LOAD: Duration = Duration::from_secs(3);
const SNAPSHOT_ROUNDS: usize = 20;
/// How long a validator may take to give or regain its senders' states.
const STATE_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

const EXAMPLES: &str = "\
Examples:
  perf restart
  perf restart --accounts 100000 --transfers 20000 --rounds 1
  perf restart --json | jq '.from_snapshots_and_log'

Takes two minutes or so, most of them to fill the log; needs about 1 KiB of disk for each account, and 2 KiB for each
transfer.";

/// Arguments of `perf restart`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Accounts
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    accounts: u32,
    /// Transfers in the log behind the snapshots
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    transfers: u64,
    /// Transfers per second while the log is filled
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Starts of each kind; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Tables of the shard: a power of two
    #[arg(long, default_value_t = 16)]
    tables: u16,
    /// Core loops of each validator
    #[arg(long, default_value_t = 1)]
    cores: u16,
    /// Keys, data and logs go to a directory here, which is removed in the end
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: [Figure; 2],
    accounts: u32,
    tables: u16,
    from_genesis: Starts,
    from_snapshots_and_log: Starts,
    disk: Disk,
    machine: Machine,
}

/// Some starts of one kind: seconds from the start of the process, in order.
#[derive(Clone, Debug, Default, Serialize)]
struct Starts {
    /// Until it was ready: ports open, RPC answering.
    ready: Vec<f64>,
    /// Until it knew all that it had known.
    complete: Vec<f64>,
    /// Memory in use then, bytes.
    resident_bytes: u64,
}

/// What a restart starts from.
#[derive(Clone, Copy, Debug, Serialize)]
struct Disk {
    /// Bytes of the newest snapshots of all tables.
    snapshot_bytes: u64,
    /// Bytes of the log, all cores.
    log_bytes: u64,
    /// Its records.
    log_records: u64,
}

/// Measures.
///
/// # Errors
/// The network can't be made or does not work, or a restarted validator does not know what it knew.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let Arguments { accounts, tables, cores, rounds, .. } = *arguments;
    let directory = tempfile::Builder::new()
        .prefix("perf-restart-")
        .tempdir_in(&arguments.directory)
        .with_context(|| format!("can't write to {}", arguments.directory.display()))?;
    let progress = Progress::new(2 * u64::from(rounds) + 3);
    progress.note(format!("making a network with {accounts} accounts"));
    let senders = accounts.min(1_000);
    let sizes = Sizes { validators: 4, tables, cores, accounts, senders };
    let mut network = Network::create(directory.path(), sizes, OFTEN)?;
    progress.step();

    let from_genesis = start_from_genesis(&mut network, rounds, &progress)?;
    make_snapshots(&mut network, arguments, &progress)?;
    let known = fill_log(&mut network, arguments, &progress)?;
    let disk = disk(&network.data(SUBJECT), network.chain(), tables, cores)?;
    let from_snapshots_and_log = restart(&mut network, &known, rounds, &progress)?;

    let middle = |seconds: &[f64]| median(seconds.iter().copied());
    let figures = [
        FROM_LOG.judge(middle(&from_snapshots_and_log.complete)),
        FROM_GENESIS.judge(middle(&from_genesis.ready)),
    ];
    let machine = Machine::read();
    Ok(Facts { figures, accounts, tables, from_genesis, from_snapshots_and_log, disk, machine })
}

fn start_from_genesis(network: &mut Network, rounds: u16, progress: &Progress) -> anyhow::Result<Starts> {
    let mut starts = Starts::default();
    for round in 1..=rounds {
        let ready = network.start(SUBJECT)?.as_secs_f64();
        progress.note(format!("from genesis only, round {round}: {ready:.2} s"));
        starts.ready.push(ready);
        // There is nothing to catch up with.
        starts.complete.push(ready);
        starts.resident_bytes = resident(network)?;
        network.kill(SUBJECT);
        std::fs::remove_dir_all(network.data(SUBJECT))?;
        progress.step();
    }
    Ok(starts)
}

/// Works until every table of the subject has a snapshot, then kills all.
fn make_snapshots(network: &mut Network, arguments: &Arguments, progress: &Progress) -> anyhow::Result<()> {
    network.start_all()?;
    let data = network.data(SUBJECT);
    for _ in 0..SNAPSHOT_ROUNDS {
        network.load(arguments.rate, SNAPSHOT_LOAD, progress)?;
        let with_one = tables_with_snapshot(&data, arguments.tables)?;
        progress.note(format!("{with_one} of {} tables have a snapshot", arguments.tables));
        if with_one == arguments.tables {
            network.kill_all();
            progress.step();
            return Ok(());
        }
    }
    bail!("tables without a snapshot after {SNAPSHOT_ROUNDS} rounds of load: raise --rate")
}

fn tables_with_snapshot(data: &Path, tables: u16) -> anyhow::Result<u16> {
    let mut count = 0;
    for table in 0..tables {
        count += u16::from(!snapshot::list(&StdDisk, data, table)?.is_empty());
    }
    Ok(count)
}

/// What a validator knows of an account: balance, sequence.
type Known = Vec<(u64, u64)>;

/// Works on without snapshots, asks the subject what it knows, then kills all.
fn fill_log(network: &mut Network, arguments: &Arguments, progress: &Progress) -> anyhow::Result<Known> {
    network.configure(SELDOM)?;
    network.start_all()?;
    let length = Duration::from_secs_f64(arguments.transfers as f64 / arguments.rate as f64);
    network.load(arguments.rate, length, progress)?;
    let known = settled(network, STATE_WITHIN)?;
    network.kill_all();
    progress.step();
    Ok(known)
}

/// What the subject knows of the senders once no receipt is on its way any more: a second without a change.
fn settled(network: &Network, within: Duration) -> anyhow::Result<Known> {
    let deadline = Instant::now() + within;
    let mut before = None;
    while Instant::now() < deadline {
        let now = Some(ask(network, network.senders())?);
        if now == before {
            return now.context("just asked");
        }
        before = now;
        thread::sleep(Duration::from_secs(1));
    }
    bail!("the accounts go on changing without load")
}

fn ask(network: &Network, senders: &[KeyPair]) -> anyhow::Result<Known> {
    let addresses: Vec<Address> = senders.iter().map(KeyPair::address).collect();
    let mut client = Client::connect(network.submission(SUBJECT), STATE_WITHIN)?;
    let states = client.accounts(&addresses)?;
    Ok(states.into_iter().map(|state| state.map_or((0, 0), |s| (s.balance, s.sequence))).collect())
}

fn restart(network: &mut Network, known: &Known, rounds: u16, progress: &Progress) -> anyhow::Result<Starts> {
    let mut starts = Starts::default();
    for round in 1..=rounds {
        let ready = network.start(SUBJECT)?.as_secs_f64();
        let complete = complete(network, known)?.as_secs_f64();
        progress
            .note(format!("from snapshots and log, round {round}: {ready:.2} s, complete {complete:.2} s"));
        starts.ready.push(ready);
        starts.complete.push(complete);
        starts.resident_bytes = resident(network)?;
        network.kill(SUBJECT);
        progress.step();
    }
    Ok(starts)
}

/// Waits until the subject knows all that it had known. Returns the time since its start.
fn complete(network: &Network, known: &Known) -> anyhow::Result<Duration> {
    let process = network.processes().next().context("it was just started")?;
    loop {
        if ask(network, network.senders())? == *known {
            break;
        }
        let waited = process.started().elapsed();
        ensure!(
            waited < STATE_WITHIN,
            "the restarted validator does not know what it knew: {}",
            process.log_text()
        );
        thread::sleep(LOOK_AGAIN);
    }
    Ok(process.started().elapsed())
}

fn resident(network: &Network) -> anyhow::Result<u64> {
    network.processes().next().context("it was just started")?.resident_bytes()
}

/// Looks at what the crash has left.
fn disk(data: &Path, chain: dag::ChainId, tables: TableId, cores: u16) -> anyhow::Result<Disk> {
    let mut disk = Disk { snapshot_bytes: 0, log_bytes: 0, log_records: 0 };
    for table in 0..tables {
        let newest = snapshot::list(&StdDisk, data, table)?.pop().context("a table has lost its snapshot")?;
        disk.snapshot_bytes += std::fs::metadata(snapshot::path(data, table, newest))?.len();
    }
    for core in 0..cores {
        let mut scanner = Scanner::open(data, chain, core)?.context("there is no log")?;
        let mut first = None;
        while let Some(record) = scanner.next_record()? {
            first.get_or_insert(record.position.segment);
            disk.log_records += 1;
        }
        let tail = scanner.finish()?;
        let full = u64::from(tail.segment - first.unwrap_or(tail.segment)) * u64::from(tail.segment_bytes);
        disk.log_bytes += full + u64::from(tail.offset);
    }
    Ok(disk)
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { accounts, tables, disk, .. } = self;
        let mebibytes = |bytes: u64| figure::number(bytes as f64 / f64::from(1 << 20));
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{accounts} accounts, {tables} tables; snapshots {} MiB, log {} MiB with {} records\n",
            mebibytes(disk.snapshot_bytes),
            mebibytes(disk.log_bytes),
            figure::number(disk.log_records as f64)
        )?;
        let header = ["median s", "ready", "complete", "slowest", "memory"].map(String::from).to_vec();
        let row = |name: &str, starts: &Starts| {
            let slowest = starts.complete.iter().copied().fold(0.0, f64::max);
            let times = [median(starts.ready.clone()), median(starts.complete.clone()), slowest];
            let memory = format!("{} MiB", mebibytes(starts.resident_bytes));
            let times = times.map(|seconds| format!("{seconds:.2}"));
            std::iter::once(name.to_owned()).chain(times).chain([memory]).collect()
        };
        let rows = [
            header,
            row("from genesis only", &self.from_genesis),
            row("from snapshots and log", &self.from_snapshots_and_log),
        ];
        writeln!(f, "{}", figure::columns(&rows))?;
        f.write_str(&figure::table(&self.figures))
    }
}
