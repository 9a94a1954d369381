//! `perf burst`: what a relayed packet costs past the kernel, beside our own sockets and coturn; and what is left of the rate under
//! overload.
//!
//! ```text
//! load ──── veth ──── relay      each end with its own core: its process, and the kernel's thread that takes in its packets
//! ```
//!
//! Clients hold an allocation and a channel each, and keep a few 200-byte packets on their way: to the relay, to one peer, back to the
//! relay, back to the client. Neighbouring packets are of different clients, so offload joins nothing and each is paid for.
//! The load is the same for all sides: one AF_XDP socket that sends back what it gets. Counted is the processor time of the relay's process
//! and of the kernel's thread that takes in its packets. The sides take turns; the figure is the median of the rounds' ratios.
//!
//! Under overload, clients send to the peer at 1, 2 and 5 times what a core carried before in a second of its time, with nothing
//! held back, and the relay says how many it sent on and its device took. The generator has one core: what it really offered is shown.

mod load;
mod place;

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    figure::{self, Figure, Goal, columns, median, number},
    progress::Progress,
    report::Machine,
    turn::coturn_version,
};
use load::Load;
use place::{LOAD, PORT, Place, RELAY, Relay, Side};

pub use place::serve;

const BYPASS: Goal =
    Goal { what: "packets per CPU second on AF_XDP, against sockets", unit: "×", required: 1.5, aim: 3.0 };
const COTURN: Goal = Goal {
    what: "packets per CPU second on AF_XDP, one by one, against coturn",
    unit: "×",
    required: 3.0,
    aim: 8.0,
};
const KEPT: [(f64, Goal); 3] = [
    (1.0, kept("delivered at 1 × capacity on AF_XDP, of the peak")),
    (2.0, kept("delivered at 2 × capacity on AF_XDP, of the peak")),
    (5.0, kept("delivered at 5 × capacity on AF_XDP, of the peak")),
];

const fn kept(what: &'static str) -> Goal {
    Goal { what, unit: "×", required: 0.8, aim: 0.95 }
}

/// Runs of each side at each load.
const OVERLOAD_RUNS: u32 = 3;
const WARM_UP: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  perf burst
  perf burst --clients 256 --rounds 9
  perf burst --json | jq '.figures[] | {what, value}'

It installs coturn by apt-get where that is missing. Takes root, iproute2, ethtool and a kernel with XDP in its veth driver.";

/// Arguments of `perf burst`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Clients, each with an allocation and a channel
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Packets on their way; a veth device holds 256
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1000))]
    window: u16,
    /// Bytes of a packet's payload
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(16..=1400))]
    bytes: u16,
    /// Rounds of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Length of a round, in milliseconds; overload takes at least three seconds
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    milliseconds: u64,
    /// Core of the relay; the load takes the next one
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: Vec<Figure>,
    rows: Vec<Row>,
    overload: Vec<Overload>,
    coturn: String,
    clients: u16,
    bytes: u16,
    machine: Machine,
}

/// A side's medians.
#[derive(Clone, Debug, Serialize)]
struct Row {
    side: &'static str,
    /// Packets that left the relay, both ways, a second.
    packets_per_second: f64,
    /// The same, for each second of processor time of the relay and of its packets' receipt.
    per_cpu_second: f64,
}

/// A side under more than it can carry.
#[derive(Clone, Debug, Serialize)]
struct Overload {
    side: &'static str,
    /// Multiple of the capacity that was asked for.
    multiple: f64,
    /// Packets a second that were offered.
    offered: f64,
    /// Packets a second that left the relay's device.
    delivered: f64,
    /// The same, of the side's best.
    of_peak: f64,
}

/// What one round gave.
struct Exchanged {
    packets_per_second: f64,
    per_cpu_second: f64,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    place: Place,
}

impl Bench<'_> {
    fn start(&self, side: Side) -> anyhow::Result<(Relay, Load)> {
        let Arguments { core, clients, bytes, .. } = *self.arguments;
        let relay = self.place.start(side, (core, core + 1))?;
        let device = self.place.load_device();
        let load = Load::new(&device, LOAD, (RELAY, PORT).into(), (clients, bytes))?;
        // Its own program has started a new thread at this end.
        place::pin(&place::napi_threads(&device)?, core + 1)?;
        Ok((relay, load))
    }

    fn exchange(&self, side: Side) -> anyhow::Result<Exchanged> {
        let (relay, mut load) = self.start(side)?;
        let window = usize::from(self.arguments.window);
        load.exchange(window, Instant::now() + WARM_UP)?;
        load.drain()?;
        let (start, cpu) = (Instant::now(), relay.cpu_time()?);
        let length = Duration::from_millis(self.arguments.milliseconds);
        let relayed = load.exchange(window, start + length)? as f64;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), (relay.cpu_time()? - cpu).as_secs_f64());
        ensure!(relayed > 1000.0, "next to nothing was relayed");
        Ok(Exchanged { packets_per_second: relayed / seconds, per_cpu_second: relayed / cpu })
    }

    /// Medians of several runs at each load, which take turns.
    fn overload(&self, side: Side, capacity: f64) -> anyhow::Result<Vec<Overload>> {
        let mut runs = KEPT.each_ref().map(|_| Vec::new());
        for _ in 0..OVERLOAD_RUNS {
            for (runs, (multiple, _)) in runs.iter_mut().zip(&KEPT) {
                runs.push(self.overload_once(side, capacity * multiple)?);
            }
        }
        let mut found: Vec<Overload> = runs
            .iter()
            .zip(&KEPT)
            .map(|(runs, (multiple, _))| Overload {
                side: side.name(),
                multiple: *multiple,
                offered: median(runs.iter().map(|run| run.0)),
                delivered: median(runs.iter().map(|run| run.1)),
                of_peak: 0.0,
            })
            .collect();
        let peak = found.iter().map(|one| one.delivered).fold(1.0, f64::max);
        found.iter_mut().for_each(|one| one.of_peak = one.delivered / peak);
        Ok(found)
    }

    /// Packets a second that were offered, and that were delivered.
    fn overload_once(&self, side: Side, rate: f64) -> anyhow::Result<(f64, f64)> {
        let (relay, mut load) = self.start(side)?;
        load.offer(rate, Instant::now() + WARM_UP)?;
        relay.reports();
        let start = Instant::now();
        // The relay reports twice a second.
        let length = Duration::from_millis(self.arguments.milliseconds).max(Duration::from_secs(3));
        let (sent, _) = load.offer(rate, start + length)?;
        let offered = sent as f64 / start.elapsed().as_secs_f64();
        let reports = relay.reports();
        // The first one may have been new before this began.
        let (first, last) = reports.get(1).zip(reports.last()).context("the relay reports nothing")?;
        ensure!(last.0 > first.0, "the relay reports too seldom");
        Ok((offered, (last.1 - first.1) as f64 / (last.0 - first.0)))
    }
}

/// Measures.
///
/// # Errors
/// There is no AF_XDP on a veth device here, or the relay does not work.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let coturn = coturn_version()?;
    let bench = Bench { arguments, place: Place::new()? };
    core_affinity::set_for_current(core_affinity::CoreId { id: arguments.core + 1 });
    bench.place.enter()?;
    let progress = Progress::new(u64::from(arguments.rounds) * 3 + 2);
    let sides = [Side::Bypass, Side::Sockets, Side::Coturn];
    let mut results = sides.map(|_| Vec::new());
    for round in 0..arguments.rounds as usize {
        // Who begins changes, so that none always has the warmer or the cooler machine.
        for place in (0..sides.len()).map(|index| (index + round) % sides.len()) {
            progress.note(format!("round {}: {}", round + 1, sides[place].name()));
            results[place].push(bench.exchange(sides[place])?);
            progress.step();
        }
    }
    let rows: Vec<Row> = sides.iter().zip(&results).map(|(side, rounds)| row(*side, rounds)).collect();
    let [bypass, sockets, theirs] = &results;
    let over = |others: &[Exchanged]| {
        median(bypass.iter().zip(others).map(|(bypass, other)| bypass.per_cpu_second / other.per_cpu_second))
    };
    let mut figures = vec![BYPASS.judge(over(sockets)), COTURN.judge(over(theirs))];
    let mut overload = Vec::new();
    for (side, row) in [Side::Bypass, Side::Sockets].into_iter().zip(&rows) {
        progress.note(format!("overload: {}", side.name()));
        overload.extend(bench.overload(side, row.per_cpu_second)?);
        progress.step();
    }
    figures.extend(KEPT.iter().zip(&overload).map(|((_, goal), one)| goal.judge(one.of_peak)));
    let Arguments { clients, bytes, .. } = *arguments;
    Ok(Facts { figures, rows, overload, coturn, clients, bytes, machine: Machine::read() })
}

fn row(side: Side, rounds: &[Exchanged]) -> Row {
    Row {
        side: side.name(),
        packets_per_second: median(rounds.iter().map(|round| round.packets_per_second)),
        per_cpu_second: median(rounds.iter().map(|round| round.per_cpu_second)),
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{} clients, {} bytes, one by one, coturn {}\n", self.clients, self.bytes, self.coturn)?;
        let header = ["", "packets/s", "per CPU s"].map(String::from).to_vec();
        let each = self
            .rows
            .iter()
            .map(|row| vec![row.side.to_owned(), number(row.packets_per_second), number(row.per_cpu_second)]);
        writeln!(f, "{}", columns(&std::iter::once(header).chain(each).collect::<Vec<_>>()))?;
        let header = ["overload", "times", "offered/s", "delivered/s", "of peak"].map(String::from).to_vec();
        let each = self.overload.iter().map(|one| {
            vec![
                one.side.to_owned(),
                number(one.multiple),
                number(one.offered),
                number(one.delivered),
                number(one.of_peak),
            ]
        });
        writeln!(f, "{}", columns(&std::iter::once(header).chain(each).collect::<Vec<_>>()))?;
        f.write_str(&figure::table(&self.figures))
    }
}
