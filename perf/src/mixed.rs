//! `perf mixed`: a VPN and agreement on the same cores.
//!
//! ```text
//! client ── veth ── edge     four validators, the first of which is the client's VPN, and the load, share the machine's cores
//! ```
//!
//! Client, `ping` and `iperf3` stand for other machines: they run at real-time priority, so that their waiting for a core is not
//! taken for the validator's. The work that they cost is taken from the same cores, though.
//!
//! What is asked of the machine at its peak is the rate that it commits when it is offered far more. How much of that gets lost
//! beside 500 Mbit/s is counted by processor time: transfers per second of what validators (without their relay stage) and the
//! load had, and of what nobody had. So what the VPN itself takes is no loss, and a core that idles is one. The traffic comes and
//! goes every few seconds while the flood of transfers goes on, and each such period is compared with those before and after it:
//! a virtual machine's speed drifts.

use std::{
    fmt, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use engine::relay::vpn::{VpnConfig, clients::Registry};
use serde::{Deserialize, Serialize};

use crate::{
    cpu,
    figure::{self, Figure, Goal, columns, median, number},
    loadgen::LoadResult,
    netns::{self, Namespace, Running},
    network::{self, Network, Process, Sizes},
    progress::Progress,
    report::Machine,
};

const PING: Goal = Goal { what: "VPN ping p99 at 80 % of the peak", unit: "ms", required: 2.0, aim: 0.5 };
const LOSS: Goal = Goal {
    what: "transfers per CPU second lost beside 500 Mbit/s of VPN",
    unit: "%",
    required: 10.0,
    aim: 3.0,
};
/// What its namespaces are named after.
const ROLE: &str = "perf-mixed-";
const SERVER: &str = "10.77.0.1";
const PATIENCE: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(1);
/// From a change of the traffic on until a period counts: what was proposed before it is committed by then.
const SETTLE: Duration = Duration::from_millis(500);
/// Periods of a flood: without the traffic and with it, in turn, without it first and last.
const PERIODS: u32 = 5;
const SNAPSHOT_BYTES: u64 = 256 << 20;
/// Priority of what stands for other machines: above the loop that relays.
const REAL_TIME: &str = "2";
/// Seconds between the pings of one `ping`, and how many of these run: below some 10 ms it does not sleep but spins.
const PING_INTERVAL: &str = "0.02";
const PINGS_AT_ONCE: usize = 4;
/// Mbit/s through the tunnel, and the time that a stream takes to begin and end beside a flood.
const STREAM: u32 = 500;
const STREAM_STARTS: Duration = Duration::from_millis(500);
/// The metric of executed transfers.
const COMMITTED: &str = "topio_transactions_committed_total";

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
    /// How long each period of a flood takes, in seconds; pings take a few times as long
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Floods, each with two periods beside the VPN and three without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
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

/// Round trips through the tunnel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Pings {
    count: usize,
    lost: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Pings {
    /// From what several `ping` printed.
    fn read(said: &str) -> anyhow::Result<Pings> {
        let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
        let mut times: Vec<f64> = said.lines().filter_map(time).collect();
        ensure!(!times.is_empty(), "no ping came back: {said}");
        times.sort_unstable_by(f64::total_cmp);
        let sent = |line: &str| line.split_once(" packets transmitted")?.0.parse::<usize>().ok();
        let sent: usize = said.lines().filter_map(sent).sum();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        let count = times.len();
        let lost = sent.saturating_sub(count);
        Ok(Pings { count, lost, p50_ms: at(50), p99_ms: at(99), max_ms: at(100) })
    }
}

/// Some seconds of a flood of transfers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Period {
    /// Transfers executed per second, the validators' mean.
    committed: f64,
    /// Processors that validators, without their relay stage, and load had, and those that nobody had.
    processors: f64,
    /// Of these, processors that nobody had.
    idle_processors: f64,
    /// Processors that the relay stage had.
    relay_processors: f64,
    /// Mbit/s through the tunnel meanwhile.
    tunnel: f64,
}

impl Period {
    fn per_processor(&self) -> f64 {
        self.committed / self.processors
    }
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
    /// Floods, with traffic in the tunnel in every second of their periods.
    floods: Vec<Vec<Period>>,
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
        LOSS.judge(median(measured.floods.iter().flat_map(|flood| losses(flood)))),
    ];
    Ok(Facts { machine: Machine::read(), measured, figures })
}

/// What each period beside the tunnel's traffic lost against those before and after it, in percent.
fn losses(flood: &[Period]) -> impl Iterator<Item = f64> {
    flood.windows(3).step_by(2).map(|period| {
        let alone = f64::midpoint(period[0].per_processor(), period[2].per_processor());
        (1.0 - period[1].per_processor() / alone) * 100.0
    })
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
        let mut floods = Vec::new();
        for round in 1..=self.arguments.rounds {
            self.progress.note(format!("flood {round} of {}", self.arguments.rounds));
            floods.push(self.flood()?);
        }
        Ok(Measured { peak, idle, loaded, loaded_committed: load.committed_per_second, floods })
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

    /// More transfers than can be committed, beside traffic in the tunnel that comes and goes.
    fn flood(&self) -> anyhow::Result<Vec<Period>> {
        let time = (self.period() + SETTLE + STREAM_STARTS) * PERIODS;
        let (probe, period) = (&self.probe, self.period());
        let (_, periods) = self.beside(self.arguments.flood, time, || {
            thread::sleep(WARM_UP);
            (0..PERIODS).map(|number| probe.period(period, number % 2 == 1)).collect()
        })?;
        Ok(periods)
    }
}

/// What is measured beside the load, by another thread.
struct Probe {
    client: Namespace,
    /// The validators.
    processes: Vec<u32>,
    /// Where they answer questions.
    rpc: Vec<SocketAddr>,
}

impl Probe {
    fn connect(&self, file: &Path) -> anyhow::Result<Running> {
        let program = std::env::current_exe()?;
        let (program, file) = (path_text(&program)?, path_text(file)?);
        let end = self.client.start("chrt", &["-f", REAL_TIME, program, "vpn-end", file, "51821"])?;
        netns::patiently(PATIENCE, || self.client.run("ping", &["-c", "1", "-W", "1", SERVER]))
            .context("the tunnel does not come up")?;
        Ok(end)
    }

    /// A download through the tunnel.
    fn stream(&self, mbit: u32, time: Duration) -> anyhow::Result<std::process::Child> {
        let server = Command::new("chrt")
            .args(["-f", REAL_TIME, "iperf3", "-s", "-1"])
            .stdout(Stdio::null())
            .spawn()?;
        // It ends with its only client.
        thread::spawn(move || { server }.wait());
        netns::patiently(PATIENCE, || {
            let said = Command::new("ss").args(["-Htln", "sport", "=", ":5201"]).output()?.stdout;
            if said.is_empty() { bail!("iperf3 does not listen") } else { Ok(()) }
        })?;
        let (mbit, time) = (format!("{mbit}M"), time.as_secs().to_string());
        let mut client = self.client.command("chrt");
        client.args(["-f", REAL_TIME, "iperf3", "-J", "-R", "-c", SERVER, "-b", &mbit, "-t", &time]);
        Ok(client.stdout(Stdio::piped()).spawn()?)
    }

    fn pings(&self, time: Duration) -> anyhow::Result<Pings> {
        let seconds = time.as_secs().to_string();
        let one = || {
            let mut ping = self.client.command("chrt");
            ping.args(["-f", REAL_TIME, "ping", "-n", "-i", PING_INTERVAL, "-w", &seconds, SERVER]);
            ping.stdout(Stdio::piped()).spawn()
        };
        let started: Vec<_> = (0..PINGS_AT_ONCE).map(|_| one()).collect::<Result<_, _>>()?;
        let mut said = String::new();
        for ping in started {
            said.push_str(&String::from_utf8_lossy(&ping.wait_with_output()?.stdout));
        }
        Pings::read(&said)
    }

    /// A period of a flood, with or without traffic in the tunnel.
    fn period(&self, time: Duration, with_traffic: bool) -> anyhow::Result<Period> {
        let stream = with_traffic.then(|| self.stream(STREAM, SETTLE + time)).transpose()?;
        thread::sleep(SETTLE);
        let before = self.spent()?;
        thread::sleep(time);
        let after = self.spent()?;
        let (passed, relay) = (after.machine.passed_since(before.machine), after.relay - before.relay);
        let idle = after.machine.idle_since(before.machine);
        Ok(Period {
            committed: (after.committed - before.committed) / passed,
            processors: (after.network - before.network - relay + idle) / passed,
            idle_processors: idle / passed,
            relay_processors: relay / passed,
            tunnel: stream.map(finish).transpose()?.unwrap_or(0.0),
        })
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let validators = self.processes.iter().map(|process| network::cpu_time_of(*process));
        let validators = validators.sum::<anyhow::Result<Duration>>()?.as_secs_f64();
        let own = network::cpu_time_of(std::process::id())?.as_secs_f64();
        let metrics: Vec<String> = self.rpc.iter().map(|rpc| metrics(*rpc)).collect::<anyhow::Result<_>>()?;
        let committed: f64 =
            metrics.iter().flat_map(|text| values(text, COMMITTED)).map(|(_, count)| count).sum();
        Ok(Spent {
            committed: committed / metrics.len() as f64,
            network: validators + own,
            relay: relay_seconds(&metrics[0])?,
            machine: cpu::Machine::now()?,
        })
    }
}

/// What a validator tells at `/metrics`.
fn metrics(rpc: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(rpc)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: perf\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The labels and values of a metric.
fn values(metrics: &str, name: &str) -> Vec<(String, f64)> {
    let of = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    metrics.lines().filter_map(of).collect()
}

/// Transfers, and seconds of processors, so far.
#[derive(Clone, Copy)]
struct Spent {
    /// Executed transfers, the validators' mean.
    committed: f64,
    /// By validators and load.
    network: f64,
    /// By the first validator's relay stage.
    relay: f64,
    machine: cpu::Machine,
}

/// The relay stage's share of its thread's processor time. The stages' times are wall time, which goes on while others have the core.
fn relay_seconds(metrics: &str) -> anyhow::Result<f64> {
    let states = values(metrics, "topio_core_seconds_total{");
    let of =
        |wanted: fn(&str) -> bool| states.iter().filter(|(key, _)| wanted(key)).map(|(_, s)| s).sum::<f64>();
    let relay = of(|key| key.contains("state=\"relay\""));
    let busy = of(|key| !key.contains("state=\"idle\"") && !key.contains("state=\"blocked\""));
    let cpu: f64 = values(metrics, "topio_core_cpu_seconds_total{").iter().map(|(_, seconds)| seconds).sum();
    ensure!(busy > 0.0 && cpu > 0.0, "the validator's metrics tell no times");
    Ok(relay / busy * cpu)
}

/// Waits for the download. Returns Mbit/s that arrived.
fn finish(stream: std::process::Child) -> anyhow::Result<f64> {
    let report: serde_json::Value = serde_json::from_slice(&stream.wait_with_output()?.stdout)?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.with_context(|| format!("iperf3 says no rate: {}", report["error"]))? / 1e6)
}

#[expect(clippy::cast_possible_truncation, reason = "a rate of transfers")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("paths are UTF-8")
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { peak, idle, loaded, loaded_committed, floods } = &self.measured;
        writeln!(f, "{}\n", self.machine)?;
        let head = ["VPN pings, ms", "transfers/s", "p50", "p99", "max", "lost"].map(String::from).to_vec();
        let row = |name: &str, rate: f64, pings: &Pings| {
            let times = [pings.p50_ms, pings.p99_ms, pings.max_ms].map(number);
            let lost = format!("{} of {}", pings.lost, pings.lost + pings.count);
            [vec![name.to_owned(), number(rate)], times.to_vec(), vec![lost]].concat()
        };
        let rows = [head, row("idle", 0.0, idle), row("80 % of the peak", *loaded_committed, loaded)];
        writeln!(f, "{}peak: {} transfers per second\n", columns(&rows), number(*peak))?;
        let head = [
            "floods",
            "transfers/s",
            "processors",
            "of these idle",
            "of the relay",
            "Mbit/s",
            "transfers/s each",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        for period in floods.iter().flatten() {
            let name = if period.tunnel > 0.0 { "with VPN" } else { "alone" };
            let values = [
                period.committed,
                period.processors,
                period.idle_processors,
                period.relay_processors,
                period.tunnel,
                period.per_processor(),
            ];
            rows.push([vec![name.to_owned()], values.map(number).to_vec()].concat());
        }
        writeln!(f, "{}\n{}", columns(&rows), figure::table(&self.figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_of_several_programs_are_read() {
        let one = "64 bytes from 10.77.0.1: icmp_seq=1 ttl=64 time=0.2 ms\n2 packets transmitted, 1 received, 50% packet loss\n";
        let two = "64 bytes from 10.77.0.1: icmp_seq=1 ttl=64 time=7 ms\n1 packets transmitted, 1 received, 0% packet loss\n";
        let pings = Pings::read(&[one, two].concat()).unwrap();
        assert_eq!((pings.count, pings.lost, pings.p50_ms, pings.p99_ms), (2, 1, 0.2, 7.0));
        assert!(Pings::read("").is_err());
    }

    #[test]
    fn a_machine_that_slows_down_is_no_loss() {
        let period = |committed| Period {
            committed,
            processors: 2.0,
            idle_processors: 0.0,
            relay_processors: 0.1,
            tunnel: 500.0,
        };
        let flood = [40_000.0, 27_000.0, 20_000.0, 18_000.0, 20_000.0].map(period);
        let lost: Vec<f64> = losses(&flood).map(f64::round).collect();
        assert_eq!(lost, [10.0, 10.0]);
    }

    #[test]
    fn the_relay_has_its_share_of_the_threads_time() {
        let metrics = "topio_core_seconds_total{core=\"0\",state=\"relay\"} 2\n\
                       topio_core_seconds_total{core=\"0\",state=\"verify\"} 6\n\
                       topio_core_seconds_total{core=\"0\",state=\"idle\"} 100\n\
                       topio_core_cpu_seconds_total{core=\"0\"} 4\n";
        assert_eq!(relay_seconds(metrics).unwrap(), 1.0);
        assert!(relay_seconds("").is_err());
    }
}
