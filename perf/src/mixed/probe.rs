//! What `perf mixed` measures beside a load: pings, and how much was done with how much of the machine.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{SETTLE, STREAM};
use crate::{
    cpu,
    netns::{self, Namespace, Running},
    network,
};

/// Priority of what stands for other machines: above the loop that relays.
const REAL_TIME: &str = "2";
/// Seconds between the pings of one `ping`, and how many of these run: below some 10 ms it does not sleep but spins.
const PING_INTERVAL: &str = "0.02";
const PINGS_AT_ONCE: usize = 4;
/// The metric of executed transfers.
const COMMITTED: &str = "topio_transactions_committed_total";

const PATIENCE: Duration = Duration::from_secs(30);
const SERVER: &str = "10.77.0.1";

/// Round trips through the tunnel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Pings {
    pub count: usize,
    pub lost: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
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

/// Some seconds of a load of transfers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Period {
    /// Transfers executed per second, the validators' mean.
    pub committed: f64,
    /// Processors that validators, without their relay stage, and load had, and those that nobody had.
    pub processors: f64,
    /// Of these, processors that nobody had.
    pub idle_processors: f64,
    /// Processors that the relay stage had.
    pub relay_processors: f64,
    /// Mbit/s through the tunnel meanwhile.
    pub tunnel: f64,
}

impl Period {
    /// Transfers per second of a processor.
    pub fn per_processor(&self) -> f64 {
        self.committed / self.processors
    }
}

/// What is measured beside the load, by another thread.
pub(super) struct Probe {
    pub client: Namespace,
    /// The validators.
    pub processes: Vec<u32>,
    /// Where they answer questions.
    pub rpc: Vec<SocketAddr>,
}

impl Probe {
    /// Brings the client up.
    pub fn connect(&self, file: &Path) -> anyhow::Result<Running> {
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

    /// Pings the server through the tunnel for so long.
    pub fn pings(&self, time: Duration) -> anyhow::Result<Pings> {
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

    /// A period of a load, with or without traffic in the tunnel.
    pub fn period(&self, time: Duration, with_traffic: bool) -> anyhow::Result<Period> {
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
        for text in &metrics {
            ensure!(!values(text, COMMITTED).is_empty(), "a validator tells no numbers: {text}");
        }
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

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("paths are UTF-8")
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
    fn the_relay_has_its_share_of_the_threads_time() {
        let metrics = "topio_core_seconds_total{core=\"0\",state=\"relay\"} 2\n\
                       topio_core_seconds_total{core=\"0\",state=\"verify\"} 6\n\
                       topio_core_seconds_total{core=\"0\",state=\"idle\"} 100\n\
                       topio_core_cpu_seconds_total{core=\"0\"} 4\n";
        assert_eq!(relay_seconds(metrics).unwrap(), 1.0);
        assert!(relay_seconds("").is_err());
    }
}
