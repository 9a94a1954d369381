//! `topio vpn`: a WireGuard server, its clients, and a client.

use std::{
    fmt, fs,
    io::IsTerminal,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use engine::{
    process::Stop,
    relay::vpn::{
        self, VpnConfig, VpnError,
        clients::Registry,
        status::{PeerView, Status},
    },
};
use qrcode::{QrCode, render::unicode::Dense1x2};
use relay_dp::vpn::ClientConfig;
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    output::{Format, columns},
    signals::on_signal,
};

const SERVE_HELP: &str = "\
Examples:
  topio vpn serve --config vpn.toml
  topio vpn serve --cores 8 --pin

engine/examples/vpn.toml explains every line of the configuration. It takes root (or CAP_NET_ADMIN), `ip` of iproute2 and, for the
way to the internet, `nft` of nftables. SIGINT and SIGTERM stop it; then addresses, forwarding and masquerade are as before.";

const ADD_HELP: &str = "\
Examples:
  topio vpn add-client phone                    # scan the code with the WireGuard app
  topio vpn add-client laptop > laptop.conf     # for wg-quick, NetworkManager or «topio vpn connect»
  topio vpn add-client tv --config node.toml    # of a validator that relays

A VPN that runs takes the client in within a second. The client's secret key is printed once and kept nowhere.";

const CONNECT_HELP: &str = "\
Example:
  topio vpn connect laptop.conf

Any WireGuard configuration with numeric endpoints will do. Routes are set for what the peers may carry, and are gone when the
command ends. Name servers are not changed: «DNS» is shown, and yours to set.";

/// Subcommands of `topio vpn`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a WireGuard server with a way to the internet
    #[command(after_help = SERVE_HELP)]
    Serve {
        #[command(flatten)]
        config: ConfigArgument,
        /// Threads; each client is on one of them
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
        cores: u8,
        /// Keep each thread on its core
        #[arg(long)]
        pin: bool,
    },
    /// Make a client, and print its WireGuard configuration and QR code
    #[command(after_help = ADD_HELP)]
    AddClient {
        /// Up to 64 letters, digits, «-» and «_»
        name: String,
        #[command(flatten)]
        config: ConfigArgument,
        /// Print the configuration only
        #[arg(long)]
        no_qr: bool,
    },
    /// Forget a client; its tunnel ends within a second
    #[command(after_help = "Example:\n  topio vpn remove-client phone")]
    RemoveClient {
        /// The client's name
        name: String,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Show a running VPN's clients, handshakes, bytes and rates
    #[command(after_help = "Examples:\n  topio vpn status\n  topio vpn status --config node.toml")]
    Status {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Be a client
    #[command(after_help = CONNECT_HELP)]
    Connect {
        /// A WireGuard configuration
        file: PathBuf,
        /// Name of the TUN device
        #[arg(long, default_value = "topio-vpn")]
        interface: String,
    },
}

/// Where the VPN's configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigArgument {
    /// The VPN's configuration (TOML), or that of a node with a [relay.vpn]
    #[arg(long, value_name = "FILE", default_value = "vpn.toml")]
    config: PathBuf,
}

impl ConfigArgument {
    fn load(&self) -> Outcome<VpnConfig> {
        VpnConfig::load(&self.config).map_err(Failure::usage)
    }
}

/// Runs `topio vpn`.
pub fn run(command: &Command, format: Format) -> Outcome {
    match command {
        Command::Serve { config, cores, pin } => serve(&config.load()?, *cores, *pin),
        Command::AddClient { name, config, no_qr } => add_client(name, &config.load()?, *no_qr, format),
        Command::RemoveClient { name, config } => {
            let config = config.load()?;
            Registry::open(&config).and_then(|registry| registry.remove(name)).map_err(failure)
        }
        Command::Status { config } => status(&config.load()?, format),
        Command::Connect { file, interface } => connect(file, interface),
    }
}

fn serve(config: &VpnConfig, cores: u8, pin: bool) -> Outcome {
    let stop = stop_on_signal()?;
    let ready = |key: &relay_dp::vpn::PublicKey| {
        eprintln!("ready: {} on {}, public key {key}", config.interface, config.listen);
    };
    vpn::serve(config, cores, pin, &stop, ready).map_err(failure)
}

fn connect(file: &Path, interface: &str) -> Outcome {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{} can't be read: {error}", file.display())))?;
    let config =
        ClientConfig::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    if config.peers.iter().all(|peer| peer.endpoint.is_none()) {
        return Err(Failure::Usage(format!("{}: no peer has an Endpoint to connect to", file.display())));
    }
    let stop = stop_on_signal()?;
    let anywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    vpn::connect(&config, interface, anywhere, &stop, |device| {
        eprintln!("ready: {device}");
        for server in &config.dns {
            eprintln!("name server: {server}");
        }
    })
    .map_err(failure)
}

fn stop_on_signal() -> Outcome<Stop> {
    let stop = Stop::new();
    let signalled = stop.clone();
    on_signal(move || signalled.request())?;
    Ok(stop)
}

/// A new client's configuration.
#[derive(Serialize)]
struct NewClient {
    name: String,
    config: String,
    #[serde(skip)]
    code: Option<String>,
}

impl fmt::Display for NewClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.config)?;
        self.code.iter().try_for_each(|code| write!(f, "\n{code}\n"))
    }
}

fn add_client(name: &str, config: &VpnConfig, no_qr: bool, format: Format) -> Outcome {
    let client = Registry::open(config).and_then(|registry| registry.add(name, config)).map_err(failure)?;
    let text = client.to_string();
    // In a file the code would only spoil the configuration.
    let wanted = !no_qr && std::io::stdout().is_terminal();
    let code = wanted.then(|| qr_code(&text)).transpose()?;
    format.print(&NewClient { name: name.to_owned(), config: text, code })
}

fn qr_code(text: &str) -> Outcome<String> {
    let code =
        QrCode::new(text).map_err(|error| Failure::Failed(format!("no QR code: {error}; try --no-qr")))?;
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// A running VPN.
#[derive(Serialize)]
#[serde(transparent)]
struct View(Status);

fn status(config: &VpnConfig, format: Format) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format.print(&View(Status::read(config, now).map_err(failure)?))
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.0;
        writeln!(f, "{} on {}, public key {}\n", status.interface, status.listen, status.public_key)?;
        let head = ["client", "addresses", "from", "handshake", "received", "sent", "in", "out"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(status.peers.iter().map(row));
        write!(f, "{}", columns(&rows))?;
        let drops: Vec<String> = status
            .counters
            .iter()
            .filter(|(name, _)| name.contains("dropped") || name.contains("refused") || name.contains("full"))
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if drops.is_empty() { Ok(()) } else { writeln!(f, "\n{}", drops.join("\n")) }
    }
}

fn row(peer: &PeerView) -> Vec<String> {
    vec![
        peer.name.clone(),
        peer.networks.join(" "),
        peer.address.clone().unwrap_or_else(|| "-".into()),
        peer.handshake_age.map_or_else(|| "never".into(), |age| format!("{age} s ago")),
        amount(peer.bytes_in, "B"),
        amount(peer.bytes_out, "B"),
        amount(peer.bits_in, "bit/s"),
        amount(peer.bits_out, "bit/s"),
    ]
}

/// A number with three digits and a decimal prefix.
fn amount(value: u64, unit: &str) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut scaled = value as f64;
    let mut prefix = "";
    for next in ["k", "M", "G", "T"] {
        if scaled < 1000.0 {
            break;
        }
        (scaled, prefix) = (scaled / 1000.0, next);
    }
    if prefix.is_empty() { format!("{value} {unit}") } else { format!("{scaled:.1} {prefix}{unit}") }
}

/// What the user can put right is a matter of usage.
fn failure(error: VpnError) -> Failure {
    match error {
        VpnError::Io(..) | VpnError::Host { .. } | VpnError::Thread(_) => Failure::failed(error),
        _ => Failure::usage(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!(amount(999, "B"), "999 B");
        assert_eq!(amount(1_234_567, "bit/s"), "1.2 Mbit/s");
    }

    #[test]
    fn a_configuration_fits_a_code() {
        let code = qr_code(&"PrivateKey = YAnz5TF+lXXJte14tji3zlMNftqL1kCHJG2iO6RTtm8=\n".repeat(8)).unwrap();
        assert!(code.lines().count() > 20);
    }
}
