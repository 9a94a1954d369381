//! Our server on two cores: each client is on one of them, wherever its datagrams come from.

use std::path::PathBuf;

use anyhow::bail;
use perf::netns::Namespace;

use crate::place::{
    Foreign, INTERNET, INTERNET6, Place, SERVER, arrived, assert_everything_passes, counter, eventually,
    iperf, ping,
};

/// Ports that a client roams to: by their hash alone, half of them would lead to the other core.
const PORTS: u32 = 8;

fn use_port(client: &Namespace, peer: &Foreign, port: u32) -> anyhow::Result<()> {
    client.run("wg", &["set", &peer.device, "listen-port", &port.to_string()]).map(drop)
}

#[test]
fn clients_roam_and_stay_on_their_cores() -> anyhow::Result<()> {
    let place = Place::new()?;
    let second = place.another_client()?;
    let server = place.serve_on(2)?;
    let configs = [place.add_client("one")?, place.add_client("two")?];
    let namespaces = [&place.client, &second];
    let start = |(namespace, config): (_, &PathBuf)| Foreign::client("wireguard-go", namespace, config);
    let peers: Vec<Foreign> = namespaces.into_iter().zip(&configs).map(start).collect::<Result<_, _>>()?;
    for client in namespaces {
        eventually("the tunnel is up", || ping(client, SERVER))?;
    }
    let handshakes = place.counter("handshakes")?;
    for port in 41_000..41_000 + PORTS {
        for (client, peer) in namespaces.iter().zip(&peers) {
            use_port(client, peer, port)?;
            ping(client, INTERNET)?;
        }
    }
    let status = place.fresh_status()?;
    assert_eq!(counter(&status, "handshakes"), handshakes, "the sessions went on: {status}");
    assert_eq!(counter(&status, "dropped_no_session"), 0, "{status}");
    eventually("the server knows the new addresses", || {
        let status = place.status()?;
        let knows = |client: usize| status["peers"][client]["address"].to_string().contains(":41007");
        if knows(0) && knows(1) { Ok(()) } else { bail!("{status}") }
    })?;

    // New sessions begin at any core: each time the peer has another port.
    let unknown = counter(&status, "dropped_handshake");
    for _ in 0..PORTS {
        for ((client, peer), config) in namespaces.iter().zip(&peers).zip(&configs) {
            peer.restart_sessions(client, config)?;
            eventually("a new session", || ping(client, SERVER))?;
        }
    }
    let status = place.fresh_status()?;
    assert!(counter(&status, "handed_over") > 0, "no port of {PORTS} leads to the other core: {status}");
    assert_eq!(counter(&status, "dropped_handshake"), unknown, "{status}");
    for cause in ["dropped_hand_over_full", "dropped_forged", "dropped_load"] {
        assert_eq!(counter(&status, cause), 0, "{cause}: {status}");
    }

    // Who is spoken to first is found, from the server and from the other core's client.
    for address in ["10.77.0.2", "10.77.0.3"] {
        ping(&place.server, address)?;
    }
    ping(&place.client, "10.77.0.3")?;
    ping(&second, "10.77.0.2")?;
    for (to, way) in [(INTERNET, &[][..]), (INTERNET, &["-R"]), (INTERNET6, &["-R"])] {
        let (bytes, _) = arrived(&iperf(&second, &place.internet, to, way)?);
        assert!(bytes > 1e6, "TCP {to} {way:?}: {bytes} bytes a second");
    }
    assert_everything_passes(&place)?;
    server.terminate()?;
    assert!(place.server.ip(&["link", "show", "topio0"]).is_err());
    assert_eq!(place.server.run("nft", &["list", "ruleset"])?, "");
    Ok(())
}
