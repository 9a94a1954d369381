//! Two network namespaces, linked by a veth pair whose packets each end handles on a core of its own, and the relay in one of them.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engine::{
    process::Stop,
    relay::turn::{self, TurnConfig, TurnMeters},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    netns::Namespace,
    network::{cpu_time_of, stop_with_parent},
    turn::{PASSWORD, USER, coturn},
};

/// The relay's address.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The clients' and their peer's address.
pub const LOAD: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Where the relay listens.
pub const PORT: u16 = 3478;
/// What its namespaces are named after.
const ROLE: &str = "perf-burst-";
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Who relays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours, past the kernel.
    Bypass,
    /// Ours, on the kernel's sockets.
    Sockets,
    /// coturn, on the kernel's sockets.
    Coturn,
}

impl Side {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Side::Bypass => "AF_XDP",
            Side::Sockets => "sockets",
            Side::Coturn => "coturn",
        }
    }
}

/// The namespaces.
pub struct Place {
    relay: Namespace,
    load: Namespace,
    /// The device's name, the same at both ends but for its first letter, and nowhere else on this machine.
    suffix: String,
}

impl Place {
    /// Makes them.
    ///
    /// # Errors
    /// Without root, iproute2 or ethtool.
    pub fn new() -> anyhow::Result<Place> {
        Namespace::remove_leftovers(ROLE)?;
        let (relay, load) =
            (Namespace::new(&format!("{ROLE}relay"))?, Namespace::new(&format!("{ROLE}load"))?);
        let suffix = (std::process::id() % 100_000).to_string();
        let place = Place { relay, load, suffix };
        let (near, far) = (place.device('r'), place.device('l'));
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let add = [
            &["link", "add", "name", &near][..],
            &queues,
            &["type", "veth", "peer", "name", &far, "netns", place.load.name()],
            &queues,
        ];
        place.relay.ip(&add.concat())?;
        for (namespace, device, address) in [(&place.relay, &near, RELAY), (&place.load, &far, LOAD)] {
            namespace.ip(&["address", "add", &format!("{address}/24"), "dev", device])?;
            // Both ends take in packets with NAPI, on a thread each: then whoever sends does not also receive.
            namespace.run("ethtool", &["-K", device, "gro", "on"])?;
            namespace.ip(&["link", "set", device, "up"])?;
            namespace.run("sh", &["-c", &format!("echo 1 > /sys/class/net/{device}/threaded")])?;
        }
        let mac = place.relay.run("cat", &[&format!("/sys/class/net/{near}/address")])?;
        let hop = ["neighbour", "replace", &RELAY.to_string(), "lladdr", mac.trim(), "dev", &far]
            .map(str::to_owned);
        place.load.ip(&hop.each_ref().map(String::as_str))?;
        Ok(place)
    }

    fn device(&self, end: char) -> String {
        format!("{end}x{}", self.suffix)
    }

    /// The load's device.
    pub fn load_device(&self) -> String {
        self.device('l')
    }

    /// Moves this thread to where the load is.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn enter(&self) -> anyhow::Result<()> {
        let namespace = fs::File::open(format!("/run/netns/{}", self.load.name()))?;
        use std::os::fd::AsFd;
        Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Starts a relay on a core; packets of both ends are handled on their cores from now on.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, side: Side, (relay_core, load_core): (usize, usize)) -> anyhow::Result<Relay> {
        let near = self.device('r');
        let mut command = self.relay.command("taskset");
        command.args(["-c", &relay_core.to_string()]).stdin(Stdio::piped());
        let mut relay = match side {
            Side::Coturn => {
                command.args(coturn((RELAY, PORT).into())).stdout(Stdio::null()).stderr(Stdio::null());
                Relay { child: command.spawn()?, reports: channel().1, threads: Vec::new() }
            }
            Side::Bypass => start_ours(command, &near, true)?,
            Side::Sockets => start_ours(command, &near, false)?,
        };
        thread::sleep(Duration::from_millis(50)); // threads of NAPI start when the program is attached
        relay.threads = napi_threads(&near)?;
        pin(&relay.threads, relay_core)?;
        pin(&napi_threads(&self.load_device())?, load_core)?;
        Ok(relay)
    }
}

/// Starts our relay on a device, past the kernel or not.
fn start_ours(mut command: Command, device: &str, bypass: bool) -> anyhow::Result<Relay> {
    let io = if bypass { format!("io = 'af_xdp'\ninterface = '{device}'\n") } else { String::new() };
    let config = format!(
        "listen = ['{RELAY}:{PORT}']\nrelay = ['{RELAY}']\nallow_peers = ['{LOAD}/32']\ntcp = false\n{io}\
         max_allocations_per_user = 10_000\n[users]\n{USER} = '{PASSWORD}'\n"
    );
    let program = std::env::current_exe().context("this program's own file is not to be found")?;
    command.arg(program).args(["burst-server", "--config", &config, "--device", device]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (said, lines) = channel();
    let stderr = BufReader::new(child.stderr.take().context("piped")?);
    thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
    let (told, reports) = channel();
    let stdout = BufReader::new(child.stdout.take().context("piped")?);
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
    let relay = Relay { child, reports, threads: Vec::new() };
    wait_ready(&lines, bypass)?;
    Ok(relay)
}

fn wait_ready(lines: &Receiver<String>, af_xdp: bool) -> anyhow::Result<()> {
    let (start, mut bypasses) = (Instant::now(), false);
    while start.elapsed() < READY_WITHIN {
        let line = lines.recv_timeout(READY_WITHIN).context("the relay says nothing")?;
        bypasses |= line.contains("passes the kernel by");
        if line == "ready" {
            return if bypasses == af_xdp { Ok(()) } else { bail!("there is no AF_XDP here") };
        }
        eprintln!("{line}");
    }
    bail!("the relay does not start")
}

/// The kernel's threads that take in a device's packets.
pub fn napi_threads(device: &str) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Those that have ended meanwhile are nobody's.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&format!("napi/{device}-")) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Keeps threads on a core.
pub fn pin(threads: &[u32], core: usize) -> anyhow::Result<()> {
    for thread in threads {
        let output =
            Command::new("taskset").args(["-cp", &core.to_string(), &thread.to_string()]).output()?;
        if !output.status.success() {
            bail!(
                "a thread of the kernel can't be pinned: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(())
}

/// A running relay. Killed when dropped.
pub struct Relay {
    child: Child,
    reports: Receiver<String>,
    /// Of the kernel, that take in its packets.
    threads: Vec<u32>,
}

impl Relay {
    /// Processor time of the relay and of the kernel's threads that take in its packets.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut sum = cpu_time_of(self.child.id())?;
        for thread in &self.threads {
            sum += cpu_time_of(*thread)?;
        }
        Ok(sum)
    }

    /// What it has said of itself since the last call: for each report, the time in seconds and the datagrams sent so far.
    pub fn reports(&self) -> Vec<(f64, u64)> {
        let numbers = |line: String| {
            let (time, sent) = line.split_once(' ')?;
            Some((time.parse().ok()?, sent.parse().ok()?))
        };
        let mut found: Vec<(f64, u64)> = self.reports.try_iter().filter_map(numbers).collect();
        // Only those that are new count.
        found.dedup_by_key(|report| report.1);
        found
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the relay until standard input is closed, and prints how much has left `device`, as `perf burst-server` does: what the relay has
/// sent, less what the device dropped because its other end had no room.
///
/// # Errors
/// It can't start, or can't go on.
pub fn serve(config: &str, device: &str) -> anyhow::Result<()> {
    let config = TurnConfig::parse("turn.toml", config)?;
    let stop = Stop::new();
    stop_with_parent(&stop);
    let start = Instant::now();
    let file = format!("/sys/class/net/{device}/statistics/tx_dropped");
    let dropped = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let before = dropped().context("the device's counters are not to be found")?;
    let (mut known, mut left) = (0, 0);
    let report = |meters: &TurnMeters| {
        let server = meters.server();
        let lost = meters.lost() + meters.bypass().send_full;
        let sent = (server.to_peers + server.to_clients).saturating_sub(lost);
        // Cores tell their numbers more seldom than this is called: the device's belong to those that are new.
        if sent != known {
            (known, left) = (sent, sent.saturating_sub(dropped().unwrap_or(before) - before));
        }
        println!("{} {left}", start.elapsed().as_secs_f64());
    };
    Ok(turn::serve(&config, 1, false, &stop, || eprintln!("ready"), report)?)
}
