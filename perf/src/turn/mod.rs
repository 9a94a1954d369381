//! `perf turn`: what a relayed packet costs, ours beside coturn's.
//!
//! Both servers are processes with one relay thread, pinned to one core; the load is one thread on another core. Clients hold an
//! allocation and a channel each and keep a fixed number of 200-byte packets on the way: channel data to the relay, from
//! there to one peer, which sends everything back. So each packet passes the relay twice, once each way. Packets leave in trains
//! (`--train`), as senders of media do and as network cards deliver them (GRO), or one by one.
//!
//! The sides take turns in short rounds, on the same cores and ports; the figure is the median of the rounds' ratios. Counted is
//! the processor time of the server's process, user and system, and beside it that of the load together with the server,
//! because on loopback a part of receiving is done by whoever sends.

mod load;
mod servers;
mod session;

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    figure::{self, Figure, Goal, columns, median, number},
    progress::Progress,
    report::Machine,
};
use load::{Load, Round};
use servers::Side;

pub use servers::{PASSWORD, USER, serve};
pub(crate) use servers::{coturn, coturn_version};
pub(crate) use session::{LOST_AFTER, Line, channel_data, open_channel};

const TRAINS: Goal =
    Goal { what: "packets per CPU second in trains, against coturn", unit: "×", required: 3.0, aim: 8.0 };
const SINGLE: Goal =
    Goal { what: "packets per CPU second one by one, against coturn", unit: "×", required: 3.0, aim: 8.0 };

const EXAMPLES: &str = "\
Examples:
  perf turn
  perf turn --clients 64 --rounds 9
  perf turn --json | jq '.figures[0].value'

It installs coturn by apt-get where that is missing.";

/// Arguments of `perf turn`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Clients, each with an allocation and a channel
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Packets of a train
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=64))]
    train: u16,
    /// Bytes of a packet's payload
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(16..=1400))]
    bytes: u16,
    /// Rounds of each side and each way to send
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Length of a round, in milliseconds
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    milliseconds: u64,
    /// Core of the servers; the load takes the next one
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: Vec<Figure>,
    rows: Vec<Row>,
    coturn: String,
    clients: u16,
    bytes: u16,
    machine: Machine,
}

/// A side's medians for one way to send.
#[derive(Clone, Debug, Serialize)]
struct Row {
    side: &'static str,
    train: u16,
    /// Packets that left the relay, both ways, a second.
    packets_per_second: f64,
    /// The same, for each second of the server's processor time.
    per_server_cpu_second: f64,
    /// The same, for each second of the server's and the load's processor time.
    per_cpu_second_with_load: f64,
    /// Part of the packets that did not come back, %.
    lost: f64,
}

/// Measures.
///
/// # Errors
/// A server can't be started, or does not relay.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let Arguments { clients, train, bytes, rounds, milliseconds, core } = *arguments;
    let coturn = coturn_version()?;
    let progress = Progress::new(u64::from(rounds) * 4);
    core_affinity::set_for_current(core_affinity::CoreId { id: core + 1 });
    let mut facts =
        Facts { figures: Vec::new(), rows: Vec::new(), coturn, clients, bytes, machine: Machine::read() };
    for (goal, train) in [(TRAINS, train), (SINGLE, 1)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who begins changes, so that neither always has the warmer or the cooler machine.
            let order = if round % 2 == 0 { [Side::Ours, Side::Coturn] } else { [Side::Coturn, Side::Ours] };
            for side in order {
                progress.note(format!("trains of {train}, round {}: {}", round + 1, side.name()));
                let server = servers::start(side, core)?;
                let mut load = Load::new(server.address(), clients, train, bytes)?;
                let result = load.run(Duration::from_millis(milliseconds), || server.cpu_time())?;
                match side {
                    Side::Ours => ours.push(result),
                    Side::Coturn => theirs.push(result),
                }
                progress.step();
            }
        }
        let ratio =
            |(ours, theirs): (&Round, &Round)| ours.per_server_cpu_second() / theirs.per_server_cpu_second();
        facts.figures.push(goal.judge(median(ours.iter().zip(&theirs).map(ratio))));
        facts.rows.push(row(Side::Ours, train, &ours));
        facts.rows.push(row(Side::Coturn, train, &theirs));
    }
    Ok(facts)
}

fn row(side: Side, train: u16, rounds: &[Round]) -> Row {
    let middle = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    Row {
        side: side.name(),
        train,
        packets_per_second: middle(Round::packets_per_second),
        per_server_cpu_second: middle(Round::per_server_cpu_second),
        per_cpu_second_with_load: middle(Round::per_cpu_second_with_load),
        lost: middle(Round::lost),
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{} clients, {} bytes, coturn {}\n", self.clients, self.bytes, self.coturn)?;
        let header = ["", "train", "packets/s", "per server CPU s", "per CPU s with load", "lost"];
        let each = self.rows.iter().map(|row| {
            vec![
                row.side.to_owned(),
                row.train.to_string(),
                number(row.packets_per_second),
                number(row.per_server_cpu_second),
                number(row.per_cpu_second_with_load),
                format!("{} %", number(row.lost)),
            ]
        });
        let rows: Vec<Vec<String>> = std::iter::once(header.map(String::from).to_vec()).chain(each).collect();
        writeln!(f, "{}", columns(&rows))?;
        f.write_str(&figure::table(&self.figures))
    }
}
