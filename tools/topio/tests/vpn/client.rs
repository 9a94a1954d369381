//! Our client, with our server and with other people's.

use std::{fs, process::Command};

use crate::place::{Place, SERVER, TOPIO, assert_everything_passes, eventually, is_installed, ping, text};

#[test]
fn our_client_connects_to_our_server_and_packets_travel_in_trains() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _server = place.serve()?;
    let config = place.add_client("laptop")?;
    let client = place.client.start(TOPIO, &["vpn", "connect", text(&config)])?;
    assert_everything_passes(&place)?;
    let (received, segments) = (place.counter("udp_received")?, place.counter("udp_segments_in")?);
    assert!(segments > 4 * received, "{segments} packets in {received} datagrams");
    // The way to the server itself stays outside of the tunnel, and goes with the client.
    let route = || place.client.ip(&["route", "show", "192.0.2.1"]);
    assert!(route()?.contains("dev outer"), "{}", route()?);
    client.terminate()?;
    assert_eq!(route()?, "");
    Ok(())
}

#[test]
fn our_client_connects_to_wireguard_go() -> anyhow::Result<()> {
    connects_to("wireguard-go", "wg-server-go")
}

#[test]
fn our_client_connects_to_other_peers_where_they_are_installed() -> anyhow::Result<()> {
    for (program, device) in [("boringtun-cli", "wg-server-bt"), ("gotatun", "wg-server-gt")] {
        if is_installed(program) {
            connects_to(program, device)?;
        }
    }
    Ok(())
}

fn connects_to(program: &str, device: &str) -> anyhow::Result<()> {
    let place = Place::new()?;
    let keys = |secret: &str| -> anyhow::Result<(String, String)> {
        let secret = if secret.is_empty() { place.server.run("wg", &["genkey"])? } else { secret.into() };
        let file = place.folder.path().join("key");
        fs::write(&file, &secret)?;
        let public = place.server.run("sh", &["-c", &format!("wg pubkey < {}", text(&file))])?;
        Ok((secret.trim().into(), public.trim().into()))
    };
    let ((server_key, server_public), (client_key, client_public)) = (keys("")?, keys("")?);
    // boringtun drops its privileges otherwise, and then can't listen for `wg`.
    let _process = place.server.start("env", &["WG_SUDO=true", program, "--foreground", device])?;
    eventually("the peer's device is there", || place.server.ip(&["link", "show", device]).map(drop))?;
    let config = place.folder.path().join("server.wg");
    let peer =
        format!("[Peer]\nPublicKey = {client_public}\nAllowedIPs = 10.77.0.2/32, fd77:746f:70::2/128\n");
    fs::write(&config, format!("[Interface]\nPrivateKey = {server_key}\nListenPort = 51820\n\n{peer}"))?;
    eventually("the peer takes its configuration", || {
        place.server.run("wg", &["setconf", device, text(&config)])
    })?;
    for address in ["10.77.0.1/16", "fd77:746f:70::1/64"] {
        place.server.ip(&["address", "add", address, "dev", device])?;
    }
    place.server.ip(&["link", "set", device, "mtu", "1420", "up"])?;
    place.server.run("sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    for (family, network) in [("-4", "10.77.0.0/16"), ("-6", "fd77:746f:70::/64")] {
        let via = if family == "-4" { "198.51.100.1" } else { "2001:db8:2::1" };
        place.internet.ip(&[family, "route", "add", network, "via", via])?;
    }
    let file = place.folder.path().join("client.conf");
    let interface = format!(
        "[Interface]\nPrivateKey = {client_key}\nAddress = 10.77.0.2/32, fd77:746f:70::2/128\nMTU = 1420\n"
    );
    let peer = format!(
        "[Peer]\nPublicKey = {server_public}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.1:51820\n"
    );
    fs::write(&file, format!("{interface}\n{peer}"))?;
    let client = place.client.start(TOPIO, &["vpn", "connect", text(&file)])?;
    assert_everything_passes(&place)?;
    client.terminate()
}

#[test]
fn commands_say_what_is_wrong() -> anyhow::Result<()> {
    let place = Place::new()?;
    let fails = |arguments: &[&str], expected: &str| -> anyhow::Result<()> {
        let output = Command::new(TOPIO).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        Ok(())
    };
    let config = text(&place.config);
    fails(&["vpn", "status", "--config", config], "no VPN runs")?;
    fails(&["vpn", "add-client", "a b", "--config", config], "no name for a client")?;
    fails(&["vpn", "remove-client", "nobody", "--config", config], "no client")?;
    fails(&["vpn", "serve", "--config", "/nowhere.toml"], "can't be read")?;
    let broken = place.folder.path().join("broken.conf");
    fs::write(&broken, "[Interface]\nPrivateKey = short\n")?;
    fails(&["vpn", "connect", text(&broken)], "line 2: PrivateKey")?;
    place.add_client("twice")?;
    fails(&["vpn", "add-client", "twice", "--config", config], "already")?;
    assert!(ping(&place.client, SERVER).is_err());
    Ok(())
}
