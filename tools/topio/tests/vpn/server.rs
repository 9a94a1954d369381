//! Our server, other people's clients.

use std::fs;

use anyhow::bail;

use crate::place::{
    Foreign, INTERNET6, Place, SERVER, TOPIO, assert_everything_passes, eventually, is_installed, ping, text,
};

#[test]
fn wireguard_go_connects() -> anyhow::Result<()> {
    let place = Place::new()?;
    let server = place.serve()?;
    let config = place.add_client("laptop")?;
    let peer = Foreign::client("wireguard-go", &place.client, &config)?;
    assert_everything_passes(&place)?;
    let status = place.status()?;
    assert_eq!(status["peers"][0]["name"], "laptop");
    assert!(status["peers"][0]["handshake_age"].is_u64(), "{status}");
    let said = place.client.run("wg", &["show", &peer.device, "latest-handshakes"])?;
    assert!(!said.trim().ends_with("\t0"), "{said}");

    // Roaming: the client's address changes, and the tunnel goes on.
    place.client.ip(&["address", "add", "192.0.2.99/24", "dev", "outer"])?;
    place.client.ip(&["address", "del", "192.0.2.2/24", "dev", "outer"])?;
    place.client.ip(&["address", "replace", "192.0.2.99/24", "dev", "outer"])?;
    eventually("the tunnel goes on from another address", || ping(&place.client, SERVER))?;
    eventually("the server knows the new address", || {
        let from = place.status()?["peers"][0]["address"].to_string();
        if from.contains("192.0.2.99") { Ok(()) } else { bail!("still {from}") }
    })?;
    server.terminate()
}

#[test]
fn other_peers_connect_where_they_are_installed() -> anyhow::Result<()> {
    for program in ["boringtun-cli", "gotatun"] {
        if !is_installed(program) {
            continue;
        }
        let place = Place::new()?;
        let _server = place.serve()?;
        let config = place.add_client("laptop")?;
        let _peer = Foreign::client(program, &place.client, &config)?;
        assert_everything_passes(&place)?;
    }
    Ok(())
}

#[test]
fn strangers_are_counted_and_harm_nothing() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _server = place.serve()?;
    let config = place.add_client("laptop")?;
    let peer = Foreign::client("wireguard-go", &place.client, &config)?;
    eventually("the tunnel is up", || ping(&place.client, SERVER))?;
    let script = place.folder.path().join("strangers.sh");
    fs::write(
        &script,
        "say() { dd bs=65000 iflag=fullblock status=none > /dev/udp/192.0.2.1/51820; }
         for size in 0 1 3 4 31 32 63 91 147 148 149 1400 9000 60000; do head -c $size /dev/urandom | say; done
         for kind in 1 2 3 4; do for size in 28 60 88 144 1400 60000; do
           { printf \"\\\\x0$kind\\\\x00\\\\x00\\\\x00\"; head -c $size /dev/urandom; } | say
         done; done
         for n in $(seq 500); do { printf '\\x01\\x00\\x00\\x00'; head -c 144 /dev/urandom; } | say; done
         exit 0",
    )?;
    place.client.run("bash", &[text(&script)])?;
    assert!(place.counter("dropped_mac")? >= 500, "forged initiations: {}", place.status()?);
    assert!(place.counter("dropped_garbage")? >= 10, "{}", place.status()?);
    assert!(place.counter("dropped_no_session")? >= 1, "{}", place.status()?);

    // A client may not use another's address.
    place.client.ip(&["address", "add", "10.77.0.77/32", "dev", &peer.device])?;
    assert!(place.client.run("ping", &["-c", "2", "-W", "1", "-I", "10.77.0.77", SERVER]).is_err());
    assert!(place.counter("dropped_source")? >= 2, "{}", place.status()?);
    ping(&place.client, SERVER)?;

    let removed = std::process::Command::new(TOPIO)
        .args(["vpn", "remove-client", "laptop", "--config", text(&place.config)])
        .status()?;
    assert!(removed.success());
    eventually("a removed client is out", || {
        if ping(&place.client, SERVER).is_err() { Ok(()) } else { bail!("it still gets answers") }
    })
}

#[test]
fn datagrams_that_come_twice_and_new_sessions_do_no_harm() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _server = place.serve()?;
    let config = place.add_client("laptop")?;
    let peer = Foreign::client("wireguard-go", &place.client, &config)?;
    eventually("the tunnel is up", || ping(&place.client, SERVER))?;
    // Every datagram to the server goes out twice.
    let rules = place.folder.path().join("twice.nft");
    let chain = "type filter hook output priority 0; udp dport 51820 dup to 192.0.2.1 device outer";
    fs::write(&rules, format!("table ip twice {{\n chain out {{\n {chain}\n }}\n}}\n"))?;
    place.client.run("nft", &["-f", text(&rules)])?;
    place.client.run("ping", &["-f", "-c", "500", SERVER])?;
    place.client.run("nft", &["delete", "table", "ip", "twice"])?;
    let replays = place.counter("dropped_replay")?;
    assert!(replays >= 450, "{replays} of 500 that came twice");
    // A peer that forgets its sessions makes new ones, and what is on its way meanwhile waits for them.
    let handshakes = place.counter("handshakes")?;
    for _ in 0..3 {
        peer.restart_sessions(&place.client, &config)?;
        eventually("a new session", || ping(&place.client, SERVER))?;
    }
    let now = place.counter("handshakes")?;
    assert!(now >= handshakes + 3, "{handshakes} handshakes before, {now} now");
    ping(&place.client, INTERNET6)
}

#[test]
fn the_host_is_as_before_when_the_server_has_ended() -> anyhow::Result<()> {
    let place = Place::new()?;
    let forwarding = || {
        place.server.run("cat", &["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"])
    };
    place.server.run("sh", &["-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])?;
    let before = forwarding()?;
    let server = place.serve()?;
    assert_eq!(forwarding()?, "1\n1\n");
    assert!(place.server.run("nft", &["list", "ruleset"])?.contains("topio_topio0"));
    assert!(place.server.ip(&["link", "show", "topio0"]).is_ok());
    server.terminate()?;
    assert_eq!(forwarding()?, before);
    assert_eq!(place.server.run("nft", &["list", "ruleset"])?, "");
    assert!(place.server.ip(&["link", "show", "topio0"]).is_err());
    assert!(place.status().is_err(), "no VPN runs");

    // Killed, it leaves rules and forwarding behind; the next start takes them over.
    drop(place.serve()?);
    fs::remove_file(place.folder.path().join("vpn/status.json"))?;
    assert_eq!(forwarding()?, "1\n1\n");
    let server = place.serve()?;
    server.terminate()?;
    assert_eq!(place.server.run("nft", &["list", "ruleset"])?, "");
    assert_eq!(forwarding()?, before);
    Ok(())
}

#[test]
fn a_second_server_on_the_same_port_says_why_not() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _server = place.serve()?;
    let config = place.folder.path().join("second.toml");
    fs::write(&config, "interface = 'topio1'\nstate_dir = 'second'\n")?;
    let refused = place.server.run(TOPIO, &["vpn", "serve", "--config", text(&config)]);
    let said = refused.expect_err("the port is taken").to_string();
    assert!(said.contains("can't listen on [::]:51820"), "{said}");
    Ok(())
}
