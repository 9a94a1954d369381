//! `perf vpn`: a VPN of ours at both ends beside other people's, in the same namespaces, one after the other.
//!
//! ```text
//! one ──── veth ──── two      each with a TUN device; iperf3 from one to two through the tunnel
//! ```
//!
//! What counts is bits per second of processor time. Two sums are shown: the whole machine's (the VPN's two ends, the kernel's
//! work, and iperf3 itself, which all contenders pay alike), and that of the VPN's processes alone.

mod memory;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engine::{process::Stop, relay::vpn};
use relay_dp::vpn::{ClientConfig, Network, PeerConfig, Secrets, generate_private_key};
use serde::Serialize;

use crate::{
    cpu,
    figure::{self, Figure, Goal, columns, median, number},
    netns::{self, Namespace, Running},
    network,
};

const TCP: Goal =
    Goal { what: "TCP: bits per CPU second, ours to the best other", unit: "×", required: 1.5, aim: 4.0 };
const UDP: Goal = Goal {
    what: "UDP 1,400 B: bits per CPU second, ours to the best other",
    unit: "×",
    required: 1.5,
    aim: 4.0,
};
const MEMORY: Goal = Goal { what: "memory of 10,000 idle clients", unit: "MB", required: 100.0, aim: 30.0 };
/// What its namespaces are named after.
const ROLE: &str = "perf-vpn-";
const DEVICE: &str = "wg-perf";
const PATIENCE: Duration = Duration::from_secs(20);
/// Most loss at which a rate of UDP counts, percent.
const MAX_LOSS: f64 = 0.1;

const EXAMPLES: &str = "\
Examples:
  perf vpn
  perf vpn --others gotatun,boringtun-cli,wireguard-go --seconds 5
  perf vpn --memory-only
  perf vpn --json

Takes root, iproute2, iperf3 and wireguard-tools. The others are programs that take «--foreground DEVICE»; those that are not
installed are left out: apt-get install wireguard-go; cargo install gotatun-cli boringtun-cli.";

/// Arguments of `perf vpn`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long each transfer takes, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often each contender has its turn
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The other VPNs
    #[arg(long, value_delimiter = ',', default_value = "gotatun,boringtun-cli,wireguard-go")]
    others: Vec<String>,
    /// Leave UDP out
    #[arg(long, conflicts_with = "udp_only")]
    tcp_only: bool,
    /// Leave TCP out
    #[arg(long)]
    udp_only: bool,
    /// Idle clients whose memory is measured first, and told as that of 10,000
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    clients: u32,
    /// Measure memory only
    #[arg(long)]
    memory_only: bool,
}

/// A client's configuration, as a hidden command of this program runs it.
#[derive(Clone, Debug, clap::Args)]
pub struct End {
    /// A WireGuard configuration
    file: PathBuf,
    /// The UDP port
    port: u16,
}

/// Runs one end of our VPN until it is killed.
///
/// # Errors
/// It can't start, or can't go on.
pub fn serve(end: &End) -> anyhow::Result<()> {
    let config = ClientConfig::parse(&fs::read_to_string(&end.file)?)?;
    let listen = std::net::SocketAddr::from(([0, 0, 0, 0], end.port));
    Ok(vpn::connect(&config, DEVICE, listen, &Stop::new(), |_| {})?)
}

/// One transfer.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    /// Bits a second that arrived.
    rate: f64,
    /// Bits per second of the whole machine's processor time.
    per_cpu: f64,
    /// Bits per second of processor time of the two VPN processes.
    per_vpn_cpu: f64,
}

/// All of one contender.
#[derive(Clone, Debug, Serialize)]
struct Contender {
    name: String,
    tcp: Vec<Run>,
    udp: Vec<Run>,
}

/// What `perf vpn` found.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    contenders: Vec<Contender>,
    figures: Vec<Figure>,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["medians", "Mbit/s", "Mbit per CPU s", "Mbit per VPN CPU s"].map(String::from).to_vec();
        let mut rows = vec![head];
        for contender in &self.contenders {
            for (kind, runs) in [("TCP", &contender.tcp), ("UDP", &contender.udp)] {
                if !runs.is_empty() {
                    let value = |of: fn(&Run) -> f64| number(median(runs.iter().map(of)) / 1e6);
                    let name = format!("{} {kind}", contender.name);
                    rows.push(vec![name, value(|r| r.rate), value(|r| r.per_cpu), value(|r| r.per_vpn_cpu)]);
                }
            }
        }
        writeln!(f, "{}\n{}", columns(&rows), figure::table(&self.figures))
    }
}

/// Runs `perf vpn`.
///
/// # Errors
/// Without root or the tools; or when a tunnel does not come up.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let memory = memory::of_idle_clients(arguments.clients)? / f64::from(arguments.clients) * 10_000.0 / 1e6;
    let memory = MEMORY.judge(memory);
    if arguments.memory_only {
        return Ok(Facts { contenders: Vec::new(), figures: vec![memory] });
    }
    let mut contenders = vec![Contender { name: "topio".into(), tcp: Vec::new(), udp: Vec::new() }];
    for other in &arguments.others {
        if std::process::Command::new(other).arg("--version").output().is_ok() {
            contenders.push(Contender { name: other.clone(), tcp: Vec::new(), udp: Vec::new() });
        } else {
            eprintln!("{other} is not installed, and left out");
        }
    }
    Namespace::remove_leftovers(ROLE)?;
    for round in 1..=arguments.rounds {
        for contender in &mut contenders {
            eprintln!("round {round} of {}: {}", arguments.rounds, contender.name);
            let tunnel = Tunnel::open(&contender.name)?;
            if !arguments.udp_only {
                contender.tcp.push(tunnel.transfer(&["-t", &arguments.seconds.to_string()])?.0);
            }
            if !arguments.tcp_only {
                contender.udp.push(tunnel.best_udp(arguments.seconds)?);
            }
        }
    }
    let best = |runs: fn(&Contender) -> &Vec<Run>| {
        let per_cpu = |contender: &Contender| median(runs(contender).iter().map(|run| run.per_cpu));
        let others = contenders[1..].iter().map(per_cpu).fold(0.0, f64::max);
        (others > 0.0).then(|| per_cpu(&contenders[0]) / others)
    };
    let figures = [(TCP, best(|c| &c.tcp)), (UDP, best(|c| &c.udp))];
    let figures = figures.iter().filter_map(|(goal, value)| value.map(|value| goal.judge(value)));
    let figures = figures.chain([memory]).collect();
    Ok(Facts { contenders, figures })
}

/// Two namespaces and a tunnel between them.
struct Tunnel {
    ends: [Running; 2],
    one: Namespace,
    two: Namespace,
    _folder: tempfile::TempDir,
}

impl Tunnel {
    fn open(program: &str) -> anyhow::Result<Tunnel> {
        let (one, two) = (Namespace::new(&format!("{ROLE}one"))?, Namespace::new(&format!("{ROLE}two"))?);
        one.link(&two, "outer", &[("192.0.2.1/24", "192.0.2.2/24")])?;
        let folder = tempfile::tempdir()?;
        let mut seed = Secrets::new(*blake3::hash(format!("{:?}", Instant::now()).as_bytes()).as_bytes());
        let keys = [generate_private_key(&mut seed), generate_private_key(&mut seed)];
        let start = |index: usize, namespace: &Namespace| -> anyhow::Result<Running> {
            let other = 1 - index;
            let network =
                |at: usize, len: u8| Network::parse(&format!("10.99.0.{}/{len}", at + 1)).expect("a network");
            let config = ClientConfig {
                private_key: keys[index].clone(),
                addresses: vec![network(index, 24)],
                dns: Vec::new(),
                mtu: Some(1420),
                peers: vec![PeerConfig {
                    public_key: keys[other].public(),
                    preshared_key: None,
                    allowed_ips: vec![network(other, 32)],
                    endpoint: Some(format!("192.0.2.{}:51820", other + 1).parse()?),
                    persistent_keepalive: None,
                }],
            };
            start_end(program, namespace, &config, &folder.path().join(format!("{index}.conf")))
        };
        let ends = [start(0, &one)?, start(1, &two)?];
        let tunnel = Tunnel { ends, one, two, _folder: folder };
        netns::patiently(PATIENCE, || tunnel.one.run("ping", &["-c", "1", "-W", "1", "10.99.0.2"]))
            .context("the tunnel does not come up")?;
        Ok(tunnel)
    }

    /// One transfer from one to two; also the share that was lost, percent.
    fn transfer(&self, extra: &[&str]) -> anyhow::Result<(Run, f64)> {
        let _server = self.two.start("iperf3", &["-s", "-1"])?;
        netns::patiently(PATIENCE, || match self.two.run("ss", &["-Htln", "sport", "=", ":5201"]) {
            Ok(said) if said.is_empty() => bail!("iperf3 does not listen"),
            other => other,
        })?;
        let before = (cpu::Machine::now()?, self.vpn_seconds()?);
        let said = self.one.run("iperf3", &[&["-J", "-c", "10.99.0.2"], extra].concat())?;
        let spent = (cpu::Machine::now()?.busy_since(before.0), self.vpn_seconds()? - before.1);
        let report: serde_json::Value = serde_json::from_str(&said)?;
        let end = &report["end"];
        let (sum, lost) = match end["sum_received"]["bytes"].as_f64().filter(|_| !extra.contains(&"-u")) {
            Some(_) => (&end["sum_received"], 0.0),
            None => (&end["sum"], end["sum"]["lost_percent"].as_f64().unwrap_or(100.0)),
        };
        let bytes = sum["bytes"].as_f64().context("iperf3 says how many bytes")? * (1.0 - lost / 100.0);
        let seconds = sum["seconds"].as_f64().context("iperf3 says how long")?;
        let bits = bytes * 8.0;
        Ok((Run { rate: bits / seconds, per_cpu: bits / spent.0, per_vpn_cpu: bits / spent.1 }, lost))
    }

    /// The fastest rate of UDP, by halving the interval, that loses next to nothing.
    fn best_udp(&self, seconds: u64) -> anyhow::Result<Run> {
        let (mut low, mut high) = (50.0, 3_000.0);
        let mut best = None;
        for _ in 0..6 {
            let middle = f64::midpoint(low, high);
            let rate = format!("{middle:.0}M");
            let time = seconds.to_string();
            // 1,372 bytes of payload make an inner packet of 1,400.
            let (run, lost) = self.transfer(&["-u", "-l", "1372", "-w", "4M", "-b", &rate, "-t", &time])?;
            if lost <= MAX_LOSS {
                low = middle;
                best = Some(run);
                if run.rate < middle * 0.9e6 {
                    break; // the sender can't send faster
                }
            } else {
                high = middle;
            }
        }
        best.context("not even 50 Mbit/s of UDP pass without loss")
    }

    fn vpn_seconds(&self) -> anyhow::Result<f64> {
        let ends = self.ends.iter().map(|end| network::cpu_time_of(end.pid()));
        Ok(ends.sum::<anyhow::Result<Duration>>().context("a VPN process has ended")?.as_secs_f64())
    }
}

fn start_end(
    program: &str,
    namespace: &Namespace,
    config: &ClientConfig,
    file: &Path,
) -> anyhow::Result<Running> {
    let path = file.to_str().context("a path of the test")?;
    if program == "topio" {
        fs::write(file, config.to_string())?;
        return namespace.start(std::env::current_exe()?, &["vpn-end", path, "51820"]);
    }
    // The others keep their control sockets in one folder for all namespaces.
    let device = format!("{DEVICE}{}", config.addresses[0].address()).replace("10.99.0.", "");
    let device = device.as_str();
    let text = config.to_string().replace("[Peer]", "ListenPort = 51820\n\n[Peer]");
    let wg_only = text.lines().filter(|line| !line.starts_with("Address") && !line.starts_with("MTU"));
    fs::write(file, wg_only.collect::<Vec<_>>().join("\n"))?;
    let process = namespace.start("env", &["WG_SUDO=true", program, "--foreground", device])?;
    netns::patiently(PATIENCE, || namespace.run("wg", &["setconf", device, path]))?;
    namespace.ip(&["address", "add", &config.addresses[0].to_string(), "dev", device])?;
    namespace.ip(&["link", "set", device, "mtu", "1420", "up"])?;
    Ok(process)
}
