//! The two servers as processes.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use engine::{
    process::Stop,
    relay::turn::{self, TurnConfig},
};

use crate::{install, network};

/// Everybody's user on the measured servers.
pub const USER: &str = "perf";
/// Their password.
pub const PASSWORD: &str = "perf";
/// A server that does not answer by then never will.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Ports of relayed addresses.
const PORTS: (u16, u16) = (40_000, 44_095);

/// Who relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// `engine::relay::turn`.
    Ours,
    /// turnserver of coturn.
    Coturn,
}

impl Side {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Side::Ours => "topio turn",
            Side::Coturn => "coturn",
        }
    }
}

/// The version of coturn; installs it where it is missing.
///
/// # Errors
/// There is none.
pub fn coturn_version() -> anyhow::Result<String> {
    install::ensure("turnserver", "coturn")?;
    let output = Command::new("turnserver").arg("--version").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().last().unwrap_or("of unknown version").trim().trim_start_matches("Version ").to_owned())
}

/// The command line of coturn with one relay thread, at an address.
pub(crate) fn coturn(address: SocketAddr) -> Vec<String> {
    let (ip, port, (first, last)) = (address.ip(), address.port(), PORTS);
    format!(
        "turnserver -n --no-cli --no-tls --no-dtls --no-tcp --lt-cred-mech --realm=top --allow-loopback-peers \
         --relay-threads=1 --log-file=stdout --no-software-attribute --simple-log --pidfile=/dev/null \
         --user={USER}:{PASSWORD} --listening-ip={ip} --listening-port={port} --relay-ip={ip} \
         --min-port={first} --max-port={last}"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// Runs our server until standard input is closed: what `perf turn-server` does.
///
/// # Errors
/// It can't start, or can't go on.
pub fn serve(port: u16) -> anyhow::Result<()> {
    let config = format!(
        "listen = ['127.0.0.1:{port}']\nrelay = ['127.0.0.1']\nallow_peers = ['127.0.0.0/8']\nports = '{}-{}'\n\
         max_allocations_per_user = 10_000\n[users]\n{USER} = '{PASSWORD}'\n",
        PORTS.0, PORTS.1
    );
    let config: TurnConfig = TurnConfig::parse("turn.toml", &config)?;
    let stop = Stop::new();
    network::stop_with_parent(&stop);
    Ok(turn::serve(&config, 1, false, &stop, || {}, |_| {})?)
}

/// A running server. It is killed when this is dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

/// Starts a server on a core and waits until it answers.
///
/// # Errors
/// It does not.
pub fn start(side: Side, core: usize) -> anyhow::Result<Server> {
    let address = free_address()?;
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string());
    match side {
        Side::Ours => {
            let program = std::env::current_exe().context("this program's own file is not to be found")?;
            command.arg(program).arg("turn-server").arg("--port").arg(address.port().to_string());
        }
        Side::Coturn => {
            command.args(coturn(address));
        }
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut server = Server { child: child.context("a server can't be started")?, address };
    server.wait_ready().with_context(|| format!("{} does not answer", side.name()))?;
    Ok(server)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time of all its threads.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        network::cpu_time_of(self.child.id())
    }

    /// Waits until a Binding request is answered.
    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut request = Vec::new();
        let binding = relay_dp::turn::stun::method::BINDING;
        relay_dp::turn::stun::Writer::new(
            &mut request,
            relay_dp::turn::stun::Class::Request,
            binding,
            &[7; 12],
        );
        let start = Instant::now();
        while start.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            let _ = socket.send_to(&request, self.address);
            if socket.recv(&mut [0; 512]).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        ensure!(start.elapsed() < READY_WITHIN, "nothing for {READY_WITHIN:?}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
