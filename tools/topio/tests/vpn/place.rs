//! Three namespaces, our server in the middle, and what tests do with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use perf::netns::{Namespace, Running};
use tempfile::TempDir;

pub const TOPIO: &str = env!("CARGO_BIN_EXE_topio");
pub const SERVER: &str = "10.77.0.1";
pub const SERVER6: &str = "fd77:746f:70::1";
pub const INTERNET: &str = "198.51.100.2";
pub const INTERNET6: &str = "2001:db8:2::2";
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Place {
    pub client: Namespace,
    pub server: Namespace,
    pub internet: Namespace,
    pub folder: TempDir,
    /// Of the VPN, or of the node that has it.
    pub config: PathBuf,
}

impl Place {
    pub fn new() -> anyhow::Result<Place> {
        let (client, server, internet) =
            (Namespace::new("client")?, Namespace::new("server")?, Namespace::new("internet")?);
        client.link(
            &server,
            "outer",
            &[("192.0.2.2/24", "192.0.2.1/24"), ("2001:db8:1::2/64", "2001:db8:1::1/64")],
        )?;
        server.link(
            &internet,
            "net",
            &[("198.51.100.1/24", "198.51.100.2/24"), ("2001:db8:2::1/64", "2001:db8:2::2/64")],
        )?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("vpn.toml");
        fs::write(&config, "public_address = '192.0.2.1:51820'\n")?;
        Ok(Place { client, server, internet, folder, config })
    }

    /// Starts `topio vpn serve` and waits until it answers.
    pub fn serve(&self) -> anyhow::Result<Running> {
        self.serve_on(1)
    }

    /// The same on so many cores.
    pub fn serve_on(&self, cores: u8) -> anyhow::Result<Running> {
        let cores = cores.to_string();
        let arguments = ["vpn", "serve", "--config", text(&self.config), "--cores", &cores];
        let mut running = self.server.start(TOPIO, &arguments)?;
        eventually("the server is ready", || {
            if running.has_ended() {
                bail!("the server has ended");
            }
            self.status().map(drop)
        })?;
        Ok(running)
    }

    /// Adds a client and returns its configuration's file.
    pub fn add_client(&self, name: &str) -> anyhow::Result<PathBuf> {
        let output =
            Command::new(TOPIO).args(["vpn", "add-client", name, "--config", text(&self.config)]).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        let file = self.folder.path().join(format!("{name}.conf"));
        fs::write(&file, output.stdout)?;
        Ok(file)
    }

    /// What `topio vpn status --json` says.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        let output =
            Command::new(TOPIO).args(["vpn", "status", "--json", "--config", text(&self.config)]).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What it says, once that is newer than this call.
    pub fn fresh_status(&self) -> anyhow::Result<serde_json::Value> {
        let time = |status: &serde_json::Value| status["time"].as_u64().unwrap_or(0);
        let first = time(&self.status()?);
        let mut now = self.status()?;
        let began = Instant::now();
        while time(&now) < first + 3 && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(200));
            now = self.status()?;
        }
        Ok(now)
    }

    /// A counter of the server, from then.
    pub fn counter(&self, name: &str) -> anyhow::Result<u64> {
        Ok(counter(&self.fresh_status()?, name))
    }

    /// A namespace beside the client's, with a way of its own to the server.
    pub fn another_client(&self) -> anyhow::Result<Namespace> {
        let another = Namespace::new("another")?;
        another.link(&self.server, "outer2", &[("192.0.3.2/24", "192.0.3.1/24")])?;
        another.ip(&["route", "add", "192.0.2.0/24", "via", "192.0.3.1"])?;
        Ok(another)
    }
}

/// A counter in a status; 0 when it is not there.
pub fn counter(status: &serde_json::Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap_or(0)
}

/// A WireGuard peer of other people's making, configured by `wg`.
pub struct Foreign {
    pub device: String,
    _process: Running,
}

impl Foreign {
    /// Starts `program DEVICE` in the foreground and gives it the configuration that `topio vpn add-client` printed.
    pub fn client(program: &str, namespace: &Namespace, config: &Path) -> anyhow::Result<Foreign> {
        // Peers keep their control sockets in one folder for all namespaces.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let device = format!("wg{}-{}", std::process::id() % 1_000_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let device = device.as_str();
        // boringtun drops its privileges otherwise, and then can't listen for `wg`.
        let process = namespace.start("env", &["WG_SUDO=true", program, "--foreground", device])?;
        eventually("the peer's device is there", || namespace.ip(&["link", "show", device]).map(drop))?;
        // `wg` knows the keys but not those that only wg-quick does.
        let whole = fs::read_to_string(config)?;
        let lines = |wanted: &str| -> Vec<String> {
            let of = |line: &str| {
                line.strip_prefix(wanted).map(|rest| rest.trim_start_matches([' ', '=']).to_owned())
            };
            whole.lines().filter_map(of).collect()
        };
        let rest: Vec<&str> = whole
            .lines()
            .filter(|line| !["Address", "DNS", "MTU"].iter().any(|key| line.starts_with(key)))
            .collect();
        let stripped = config.with_extension("wg");
        fs::write(&stripped, rest.join("\n"))?;
        eventually("the peer takes its configuration", || {
            namespace.run("wg", &["setconf", device, text(&stripped)])
        })?;
        for address in lines("Address").iter().flat_map(|list| list.split(", ")) {
            namespace.ip(&["address", "add", address, "dev", device])?;
        }
        for mtu in lines("MTU") {
            namespace.ip(&["link", "set", device, "mtu", &mtu, "up"])?;
        }
        for network in ["10.77.0.0/16", "198.51.100.0/24", "fd77:746f:70::/64", "2001:db8:2::/64"] {
            namespace.ip(&["route", "add", network, "dev", device])?;
        }
        Ok(Foreign { device: device.into(), _process: process })
    }
}

impl Foreign {
    /// Has the peer forget its sessions and know its configuration anew.
    pub fn restart_sessions(&self, namespace: &Namespace, config: &Path) -> anyhow::Result<()> {
        let stripped = config.with_extension("wg");
        let known = namespace.run("wg", &["show", &self.device, "peers"])?;
        namespace.run("wg", &["set", &self.device, "peer", known.trim(), "remove"])?;
        namespace.run("wg", &["setconf", &self.device, text(&stripped)]).map(drop)
    }
}

/// Whether one of other people's peers can take part; says so where it can't.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("{program} is not installed: NOT TESTED (tools/vpn-peers builds it)");
    }
    found
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the test are UTF-8")
}

/// Tries until it works.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(_) if began.elapsed() < PATIENCE => sleep(Duration::from_millis(100)),
            outcome => return outcome.with_context(|| format!("in vain: {what}")),
        }
    }
}

pub fn ping(from: &Namespace, to: &str) -> anyhow::Result<()> {
    from.run("ping", &["-c", "3", "-i", "0.2", "-W", "5", to]).map(drop)
}

/// Transfers by iperf3 and returns what the receiver says of it.
pub fn iperf(
    client: &Namespace,
    server: &Namespace,
    to: &str,
    extra: &[&str],
) -> anyhow::Result<serde_json::Value> {
    let _server = server.start("iperf3", &["-s", "-1"])?;
    eventually("iperf3 listens", || {
        let listening = server.run("ss", &["-Htln", "sport", "=", ":5201"])?;
        if listening.is_empty() { bail!("not yet") } else { Ok(()) }
    })?;
    let said = client.run("iperf3", &[&["-J", "-c", to, "-t", "2"], extra].concat())?;
    Ok(serde_json::from_str(&said)?)
}

/// Payload bytes per second that arrived, and for UDP the share that was lost, in percent.
pub fn arrived(report: &serde_json::Value) -> (f64, f64) {
    let end = &report["end"];
    let sum =
        if end["sum_received"]["bits_per_second"].is_f64() { &end["sum_received"] } else { &end["sum"] };
    let lost = end["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
    (sum["bits_per_second"].as_f64().unwrap_or(0.0) / 8.0, lost)
}

/// Everything that goes through a tunnel of the client's: small and large, both families, to the server and beyond.
pub fn assert_everything_passes(place: &Place) -> anyhow::Result<()> {
    let client = &place.client;
    eventually("the first ping", || ping(client, SERVER))?;
    for to in [SERVER, SERVER6, INTERNET, INTERNET6] {
        ping(client, to).with_context(|| format!("ping {to}"))?;
    }
    // The MTU is 1420: 20 or 40 bytes of IP and 8 of ICMP.
    for (to, largest) in [(INTERNET, 1392), (INTERNET6, 1372)] {
        for size in [0, 1, 15, 16, 17, largest - 1, largest] {
            client.run("ping", &["-c", "1", "-W", "5", "-M", "do", "-s", &size.to_string(), to])?;
        }
        let beyond = (largest + 1).to_string();
        assert!(
            client.run("ping", &["-c", "1", "-W", "2", "-M", "do", "-s", &beyond, to]).is_err(),
            "beyond the MTU"
        );
        client.run("ping", &["-c", "2", "-W", "5", "-s", "8000", to]).context("in fragments")?;
    }
    client.run("ping", &["-f", "-c", "2000", "-s", "1000", SERVER]).context("flood")?;
    for (to, extra) in [
        (INTERNET, &[][..]),
        (INTERNET, &["-R"]),
        (INTERNET6, &[]),
        (INTERNET6, &["-R"]),
        (INTERNET, &["-P", "4"]),
    ] {
        let (bytes, _) = arrived(&iperf(client, &place.internet, to, extra)?);
        assert!(bytes > 1e6, "TCP {to} {extra:?}: {bytes} bytes a second");
    }
    for extra in [&["-u", "-l", "1372", "-b", "20M"][..], &["-u", "-l", "1372", "-b", "20M", "-R"]] {
        let (bytes, lost) = arrived(&iperf(client, &place.internet, INTERNET, extra)?);
        assert!(bytes > 1e6 && lost < 5.0, "UDP {extra:?}: {bytes} bytes a second, {lost} % lost");
    }
    Ok(())
}
