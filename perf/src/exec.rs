//! `perf exec`: what the execution of a transfer costs on one core, and the memory of an account.
//!
//! Random accounts pay random accounts, so nearly every transfer leaves a receipt for another table and is credited there.
//! Measured is what the node's execution stage does: inbox, debits, credits, units, receipts, and at checkpoints the
//! hashing of all that has changed. Building blocks, checking signatures and the log are not. Times are the thread's processor
//! time, on one processor.
//!
//! How much a checkpoint costs each transfer depends on how many lie between two of them, so blocks carry the times that a
//! shard at the given rate would give them.

use std::{fmt, time::Duration};

use engine::metrics::{ProcessUse, thread_cpu};
use serde::Serialize;

use shard_core::measure::{Population, Shard};

use crate::{
    figure::{self, Figure, Goal, median},
    progress::Progress,
    report::Machine,
};

const EXECUTION: Goal = Goal { what: "execution of a transfer", unit: "ns", required: 1000.0, aim: 300.0 };
const MEMORY: Goal = Goal { what: "memory per account", unit: "B", required: 256.0, aim: 128.0 };

const EXAMPLES: &str = "\
Examples:
  perf exec
  perf exec --accounts 10000000 --block 256 --rate 100000
  perf exec --json | jq .figures

The figure is that of the first block size, checkpoints included. Where execution is what limits a shard, blocks fill up to 256;
at lower rates they are small, since a table does not wait for more than 4 ms for company.";

/// Arguments of `perf exec`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Accounts of the state
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    accounts: u32,
    /// Tables that they are spread over: a power of two
    #[arg(long, default_value_t = 16, value_parser = power_of_two)]
    tables: u16,
    /// Transfers of one block; several sizes are measured in turn
    #[arg(long, default_value = "256,64,16", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    block: Vec<u16>,
    /// Transfers per second of the shard: the blocks' times follow from it, and from these the checkpoints
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Transfers of one round, at least: it goes on to the next checkpoint
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    transfers: u32,
    /// Processor to stay on [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
}

fn power_of_two(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|count: &u16| count.is_power_of_two() && *count <= 256)
        .ok_or_else(|| "use a power of two from 1 to 256".into())
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: [Figure; 2],
    accounts: u32,
    tables: u16,
    rate: u32,
    cpu: usize,
    execution: Vec<Execution>,
    bytes_per_account: Memory,
    machine: Machine,
}

/// Execution of blocks of one size; processor time in ns per transfer, medians of all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Execution {
    block: u16,
    /// Where no checkpoint is due.
    without_checkpoints: f64,
    /// Of all.
    with_checkpoints: f64,
    /// Slowest round, checkpoints included.
    slowest: f64,
    /// Transfers of a table from one checkpoint to the next.
    transfers_per_checkpoint: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    /// Growth of the resident set by the tables.
    resident: f64,
    /// What accounts, index and tree say they have allocated.
    allocated: f64,
}

/// What a round took. In a turn, each table executes a block.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Turns without checkpoints.
    plain: Spent,
    /// Turns with checkpoints.
    checkpoints: Spent,
}

/// Processor time, and what it was spent on.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    time: Duration,
    transfers: u64,
    checkpoints: u64,
}

impl Spent {
    fn add(&mut self, time: Duration, transfers: u64, checkpoints: u64) {
        self.time += time;
        self.transfers += transfers;
        self.checkpoints += checkpoints;
    }

    fn per_transfer(&self) -> f64 {
        self.time.as_secs_f64() * 1e9 / (self.transfers as f64).max(1.0)
    }
}

impl Round {
    fn all(&self) -> Spent {
        let (a, b) = (&self.plain, &self.checkpoints);
        let (transfers, checkpoints) = (a.transfers + b.transfers, a.checkpoints + b.checkpoints);
        Spent { time: a.time + b.time, transfers, checkpoints }
    }
}

/// Measures.
///
/// # Errors
/// There is no such processor, or no `/proc`.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let Arguments { accounts, tables, rate, .. } = *arguments;
    let cpu = pin(arguments.cpu)?;
    let progress = Progress::new((u64::from(arguments.rounds) + 1) * arguments.block.len() as u64);
    progress.note(format!("making {accounts} accounts on {tables} tables"));
    let (mut shard, bytes_per_account) = build(accounts, tables)?;
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); arguments.block.len()];
    for number in 0..=arguments.rounds {
        for (&block, rounds) in arguments.block.iter().zip(&mut rounds) {
            let round = measure(&mut shard, block, arguments);
            let name = if number == 0 { "warm-up".into() } else { format!("round {number}") };
            progress.note(format!("{name}, blocks of {block}: {:.0} ns", round.all().per_transfer()));
            progress.step();
            if number > 0 {
                rounds.push(round);
            }
        }
    }
    let execution: Vec<Execution> =
        arguments.block.iter().zip(&rounds).map(|(&block, rounds)| summary(block, rounds)).collect();
    let first = execution.first().expect("clap asks for one value at least");
    let figures = [EXECUTION.judge(first.with_checkpoints), MEMORY.judge(bytes_per_account.resident)];
    let machine = Machine::read();
    Ok(Facts { figures, accounts, tables, rate, cpu, execution, bytes_per_account, machine })
}

/// Stays on one processor from now on.
fn pin(wanted: Option<usize>) -> anyhow::Result<usize> {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let cpu = match wanted {
        Some(id) => cpus.iter().find(|cpu| cpu.id == id),
        None => cpus.last(),
    };
    match cpu {
        Some(&cpu) if core_affinity::set_for_current(cpu) => Ok(cpu.id),
        _ => anyhow::bail!("this process may not run on that processor: leave --cpu out, or see `nproc`"),
    }
}

fn build(accounts: u32, tables: u16) -> anyhow::Result<(Shard, Memory)> {
    let population = Population::draw(accounts as usize, tables, 1);
    let before = ProcessUse::now()?.resident_bytes;
    let shard = Shard::genesis(population);
    let grown = ProcessUse::now()?.resident_bytes.saturating_sub(before);
    let allocated: usize = shard.tables().iter().map(|table| table.accounts().memory()).sum();
    let share = |bytes: f64| bytes / f64::from(accounts);
    Ok((shard, Memory { resident: share(grown as f64), allocated: share(allocated as f64) }))
}

/// A round: turns until enough is transferred, and on to the next checkpoint. So it has whole intervals between checkpoints, and
/// so has the one after it.
fn measure(shard: &mut Shard, block: u16, arguments: &Arguments) -> Round {
    let tables = arguments.tables;
    let transfers = u64::from(block) * u64::from(tables);
    let mut round = Round::default();
    loop {
        shard.pass(transfers * 1_000_000 / u64::from(arguments.rate));
        let blocks: Vec<_> = (0..tables).map(|table| shard.propose(table, block.into())).collect();
        let start = thread_cpu();
        let checkpoints = blocks.iter().filter(|block| shard.execute(block).checkpoint).count();
        let time = thread_cpu() - start;
        // The tables' clocks and heights go together, so their checkpoints do.
        let turns = if checkpoints > 0 { &mut round.checkpoints } else { &mut round.plain };
        turns.add(time, transfers, checkpoints as u64);
        if checkpoints > 0 && round.all().transfers >= u64::from(arguments.transfers) {
            return round;
        }
    }
}

fn summary(block: u16, rounds: &[Round]) -> Execution {
    let all = || rounds.iter().map(|round| round.all().per_transfer());
    let checkpoints: u64 = rounds.iter().map(|round| round.checkpoints.checkpoints).sum();
    let transfers: u64 = rounds.iter().map(|round| round.all().transfers).sum();
    Execution {
        block,
        without_checkpoints: median(rounds.iter().map(|round| round.plain.per_transfer())),
        with_checkpoints: median(all()),
        slowest: all().fold(0.0, f64::max),
        transfers_per_checkpoint: transfers as f64 / (checkpoints as f64).max(1.0),
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { accounts, tables, rate, cpu, .. } = self;
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{accounts} accounts, {tables} tables, {rate} transfers per second, on processor {cpu}\n"
        )?;
        let header = ["ns per transfer", "no checkpoint", "all", "slowest round", "transfers per checkpoint"];
        let row = |e: &Execution| {
            let values = [e.without_checkpoints, e.with_checkpoints, e.slowest, e.transfers_per_checkpoint];
            let name = format!("blocks of {}", e.block);
            std::iter::once(name).chain(values.map(figure::number)).collect()
        };
        let rows: Vec<Vec<String>> = std::iter::once(header.map(String::from).to_vec())
            .chain(self.execution.iter().map(row))
            .collect();
        writeln!(f, "{}", figure::columns(&rows))?;
        let Memory { resident, allocated } = self.bytes_per_account;
        writeln!(f, "bytes per account: {resident:.1} resident, {allocated:.1} allocated by the tables\n")?;
        f.write_str(&figure::table(&self.figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_split_by_checkpoints() {
        let mut round = Round::default();
        round.plain.add(Duration::from_nanos(1_000), 10, 0);
        round.plain.add(Duration::from_nanos(3_000), 10, 0);
        round.checkpoints.add(Duration::from_nanos(16_000), 20, 2);
        let summary = summary(10, &[round]);
        assert_eq!((summary.without_checkpoints, summary.with_checkpoints), (200.0, 500.0));
        assert_eq!((summary.slowest, summary.transfers_per_checkpoint), (500.0, 20.0));
    }

    #[test]
    fn a_round_has_the_transfers_and_the_checkpoints_of_its_rate() {
        let (mut shard, memory) = build(1_000, 2).unwrap();
        assert!(memory.allocated > 88.0);
        let arguments = Arguments {
            accounts: 1_000,
            tables: 2,
            block: vec![10],
            rate: 100,
            rounds: 1,
            transfers: 399,
            cpu: None,
        };
        // 400 transfers of 100 per second: 4 s, so 4 checkpoints of each table.
        let round = measure(&mut shard, 10, &arguments);
        assert_eq!(round.all().transfers, 400);
        assert_eq!((round.plain.checkpoints, round.checkpoints.checkpoints), (0, 8));
    }
}
