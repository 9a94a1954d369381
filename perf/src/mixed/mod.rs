//! `perf mixed`: a VPN and agreement on the same cores.
//!
//! ```text
//! client ── veth ── edge     four validators, the first of which is the client's VPN, and the load, share the machine's cores
//! ```
//!
//! Client, `ping` and `iperf3` stand for other machines: they run at real-time priority, so that their waiting for a core is not
//! taken for the validator's. The work that they cost is taken from the same cores, though.
//!
//! Two loads of transfers are on while 500 Mbit/s come and go in the tunnel, and each period of some seconds with that traffic is
//! compared with those before and after it, since a virtual machine's speed drifts:
//!
//! - A flood: far more than can be committed, so that every processor is busy all the time. What is lost is counted by processor
//!   time: transfers per second of what validators (without their relay stage) and the load had, and of what nobody had.
//! - 80 % of the peak, which is what was committed in the flood just before, without the traffic. What is lost is what is committed
//!   less, beyond the processor time that the VPN and its other end take: where that leaves the devnet less time than it had
//!   alone, it is asked for as much less. (A machine that has become slower since has nothing to spare.)

mod probe;

use std::{
    fmt, fs,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use engine::relay::vpn::{VpnConfig, clients::Registry};
use serde::{Deserialize, Serialize};

use self::probe::{Period, Pings, Probe};
use crate::{
    figure::{self, Figure, Goal, columns, median, number},
    loadgen::LoadResult,
    netns::Namespace,
    network::{Network, Process, Sizes},
    progress::Progress,
    report::Machine,
};

const PING: Goal = Goal { what: "VPN ping p99 at 80 % of the peak", unit: "ms", required: 2.0, aim: 0.5 };
const LOSS: Goal = Goal {
    what: "transfers lost at 80 % of the peak beside 500 Mbit/s of VPN, beyond its CPU time",
    unit: "%",
    required: 10.0,
    aim: 3.0,
};
const LOSS_EACH: Goal =
    Goal { what: "the same in a flood, transfers per CPU second", unit: "%", required: 10.0, aim: 3.0 };
/// What its namespaces are named after.
const ROLE: &str = "perf-mixed-";
const WARM_UP: Duration = Duration::from_secs(1);
/// From a change of the traffic on until a period counts: what was proposed before it is committed by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Periods of a load: without the traffic and with it, in turn, without it first and last.
const PERIODS: u32 = 5;
const SNAPSHOT_BYTES: u64 = 256 << 20;
/// Mbit/s through the tunnel, and the time that a stream takes to begin and end beside a load.
const STREAM: u32 = 500;
const STREAM_STARTS: Duration = Duration::from_secs(1);
const EXAMPLES: &str = "\
Examples:
  perf mixed
  perf mixed --seconds 3 --rounds 9
  perf mixed --json

Takes root, iproute2, iputils-ping, iperf3 and chrt of util-linux.";

/// Arguments of `perf mixed`.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long each period of a load takes, in seconds; pings take a few times as long
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Loads of each kind, each with two periods beside the VPN and three without
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Transfers per second that are more than the machine can do
    #[arg(long, default_value_t = 70_000)]
    flood: u64,
    /// Keys, data and logs go to a directory here, which is removed in the end
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
}

/// What runs in the validators' namespace.
#[derive(Clone, Debug, clap::Args)]
pub struct Inside {
    /// Arguments of `perf mixed`, as JSON
    arguments: String,
    /// The client's namespace
    client: String,
}

/// What was measured inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    /// Transfers committed per second by a machine that was offered more.
    peak: f64,
    /// Without any load.
    idle: Pings,
    /// At 80 % of the peak.
    loaded: Pings,
    /// What was committed per second then.
    loaded_committed: f64,
    /// Loads of 80 % of what the floods before them committed alone, with traffic in the tunnel in every other period.
    loads: Vec<Load>,
    /// Floods, likewise.
    floods: Vec<Load>,
}

/// A load beside traffic in the tunnel that comes and goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Load {
    /// Transfers per second.
    offered: f64,
    periods: Vec<Period>,
}

/// What `perf mixed` found.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    machine: Machine,
    #[serde(flatten)]
    measured: Measured,
    figures: Vec<Figure>,
}

/// Runs `perf mixed`.
///
/// # Errors
/// Without root or the tools; when the network or the tunnel does not come up.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    Namespace::remove_leftovers(ROLE)?;
    let (client, edge) = (Namespace::new(&format!("{ROLE}client"))?, Namespace::new(&format!("{ROLE}edge"))?);
    client.link(&edge, "outer", &[("192.0.2.2/24", "192.0.2.1/24")])?;
    let mut inside = edge.command(std::env::current_exe()?);
    inside.args(["mixed-inside", &serde_json::to_string(arguments)?, client.name()]);
    let output = inside.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "it ended with {}, see above", output.status);
    let measured: Measured = serde_json::from_slice(&output.stdout)?;
    let figures = vec![
        PING.judge(measured.loaded.p99_ms),
        LOSS.judge(median(measured.loads.iter().flat_map(Load::losses_beyond))),
        LOSS_EACH.judge(median(measured.floods.iter().flat_map(|flood| flood.losses(Period::per_processor)))),
    ];
    Ok(Facts { machine: Machine::read(), measured, figures })
}

impl Load {
    /// What was committed per second without the tunnel's traffic.
    fn alone(&self) -> f64 {
        median(self.periods.iter().step_by(2).map(|period| period.committed))
    }

    /// What each period beside the tunnel's traffic lost against those before and after it, in percent.
    fn losses(&self, of: impl Fn(&Period) -> f64) -> impl Iterator<Item = f64> {
        self.periods.windows(3).step_by(2).map(move |period| {
            let alone = f64::midpoint(of(&period[0]), of(&period[2]));
            (1.0 - of(&period[1]) / alone) * 100.0
        })
    }

    /// The same beyond the processor time that the tunnel's traffic took: what had time enough is to commit as much as alone, what had
    /// less as much for each processor.
    fn losses_beyond(&self) -> impl Iterator<Item = f64> {
        // What is made up for after a period that could not keep up is no more than was asked for.
        let whole = self.losses(|period| period.committed.min(self.offered));
        whole.zip(self.losses(Period::per_processor)).map(|(whole, each)| whole.min(each))
    }
}

/// Measures, in the validators' namespace, and prints what it found as JSON.
///
/// # Errors
/// See [`run`].
pub fn run_inside(inside: &Inside) -> anyhow::Result<String> {
    let arguments: Arguments = serde_json::from_str(&inside.arguments)?;
    let client = Namespace::existing(&inside.client);
    let directory = tempfile::Builder::new().prefix("perf-mixed-").tempdir_in(&arguments.directory)?;
    let sizes = Sizes { validators: 4, tables: 16, cores: 1, accounts: 10_000, senders: 10_000 };
    let mut network = Network::create(directory.path(), sizes, SNAPSHOT_BYTES)?;
    network.append_config(0, "\n[relay.vpn]\npublic_address = \"192.0.2.1:51820\"\ninternet = false\n")?;
    let config = VpnConfig::load(&network.config(0))?;
    let file = directory.path().join("client.conf");
    fs::write(&file, Registry::open(&config)?.add("perf", &config)?.to_string())?;
    network.start_all()?;
    let processes = network.processes().map(Process::id).collect();
    let probe = Probe {
        client,
        processes,
        rpc: (0..usize::from(sizes.validators)).map(|index| network.rpc(index)).collect(),
    };
    let _tunnel = probe.connect(&file)?;
    let mixed = Mixed { arguments, network, probe, progress: Progress::new(0) };
    Ok(serde_json::to_string(&mixed.measure()?)? + "\n")
}

struct Mixed {
    arguments: Arguments,
    network: Network,
    probe: Probe,
    progress: Progress,
}

impl Mixed {
    fn measure(&self) -> anyhow::Result<Measured> {
        let time = self.period() * PERIODS / 2;
        let (probe, idle) = (&self.probe, self.probe.pings(time)?);
        self.progress.note("the peak");
        let (load, ()) = self.beside(self.arguments.flood, time, || Ok(()))?;
        let peak = load.committed_per_second;
        let rate = whole(peak * 0.8);
        self.progress.note(format!("pings at {rate} of {peak:.0} transfers per second"));
        let (load, loaded) = self.beside(rate, time, || {
            thread::sleep(WARM_UP);
            probe.pings(time)
        })?;
        let (mut loads, mut floods) = (Vec::new(), Vec::new());
        for round in 1..=self.arguments.rounds {
            self.progress.note(format!("round {round} of {}", self.arguments.rounds));
            let flood = self.periods(self.arguments.flood)?;
            loads.push(self.periods(whole(flood.alone() * 0.8))?);
            floods.push(flood);
        }
        Ok(Measured { peak, idle, loaded, loaded_committed: load.committed_per_second, loads, floods })
    }

    fn period(&self) -> Duration {
        Duration::from_secs(self.arguments.seconds)
    }

    /// A load, and something else while it is on.
    fn beside<T: Send>(
        &self,
        rate: u64,
        time: Duration,
        other: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<(LoadResult, T)> {
        let prepared = self.network.prepare(rate, WARM_UP, time)?;
        thread::scope(|scope| {
            let other = thread::Builder::new().spawn_scoped(scope, other)?;
            let load = prepared.run(None, &false.into(), &mut |_| {})?;
            Ok((load, other.join().expect("measuring does not panic")?))
        })
    }

    /// A load beside traffic in the tunnel that comes and goes.
    fn periods(&self, rate: u64) -> anyhow::Result<Load> {
        let time = (self.period() + SETTLE + STREAM_STARTS) * PERIODS;
        let (probe, period) = (&self.probe, self.period());
        let (load, periods) = self.beside(rate, time, || {
            let began = Instant::now();
            thread::sleep(WARM_UP);
            let periods = (0..PERIODS).map(|number| probe.period(period, number % 2 == 1)).collect();
            ensure!(began.elapsed() < WARM_UP + time, "the load ended before its last period: try again");
            periods
        })?;
        let load = Load { offered: load.offered_per_second, periods };
        ensure!(
            load.periods.iter().all(|period| period.committed > 0.0),
            "nothing was committed in {} s: {load:?}",
            self.arguments.seconds
        );
        Ok(load)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rate of transfers")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { peak, idle, loaded, loaded_committed, loads, floods, .. } = &self.measured;
        writeln!(f, "{}\n", self.machine)?;
        let head = ["VPN pings, ms", "transfers/s", "p50", "p99", "max", "lost"].map(String::from).to_vec();
        let row = |name: &str, rate: f64, pings: &Pings| {
            let times = [pings.p50_ms, pings.p99_ms, pings.max_ms].map(number);
            let lost = format!("{} of {}", pings.lost, pings.lost + pings.count);
            [vec![name.to_owned(), number(rate)], times.to_vec(), vec![lost]].concat()
        };
        let rows = [head, row("idle", 0.0, idle), row("80 % of the peak", *loaded_committed, loaded)];
        writeln!(f, "{}peak: {} transfers per second\n", columns(&rows), number(*peak))?;
        let head =
            ["", "transfers/s", "processors", "of these idle", "of the relay", "Mbit/s", "transfers/s each"];
        let mut rows = vec![head.map(String::from).to_vec()];
        let rounds = floods.iter().zip(loads).flat_map(|(flood, load)| [("flood", flood), ("80 %", load)]);
        for (name, period) in
            rounds.flat_map(|(name, load)| load.periods.iter().map(move |period| (name, period)))
        {
            let with = if period.tunnel > 0.0 { "with VPN" } else { "alone" };
            let values = [
                period.committed,
                period.processors,
                period.idle_processors,
                period.relay_processors,
                period.tunnel,
                period.per_processor(),
            ];
            rows.push([vec![format!("{name} {with}")], values.map(number).to_vec()].concat());
        }
        writeln!(f, "{}\n{}", columns(&rows), figure::table(&self.figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(committed: f64, processors: f64) -> Period {
        Period { committed, processors, idle_processors: 0.0, relay_processors: 0.1, tunnel: 500.0 }
    }

    #[test]
    fn a_machine_that_slows_down_is_no_loss() {
        let flood =
            [40_000.0, 27_000.0, 20_000.0, 18_000.0, 20_000.0].map(|committed| period(committed, 2.0)).into();
        let flood = Load { offered: 70_000.0, periods: flood };
        let lost: Vec<f64> = flood.losses(Period::per_processor).map(f64::round).collect();
        assert_eq!((lost, flood.alone()), (vec![10.0, 10.0], 20_000.0));
    }

    #[test]
    fn the_tunnel_s_processor_time_is_taken_off_where_there_is_none_to_spare() {
        // Three quarters of the time: three quarters of the transfers are no loss, a tenth less than that is.
        let busy = [(20_000.0, 2.0), (15_000.0, 1.5), (20_000.0, 2.0), (13_500.0, 1.5), (20_000.0, 2.0)];
        let lost = |load: &[(f64, f64)], offered| -> Vec<f64> {
            let periods = load.iter().map(|(committed, each)| period(*committed, *each)).collect();
            Load { offered, periods }.losses_beyond().map(f64::round).collect()
        };
        assert_eq!(lost(&busy, 30_000.0), [0.0, 10.0]);
        // With time to spare, what is committed counts, though it took more of it.
        let idle = [(20_000.0, 1.0), (19_000.0, 1.2), (20_000.0, 1.0)];
        assert_eq!(lost(&idle, 20_000.0), [5.0]);
    }
}
