//! The host around the tunnel: addresses, routes, forwarding and masquerade, by `ip` and `nft`; all of it undone at the end.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use relay_dp::vpn::{ClientConfig, Network};

use super::{VpnConfig, VpnError, settings::Settings};

/// Most bytes of a super-packet for which a train of sealed packets still fits one send: headers and seals come on top.
const MAX_SUPER_PACKET: usize = 65_507;
/// What sealing adds to each packet beyond its payload: its headers (60 at least) and WireGuard's 32 bytes.
const PER_PACKET: usize = 100;

/// What has been set up, and is undone when this is dropped. Addresses and routes of the device go with the device.
#[derive(Debug, Default)]
pub struct Host {
    nft_table: Option<String>,
    /// Undone after the rest.
    settings: Option<Settings>,
    /// Routes outside of the tunnel: arguments to `ip`.
    routes: Vec<Vec<String>>,
}

impl Host {
    /// Brings a server's device up: addresses, MTU, and if the configuration says so, a way to the internet.
    pub fn serve(device: &str, config: &VpnConfig) -> Result<Host, VpnError> {
        let mut host = Host::default();
        bring_up(device, config.mtu, &config.addresses)?;
        if config.internet {
            let settings = host.settings.insert(Settings::open(&config.state_dir));
            for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                settings.set(setting, "1")?;
            }
            host.masquerade(device, &config.addresses)?;
        }
        Ok(host)
    }

    /// Brings a client's device up: addresses, and routes for what its peers may carry.
    pub fn connect(device: &str, config: &ClientConfig, mtu: u16) -> Result<Host, VpnError> {
        let mut host = Host::default();
        bring_up(device, mtu, &config.addresses)?;
        for peer in &config.peers {
            let everything = peer.allowed_ips.iter().any(|network| network.length() == 0);
            if let Some(endpoint) = peer.endpoint.filter(|_| everything) {
                host.route_around(endpoint.ip())?;
            }
            for network in &peer.allowed_ips {
                // Two halves win over the default route without replacing it.
                let halves: &[&str] = match (network.length(), network.address()) {
                    (0, IpAddr::V4(_)) => &["0.0.0.0/1", "128.0.0.0/1"],
                    (0, IpAddr::V6(_)) => &["::/1", "8000::/1"],
                    _ => &[],
                };
                let whole = network.truncated().to_string();
                let parts = if halves.is_empty() { vec![whole.as_str()] } else { halves.to_vec() };
                for part in parts {
                    ip(&["route", "replace", part, "dev", device])?;
                }
            }
        }
        Ok(host)
    }

    /// Keeps the way to `address` as it is, when everything else goes through the tunnel.
    fn route_around(&mut self, address: IpAddr) -> Result<(), VpnError> {
        let found = ip(&["route", "get", &address.to_string()])?;
        let words: Vec<&str> = found.split_whitespace().collect();
        let after = |key: &str| words.windows(2).find(|pair| pair[0] == key).map(|pair| pair[1].to_owned());
        let Some(device) = after("dev") else { return Ok(()) };
        if device == "lo" {
            return Ok(());
        }
        let mut route = vec![address.to_string()];
        route.extend(after("via").into_iter().flat_map(|gateway| ["via".into(), gateway]));
        route.extend(["dev".into(), device]);
        let add: Vec<&str> =
            ["route", "replace"].into_iter().chain(route.iter().map(String::as_str)).collect();
        ip(&add)?;
        self.routes.push(["route".to_owned(), "del".to_owned()].into_iter().chain(route).collect());
        Ok(())
    }

    /// Masquerades what leaves the host from the tunnel's networks, and fits TCP to the tunnel's MTU.
    fn masquerade(&mut self, device: &str, addresses: &[Network]) -> Result<(), VpnError> {
        let table = format!("topio_{}", device.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let mut rules = format!(
            "table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n\
             chain nat {{ type nat hook postrouting priority srcnat; policy accept;\n"
        );
        for network in addresses {
            let family = if network.address().is_ipv4() { "ip" } else { "ip6" };
            let _ =
                writeln!(rules, "{family} saddr {} oifname != \"{device}\" masquerade", network.truncated());
        }
        let _ = write!(
            rules,
            "}}\nchain forward {{ type filter hook forward priority filter; policy accept;\n\
             oifname \"{device}\" tcp flags syn tcp option maxseg size set rt mtu\n\
             iifname \"{device}\" tcp flags syn tcp option maxseg size set rt mtu\n}}\n}}\n"
        );
        run("nft", &["-f", "-"], &rules)?;
        self.nft_table = Some(table);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let say = |error: VpnError| eprintln!("while taking the VPN down: {error}");
        if let Some(table) = self.nft_table.take() {
            run("nft", &["delete", "table", "inet", &table], "").map(drop).unwrap_or_else(say);
        }
        for route in self.routes.drain(..) {
            let arguments: Vec<&str> = route.iter().map(String::as_str).collect();
            ip(&arguments).map(drop).unwrap_or_else(say);
        }
    }
}

fn bring_up(device: &str, mtu: u16, addresses: &[Network]) -> Result<(), VpnError> {
    ip(&["link", "set", "dev", device, "mtu", &mtu.to_string(), "up"])?;
    for address in addresses {
        let mut add = vec!["address", "replace"];
        let text = address.to_string();
        add.extend([text.as_str(), "dev", device]);
        if address.address().is_ipv6() {
            add.push("nodad"); // no one else is on the link
        }
        ip(&add)?;
    }
    // A super-packet should become one train, not one and a bit. Old versions of ip don't know the word: then some trains are two.
    let packets = MAX_SUPER_PACKET / (usize::from(mtu) + 32);
    let size = (packets * (usize::from(mtu).saturating_sub(PER_PACKET))).to_string();
    let _ = ip(&["link", "set", "dev", device, "gso_max_size", &size, "gso_ipv4_max_size", &size]);
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<String, VpnError> {
    run("ip", arguments, "")
}

/// Runs a command with `input`, and returns what it printed.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, VpnError> {
    let failed =
        |message: String| VpnError::Host { command: format!("{program} {}", arguments.join(" ")), message };
    let package = if program == "ip" { "iproute2" } else { "nftables" };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{error}; install {package}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading says why by its exit code.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).lines().collect::<Vec<_>>().join(" ");
    Err(failed(format!("{} ({})", message.trim(), output.status)))
}
